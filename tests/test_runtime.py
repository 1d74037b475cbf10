"""What we change of Vercel's runtime, on the real runtime: callers gain, nothing is lost."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import vercel_runtime
from vercel_runtime.wait_until import WaitUntilCollector

from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib import runtime
from tests.conftest import eventually

ROOT = Path(__file__).parent.parent
PING = "/_vercel/ping"
VITAL = json.dumps({"name": "LCP", "value": 1200, "id": "v6-1", "page": "/"})


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(method, path, body, {"User-Agent": "Mozilla/5.0 (Windows NT 10.0)"})
    answer = connection.getresponse()
    return answer, answer.read()


def connect(function: Function) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", function.port, timeout=5)


def test_a_caller_may_keep_its_connection(platform: Platform, database: object) -> None:
    """But for one answer a second, after which the requests' counts are sent."""
    with platform.function("api/health.py") as function:
        connection = connect(function)

        def is_kept_alive() -> bool:
            """An answer leaves the connection open."""
            answer, body = ask(connection, "GET", "/api/health")
            assert (answer.status, body[:15]) == (200, b'{"status":"ok",')
            return answer.headers["Connection"] == "keep-alive"

        eventually(is_kept_alive)
        assert connection.sock is not None, "http.client drops what is not kept"
        local = connection.sock.getsockname()
        ask(connection, "GET", "/api/health")
        assert connection.sock is None or connection.sock.getsockname() == local
        connection.close()


def test_a_caller_that_wants_its_connection_closed_sees_its_end(
    platform: Platform, database: object
) -> None:
    with (
        platform.function("api/health.py") as function,
        socket.create_connection(("127.0.0.1", function.port), timeout=5) as caller,
    ):
        caller.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while part := caller.recv(1 << 16):
            received += part
    assert b"keep-alive" not in received
    assert received.endswith(b"}")


def test_a_connection_with_work_after_its_answer_is_closed(
    platform: Platform, database: object
) -> None:
    """The work after an answer would delay the next request on the same connection."""
    platform.upstash.switch("stall")
    with platform.function("api/rum.py") as function:
        connection = connect(function)
        answer, _ = ask(connection, "POST", "/api/rum", VITAL)
        assert answer.status == 204
        assert answer.headers["Connection"] != "keep-alive"
        answer, _ = ask(connection, "POST", "/api/rum", VITAL)
        assert answer.status == 204
        lines = [line["message"] for line in function.logs()]
        assert not [line for line in lines if '"event": "request"' in line], "both still at work"
        connection.close()


def test_the_platforms_own_question_still_ends_with_its_connection(
    platform: Platform, database: object
) -> None:
    """It is answered without a length: on a connection that stays, its caller would wait."""
    with platform.function("api/health.py") as function:
        connection = connect(function)
        answer, body = ask(connection, "GET", PING)
        assert (answer.status, body) == (200, b"")
        connection.close()


def test_more_callers_than_five_are_let_in_at_once(platform: Platform, database: object) -> None:
    with platform.function("api/health.py") as function:
        function.kill(signal.SIGSTOP)  # so that none is taken in yet
        try:
            waiting = [
                socket.create_connection(("127.0.0.1", function.port), timeout=0.5)
                for _ in range(runtime.LISTEN_BACKLOG // 2)
            ]
        finally:
            function.kill(signal.SIGCONT)
        for caller in waiting:
            caller.sendall(b"GET /api/health HTTP/1.0\r\n\r\n")
        for caller in waiting:
            caller.settimeout(5)
            assert caller.recv(1 << 16).startswith(b"HTTP/1.0 200")
            caller.close()


def test_the_log_line_comes_as_before(platform: Platform, database: object) -> None:
    with platform.function("api/health.py") as function:
        connection = connect(function)
        ask(connection, "GET", "/api/health")
        connection.close()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            lines = [line["message"] for line in function.logs()]
            if any('"event": "request"' in line for line in lines):
                return
            time.sleep(0.02)
    pytest.fail(f"no line in {lines}")


@pytest.mark.parametrize(
    "entrypoint",
    sorted(str(path.relative_to(ROOT)) for path in (ROOT / "api").rglob("*.py")),
)
def test_no_line_of_ours_or_the_runtimes_holds_a_query(
    platform: Platform, database: object, entrypoint: str
) -> None:
    name = entrypoint.removeprefix("api/").removesuffix(".py")
    with platform.function(entrypoint) as function:
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "NONSENSE"):
            connection = connect(function)
            ask(connection, method, f"/api/{name}?email=andi@example.com&q=%2B62812345#x?y=budi")
            connection.close()
        for line in (
            b"GET /api/x?email=andi@example.com&name=budi santoso HTTP/1.1",
            b"GET /api/x?email=andi@example.com HTTP/9.9",
            b"GET /api/x?email=andi@example.com",
            b"GET /api/x%3Femail=andi@example.com HTTP/1.1",
            b"?email=andi@example.com budi",
        ):
            with socket.create_connection(("127.0.0.1", function.port), timeout=5) as raw:
                raw.sendall(line + b"\r\n\r\n")
                raw.settimeout(2)
                with contextlib.suppress(OSError):
                    raw.recv(1 << 16)
        time.sleep(0.3)
        log = "\n".join(str(line["message"]) for line in function.logs())
    assert f"GET /api/{name}" in log, "the runtime's own line is there"
    for personal in ("andi", "example.com", "62812345", "budi", "santoso"):
        assert personal not in log


def test_the_runtime_still_has_the_code_that_is_patched() -> None:
    source = (Path(vercel_runtime.__file__).parent / "vc_init.py").read_text()
    assert source.count("finish_wait_until(wait_until)") == 1
    assert WaitUntilCollector()._pending == {}
    assert "import urllib3" in source
    assert "ThreadingHTTPServer((" in source


SOMEWHERE_ELSE = """
import sys, types
from lib import runtime
runtime.patch_runtime(types.SimpleNamespace())
assert sys.modules["urllib3"] is None
runtime.on_request()
import urllib3, urllib3.util
"""


def test_in_a_changed_runtime_no_patch_applies_and_nothing_fails() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", SOMEWHERE_ELSE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def test_work_put_off_by_the_runtime_is_still_waited_for() -> None:
    class Collector:
        def __init__(self, pending: dict[int, object]) -> None:
            self._pending = pending

    waited: list[object] = []
    finish = runtime._skip_if_empty(waited.append)
    busy, idle, changed = Collector({1: "work"}), Collector({}), object()
    for collector in (busy, idle, changed):
        finish(collector)
    assert waited == [busy, changed]
