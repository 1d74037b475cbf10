"""Memory and CPU of the parts of a platform, as Linux counts them."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

EVERY_S = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

type Pids = Callable[[], Mapping[str, list[int]]]
"""The processes of each part now."""


class MemorySampler:
    """From __enter__ to __exit__: megabytes of each part, second by second, by (pid, part)."""

    def __init__(self, pids: Pids, elapsed_s: Callable[[], float]) -> None:
        self.megabytes: dict[str, list[tuple[float, float]]] = {}
        self._pids = pids
        self._elapsed_s = elapsed_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(EVERY_S):
            for part, pids in self._pids().items():
                with suppress(OSError):
                    size = max((resident_bytes(pid) for pid in pids), default=0)
                    if size:
                        series = self.megabytes.setdefault(part, [])
                        series.append((self._elapsed_s(), size / 1e6))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def growth(series: list[tuple[float, float]]) -> float:
    """The last quarter's size divided by that of the second: 1 is flat."""
    quarter = len(series) // 4
    if not quarter:
        return 1.0
    second, last = series[quarter : 2 * quarter], series[-quarter:]
    return mean_size(last) / mean_size(second)


def mean_size(series: list[tuple[float, float]]) -> float:
    return sum(size for _, size in series) / len(series)


def cpu_seconds(pids: list[int]) -> float:
    """Of these processes and all their children."""
    children = _children()
    total, left = 0.0, list(pids)
    while left:
        pid = left.pop()
        left += children.get(pid, [])
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(fields[at]) for at in (11, 12)) / _TICKS
    return total


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    return children


class CpuMeter:
    """CPU of each part between two looks, in cores."""

    def __init__(self, pids: Pids) -> None:
        self._pids = pids
        self._at, self._before = time.monotonic(), self._now()

    def cores(self) -> dict[str, float]:
        at, now = time.monotonic(), self._now()
        took_s = at - self._at
        used = {part: max(0.0, now[part] - self._before.get(part, 0.0)) / took_s for part in now}
        self._at, self._before = at, now
        return used

    def _now(self) -> dict[str, float]:
        return {part: cpu_seconds(pids) for part, pids in self._pids().items()}
