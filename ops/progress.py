"""Progress of a long command: a bar, or what it waits for."""

import sys
import time
from typing import Self

from tqdm import tqdm


class ProgressBar:
    """Bytes so far, the rate, and the time that is left; nothing where there is no terminal.

    about: the expected size; where it is an estimate (exact=False) and more bytes come, the bar
    shows no end any more.
    """

    def __init__(self, title: str, about: int, *, exact: bool = True, quiet: bool = False) -> None:
        self._exact = exact
        self._bar = tqdm(
            total=about or None,
            desc=title,
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            disable=True if quiet else None,  # None: where standard error is no terminal
        )

    def add(self, size: int) -> None:
        total = self._bar.total
        if not self._exact and total is not None and self._bar.n + size > total:
            self._bar.total = None
        self._bar.update(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class WaitMessage:
    """What is waited for, and for how long: on standard error, every `every_s` seconds."""

    def __init__(self, *, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._started = self._printed_at = time.monotonic()

    def print(self, words: str) -> None:
        now = time.monotonic()
        if now - self._printed_at >= self._every_s:
            self._printed_at = now
            print(f"  {now - self._started:.0f} s: {words}", file=sys.stderr, flush=True)
