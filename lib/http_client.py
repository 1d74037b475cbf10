"""httpx with one deadline for a whole exchange, for every vendor that is called over HTTP.

httpx's own timeouts start anew at each read: a server that sends a byte now and then is waited for
without end. A failed exchange is not repeated: the caller knows whether it may be.
"""

import logging
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

if TYPE_CHECKING:
    import ssl

MAX_IDLE_CONNECTIONS = 8  # connections kept; overlapping requests beyond that open their own
# By the wall clock, which goes on while an instance is frozen. Below what servers and the NAT
# between keep an idle connection for.
MAX_IDLE_AGE_S = 10.0

# What a call raises: no answer in time, none that is HTTP, an address that is none.
RequestFailed = (httpx.HTTPError, httpx.InvalidURL)

# httpx logs each address called, the secret one of a Slack webhook included, as information.
logging.getLogger("httpx").setLevel(logging.WARNING)


def open_client(url: str, *, connect_s: float, response_s: float, **options: Any) -> httpx.Client:
    """A client of the server at `url`, shared by an instance's threads. It raises RequestFailed.

    response_s: for the whole answer, once connected. options: of httpx.Client.
    """
    context = _tls_context() if url.startswith("https:") else None
    timeout = httpx.Timeout(response_s, connect=connect_s)
    return httpx.Client(transport=_Transport(context), timeout=timeout, trust_env=False, **options)


class _Transport(httpx.BaseTransport):
    """httpcore's pool of connections whose waits end at a deadline. An answer is read whole."""

    def __init__(self, context: "ssl.SSLContext | None") -> None:
        self._pool = httpcore.ConnectionPool(
            context,
            max_connections=None,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        try:
            response = self._pool.request(
                request.method.encode(),
                httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.read(),
                extensions=request.extensions,
            )
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.UnsupportedProtocol,
        ) as error:  # httpx has an error of the same name for each
            raise getattr(httpx, type(error).__name__)(str(error)) from error
        return httpx.Response(response.status, headers=response.headers, content=response.content)

    def close(self) -> None:
        self._pool.close()


class _Backend(httpcore.SyncBackend):
    def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(*args, **options))


class _Stream(httpcore.NetworkStream):
    """A connection. The first write of an exchange sets the deadline of all that follow in it."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._deadline = 0.0  # time.monotonic seconds
        self._between_exchanges = True
        self._last_read_at = time.time()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._between_exchanges:
            self._deadline = time.monotonic() + (timeout or 0.0)
            self._between_exchanges = False
        self._stream.write(buffer, self._left_s())

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._left_s())
        self._between_exchanges, self._last_read_at = True, time.time()
        return data

    def start_tls(
        self,
        ssl_context: "ssl.SSLContext",
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        # The pool closes an idle connection that is readable: the server has closed it.
        if info == "is_readable" and not 0 <= time.time() - self._last_read_at <= MAX_IDLE_AGE_S:
            return True
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()

    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout
        return left_s


@cache
def _tls_context() -> "ssl.SSLContext":
    """One for all clients: reading whom to trust takes 30 ms of CPU."""
    return httpx.create_ssl_context(trust_env=False)
