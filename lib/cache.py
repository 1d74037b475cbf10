"""Redis at Upstash, by Upstash's SDK. Every call has a deadline and is made once.

Redis down is a cache miss, an uncounted request or the next store, as each caller decides; never an
error to a visitor. A call is not repeated here, and a caller repeats only writes that are safe to
repeat. The SDK's HTTP client waits without end and repeats what may have been done: ours is used.
"""

from collections.abc import Callable
from typing import Any

from upstash_redis import Redis
from upstash_redis.errors import UpstashError
from upstash_redis.http import SyncHttpClient, make_headers

from lib.circuit_breaker import CircuitBreaker
from lib.http_client import Client, RequestFailed
from lib.problems import CacheDown

CONNECT_TIMEOUT_S, RESPONSE_TIMEOUT_S = 0.5, 0.8

# No answer; an error of Redis'; and what the SDK meets in an answer that is not Redis': a text
# instead of JSON, a wrong token's object instead of a pipeline's list, null, a result of another
# type.
_FAILURES = (
    *RequestFailed, UpstashError,
    AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip

type Command = tuple[str | int | float, ...]


class Cache:
    """One database at Upstash, shared by an instance's threads."""

    def __init__(self, url: str, token: str) -> None:
        url = url.rstrip("/")
        self._client = Client(connect_s=CONNECT_TIMEOUT_S, response_s=RESPONSE_TIMEOUT_S)
        self._redis = _Redis(url, token, self._client)
        self.breaker = CircuitBreaker()

    def execute(self, *command: str | int | float) -> Any:
        """One command's result. Raises CacheDown; whether it was done is then unknown."""
        return self.pipeline(command)[0]

    def pipeline(self, *commands: Command, even_if_open: bool = False) -> list[Any]:
        """Several commands in one round trip, in order, not atomically.

        even_if_open: ask the server although the circuit breaker is open; an answer closes it.
        """
        if self.breaker.is_open and not even_if_open:
            raise CacheDown
        with self.breaker.watch():
            return self._send(commands)

    def ping(self) -> None:
        """Ask the server now. Raises CacheDown."""
        with self.breaker.watch():
            self._send((("PING",),))

    def probe(self, wait_s: float = 0.0) -> None:
        """Ask the server whether it is still down, if it was."""
        self.breaker.probe(self.ping, wait_s)

    def close(self) -> None:
        self._client.close()

    def _send(self, commands: tuple[Command, ...]) -> list[Any]:
        """Raises CacheDown for no answer, for nonsense, and for Redis' own errors."""
        try:
            if len(commands) == 1:
                return [self._redis.execute(list(commands[0]))]
            pipeline = self._redis.pipeline()
            for command in commands:
                pipeline.execute(list(command))
            results = pipeline.exec()
        except _FAILURES as error:
            raise CacheDown from error
        if len(results) != len(commands):
            raise CacheDown
        return results


class _Redis(Redis):
    """The SDK's client, which sends each request once, on our client.

    Not made by the SDK's constructors: they make an httpx client of their own, whose TLS context
    takes 35 ms of CPU. The attributes are private: a test holds them in the pinned version.
    """

    def __init__(self, url: str, token: str, client: Client) -> None:
        self._url, self._headers = url, make_headers(token, None, allow_telemetry=False)
        self._read_your_writes, self._sync_token = True, ""
        self._http = _HttpClient(client, self._update_sync_token)


class _HttpClient(SyncHttpClient):
    def __init__(self, client: Client, sync_token_cb: Callable[[str], None]) -> None:
        self._client, self._encoding = client, None  # type: ignore[assignment]  # it calls post
        self._retries, self._retry_interval = 0, 0.0
        self._sync_token_cb = sync_token_cb
