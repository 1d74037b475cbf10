"""An instance's memory that a dependency is down, so that one request pays for finding out.

While it is open, callers are refused at once. It closes when a probe made after an answer
succeeds, or by itself after REST_S: a frozen instance must not remember yesterday's outage.
"""

import threading
import time

REST_S = 30.0


class Breaker:
    """Shared by an instance's threads."""

    def __init__(self) -> None:
        self._open_until = 0.0
        self._probing = threading.Lock()

    @property
    def open(self) -> bool:
        return time.monotonic() < self._open_until

    def trip(self) -> None:
        self._open_until = time.monotonic() + REST_S

    def reset(self) -> None:
        self._open_until = 0.0

    def claim_probe(self) -> bool:
        """Whether the caller is to find out; then it must call `release_probe`."""
        return self.open and self._probing.acquire(blocking=False)

    def release_probe(self) -> None:
        self._probing.release()
