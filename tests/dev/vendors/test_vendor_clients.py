"""Vendors' own clients as second witnesses: they read what we wrote, and write what we write."""

import contextlib
import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
import trustme
from playwright.sync_api import Browser, Page
from psycopg.rows import DictRow
from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block
from upstash_redis import Redis

from dev import tools
from dev.platform import ports
from dev.platform.local_platform import Platform
from dev.vendors import block_kit
from lib.incidents import messages as incident_messages
from lib.incidents import model, rules
from lib.services import Services
from lib.settings import Settings
from tests.conftest import LEAD, ROOT, eventually
from tests.fix_browser import launch
from tests.incidents.test_alerts import LINKS, NOW, messages, notify, record, resolve
from tests.vitals.test_rum import LAPTOP

pytestmark = pytest.mark.slow

type Rows = psycopg.Connection[DictRow]

NODE = Path(__file__).parent / "node"


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    made = Services(Settings(platform.environment))
    yield made
    made.close()


# ------------------------------------------------------------------ Slack


def slack_says(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks as Slack's own models read and write them; they check their limits."""
    read = [Block.parse(block) for block in blocks]
    written = []
    for block in read:
        assert block is not None
        block.validate_json()
        written.append(block.to_dict())
    return written


def as_written(value: Any) -> Any:
    """A text object may leave out what is Slack's default."""
    if isinstance(value, list):
        return [as_written(item) for item in value]
    if isinstance(value, dict):
        return {name: as_written(item) for name, item in value.items()
                if (name, item) not in (("emoji", True), ("verbatim", False))}  # fmt: skip
    return value


def test_slacks_own_models_accept_every_alert(services: Services, platform: Platform) -> None:
    for step, name in enumerate(rules.BY_NAME):
        record(services, name, now=NOW + timedelta(minutes=step))
    notify(services, NOW + timedelta(hours=1))
    resolve(services, NOW + timedelta(hours=2))
    notify(services, NOW + timedelta(hours=3))
    sent = [
        message["fields"]["blocks"]
        for message in messages(platform)
        if message["fields"].get("blocks")
    ]
    lost = rules.make_finding(rules.BY_NAME["lead_not_kept"], "lead 1", NOW)
    incident = model.open_incident([lost], NOW, "dpl_1")
    sent.append(list(incident_messages.render_unrecorded(incident, LINKS, NOW).blocks))
    assert len(sent) > 1
    for blocks in sent:
        assert as_written(slack_says(blocks)) == as_written(blocks)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}},
        {"type": "section"},
        {"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}] * 11},
    ],
    ids=["long header", "empty section", "long section", "eleven elements"],
)
def test_what_slacks_models_refuse_our_own_check_refuses_too(block: dict[str, Any]) -> None:
    with pytest.raises(SlackObjectFormationError):
        slack_says([block])
    assert block_kit.validate({"text": "x", "blocks": [block]})


# ------------------------------------------------------------------ Redis


def as_stored(platform: Platform) -> dict[str, list[Any]]:
    """{key: [type, value]} by the server's own protocol."""
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        return {key: [valkey.type(key), read(valkey, key)] for key in valkey.scan_iter()}


def read(client: Any, key: str) -> Any:
    """By whatever client: their methods have one name."""
    kind = client.type(key)
    if kind == "string":
        return client.get(key)
    if kind == "hash":
        return client.hgetall(key)
    if kind == "set":
        return sorted(client.smembers(key))
    return client.lrange(key, 0, -1) if kind == "list" else client.zrange(key, 0, -1)


@pytest.fixture
def written(platform: Platform, site: httpx.Client) -> None:
    """What leads, visits, products and their counters leave in Redis."""
    for number in range(3):
        body = {**LEAD, "message": f'a = 1 & "b" é \U0001f600 {number}'}
        assert site.post("/api/leads", json=body).status_code == 200
    site.get("/api/products")
    vital = {"name": "LCP", "value": 1234.5, "id": "v6-1", "page": "/", "rating": "good"}
    headers = {"User-Agent": LAPTOP}
    assert site.post("/api/rum", json=[vital], headers=headers).status_code == 204
    eventually(lambda: {kind for kind, _ in as_stored(platform).values()} >= {"string", "hash"})
    eventually(platform.is_idle)  # no key comes or goes while it is read


@pytest.mark.usefixtures("written")
def test_upstashs_python_client_reads_what_we_wrote(platform: Platform) -> None:
    """In the end: the last counters come after the answers."""
    environ = platform.environment
    with Redis(environ["UPSTASH_REDIS_REST_URL"], environ["UPSTASH_REDIS_REST_TOKEN"],
               allow_telemetry=False) as client:  # fmt: skip

        def agrees() -> bool:
            names = sorted(client.keys("*"))
            return {key: [client.type(key), read(client, key)] for key in names} == as_stored(
                platform
            )

        eventually(agrees)


