"""HTTP to one vendor: each exchange has one deadline, is made once, and keeps its connection.

The vendors' own clients cost more to import than everything else a function does, and
http.client's reading of an answer a tenth of the CPU of a lead (dev/bench/README.md has the
figures). A test holds that an answer is understood as http.client does.

A failed exchange is not repeated: the caller knows whether it may be.
"""

import json
import select
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

MAX_IDLE_CONNECTIONS = 8  # connections kept; overlapping requests beyond that open their own
# By the wall clock, which goes on while an instance is frozen. Below what servers and the NAT
# between keep an idle connection for.
MAX_IDLE_AGE_S = 10.0
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
_RECV_BYTES = 64 * 1024


class RequestFailed(Exception):
    """No answer in time, or none that is HTTP. Whether the work was done is unknown."""


class HttpResponse(NamedTuple):
    """headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """ValueError when it is no JSON, RecursionError when it is nested too deeply."""
        return json.loads(self.body)


class HttpClient:
    """One server, shared by an instance's threads."""

    def __init__(self, url: str, headers: Mapping[str, str], *, connect_s: float) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/")
        self._headers = dict(headers)
        self._connect_s = connect_s
        self._idle: deque[_Connection] = deque()

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str] = {}, *, within_s: float
    ) -> HttpResponse:
        """Post and read the whole answer, within_s once connected. Raises RequestFailed."""
        return self._request("POST", path, body, headers, within_s)

    def get(self, path: str, *, within_s: float) -> HttpResponse:
        """Get and read the whole answer, within_s once connected. Raises RequestFailed."""
        return self._request("GET", path, b"", {}, within_s)

    def _request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], within_s: float
    ) -> HttpResponse:
        connection = self._acquire()
        try:
            if connection is None:
                connection = self._connect()
            connection.deadline = time.monotonic() + within_s
            answer = connection.exchange(self._build_head(method, path, body, headers) + body)
        except (OSError, ValueError) as fault:
            if connection is not None:
                connection.close()
            raise RequestFailed from fault
        if connection.reusable and len(self._idle) < MAX_IDLE_CONNECTIONS:
            connection.idle_since = time.time()
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _acquire(self) -> "_Connection | None":
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_usable:
                return connection
            connection.close()

    def _connect(self) -> "_Connection":
        port = self._port or (443 if self._secure else 80)
        plain = socket.create_connection((self._host, port), timeout=self._connect_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return _Connection(_wrap_tls(plain, self._host) if self._secure else plain)
        except OSError:
            plain.close()
            raise

    def _build_head(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        host = self._host if self._port is None else f"{self._host}:{self._port}"
        sent = {"Host": host, "Content-Length": str(len(body)), **self._headers, **headers}
        lines = [f"{method} {self._path}{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header of two lines")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Connection:
    """One connection, whose every wait ends at `deadline` (time.monotonic seconds)."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._buffer = bytearray()  # and is not read yet
        self.deadline = 0.0
        self.idle_since = 0.0
        self.reusable = False

    def exchange(self, request: bytes) -> HttpResponse:
        """Send and read (RFC 9112). OSError or ValueError where what comes is no answer."""
        self.reusable = False
        self._apply_deadline()
        self._socket.sendall(request)
        status, headers, keeps = self._read_head()
        while status < 200:  # an interim response
            status, headers, keeps = self._read_head()
        coding = headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise ValueError(f"coded as {coding}")
        if coding is not None:
            body = self._read_chunked()
        elif status in (204, 304):
            body = b""
        elif "content-length" in headers:
            body = self._read_bytes(_parse_number(headers["content-length"], 10))
        else:
            body, keeps = self._read_to_eof(), False
        self.reusable = keeps and not self._buffer
        return HttpResponse(status, headers, body)

    @property
    def is_usable(self) -> bool:
        """Whether an idle connection is young, and the server has not closed it."""
        if not 0 <= time.time() - self.idle_since <= MAX_IDLE_AGE_S:
            return False
        # An idle server says nothing: readable means that it closed, or is about to.
        readable, _, _ = select.select([self._socket], [], [], 0)
        return not readable

    def close(self) -> None:
        self._socket.close()

    def _read_head(self) -> tuple[int, dict[str, str], bool]:
        """The status, the headers, and whether the connection stays."""
        first, *lines = self._read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, _, status_text = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise ValueError("no HTTP")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise ValueError("no header")
            headers[name.lower()] = value.strip(" \t")
        connection = headers.get("connection", "" if version == "HTTP/1.1" else "close").lower()
        return _parse_number(status_text[:3], 10), headers, "close" not in connection

    def _read_chunked(self) -> bytes:
        body = bytearray()
        while size := _parse_number(
            self._read_until(b"\r\n").partition(b";")[0].strip().decode("latin-1"), 16
        ):
            body += self._read_bytes(size)
            if self._read_bytes(2) != b"\r\n" or len(body) > MAX_BODY_BYTES:
                raise ValueError("no chunk")
        while self._read_until(b"\r\n"):
            pass  # trailers say nothing we ask
        return bytes(body)

    def _read_until(self, delimiter: bytes) -> bytes:
        """What comes before `delimiter`, which is consumed."""
        while (at := self._buffer.find(delimiter)) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise ValueError("too long a head")
            if not self._recv():
                raise ValueError("cut off")
        data = bytes(self._buffer[:at])
        del self._buffer[: at + len(delimiter)]
        return data

    def _read_bytes(self, count: int) -> bytes:
        if count > MAX_BODY_BYTES:
            raise ValueError("too long an answer")
        while len(self._buffer) < count:
            if not self._recv():
                raise ValueError("cut off")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _read_to_eof(self) -> bytes:
        while self._recv():
            if len(self._buffer) > MAX_BODY_BYTES:
                raise ValueError("too long an answer")
        return self._read_bytes(len(self._buffer))

    def _recv(self) -> bool:
        """Whether more came; False at the end."""
        self._apply_deadline()
        data = self._socket.recv(_RECV_BYTES)
        self._buffer += data
        return bool(data)

    def _apply_deadline(self) -> None:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)


def _parse_number(text: str, base: int) -> int:
    """ValueError for what `int` would take, and HTTP does not: signs, spaces, underscores."""
    if not text.isascii() or not text.isalnum():
        raise ValueError("no number")
    return int(text, base)


def _wrap_tls(plain: socket.socket, host: str) -> socket.socket:
    global _tls_context
    if _tls_context is None:
        import ssl  # the runtime has loaded it

        import certifi

        _tls_context = ssl.create_default_context(cafile=certifi.where())
    return _tls_context.wrap_socket(plain, server_hostname=host)


_tls_context: "ssl.SSLContext | None" = None
