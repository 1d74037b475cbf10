"""How far a long command is: a bar on a terminal, nothing at all elsewhere."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm


class Bar:
    """Bytes so far, the rate, and the time that is left.

    about: bytes to come; where that is a guess (exact=False) and they are more, the bar says
    what it knows and no longer when it ends.
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

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _fault: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._bar.close()
