"""What functions print: the last 10,000 lines, and an echo on the terminal."""

import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

MAX_LINES = 10_000


@dataclass(frozen=True, slots=True)
class Line:
    """n counts from 1 and is never reused; at: seconds since 1970; function: its address."""

    n: int
    at: float
    function: str
    level: str
    message: str
    request_id: int


class LogBuffer:
    """Thread-safe; `echo` also prints every line."""

    def __init__(self, *, echo: bool = False) -> None:
        self._lines: deque[Line] = deque(maxlen=MAX_LINES)
        self._lock = threading.Lock()
        self._count = 0
        self._echo = echo

    def add(self, function: str, level: str, message: str, request_id: int = 0) -> None:
        message = message.rstrip("\n")
        if not message:
            return
        with self._lock:
            self._count += 1
            line = Line(self._count, time.time(), function, level, message, request_id)
            self._lines.append(line)
        if self._echo:
            at = time.strftime("%H:%M:%S", time.localtime(line.at))
            print(f"{at} {function} {level}: {message}", file=sys.stdout, flush=True)

    def since(self, n: int = 0, function: str | None = None) -> list[dict[str, Any]]:
        """Lines after number `n`, oldest first."""
        with self._lock:
            lines = list(self._lines)
        later = (line for line in lines if line.n > n)
        return [asdict(line) for line in later if function in (None, line.function)]

    def forget(self) -> None:
        with self._lock:
            self._lines.clear()
