"""What a deployment holds: `vercel build` on a clean copy, looked into, then run as deployed."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import source_hash
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.edge import runtime
from dev.edge.runtime import Function, start_built
from dev.platform.local_platform import Platform
from dev.platform.logs import LogBuffer
from lib import settings
from lib.leads import form_pages
from tests.conftest import LEAD, eventually

ROOT = Path(__file__).parent.parent

# Everything of ours that a function may be shipped with. `public/` holds the pages that a
# function fills in.
SHIPPED_FOLDERS = {"api", "lib", "public"}

# What the builder reads, and leaves in every function; the last two it writes itself.
BUILD_FILES = {".python-version", "requirements.txt", "vercel.json", "pyproject.toml", "uv.lock"}

# Above it the builder has packages installed when a function starts, which callers would wait for.
SELF_CONTAINED_BYTES = 225 * 2**20


class Artefact:
    """The folder `.vercel/output` and the project it was built in."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.project = output.parent.parent

    def functions(self) -> dict[str, Path]:
        """Address without its slash -> the function's directory."""
        home = self.output / "functions"
        return {
            folder.relative_to(home).with_suffix("").as_posix(): folder
            for folder in sorted(home.rglob("*.func"))
        }

    def files(self, function: str) -> dict[str, Path]:
        """Path within the function -> the file that is shipped there."""
        folder = self.functions()[function]
        config = json.loads((folder / ".vc-config.json").read_text())
        own = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
        own.pop(".vc-config.json")
        mapped = {
            inside: self.project / outside for inside, outside in config["filePathMap"].items()
        }
        return own | mapped


@pytest.fixture(scope="session")
def artefact(built: Path) -> Artefact:
    return Artefact(built / ".vercel" / "output")


@contextmanager
def running(
    artefact: Artefact, name: str, environ: dict[str, str], log: LogBuffer | None = None
) -> Iterator[tuple[Function, httpx.Client]]:
    """A built function in Vercel's runtime, and a client of it alone."""
    folder = artefact.functions()[name]
    with (
        start_built(folder, artefact.project, environ, log) as function,
        httpx.Client(base_url=f"http://127.0.0.1:{function.port}", timeout=20) as client,
    ):
        yield function, client


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- What is in it.


def test_the_static_files_are_those_of_public_and_nothing_else(artefact: Artefact) -> None:
    """They keep their names; clean addresses are routes beside them (`overrides`)."""
    assert contents(artefact.output / "static") == contents(artefact.project / "public")
    config = json.loads((artefact.output / "config.json").read_text())
    pages = [name for name in contents(artefact.project / "public") if name.endswith(".html")]
    clean = {name: {"path": name.removesuffix(".html")} for name in pages}
    assert config["overrides"] == clean


def test_the_functions_are_the_files_of_api(artefact: Artefact) -> None:
    files = (artefact.project / "api").rglob("*.py")
    names = {file.relative_to(artefact.project).with_suffix("").as_posix() for file in files}
    assert set(artefact.functions()) == names
    assert len(names) <= 12, "the Hobby plan's limit"


def test_the_cron_addresses_are_functions(artefact: Artefact) -> None:
    config = json.loads((artefact.output / "config.json").read_text())
    assert {cron["path"].lstrip("/") for cron in config["crons"]} <= set(artefact.functions())


def test_no_bundle_holds_tests_tools_documents_or_secrets(artefact: Artefact) -> None:
    for name in artefact.functions():
        ours = {path for path in artefact.files(name) if not path.startswith("_vendor/")}
        ours.remove("vc__handler__python.py")
        strange = {path for path in ours if "/" not in path} - BUILD_FILES
        strange |= {
            path for path in ours if "/" in path and path.split("/")[0] not in SHIPPED_FOLDERS
        }
        assert not strange, f"{name} ships {sorted(strange)}: see excludeFiles in vercel.json"


def test_no_bundle_holds_a_cache_but_bytecode_of_what_it_ships(artefact: Artefact) -> None:
    for name in artefact.functions():
        files = set(artefact.files(name))
        for path in files:
            assert not re.search(r"(^|/)\.[a-z]*_cache/|(^|/)(node_modules|\.venv|\.git)/", path)
            if path.endswith(".pyc"):
                assert source_of(path) in files


def test_the_catalogues_snapshot_is_shipped(artefact: Artefact) -> None:
    snapshot = artefact.files("api/products")["lib/products/catalogue.snapshot.json"]
    assert snapshot.stat().st_size < 200_000


def test_the_pages_a_function_fills_in_are_shipped_with_it(artefact: Artefact) -> None:
    """The builder leaves `public/` out of functions unless includeFiles names it."""
    for name in ("api/leads", "api/thanks"):
        files = artefact.files(name)
        for page in (*form_pages.FORM_FILES.values(), *form_pages.THANK_YOU_FILES.values()):
            assert f"public/{page}" in files, f"{name}: see includeFiles in vercel.json"


def size(artefact: Artefact, name: str) -> int:
    return sum(file.stat().st_size for file in artefact.files(name).values() if file.is_file())


