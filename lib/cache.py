"""Redis, over Upstash's REST protocol. Every call has a deadline and is made once.

Redis down is a cache miss, an uncounted request or the next store, as each caller decides; never an
error to a visitor. A call is not repeated here, and a caller repeats only writes that are safe to
repeat. Upstash's SDK has no deadline, repeats what may have been done and imports httpx; a test
holds that every command's result is equal to the SDK's.
"""

import json
from collections.abc import Callable
from typing import Any

from lib.circuit_breaker import CircuitBreaker
from lib.http_client import HttpClient, RequestFailed
from lib.problems import CacheDown

CONNECT_TIMEOUT_S, RESPONSE_TIMEOUT_S = 0.5, 0.8

type Command = tuple[str | int | float, ...]


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _unchanged(result: Any, _: Command) -> Any:
    return result


def _boolean(result: Any, _: Command) -> bool:
    return bool(result)


def _scan(result: Any, _: Command) -> tuple[int, Any]:
    return int(result[0]), result[1]


# The REST protocol's flat lists and texts, as the SDK's values.
_DECODERS: dict[str, Callable[[Any, Command], Any]] = {
    "SET": lambda result, command: result if "GET" in command[3:] else result == "OK",
    **dict.fromkeys(("HSETNX", "HEXISTS", "EXPIRE", "SISMEMBER"), _boolean),
    **dict.fromkeys(("SCAN", "SSCAN"), _scan),
    "HGETALL": lambda result, _: dict(_pairs(result)),
    "HSCAN": lambda result, _: (int(result[0]), dict(_pairs(result[1]))),
    "ZSCORE": lambda result, _: None if result is None else float(result),
    "ZRANGE": lambda result, command: (
        [(member, float(score)) for member, score in _pairs(result)]
        if "WITHSCORES" in command
        else result
    ),
}


class Cache:
    """One database at Upstash, shared by an instance's threads."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._client = HttpClient(url, headers, connect_s=CONNECT_TIMEOUT_S)
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
        is_single = len(commands) == 1
        path, message = ("/", commands[0]) if is_single else ("/pipeline", commands)
        try:
            response = self._client.post(
                path, json.dumps(message).encode(), within_s=RESPONSE_TIMEOUT_S
            ).json()
            replies = [response] if is_single else response
            return [
                _DECODERS.get(str(command[0]), _unchanged)(reply["result"], command)
                for command, reply in zip(commands, replies, strict=True)
            ]
        except (RequestFailed, LookupError, TypeError, ValueError, RecursionError) as error:
            raise CacheDown from error
