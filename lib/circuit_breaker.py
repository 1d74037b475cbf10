"""A circuit breaker: an instance's memory that a dependency is down.

While it is open, callers that have another source or store turn to that at once. It closes when a
probe or any call succeeds, or by itself after OPEN_S: a frozen instance must not remember
yesterday's outage. An open breaker never decides a refusal: a caller without another source asks
the server (`even_if_open`, or `probe` first).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lib.problems import CacheDown, DatabaseDown

OPEN_S = 30.0


class CircuitBreaker:
    """Shared by an instance's threads."""

    def __init__(self) -> None:
        self._open_until = 0.0
        self._probing = threading.Lock()

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._open_until

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Open on CacheDown or DatabaseDown, which pass through; close where the call succeeds."""
        try:
            yield
        except (CacheDown, DatabaseDown):
            self._open_until = time.monotonic() + OPEN_S
            raise
        self._open_until = 0.0

    def probe(self, ping: Callable[[], None], wait_s: float) -> None:
        """If open, ask the server again, one thread at a time; others wait wait_s at most."""
        if not self.is_open or not self._probing.acquire(timeout=wait_s):
            return
        try:
            if self.is_open:
                with suppress(CacheDown, DatabaseDown):
                    ping()
        finally:
            self._probing.release()
