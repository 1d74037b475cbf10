"""A circuit breaker: an instance's memory that a dependency is down.

While it is open, callers that have another source or store turn to that one at once. It closes
when a probe or any call succeeds, or by itself after REST_S: a frozen instance must not remember
yesterday's outage. The rule a newcomer would break: an open breaker never decides a refusal.
Whoever has nowhere else to turn asks the server (`even_if_open`, or `probe` first).
"""

import threading
import time

OPEN_S = 30.0


class CircuitBreaker:
    """Shared by an instance's threads."""

    def __init__(self) -> None:
        self._open_until = 0.0
        self._probing = threading.Lock()

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._open_until

    def trip(self) -> None:
        self._open_until = time.monotonic() + OPEN_S

    def reset(self) -> None:
        self._open_until = 0.0

    def claim_probe(self, wait_s: float = 0.0) -> bool:
        """Whether the caller is to find out; then it must call `release_probe`.

        wait_s: how long to wait for somebody else who is at it.
        """
        if not self.is_open or not self._probing.acquire(timeout=wait_s):
            return False
        still_open = time.monotonic() < self._open_until  # or somebody else found it well
        if not still_open:
            self._probing.release()
        return still_open

    def release_probe(self) -> None:
        self._probing.release()
