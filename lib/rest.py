"""HTTP to one vendor: each exchange has one deadline, is made once, and keeps its connection.

With the standard library, which the runtime has loaded already: the vendors' own clients cost
more to import than everything else a function does (dev/bench/README.md has the figures).

An exchange that fails is not repeated: whoever asked knows whether it may be.
"""

import http.client
import io
import json
import select
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

MAX_IDLE = 8  # connections kept; overlapping requests beyond that open their own
# By the wall clock, which goes on while an instance is frozen. Below what servers and the NAT
# between keep an idle connection for.
MAX_IDLE_AGE_S = 10.0
MAX_ANSWER_BYTES = 32 * 1024 * 1024


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
        line = self._take()
        try:
            if line is None:
                line = self._open()
            line.deadline = time.monotonic() + within_s
            answer = line.exchange(self._head(path, body, headers) + body)
        except (OSError, http.client.HTTPException, ValueError) as fault:
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

    def _head(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        host = self._host if self._port is None else f"{self._host}:{self._port}"
        sent = {"Host": host, "Content-Length": str(len(body)), **self._headers, **headers}
        lines = [f"POST {self._path}{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header of two lines")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Line:
    """One connection, whose every wait ends at `deadline` (time.monotonic seconds)."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.deadline = 0.0
        self.idle_since = 0.0
        self.reusable = False

    def exchange(self, request: bytes) -> Answer:
        self._patience()
        self._socket.sendall(request)
        answer = http.client.HTTPResponse(cast("socket.socket", self), method="POST")
        answer.begin()
        body = answer.read(MAX_ANSWER_BYTES)
        self.reusable = not answer.will_close and answer.isclosed()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, body)

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

    # What http.client.HTTPResponse wants of a socket: a file to read, which it closes.

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(_Waits(self))

    def read_into(self, buffer: memoryview) -> int:
        self._patience()
        return self._socket.recv_into(buffer)

    def _patience(self) -> None:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)


class _Waits(io.RawIOBase):
    def __init__(self, line: _Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._line.read_into(buffer)


def _secured(plain: socket.socket, host: str) -> socket.socket:
    global _context
    if _context is None:
        import ssl  # the runtime has loaded it

        import certifi

        _context = ssl.create_default_context(cafile=certifi.where())
    return _context.wrap_socket(plain, server_hostname=host)


_context: "ssl.SSLContext | None" = None
