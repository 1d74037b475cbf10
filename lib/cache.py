"""Redis, over Upstash's REST protocol. Every call has a deadline and is made once.

Redis down is a miss, an uncounted request or the next rung, as each caller says: never an error
to a visitor. The SDK waits for ever and repeats what may have been done, so both are switched
off here; repeating is safe only for writes that are safe to repeat, and callers make no others.
"""

import logging
from typing import Any

import httpx
from upstash_redis import Redis
from upstash_redis.errors import UpstashError

from lib.breaker import Breaker
from lib.problems import CacheDown

CONNECT_S, ANSWER_S = 0.5, 0.8

# What the SDK raises for a dead, silent or lying server: AssertionError and its like come from
# answers that are JSON but not the protocol's.
_DOWN = (
    httpx.HTTPError,
    UpstashError,
    AssertionError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)


# It would log a line a request.
logging.getLogger("httpx").setLevel(logging.WARNING)


class Cache:
    """One database at Upstash, shared by an instance's threads."""

    def __init__(self, url: str, token: str) -> None:
        self._redis = Redis(url, token, rest_retries=0, allow_telemetry=False)
        # Private, hence pinned and tested: the SDK offers no deadline of its own.
        self._redis._http._client.timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        self.breaker = Breaker()

    def run(self, *command: str | int | float) -> Any:
        """One command's result. Raises CacheDown; whether it was done is then unknown."""
        return self.run_all(command)[0]

    def run_all(self, *commands: tuple[str | int | float, ...]) -> list[Any]:
        """Several commands in one round trip, in order, not atomically."""
        if self.breaker.open:
            raise CacheDown
        try:
            results = self._ask(commands)
        except UnicodeDecodeError as fault:
            # Somebody's bytes under a key of ours: the server itself is well.
            raise CacheDown from fault
        except _DOWN as fault:
            self.breaker.trip()
            raise CacheDown from fault
        if len(results) != len(commands):
            raise CacheDown
        return results

    def ping(self) -> None:
        """Ask the server now, whatever is remembered of it. Raises CacheDown."""
        try:
            self._ask((("PING",),))
        except _DOWN as fault:
            self.breaker.trip()
            raise CacheDown from fault
        self.breaker.reset()

    def probe(self) -> None:
        """Find out, if it was down, whether it still is."""
        if self.breaker.claim_probe():
            try:
                self.ping()
            except CacheDown:
                pass  # and remembered
            finally:
                self.breaker.release_probe()

    def close(self) -> None:
        self._redis.close()  # type: ignore[no-untyped-call]

    def _ask(self, commands: tuple[tuple[str | int | float, ...], ...]) -> list[Any]:
        if len(commands) == 1:
            return [self._redis.execute(list(commands[0]))]
        pipeline = self._redis.pipeline()
        for command in commands:
            pipeline.execute(list(command))
        return list(pipeline.exec())
