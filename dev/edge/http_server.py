"""A small HTTP/1.1 server with keep-alive, whose connections can be cut on purpose.

The standard library's server drives a function `Request -> Response`. Raising `Cut` ends the
connection without an answer: that is how the stand-ins lose replies.
"""

import contextlib
import http
import json
import os
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import unquote

from werkzeug.datastructures import Headers

from dev.edge import request_body

HOST = "127.0.0.1"


class Cut(Exception):
    """End the connection without answering; reset=True sends RST instead of FIN."""

    def __init__(self, *, reset: bool = False) -> None:
        self.reset = reset


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `target` is the raw path and query, `oversized` means its body was refused."""

    method: str
    target: str
    headers: Headers
    body: bytes
    peer: str
    oversized: bool = False

    @property
    def path(self) -> str:
        return unquote(self.target.split("?", 1)[0])

    def json(self) -> Any:
        """The parsed body; ValueError when it is no JSON."""
        return json.loads(self.body.decode())

    def parsed_body(self) -> Any:
        """The body as JSON where it is JSON, otherwise as text (None when empty)."""
        if not self.body:
            return None
        try:
            return self.json()
        except (ValueError, RecursionError):
            return self.body.decode(errors="replace")


@dataclass(slots=True)
class Response:
    """An answer; a body that is an iterator is streamed. `outcome` labels it in records."""

    status: int = 200
    body: bytes | Iterator[bytes] = b""
    headers: Headers = field(default_factory=Headers)
    outcome: str | None = None

    @property
    def text(self) -> str:
        return self.body.decode() if isinstance(self.body, bytes) else ""


def as_json(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer; header names are given with underscores (retry_after="1")."""
    listed = Headers({"Content-Type": "application/json"})
    for name, text in headers.items():
        listed[name.replace("_", "-")] = text
    return Response(status, json.dumps(value, ensure_ascii=False).encode(), listed)


def as_text(text: str, status: int = 200, kind: str = "text/plain") -> Response:
    return Response(status, text.encode(), Headers({"Content-Type": f"{kind}; charset=utf-8"}))


type App = Callable[[Request], Response]


class Server:
    """Serves `app` on 127.0.0.1 from construction until close(). OSError when the port is taken."""

    def __init__(self, app: App, port: int = 0, *, max_body_bytes: int | None = None) -> None:
        self._http = _HttpServer((HOST, port), _Handler)
        self._http.app = app
        self._http.max_body_bytes = max_body_bytes
        self.port = int(self._http.server_address[1])
        self.url = f"http://{HOST}:{self.port}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name=f"http-{self.port}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._http.cut_connections()
        self._thread.join()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    app: App
    max_body_bytes: int | None

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def server_bind(self) -> None:
        # HTTPServer's own version asks the DNS for this machine's name, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that end early are everyday here: clients are killed and cut on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Requests are recorded by those who answer them."""

    def do_GET(self) -> None:
        owner = cast("_HttpServer", self.server)
        request = self._read(owner.max_body_bytes)
        if request is None:
            return
        try:
            response = owner.app(request)
        except Cut as cut:
            self._cut(cut.reset)
            return
        except Exception:  # noqa: BLE001 - a fault of a stand-in must not look like a cut
            traceback.print_exc()
            response = as_text(traceback.format_exc(), 500)
        self._send(request, response)

    def __getattr__(self, name: str) -> Any:
        """Every method is passed on, as Vercel does: a function refuses those it has not."""
        if name.startswith("do_"):
            return self.do_GET
        raise AttributeError(name)

    def _read(self, limit: int | None) -> Request | None:
        headers = Headers(self.headers.items())
        try:
            body = request_body.read(self.rfile, headers, limit)
        except ValueError:
            self.send_error(400)
            self.close_connection = True
            return None
        if body is None:
            self.close_connection = True
        return Request(
            method=self.command,
            target=self.path,
            headers=headers,
            body=body or b"",
            peer=str(self.client_address[0]),
            oversized=body is None,
        )

    def _send(self, request: Request, response: Response) -> None:
        if isinstance(response.body, bytes):
            if response.status not in (204, 304):
                response.headers.setdefault("Content-Length", str(len(response.body)))
            body = b"" if request.method == "HEAD" else response.body
            self.wfile.write(self._head(response) + body)
            return
        length = response.headers.get("Content-Length")
        bodiless = response.status in (204, 304)  # not even an empty chunk: it would be read
        chunked = length is None and not bodiless and self.request_version == "HTTP/1.1"
        if chunked:
            response.headers["Transfer-Encoding"] = "chunked"
        elif length is None and not bodiless:
            self.close_connection = True
        self.wfile.write(self._head(response))
        try:
            for part in response.body:
                if part and request.method != "HEAD":
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            if chunked and request.method != "HEAD":
                self.wfile.write(b"0\r\n\r\n")
        except Cut:
            self.close_connection = True

    def _head(self, response: Response) -> bytes:
        try:
            phrase = http.HTTPStatus(response.status).phrase
        except ValueError:
            phrase = "-"
        if self.close_connection:
            response.headers["Connection"] = "close"
        response.headers.setdefault("Date", self.date_time_string())
        lines = [f"HTTP/1.1 {response.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _cut(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            # Detached first: the server's orderly shutdown would send FIN before the RST.
            os.close(self.connection.detach())
