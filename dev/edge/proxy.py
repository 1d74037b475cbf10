"""One request from the router to a function process, as Vercel's proxy hands it over."""

import contextlib
import http.client
import itertools
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from werkzeug.datastructures import Headers

from dev.edge.http_server import Cut, Request, Response, as_text
from dev.edge.runtime import Function

REGION = "dev1"
MAX_BODY_BYTES = 4_500_000  # Vercel's limit of a request and of a response (read 2026-11)
_CHUNK_BYTES = 1 << 16

# Written by the proxy: whatever a client sends under these names never arrives.
_RESERVED_HEADERS = {
    "forwarded",
    "x-real-ip",
    "x-vercel-forwarded-for",
    "x-vercel-id",
    "x-vercel-oidc-token",
}
_RESERVED_PREFIXES = ("x-forwarded-", "x-vercel-internal-", "x-vercel-ip-", "x-vercel-proxied-")
_HOP_BY_HOP = {
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_request_ids = itertools.count(1)


class ClientGone(ConnectionError):
    """The function's process is there no more, or about to go."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where clients believe they are: the router's address."""

    port: int
    proto: str = "http"


def error(status: int, code: str, text: str, request_id: str) -> Response:
    """A failure of the platform's own, worded like Vercel's."""
    response = as_text(f"{text}\n\n{code}\n\n{request_id}\n", status)
    response.headers["x-vercel-error"] = code
    response.headers["x-vercel-id"] = request_id
    return response


def new_id() -> str:
    return f"{REGION}::{secrets.token_hex(3)}-{int(time.time() * 1000)}-{secrets.token_hex(6)}"


def invocation_failed(request_id: str) -> Response:
    text = "A server error has occurred"
    return error(500, "FUNCTION_INVOCATION_FAILED", text, request_id)


@dataclass(slots=True)
class _Call:
    """One invocation: its connection, and a second handle that keeps it open.

    The response closes its own handle once the body is read; work after the response must not
    see its connection end before it does.
    """

    function: Function
    near: socket.socket
    second_handle: socket.socket
    deadline: float

    def apply_deadline(self) -> None:
        left = max(self.deadline - time.monotonic(), 0.001)
        for handle in (self.near, self.second_handle):
            with contextlib.suppress(OSError):
                handle.settimeout(left)

    def over(self) -> None:
        with contextlib.suppress(OSError):
            self.second_handle.close()
        self.function.leave()


def forward(function: Function, request: Request, target: str, site: Site) -> Response:
    """Hand `request` over as `target` (path and query). The function was entered by the caller;
    it is left when its work is over, which may be long after the response.

    Gone when the process took no connection: the request never reached it.
    """
    request_id = new_id()
    deadline = time.monotonic() + function.max_duration_s
    connection = http.client.HTTPConnection("127.0.0.1", function.port)
    connection.timeout = function.max_duration_s
    try:
        connection.connect()
    except OSError as fault:
        function.leave()
        raise ClientGone from fault
    call = _Call(function, connection.sock, connection.sock.dup(), deadline)
    try:
        _send(connection, request, target, _headers(function, request, site, request_id))
        call.apply_deadline()
        response = _response(call, request, connection.getresponse())
    except TimeoutError:
        function.condemn()
        call.over()
        text = "An error occurred with your deployment"
        return error(504, "FUNCTION_INVOCATION_TIMEOUT", text, request_id)
    except (OSError, http.client.HTTPException):
        function.settle()
        call.over()
        return invocation_failed(request_id)
    finally:
        connection.close()
    response.headers["x-vercel-id"] = request_id
    return response


def _headers(
    function: Function, request: Request, site: Site, request_id: str
) -> list[tuple[str, str]]:
    host = request.headers.get("Host", f"127.0.0.1:{site.port}")
    deadline = datetime.now(UTC) + timedelta(seconds=function.max_duration_s)
    listed = [
        ("Host", host),
        ("x-forwarded-for", request.peer),
        ("x-real-ip", request.peer),
        ("x-vercel-forwarded-for", request.peer),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", site.proto),
        ("x-forwarded-port", str(site.port)),
        ("x-vercel-id", request_id),
        ("x-vercel-internal-invocation-id", secrets.token_hex(8)),
        ("x-vercel-internal-request-id", str(next(_request_ids))),
        ("x-vercel-internal-deadline", deadline.isoformat(timespec="milliseconds")),
        ("Content-Length", str(len(request.body))),
        # Its end tells when the work after the answer is over.
        ("Connection", "close"),
    ]
    for name, value in request.headers:
        lower = name.lower()
        if lower == "host" or lower in _RESERVED_HEADERS or lower in _HOP_BY_HOP:
            continue
        if not lower.startswith(_RESERVED_PREFIXES):
            listed.append((name, value))
    return listed


def _send(
    connection: http.client.HTTPConnection,
    request: Request,
    target: str,
    headers: list[tuple[str, str]],
) -> None:
    connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value.encode("latin-1", "replace"))
    connection.endheaders(request.body)


def _response(call: _Call, request: Request, answer: http.client.HTTPResponse) -> Response:
    listed = Headers()
    for name, value in answer.getheaders():
        if name.lower() not in _HOP_BY_HOP and not name.lower().startswith("x-vercel-internal-"):
            listed.add(name, value)
    listed.setdefault("Cache-Control", "public, max-age=0, must-revalidate")
    length = answer.getheader("Content-Length")
    if length is None and request.method != "HEAD":
        return Response(answer.status, _stream(call, answer), listed)
    if length is not None:
        listed["Content-Length"] = length
    call.apply_deadline()
    # IncompleteRead when the function ended half-way.
    body = answer.read()
    threading.Thread(target=_linger, args=(call,), daemon=True).start()
    return Response(answer.status, body, listed)


def _stream(call: _Call, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """A body without a length: passed on as it comes, ended by the function's closing."""
    try:
        while True:
            call.apply_deadline()
            part = answer.read1(_CHUNK_BYTES)
            if not part:
                return
            yield part
    except TimeoutError:
        call.function.condemn()
        raise Cut from None
    except (OSError, http.client.HTTPException):
        raise Cut from None
    finally:
        answer.close()
        call.over()


def _linger(call: _Call) -> None:
    """Keep the connection until the function closes it; past its deadline, kill the process."""
    try:
        call.apply_deadline()
        while call.second_handle.recv(_CHUNK_BYTES):
            call.apply_deadline()
    except TimeoutError:
        call.function.condemn()
    except OSError:
        pass
    finally:
        call.over()