def test_every_function_holds_all_it_needs(artefact: Artefact) -> None:
    sizes = {name: size(artefact, name) for name in artefact.functions()}
    assert max(sizes.values()) < SELF_CONTAINED_BYTES, sizes


def required() -> dict[str, str]:
    """Name -> version of every requirement, as they are written: all pinned."""
    text = (ROOT / "requirements.txt").read_text("utf-8")
    lines = [line for each in text.splitlines() if (line := each.partition("#")[0].strip())]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[\w,]+\])?==(\S+)", line) for line in lines]
    assert None not in pins, "a requirement is not pinned"
    return {_plain(pin[1]): pin[2] for pin in pins if pin is not None}


def vendored(artefact: Artefact, function: str) -> dict[str, str]:
    """Name -> version of every distribution shipped with a function."""
    pattern = re.compile(r"_vendor/([^/]+)-([^-/]+)\.dist-info/METADATA")
    matches = (pattern.fullmatch(path) for path in artefact.files(function))
    return {_plain(each[1]): each[2] for each in matches if each is not None}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_requirements_name_exactly_what_ships(artefact: Artefact) -> None:
    shipped: dict[str, str] = {}
    for name in artefact.functions():
        shipped |= vendored(artefact, name)
    assert shipped.pop("vercel-runtime") == pinned_runtime(), "what the tests ran on"
    shipped.pop("pip", None)  # the builder's own
    assert shipped == required()


def pinned_runtime() -> str:
    pin = re.search(r"^vercel-runtime==(\S+)", (ROOT / "dev/requirements.txt").read_text(), re.M)
    assert pin is not None
    return pin[1]


def source_of(bytecode: str) -> str:
    folder, _, name = bytecode.rpartition("/__pycache__/")
    return f"{folder}/{name.split('.')[0]}.py"


def test_every_module_is_shipped_with_its_bytecode(artefact: Artefact) -> None:
    """Checked by its source's hash or not at all: packing gives files new modification times."""
    for name in artefact.functions():
        files = artefact.files(name)
        compiled = {source_of(path): file for path, file in files.items() if path.endswith(".pyc")}
        sources = {path for path in files if path.endswith(".py")} - {"vc__handler__python.py"}
        assert sources == set(compiled)
        for source, bytecode in compiled.items():
            head = bytecode.read_bytes()[:16]
            assert head[4] & 1, f"{source}: stale as soon as it is unpacked"
            if not source.startswith("_vendor/"):
                assert head[8:] == source_hash(files[source].read_bytes()), source


# --- What it does.


class Ask(NamedTuple):
    """A first request, and the status of its answer."""

    method: str
    path: str
    request: dict[str, Any]
    status: int


def first_requests(platform: Platform) -> dict[str, Ask]:
    bearer = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    operator = {"X-Admin-Token": platform.environment["LEADS_ADMIN_TOKEN"]}
    return {
        "api/health": Ask("GET", "/api/health", {}, 200),
        "api/leads": Ask("POST", "/api/leads", {"json": LEAD}, 200),
        "api/rum": Ask("GET", "/api/rum", {}, 200),
        "api/products": Ask("GET", "/api/products", {}, 200),
        "api/thanks": Ask("GET", "/api/thanks?locale=id&ref=ALFA-7KQ2M", {}, 200),
        "api/status": Ask("GET", "/api/status", {}, 200),
        "api/leads_export": Ask("GET", "/api/leads/export", {"headers": operator}, 200),
        "api/leads_subject": Ask(
            "GET", "/api/leads/subject?email=a@b.co", {"headers": operator}, 200
        ),
        "api/cron/deliver": Ask("GET", "/api/cron/deliver", {"headers": bearer}, 200),
        "api/cron/watch": Ask("GET", "/api/cron/watch", {"headers": bearer}, 200),
        "api/cron/prune": Ask("GET", "/api/cron/prune", {"headers": bearer}, 200),
    }


