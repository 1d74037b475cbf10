"""The router's rules, and the life of a function's process, on a tree of their own."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dev.edge.route_patterns import Unsupported
from dev.edge.routes import Routes
from dev.platform.local_platform import Platform
from tests.conftest import eventually

ROOT = Path(__file__).parents[3]

CONFIG = {
    "cleanUrls": True,
    "trailingSlash": False,
    "functions": {"api/**/*.py": {"maxDuration": 2}},
    "redirects": [{"source": "/old/:first/:rest*", "destination": "/new/:rest*?x=:first"}],
    "rewrites": [
        {"source": "/p/:slug", "destination": "/api/echo?slug=:slug"},
        {"source": "/q/:slug", "destination": "/api/echo"},
        {"source": "/z/(.*)", "destination": "/api/echo?rest=$1"},
    ],
    "headers": [{"source": "/(.*)", "headers": [{"key": "X-A", "value": "vercel.json"}]}],
    "crons": [{"path": "/api/echo", "schedule": "* * * * *"}],
}

ECHO = """
import json, os, time

def app(environ, start_response):
    asked = environ["QUERY_STRING"]
    if "raise" in asked:
        raise RuntimeError("as asked")
    if "exit" in asked:
        os._exit(3)
    if "long" in asked:
        time.sleep(5)
    if "half" in asked:
        print("half way", flush=True)
        time.sleep(0.5)
    seen = {k: v for k, v in environ.items() if isinstance(v, str)}
    body = json.dumps({"pid": os.getpid(), "environ": seen, "env": dict(os.environ)}).encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("Content-Type", "text/json")])
    return Body([body], 1 if "after" in asked else 0)

class Body(list):
    def __init__(self, parts, seconds):
        super().__init__(parts)
        self.seconds = seconds

    def close(self):
        time.sleep(self.seconds)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for package in ("lib", "ops"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, root / package, ignore=ignored)
    for folder in ("api", "public", "supabase/migrations"):
        (root / folder).mkdir(parents=True)
    (root / "vercel.json").write_text(json.dumps(CONFIG))
    (root / "public" / "about.html").write_text("<p>About</p>")
    (root / "public" / "404.html").write_text("<p>Nowhere</p>")
    (root / "api" / "echo.py").write_text(ECHO)
    (root / "api" / "broken.py").write_text("import not_there\ndef app(e, s): ...\n")
    return root


