"""What an address can lead to: a file of public/, or a function; and nothing else of the project.

Asked of the build, by its own list of routes, and of the local router.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from dev.audit import secret_scan
from tests.conftest import ROOT

MOST_REDIRECTS = 5
STRANGE = (
    *(
        "/.env",
        "/.git/config",
        "/.git/HEAD",
        "/.vercel/project.json",
        "/.vercel/output/config.json",
    ),
    *("/config.json", "/vercel.json", "/requirements.txt", "/.python-version", "/pyproject.toml"),
    *("/functions/api/leads.func/lib/settings.py", "/api/leads.func/lib/settings.py"),
    *("/api/lib/settings.py", "/_vendor/httpx/__init__.py", "/vc__handler__python.py"),
    *(
        "/api/__pycache__/leads.cpython-312.pyc",
        "/lib/",
        "/api/",
        "/api",
        "/api/cron",
        "/api/cron/",
    ),
    *(
        "/..",
        "/../vercel.json",
        "/%2e%2e/vercel.json",
        "/..%2fvercel.json",
        "/assets/../../lib/db.py",
    ),
    *(
        "/assets/%2e%2e/%2e%2e/lib/db.py",
        "/assets/..%2f..%2flib%2fdb.py",
        "/assets%5c..%5c..%5clib",
    ),
    *("//lib/db.py", "/./lib/db.py", "/public/index.html", "/static/index.html", "/LIB/db.py"),
    *(
        "/lib/db.py%00.html",
        "/lib/db.py/",
        "/lib/db.py;x",
        "/lib/db",
        "/api/leads.py/",
        "/API/leads",
    ),
    *("/api/products/../../lib/db.py", "/api/products/..%2f..%2flib", "/thanks/../lib/db.py"),
)


def project_addresses() -> list[str]:
    """The address that each file of the project would have."""
    return [f"/{quote(name)}" for name in secret_scan.tree(ROOT).files]


class BuiltSite:
    """The routes of `.vercel/output`, as the Build Output API (version 3) says."""

    def __init__(self, output: Path) -> None:
        config = json.loads((output / "config.json").read_text("utf-8"))
        names = [
            f.relative_to(output / "static").as_posix() for f in (output / "static").rglob("*")
        ]
        paths = config["overrides"]
        self.static = {f"/{paths.get(name, {}).get('path', name)}": name for name in names}
        folder = output / "functions"
        self.functions = {
            f"/{function_folder.relative_to(folder).with_suffix('').as_posix()}"
            for function_folder in folder.rglob("*.func")
        }
        phases: list[list[dict[str, Any]]] = [[]]
        for route in config["routes"]:
            phases.append([]) if "handle" in route else phases[-1].append(route)
        handles = [route["handle"] for route in config["routes"] if "handle" in route]
        assert handles == ["filesystem", "error"], "phases that this reads"
        self.before, self.after, _ = phases

    def resolve(self, address: str) -> str:
        """`static NAME`, `function NAME`, or the status of an answer that is neither."""
        for _ in range(MOST_REDIRECTS):
            if (location := self._redirect(address)) is None:
                break
            address = location
        return self._file(address) or self._rewritten(address)

    def _redirect(self, address: str) -> str | None:
        for route in self.before:
            match = re.search(route["src"], address)
            if match and "status" in route:
                return match.expand(re.sub(r"\$(\d)", r"\\\1", route["headers"]["Location"]))
        return None

    def _file(self, address: str) -> str | None:
        if address in self.static:
            return f"static {self.static[address]}"
        return f"function {address}" if address in self.functions else None

    def _rewritten(self, address: str) -> str:
        for route in self.after:
            if re.search(route["src"], address) is None:
                continue
            if "status" in route:
                return str(route["status"])
            if (file_path := self._file(route["dest"].partition("?")[0])) is not None:
                return file_path
        return "404"


@pytest.fixture(scope="module")
def built_site(built: Path) -> BuiltSite:
    return BuiltSite(built / ".vercel" / "output")


def test_the_build_answers_with_public_and_the_functions_alone(built_site: BuiltSite) -> None:
    public = {f.relative_to(ROOT / "public").as_posix() for f in (ROOT / "public").rglob("*")}
    functions = {f"/{f.relative_to(ROOT).with_suffix('')}" for f in (ROOT / "api").rglob("*.py")}
    addresses = [*project_addresses(), *STRANGE, *(f"/{name}" for name in public)]
    kinds = dict.fromkeys(("static", "function", "404"), 0)
    for address in addresses:
        kind, _, name = built_site.resolve(address).partition(" ")
        kinds[kind] += 1
        assert kind == "404" or name in (public if kind == "static" else functions), address
    assert kinds["static"] >= len([name for name in public if "." in name])
    assert kinds["404"] > 400, "most of the project"
    assert built_site.resolve("/api/leads/export") == "function /api/leads_export"
    assert built_site.resolve("/lib/db.py") == "404"


def test_the_local_router_answers_with_public_and_the_functions_alone(site: httpx.Client) -> None:
    secret = {
        f"/{quote(name)}": content
        for name, content in secret_scan.tree(ROOT).files.items()
        if not name.startswith("public/") and content.strip()
    }
    for address, content in secret.items():
        answer = site.get(address, follow_redirects=True)
        assert answer.content != content, address
        assert answer.status_code == 404 or address.startswith("/api/"), address
    public = {file.read_bytes() for file in (ROOT / "public").rglob("*") if file.is_file()}
    for address, answer in asked_raw(site, STRANGE):
        is_function = address.lower().startswith("/api/") and answer.status_code in (401, 405)
        is_refused = answer.status_code in (308, 400, 404)
        assert is_function or is_refused or answer.content in public, (address, answer.text)


def asked_raw(
    site: httpx.Client, addresses: tuple[str, ...]
) -> Iterator[tuple[str, httpx.Response]]:
    """The addresses as they are written: a client tidies them up."""
    for address in addresses:
        url = site.base_url.copy_with(raw_path=address.encode())
        yield address, site.send(httpx.Request("GET", url))
