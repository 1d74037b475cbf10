"""Bodies that lie about their length, stop half-way or come slowly: no lead, no error, no wait.

Each goes to a function as the platform's proxy would hand it over, and through the local router. A
form is the delicate one: cut short, it is a form still.
"""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlencode

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from tests.conftest import FORM, LEAD

type Rows = psycopg.Connection[DictRow]

JSON = json.dumps(LEAD).encode()
FORM_BODY = urlencode(FORM).encode()
CUT_FORM = FORM_BODY[: FORM_BODY.index(b"Mohon")]
JSON_TYPE, FORM_TYPE = "application/json", "application/x-www-form-urlencoded"
HELD_OPEN = 24


@pytest.fixture(scope="module")
def function(platform: Platform) -> Iterator[Function]:
    with platform.function("api/leads.py") as started:
        yield started


@pytest.fixture(params=["function", "router"])
def port(request: pytest.FixtureRequest, function: Function, database: object) -> int:
    return function.port if request.param == "function" else int(function.url.rpartition(":")[2])


def head(*lines: str, kind: str = JSON_TYPE) -> bytes:
    first = ("POST /api/leads HTTP/1.1", "Host: x", "Accept: application/json")
    return "\r\n".join([*first, f"Content-Type: {kind}", *lines, "", ""]).encode()


def exchange(port: int, *parts: bytes) -> bytes:
    """The answer to a request that ends with `parts`; empty when there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        with contextlib.suppress(OSError):  # refused, and closed, before it was sent
            for part in parts:
                caller.sendall(part)
            caller.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(OSError):
            while part := caller.recv(1 << 16):
                received += part
    return received


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


CHUNKED = "Transfer-Encoding: chunked"
LIES: dict[str, tuple[bytes, bytes]] = {
    "JSON that ends early": (head(f"Content-Length: {len(JSON)}"), JSON[:-20]),
    "whole JSON that should go on": (head(f"Content-Length: {len(JSON) + 9}"), JSON),
    "a form that ends early": (
        head(f"Content-Length: {len(FORM_BODY)}", kind=FORM_TYPE),
        CUT_FORM,
    ),
    "a body that is not there": (head("Content-Length: 300"), b""),
    "JSON longer than it says": (head("Content-Length: 40"), JSON),
    "a negative length": (head("Content-Length: -1"), JSON),
    "a length in words": (head("Content-Length: many"), JSON),
    "a length with an exponent": (head("Content-Length: 1e3"), JSON),
    "two lengths": (head("Content-Length: 5", f"Content-Length: {len(JSON)}"), JSON),
    "two ways to tell its end": (
        head(f"Content-Length: {len(JSON)}", CHUNKED),
        chunked(JSON) + b"0\r\n\r\n",
    ),
    "a chunk without an end": (head(CHUNKED), b"%x\r\n" % len(JSON) + JSON[:-20]),
    "chunks without a last one": (head(CHUNKED, kind=FORM_TYPE), chunked(CUT_FORM)),
    "a negative chunk": (head(CHUNKED), b"-5\r\n" + JSON),
    "a chunk in words": (head(CHUNKED), b"many\r\n" + JSON),
    "a chunk larger than any": (head(CHUNKED), b"f" * 17 + b"\r\n" + JSON),
    "a compression that is none": (
        head("Content-Encoding: gzip", f"Content-Length: {len(JSON) - 20}"),
        JSON[:-20],
    ),
}


@pytest.mark.parametrize("title", LIES)
def test_a_body_that_is_not_what_it_says_is_no_lead_and_no_error(
    port: int, database: Rows, platform: Platform, title: str
) -> None:
    answer = exchange(port, *LIES[title])
    assert not answer or answer.split(b" ")[1] in (b"400", b"413"), answer[:300]
    answer = exchange(port, head(f"Content-Length: {len(JSON)}", "Connection: close"), JSON)
    assert answer.split(b" ")[1] == b"200", "the next is taken"
    rows = database.execute("select message from leads").fetchall()
    assert rows == [{"message": LEAD["message"]}]
    assert platform.sentry.received() == []


@pytest.mark.parametrize("sent", [b"P", b"POST /api/leads HTTP/1.1\r\nHo", head(CHUNKED)[:-2]])
def test_truncated_headers_are_no_lead_and_no_error(
    port: int, database: Rows, platform: Platform, sent: bytes
) -> None:
    answer = exchange(port, sent)
    # Without a version it is HTTP 0.9, whose answers have no status.
    assert answer[:9] == b"<!DOCTYPE" or answer.split(b" ")[1][:1] == b"4", answer[:300]
    assert database.execute("select from leads").fetchall() == []
    assert platform.sentry.received() == []


def test_stalled_uploads_do_not_delay_other_clients(
    function: Function, port: int, database: Rows, platform: Platform
) -> None:
    begun = head(f"Content-Length: {len(FORM_BODY)}", kind=FORM_TYPE) + CUT_FORM
    with contextlib.ExitStack() as open_connections:
        for _ in range(HELD_OPEN):
            caller = socket.create_connection(("127.0.0.1", port), timeout=20)
            open_connections.enter_context(contextlib.closing(caller)).sendall(begun)
        started = time.monotonic()
        answer = httpx.post(f"http://127.0.0.1:{port}/api/leads", json=LEAD, timeout=20)
        assert answer.status_code == 200
        assert time.monotonic() - started < 5
    # They hang up now, half-way.
    answer = httpx.post(f"http://127.0.0.1:{port}/api/leads", json=LEAD, timeout=20)
    assert answer.status_code == 200, "the same lead again"
    assert len(database.execute("select from leads").fetchall()) == 1
    assert platform.sentry.received() == []
    assert function.alive


def test_a_lead_that_comes_byte_by_byte_is_stored_once_and_whole(port: int, database: Rows) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head(f"Content-Length: {len(FORM_BODY)}", kind=FORM_TYPE) + FORM_BODY:
            caller.sendall(bytes([byte]))
            time.sleep(0.002)
        assert caller.recv(1 << 16).split(b" ")[1] == b"200"
    rows = database.execute("select message from leads").fetchall()
    assert rows == [{"message": LEAD["message"]}]
