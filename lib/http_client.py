"""httpx with one deadline for a whole exchange, for every vendor that is called over HTTP.

httpx's own timeouts start anew at each read: a server that sends a byte now and then is waited for
without end. A failed exchange is not repeated: the caller knows whether it may be. The transport is
http.client's, which the runtime has loaded: httpx's own takes about twice the CPU an exchange.
"""

import http.client
import io
import logging
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    import ssl

USER_AGENT = "alfabeauty-api"
MAX_IDLE_CONNECTIONS = 8  # connections kept; overlapping requests beyond that open their own
# By the wall clock, which goes on while an instance is frozen. Below what servers and the NAT
# between keep an idle connection for.
MAX_IDLE_AGE_S = 10.0

# What a call raises: no answer in time, none that is HTTP, an address that is none.
RequestFailed = (httpx.HTTPError, httpx.InvalidURL)

# httpx logs each address called, the secret one of a Slack webhook included, as information.
logging.getLogger("httpx").setLevel(logging.WARNING)


class Client:
    """Calls of one vendor, shared by an instance's threads. They raise RequestFailed.

    connect_s: for connecting; response_s: then for the whole answer. A request goes straight to the
    transport: cookies, redirects and authentication, which no vendor asks for, take httpx's own
    client half of an exchange's CPU.
    """

    def __init__(
        self, *, connect_s: float, response_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        self._transport = _Transport()
        self._connect_s, self._response_s = connect_s, response_s
        self._headers = {"Accept": "*/*", "User-Agent": USER_AGENT, **(headers or {})}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def post(self, url: str, **options: Any) -> httpx.Response:
        return self.request("POST", url, **options)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        response_s: float | None = None,
        **content: Any,
    ) -> httpx.Response:
        """content: of httpx.Request, one of `content`, `data` and `json`."""
        wait_s = self._response_s if response_s is None else response_s
        request = httpx.Request(
            method,
            _parse_url(url),
            headers={**self._headers, **(headers or {})},
            extensions={"timeout": {"connect": self._connect_s, "read": wait_s}},
            **content,
        )
        return self._transport.handle_request(request)


def get(url: str, *, connect_s: float, response_s: float) -> httpx.Response:
    """What a page answers, redirects followed. Raises RequestFailed."""
    timeout = httpx.Timeout(response_s, connect=connect_s)
    with httpx.Client(
        transport=_Transport(), timeout=timeout, trust_env=False, follow_redirects=True
    ) as client:
        return client.get(url)


class _Transport(httpx.BaseTransport):
    """The standard library's connections, kept for the next exchange. An answer is read whole."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, bytes, int | None], list[_Connection]] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"neither http nor https: {url.scheme!r}")
        idle = self._idle.setdefault((url.scheme, url.raw_host, url.port), [])
        timeouts = request.extensions["timeout"]
        connection = _take_usable(idle) or self._connect(url, timeouts["connect"])
        try:
            response = connection.exchange(request, time.monotonic() + timeouts["read"])
        except httpx.HTTPError:
            connection.close()
            raise
        if connection.sock is not None and len(idle) < MAX_IDLE_CONNECTIONS:
            idle.append(connection)
        else:
            connection.close()
        return response

    def close(self) -> None:
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _connect(self, url: httpx.URL, timeout_s: float) -> "_Connection":
        port = url.port or (443 if url.scheme == "https" else 80)
        context = _tls_context() if url.scheme == "https" else None
        connection = _Connection(url.raw_host.decode(), port, context, timeout_s)
        try:
            connection.connect()
        except TimeoutError as error:
            connection.close()
            raise httpx.ConnectTimeout(str(error)) from error
        except OSError as error:
            connection.close()
            raise httpx.ConnectError(str(error)) from error
        return connection


class _Connection(http.client.HTTPConnection):
    """Every wait of an exchange ends at its deadline."""

    auto_open = 0  # nothing is sent again on a new connection

    def __init__(
        self, host: str, port: int, context: "ssl.SSLContext | None", connect_s: float
    ) -> None:
        super().__init__(host, port, timeout=connect_s)
        self._context = context
        self._last_read_at = 0.0

    def connect(self) -> None:
        super().connect()
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)
        self._socket = self.sock = _Socket(self.sock)

    def exchange(self, request: httpx.Request, deadline: float) -> httpx.Response:
        """deadline: in seconds of time.monotonic."""
        self._socket.deadline = deadline
        try:
            self.putrequest(
                request.method,
                request.url.raw_path.decode(),
                skip_host=True,
                skip_accept_encoding=True,
            )
            for name, value in request.headers.raw:
                self.putheader(name, value)
            self.endheaders(request.read())
            response = self.getresponse()
            content = response.read()
            headers = [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in response.getheaders()
            ]
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ReadError(str(error)) from error
        except http.client.HTTPException as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        except ValueError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        self._last_read_at = time.time()
        return httpx.Response(response.status, headers=headers, content=content)

    def is_usable(self) -> bool:
        """Whether the server has, as far as is known, not closed it."""
        is_young = 0 <= time.time() - self._last_read_at <= MAX_IDLE_AGE_S
        return is_young and not self._socket.has_data()


class _Socket:
    """What http.client uses of a socket; each wait ends at `deadline` (time.monotonic seconds).

    It writes a request's head and its body one by one: they are sent together, before the answer is
    read.
    """

    def __init__(self, plain: socket.socket) -> None:
        self.plain = plain
        self.deadline = 0.0
        self._unsent: list[bytes] = []

    def left_s(self) -> float:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def has_data(self) -> bool:
        """A server that is asked nothing sends nothing but the end of the connection."""
        poll = select.poll()
        poll.register(self.plain, select.POLLIN)
        return bool(poll.poll(0))

    def sendall(self, data: bytes) -> None:
        self._unsent.append(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        self.plain.settimeout(self.left_s())
        self.plain.sendall(b"".join(self._unsent))
        self._unsent.clear()
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        self.plain.close()


class _Reader(io.RawIOBase):
    """One answer's bytes; its end is not the connection's."""

    def __init__(self, source: _Socket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._source.plain.settimeout(self._source.left_s())
        return self._source.plain.recv_into(buffer)


def _take_usable(idle: list[_Connection]) -> _Connection | None:
    """A kept connection, for the caller alone."""
    with suppress(IndexError):
        while True:
            connection = idle.pop()
            if connection.is_usable():
                return connection
            connection.close()
    return None


@lru_cache(maxsize=64)
def _parse_url(url: str) -> httpx.URL:
    return httpx.URL(url)


@cache
def _tls_context() -> "ssl.SSLContext":
    """One for all clients: reading whom to trust takes 30 ms of CPU."""
    return httpx.create_ssl_context(trust_env=False)
