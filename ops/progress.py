"""Progress of a long command, on standard error: a bar, or what it waits for.

The rule a newcomer would break: standard output is the command's result and may be piped; nothing
of progress goes there.
"""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_EVERY_S = 5.0  # where there is no terminal to redraw a line on


def _console() -> Console:
    return Console(file=sys.stderr, markup=False, emoji=False, highlight=False)


class _Display:
    """A context that shows one task, on a terminal alone."""

    def __init__(self, progress: Progress, title: str, total: float | None) -> None:
        self.progress = progress
        self.task = progress.add_task(title, total=total)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.progress.stop()


class ProgressBar(_Display):
    """Bytes so far, the rate, and the time that is left; without a terminal, a line every five
    seconds.

    about: the expected size; where it is an estimate (exact=False) and more bytes come, the bar
    shows no end any more.
    """

    def __init__(self, title: str, about: int, *, exact: bool = True, quiet: bool = False) -> None:
        self._is_exact, self._total, self._size = exact, about or None, 0
        self._title, self._printed_at = title, time.monotonic()
        console = _console()
        self._prints_lines = not console.is_terminal and not quiet
        columns = (
            TextColumn("{task.description}", markup=False),
            *(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
        )
        is_shown = console.is_terminal and not quiet
        progress = Progress(*columns, console=console, transient=True, disable=not is_shown)
        super().__init__(progress, title, self._total)

    def add(self, size: int) -> None:
        self._size += size
        if not self._is_exact and self._total is not None and self._size > self._total:
            self._total = None
            self.progress.reset(self.task, total=None, completed=self._size - size)
        self.progress.advance(self.task, size)
        now = time.monotonic()
        if self._prints_lines and now - self._printed_at >= LINE_EVERY_S:
            self._printed_at = now
            of = f" of {self._total / 1e6:,.1f}" if self._total else ""
            print(f"  {self._size / 1e6:,.1f}{of} MB {self._title}", file=sys.stderr, flush=True)

    def describe(self, words: str) -> None:
        """What goes on now, beside the title."""
        self.progress.update(self.task, description=f"{self._title}: {words}")


class RowProgress(_Display):
    """Rows so far and the time that is left; without a terminal, a line every five seconds."""

    def __init__(self, title: str, total: int, *, quiet: bool = False) -> None:
        console = _console()
        self._title, self._total, self._rows = title, total, 0
        self._is_terminal, self._is_quiet = console.is_terminal, quiet
        self._printed_at = time.monotonic()
        columns = (
            *(TextColumn("{task.description}", markup=False), BarColumn()),
            *(MofNCompleteColumn(), TimeRemainingColumn()),
        )
        disable = quiet or not console.is_terminal
        progress = Progress(*columns, console=console, transient=True, disable=disable)
        super().__init__(progress, title, total)

    def add(self, rows: int) -> None:
        self._rows += rows
        self.progress.advance(self.task, rows)
        now = time.monotonic()
        if self._is_terminal or self._is_quiet or now - self._printed_at < LINE_EVERY_S:
            return
        self._printed_at = now
        print(f"  {self._rows:,} of {self._total:,} {self._title}", file=sys.stderr, flush=True)


class Waiting(_Display):
    """What is waited for, and for how long: a line that is redrawn, or one every five seconds."""

    def __init__(self, title: str, about_s: float | None = None) -> None:
        console = _console()
        self._title, self._started = title, time.monotonic()
        self._printed_at = self._started
        columns = (
            *(SpinnerColumn(), TextColumn("{task.description}", markup=False)),
            TimeElapsedColumn(),
        )
        self._is_terminal = console.is_terminal
        progress = Progress(
            *columns, console=console, transient=True, disable=not self._is_terminal
        )
        super().__init__(progress, title, about_s)

    def update(self, words: str) -> None:
        """What is known now."""
        self.progress.update(self.task, description=f"{self._title}: {words}")
        now = time.monotonic()
        if not self._is_terminal and now - self._printed_at >= LINE_EVERY_S:
            self._printed_at = now
            waited = f"{now - self._started:.0f} s"
            print(f"  {waited}: {self._title}: {words}", file=sys.stderr, flush=True)