def test_every_function_starts_from_its_bundle_and_tells_how_long_it_took(
    artefact: Artefact,
    platform: Platform,
    database: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asks = first_requests(platform)
    assert set(asks) == set(artefact.functions()), "give every new function a first request"
    lines = [
        "",
        f"{'cold start':18} {'bundle':>9} {'init':>9} {'of it ours':>11} {'1st answer':>11}",
    ]
    for name, ask in asks.items():
        megabytes = sum(file.stat().st_size for file in artefact.files(name).values()) / 1e6
        assert megabytes < 250, "Vercel's limit"
        with running(artefact, name, platform.environment) as (function, client):
            started = time.perf_counter()
            answer = client.request(ask.method, ask.path, **ask.request)
            took_ms = (time.perf_counter() - started) * 1000
            assert answer.status_code == ask.status, answer.text
            init_ms, ours_ms = function.init["initDuration"], function.init["userInitDuration"]
        assert 0 < ours_ms <= init_ms
        lines.append(
            f"{name:18} {megabytes:6.1f} MB {init_ms:6.0f} ms {ours_ms:8.0f} ms {took_ms:8.0f} ms"
        )
    with capsys.disabled():
        print("\n".join(lines))


def test_built_health_answers_ok(artefact: Artefact, platform: Platform) -> None:
    with running(artefact, "api/health", platform.environment) as (_, client):
        answer = client.get("/api/health")
    assert answer.status_code == 200
    assert answer.text.startswith('{"status":"ok"')


def test_built_leads_stores_a_lead_and_gives_a_faulty_form_back(
    artefact: Artefact, platform: Platform, database: psycopg.Connection[DictRow]
) -> None:
    with running(artefact, "api/leads", platform.environment) as (_, client):
        answer = client.post("/api/leads", json=LEAD)
        page = client.post(
            "/api/leads", data={"contact_name": "Andi <b>"}, headers={"Accept": "text/html"}
        )
    assert answer.status_code == 200, answer.text
    rows = database.execute("select id, ref, business_name from leads").fetchall()
    assert rows == [
        {
            "id": UUID(answer.json()["id"]),
            "ref": answer.json()["ref"],
            "business_name": LEAD["business_name"],
        }
    ]
    assert page.status_code == 400
    assert 'value="Andi &lt;b&gt;"' in page.text


def test_built_deliver_requires_its_token(
    artefact: Artefact, platform: Platform, database: object
) -> None:
    with running(artefact, "api/cron/deliver", platform.environment) as (_, client):
        assert client.get("/api/cron/deliver").status_code == 401
        bearer = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
        answer = client.get("/api/cron/deliver", headers=bearer)
    assert (answer.status_code, answer.json()["sent"]) == (200, 0)


# What only some requests, or none for weeks, ask of the libraries, in the words of our modules.
RARELY = """
import sys
sys.path[:0] = [".", "_vendor"]
from datetime import UTC, datetime
from lib import cache, http_client, mail, slack, turnstile
from lib.leads import form_pages, spam, submission, validators
from lib.error_reporting import Reporter
from lib.encryption import SecretBoxCipher

assert validators.normalize_phone("+65 8123 4567") == "+6581234567"
assert validators.normalize_phone("+44 20 7946 0958") == "+442079460958"
assert validators.normalize_email("Ayu@b\u00fccher.example") == "ayu@b\u00fccher.example"
assert spam._is_disposable("a@mailinator.com")
assert "Andi" in form_pages.render_form_with_errors("id", {"contact_name": "Andi"}, {}, "!")
cipher = SecretBoxCipher((b"k" * 32,))
assert cipher.decrypt(cipher.encrypt("x")) == "x"
reporter = Reporter(sys.argv[1], "r", "test")
reporter.report(ValueError("x"), request_id="1", endpoint="leads")
reporter.alert("x", request_id="1")
http_client._tls_context()
"""


def test_lazily_imported_modules_are_shipped(
    artefact: Artefact, platform: Platform, database: object, tmp_path: Path
) -> None:
    runtime.unpack(artefact.functions()["api/leads"], artefact.project, tmp_path)
    python = runtime.built_command({"handler": "x.y"})[0]
    answer = subprocess.run(
        [python, "-s", "-S", "-c", RARELY, platform.environment["SENTRY_DSN"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert len(platform.sentry.received()) == 2


@pytest.mark.measures_time
def test_built_health_checks_every_dependency(
    artefact: Artefact, platform: Platform, database: object
) -> None:
    bearer = {"Authorization": f"Bearer {platform.environment['HEALTH_CHECK_TOKEN']}"}
    with running(artefact, "api/health", platform.environment) as (_, client):
        answer = client.get("/api/health", params={"deep": "true"}, headers=bearer)
    assert (answer.status_code, answer.json()["status"]) == (200, "healthy"), answer.text


def test_built_products_answers_with_nothing_configured(artefact: Artefact) -> None:
    with running(artefact, "api/products", {}) as (_, client):
        answer = client.get("/api/products")
    assert (answer.status_code, answer.headers["X-Data-Source"]) == (200, "snapshot")
    assert len(answer.json()) >= 60


@pytest.mark.parametrize("locale", ["id", "en"])
def test_built_thanks_shows_the_reference(
    artefact: Artefact, platform: Platform, locale: str
) -> None:
    with running(artefact, "api/thanks", platform.environment) as (_, client):
        answer = client.get("/api/thanks", params={"locale": locale, "ref": "ALFA-7KQ2M"})
    assert answer.status_code == 200
    assert f'lang="{locale}"' in answer.text
    assert "ALFA-7KQ2M" in answer.text


def test_built_functions_start_without_any_variable_and_name_it_in_the_log_alone(
    artefact: Artefact,
) -> None:
    with running(artefact, "api/health", {}) as (_, client):
        assert client.get("/api/health").status_code == 200
    log = LogBuffer()
    with running(artefact, "api/leads", {}, log) as (_, client):
        answer = client.post("/api/leads", json=LEAD)
        assert (answer.status_code, answer.json()["error"]) == (503, "persistence_failed")
        names = [variable.name for variable in settings.all_settings()]
        assert not [name for name in names if name.lower() in answer.text.lower()]
        messages = eventually(
            lambda: [
                line["message"] for line in log.since() if '"store_failures"' in line["message"]
            ]
        )
        assert [name for name in names if name in messages[0]], "the log names the variable"