@pytest.mark.usefixtures("written")
def test_upstashs_node_client_reads_what_we_wrote(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(tools.ensure_node_packages())
    shutil.copy2(NODE / "read_redis.mjs", tmp_path)

    def agrees() -> bool:
        return bool(json.loads(node(tmp_path, platform.environment)) == as_stored(platform))

    eventually(agrees)


def node(folder: Path, environ: dict[str, str]) -> str:
    answer = subprocess.run(
        ["node", "read_redis.mjs"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


# ------------------------------------------------------------------ Vercel's scripts


class Pages(http.server.SimpleHTTPRequestHandler):
    """`public/` with clean addresses, and the packages under /npm/; Vercel's scripts are empty."""

    def translate_path(self, path: str) -> str:
        plain = path.partition("?")[0]
        if plain.startswith("/npm/"):
            return str(tools.ensure_node_packages() / plain.removeprefix("/npm/"))
        inside = super().translate_path(plain)
        return f"{inside}.html" if Path(f"{inside}.html").exists() else inside

    def do_GET(self) -> None:
        if not self.path.startswith("/_vercel/"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/javascript")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def https() -> Iterator[str]:
    """The pages over TLS, with a certificate of this machine's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    handler = partial(Pages, directory=str(ROOT / "public"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"https://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One that does not say that it is driven: our pages report nothing of such."""
    hidden = "--disable-blink-features=AutomationControlled"
    with launch(hidden) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, https: str) -> Iterator[Page]:
    with browser.new_context(base_url=https, ignore_https_errors=True) as context:
        yield context.new_page()


INJECTED = """() => ({
  scripts: [...document.head.querySelectorAll('script[src*="_vercel"]')]
    .map((one) => ({src: new URL(one.src).pathname, defer: one.defer})),
  queues: {vaq: (window.vaq ?? []).map(([name]) => name),
           siq: (window.siq ?? []).map(([name]) => name)},
  calls: [typeof window.va, typeof window.si],
})"""

BY_THE_PACKAGES = """async () => {
  const {inject} = await import("/npm/@vercel/analytics/dist/index.mjs");
  const {injectSpeedInsights} = await import("/npm/@vercel/speed-insights/dist/index.mjs");
  const beforeSend = (event) => event;
  inject({beforeSend});
  injectSpeedInsights({beforeSend});
}"""


def test_our_pages_inject_what_vercels_packages_inject(page: Page) -> None:
    page.goto("/404.html")
    assert page.evaluate(INJECTED)["scripts"] == [], "a page that measures nothing"
    page.evaluate(BY_THE_PACKAGES)
    theirs = page.evaluate(INJECTED)
    page.goto("/en", wait_until="networkidle")
    ours = page.evaluate(INJECTED)
    assert len(ours["scripts"]) == 2
    assert ours == theirs


def test_vercels_packages_find_ours_there_and_add_none(page: Page) -> None:
    page.goto("/", wait_until="networkidle")
    before = page.evaluate(INJECTED)["scripts"]
    page.evaluate(BY_THE_PACKAGES)
    assert page.evaluate(INJECTED)["scripts"] == before


# ------------------------------------------------------------------ Sentry


@pytest.fixture
def spotlight(tmp_path: Path) -> Iterator[str]:
    """Sentry's own Spotlight, which takes envelopes as Sentry does and streams what it understood.

    It would listen on every interface (hence the preload) and tell Sentry about itself (hence the
    proxy that is nowhere); with a newer `hono` than node/package.json pins it answers 500.
    """
    port = ports.free()
    command = [str(tools.ensure_node_packages() / ".bin" / "spotlight"), "server", "-p", str(port)]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "NODE_OPTIONS": f"--require={NODE / 'loopback.cjs'}",
        "https_proxy": "http://127.0.0.1:9",
    }
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        try:
            eventually(lambda: answers(f"http://127.0.0.1:{port}/health"), 30)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code < 500
    return False


REPORT = """
import sys
from lib.error_reporting import Reporter
reporter = Reporter(sys.argv[1], "release-1", "production")
try:
    raise ValueError("Andi Saputra +6281234567890")
except ValueError as fault:
    reporter.report(fault, request_id="req-1", endpoint="leads")
reporter.alert("lead_lost", request_id="req-2")
"""


def test_spotlight_understands_our_reports_and_finds_no_name_in_them(spotlight: str) -> None:
    subprocess.run(
        [sys.executable, "-c", REPORT, f"http://public@{spotlight}/1"], cwd=ROOT, check=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    envelopes = []
    with httpx.stream("GET", f"http://{spotlight}/stream", timeout=10) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                envelopes.append(json.loads(line.removeprefix("data:")))
            if len(envelopes) == 2:
                break
    events = [payload for _, items in envelopes for header, payload in items
              if header["type"] == "event"]  # fmt: skip
    fault, alarm = events
    assert fault["exception"]["values"][0]["type"] == "ValueError"
    assert (fault["tags"]["request_id"], fault["transaction"]) == ("req-1", "leads")
    assert (fault["release"], fault["environment"]) == ("release-1", "production")
    assert alarm["tags"]["request_id"] == "req-2"
    shown = json.dumps(envelopes)
    assert "Andi" not in shown
    assert "81234567890" not in shown