@pytest.fixture(scope="module")
def small(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    given = {"SITE_URL": "http://given.test", "NOT_OURS": "1"}
    data = tmp_path_factory.mktemp("data")
    with Platform(tree, data, durable=False, environ=given) as running:
        yield running


@pytest.fixture(scope="module")
def client(small: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=small.url, trust_env=False) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/p/a?z=2", "slug=a&z=2"),
        ("/p/a?slug=other", "slug=a"),
        ("/q/a%20b", "slug=a+b"),
        ("/z/k/l", "rest=k%2Fl"),
    ],
)
def test_rewrites_reach_the_function(client: httpx.Client, path: str, query: str) -> None:
    environ = client.get(path).json()["environ"]
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/api/echo", query)


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/old/1/2/3?k=v", "/new/2/3?x=1&k=v"),
        ("/about.html", "/about"),
        ("/about/", "/about"),
        ("/api/echo/", "/api/echo"),
        ("/api/echo.py", "/api/echo"),
        ("/index.html", "/"),
    ],
)
def test_redirects_are_permanent(client: httpx.Client, path: str, location: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (308, location)


@pytest.mark.parametrize("path", ["/nope", "/%2e%2e/%2e%2e/etc/passwd", "/about/../../lib", "//x"])
def test_what_is_not_public_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (404, "<p>Nowhere</p>")


def test_an_unchanged_static_file_is_answered_304(client: httpx.Client) -> None:
    tag = client.get("/about").headers["etag"]
    assert client.get("/about", headers={"If-None-Match": tag}).status_code == 304


def test_forged_forwarding_headers_do_not_arrive(client: httpx.Client) -> None:
    forged = {"x-forwarded-for": "6.6.6.6", "x-real-ip": "6.6.6.6", "x-vercel-id": "6"}
    environ = client.get("/api/echo", headers=forged).json()["environ"]
    assert environ["HTTP_X_FORWARDED_FOR"] == environ["HTTP_X_REAL_IP"] == "127.0.0.1"
    assert "6.6.6.6" not in json.dumps(environ)


def test_functions_get_given_variables_and_no_foreign_ones(client: httpx.Client) -> None:
    env = client.get("/api/echo").json()["env"]
    assert env["SITE_URL"] == "http://given.test"
    assert "NOT_OURS" not in env


def test_bodies_over_the_limit_are_refused(client: httpx.Client) -> None:
    assert client.post("/api/echo", content=bytes(4_500_001)).status_code == 413
    assert client.post("/api/echo", content=bytes(4_500_000)).status_code == 200


@pytest.mark.measures_time
def test_work_after_the_response_does_not_delay_the_client(client: httpx.Client) -> None:
    started = time.monotonic()
    client.get("/api/echo?after")
    assert time.monotonic() - started < 0.9


def test_an_edit_is_served_next_and_spares_requests_in_flight(
    client: httpx.Client, small: Platform, tree: Path
) -> None:
    before = client.get("/api/echo").json()["pid"]
    in_flight: list[int] = []
    thread = threading.Thread(
        target=lambda: in_flight.append(httpx.get(f"{small.url}/api/echo?half").json()["pid"])
    )
    thread.start()
    eventually(lambda: any("half way" in str(line["message"]) for line in small.logs()))
    (tree / "lib" / "added.py").write_text("")
    assert client.get("/api/echo").json()["pid"] != before
    thread.join()
    assert in_flight == [before]


def test_an_exception_fails_the_request_and_keeps_the_process(client: httpx.Client) -> None:
    before = client.get("/api/echo").json()["pid"]
    answer = client.get("/api/echo?raise")
    assert answer.headers["x-vercel-error"] == "FUNCTION_INVOCATION_FAILED"
    assert client.get("/api/echo").json()["pid"] == before


def test_a_dead_process_is_replaced(client: httpx.Client) -> None:
    before = client.get("/api/echo").json()["pid"]
    assert client.get("/api/echo?exit").status_code == 500
    assert client.get("/api/echo").json()["pid"] != before


def test_the_maximum_duration_is_enforced(client: httpx.Client) -> None:
    answer = client.get("/api/echo?long")
    assert (answer.status_code, answer.headers["x-vercel-error"]) == (
        504,
        "FUNCTION_INVOCATION_TIMEOUT",
    )
    assert client.get("/api/echo").status_code == 200


def test_a_function_that_cannot_load_says_why_in_the_log(
    client: httpx.Client, small: Platform
) -> None:
    assert client.get("/api/broken").status_code == 500
    assert any("not_there" in line["message"] for line in small.logs())


def test_a_separate_process_has_its_own_variables(small: Platform) -> None:
    with small.function("api/echo.py", SITE_URL=None, DATABASE_URL="postgres://x") as function:
        env = httpx.get(f"{function.url}/api/echo").json()["env"]
        assert "SITE_URL" not in env
        assert env["DATABASE_URL"] == "postgres://x"
        assert function.init["initDuration"] > 0
        pid = function.pid
    assert not Path(f"/proc/{pid}").exists() or os.name != "posix"


def test_crons_are_called_as_the_scheduler_does(small: Platform) -> None:
    environ = json.loads(small.cron("echo").text)["environ"]
    assert environ["HTTP_USER_AGENT"] == "vercel-cron/1.0"
    assert environ["HTTP_AUTHORIZATION"] == f"Bearer {small.environment['CRON_SECRET']}"


def test_what_the_router_cannot_do_is_named(tmp_path: Path) -> None:
    file = tmp_path / "vercel.json"
    rule = {"source": "/x", "destination": "/y", "has": []}
    file.write_text(json.dumps({"rewrites": [rule]}))
    with pytest.raises(Unsupported, match="has"):
        Routes.load(file)


def test_an_answer_without_a_body_leaves_the_connection_clean(platform: Platform) -> None:
    """Not even an empty chunk may follow a 204: it would be read as the next answer."""
    with httpx.Client(base_url=platform.url) as client:
        assert client.post("/api/rum", content="[]").status_code == 204
        assert client.get("/api/health").status_code == 200
