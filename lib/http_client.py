"""HTTP to one vendor: each exchange has one deadline, is made once, and keeps its connection.

The vendors' own clients cost more to import than everything else a function does, and
http.client's reading of an answer a tenth of the CPU of a lead (dev/bench/README.md has the
figures). A test holds that an answer is understood as http.client does.

An exchange that fails is not repeated: whoever asked knows whether it may be.
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

MAX_IDLE = 8  # connections kept; overlapping requests beyond that open their own
# By the wall clock, which goes on while an instance is frozen. Below what servers and the NAT
# between keep an idle connection for.
MAX_IDLE_AGE_S = 10.0
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024


class Unreached(Exception):
    """No answer in time, or none that is HTTP. Whether the work was done is unknown."""


class Answer(NamedTuple):
    """headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """ValueError when it is none, RecursionError when it is meant to hurt."""
        return json.loads(self.body)


class Rest:
    """One server, shared by an instance's threads."""

    def __init__(self, url: str, headers: Mapping[str, str], *, connect_s: float) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/")
        self._headers = dict(headers)
        self._connect_s = connect_s
        self._idle: deque[_Line] = deque()

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str] = {}, *, within_s: float
    ) -> Answer:
        """Post and read the whole answer, within_s once connected. Raises Unreached."""
        return self._ask("POST", path, body, headers, within_s)

    def get(self, path: str, *, within_s: float) -> Answer:
        """Get and read the whole answer, within_s once connected. Raises Unreached."""
        return self._ask("GET", path, b"", {}, within_s)

    def _ask(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], within_s: float
    ) -> Answer:
        line = self._take()
        try:
            if line is None:
                line = self._open()
            line.deadline = time.monotonic() + within_s
            answer = line.exchange(self._head(method, path, body, headers) + body)
        except (OSError, ValueError) as fault:
            if line is not None:
                line.end()
            raise Unreached from fault
        if line.reusable and len(self._idle) < MAX_IDLE:
            line.idle_since = time.time()
            self._idle.append(line)
        else:
            line.end()
        return answer

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().end()

    def _take(self) -> "_Line | None":
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                return None
            if line.lively:
                return line
            line.end()

    def _open(self) -> "_Line":
        port = self._port or (443 if self._secure else 80)
        plain = socket.create_connection((self._host, port), timeout=self._connect_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return _Line(_secured(plain, self._host) if self._secure else plain)
        except OSError:
            plain.close()
            raise

    def _head(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        host = self._host if self._port is None else f"{self._host}:{self._port}"
        sent = {"Host": host, "Content-Length": str(len(body)), **self._headers, **headers}
        lines = [f"{method} {self._path}{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header of two lines")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Line:
    """One connection, whose every wait ends at `deadline` (time.monotonic seconds)."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._came = bytearray()  # and is not read yet
        self.deadline = 0.0
        self.idle_since = 0.0
        self.reusable = False

    def exchange(self, request: bytes) -> Answer:
        """Send and read (RFC 9112). OSError or ValueError where what comes is no answer."""
        self.reusable = False
        self._patience()
        self._socket.sendall(request)
        status, headers, keeps = self._head()
        while status < 200:  # what is said meanwhile
            status, headers, keeps = self._head()
        coding = headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise ValueError(f"coded as {coding}")
        if coding is not None:
            body = self._chunks()
        elif status in (204, 304):
            body = b""
        elif "content-length" in headers:
            body = self._bytes(_number(headers["content-length"], 10))
        else:
            body, keeps = self._to_the_end(), False
        self.reusable = keeps and not self._came
        return Answer(status, headers, body)

    @property
    def lively(self) -> bool:
        """Whether it is worth using again: young, and nothing said by the server since."""
        if not 0 <= time.time() - self.idle_since <= MAX_IDLE_AGE_S:
            return False
        # An idle server says nothing; readable means it closed, or is about to.
        readable, _, _ = select.select([self._socket], [], [], 0)
        return not readable

    def end(self) -> None:
        self._socket.close()

    def _head(self) -> tuple[int, dict[str, str], bool]:
        """The status, the headers, and whether the connection stays."""
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, _, told = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise ValueError("no HTTP")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise ValueError("no header")
            headers[name.lower()] = value.strip(" \t")
        wish = headers.get("connection", "" if version == "HTTP/1.1" else "close").lower()
        return _number(told[:3], 10), headers, "close" not in wish

    def _chunks(self) -> bytes:
        body = bytearray()
        while size := _number(
            self._until(b"\r\n").partition(b";")[0].strip().decode("latin-1"), 16
        ):
            body += self._bytes(size)
            if self._bytes(2) != b"\r\n" or len(body) > MAX_ANSWER_BYTES:
                raise ValueError("no chunk")
        while self._until(b"\r\n"):
            pass  # trailers say nothing we ask
        return bytes(body)

    def _until(self, mark: bytes) -> bytes:
        """What comes before `mark`, which is taken too."""
        while (at := self._came.find(mark)) < 0:
            if len(self._came) > MAX_HEAD_BYTES:
                raise ValueError("too long a head")
            if not self._more():
                raise ValueError("cut off")
        found = bytes(self._came[:at])
        del self._came[: at + len(mark)]
        return found

    def _bytes(self, count: int) -> bytes:
        if count > MAX_ANSWER_BYTES:
            raise ValueError("too long an answer")
        while len(self._came) < count:
            if not self._more():
                raise ValueError("cut off")
        found = bytes(self._came[:count])
        del self._came[:count]
        return found

    def _to_the_end(self) -> bytes:
        while self._more():
            if len(self._came) > MAX_ANSWER_BYTES:
                raise ValueError("too long an answer")
        return self._bytes(len(self._came))

    def _more(self) -> bool:
        """Whether more came; False at the end."""
        self._patience()
        came = self._socket.recv(_PIECE_BYTES)
        self._came += came
        return bool(came)

    def _patience(self) -> None:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)


def _number(text: str, base: int) -> int:
    """ValueError for what `int` would take, and HTTP does not: signs, spaces, underscores."""
    if not text.isascii() or not text.isalnum():
        raise ValueError("no number")
    return int(text, base)


def _secured(plain: socket.socket, host: str) -> socket.socket:
    global _context
    if _context is None:
        import ssl  # the runtime has loaded it

        import certifi

        _context = ssl.create_default_context(cafile=certifi.where())
    return _context.wrap_socket(plain, server_hostname=host)


_context: "ssl.SSLContext | None" = None
