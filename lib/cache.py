"""Redis, over Upstash's REST protocol. Every call has a deadline and is made once.

Redis down is a miss, an uncounted request or the next rung, as each caller says: never an error
to a visitor. Repeating is safe only for writes that are safe to repeat, and callers make no
others. The protocol is a JSON array there and back; Upstash's SDK speaks it too, waits for ever,
repeats what may have been done and loads httpx: a test holds that both understand the same.
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


# What REST gives as a flat list or a text, as the SDK shows it.
_DECODERS: dict[str, Callable[[Any, Command], Any]] = {
    "SET": lambda told, command: told if "GET" in command[3:] else told == "OK",
    "HSETNX": lambda told, _: bool(told),
    "HEXISTS": lambda told, _: bool(told),
    "EXPIRE": lambda told, _: bool(told),
    "SISMEMBER": lambda told, _: bool(told),
    "HGETALL": lambda told, _: dict(_pairs(told)),
    "HSCAN": lambda told, _: (int(told[0]), dict(_pairs(told[1]))),
    "SCAN": lambda told, _: (int(told[0]), told[1]),
    "SSCAN": lambda told, _: (int(told[0]), told[1]),
    "ZSCORE": lambda told, _: None if told is None else float(told),
    "ZRANGE": lambda told, command: (
        [(member, float(score)) for member, score in _pairs(told)]
        if "WITHSCORES" in command
        else told
    ),
}


class Cache:
    """One database at Upstash, shared by an instance's threads."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._rest = HttpClient(url, headers, connect_s=CONNECT_TIMEOUT_S)
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
        try:
            results = self._send(commands)
        except CacheDown:
            self.breaker.trip()
            raise
        self.breaker.reset()
        return results

    def ping(self) -> None:
        """Ask the server now, whatever is remembered of it. Raises CacheDown."""
        try:
            self._send((("PING",),))
        except CacheDown:
            self.breaker.trip()
            raise
        self.breaker.reset()

    def probe(self, wait_s: float = 0.0) -> None:
        """Find out, if it was down, whether it still is."""
        if self.breaker.claim_probe(wait_s):
            try:
                self.ping()
            except CacheDown:
                pass  # and remembered
            finally:
                self.breaker.release_probe()

    def close(self) -> None:
        self._rest.close()

    def _send(self, commands: tuple[Command, ...]) -> list[Any]:
        """Raises CacheDown for a dead, silent or lying server, and for an error of its own."""
        one = len(commands) == 1
        try:
            body = json.dumps(commands[0] if one else commands).encode()
            path = "/" if one else "/pipeline"
            answer = self._rest.post(path, body, within_s=RESPONSE_TIMEOUT_S).json()
            results = [each["result"] for each in ([answer] if one else answer)]
            if len(results) != len(commands):
                raise CacheDown
            return [_decode_reply(*pair) for pair in zip(commands, results, strict=True)]
        except (RequestFailed, LookupError, TypeError, ValueError, RecursionError) as fault:
            raise CacheDown from fault


def _decode_reply(command: Command, told: Any) -> Any:
    shape = _DECODERS.get(str(command[0]))
    return told if shape is None else shape(told, command)
