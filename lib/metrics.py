"""Request metrics: counts by minute, service, outcome and duration bucket.

A request costs one write to Redis after its response; requests within a second share a write.
Redis down loses counts, nothing else. A bucket's number is stored for weeks, so BUCKET_EDGES_MS
never changes.
"""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import accumulate

from lib.problems import CacheDown, NotConfigured

# Ten milliseconds, then a quarter of a doubling each, to 80 s; and exactly every bound of a service
# level, so that "how many were faster" is counted, never estimated.
BUCKET_EDGES_MS = tuple(
    sorted({*(round(10 * 2 ** (step / 4)) for step in range(53)), 200, 500, 1000, 5000})
)
RETENTION_S = 49 * 3600  # in Redis: a monitor that runs once a day still finds every minute
FLUSH_INTERVAL_S = 1.0
# Counts that an instance holds back; more is a fault, and not worth its memory.
MAX_PENDING_COUNTS = 2000

type BucketCounts = Mapping[int, int]
"""Bucket number -> how many requests."""
type Field = tuple[str, str, str, int]
"""service, deployment, class, bucket."""

# KEYS: the maintenance window, then a minute each. ARGV: seconds to keep them, then for every count
# the index of its minute (from 2), field, how many. Returns the window: one trip for both.
INCREMENT = """
for i = 2, #ARGV, 3 do
  redis.call('HINCRBY', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
end
for i = 2, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return redis.call('GET', KEYS[1])
"""


def bucket_of(took_ms: float) -> int:
    """The number of the bucket: above the edge before it, up to and including its own."""
    return bisect_left(BUCKET_EDGES_MS, took_ms)


def outcome_of(status: int) -> str:
    """`ok`, `queued` (taken, not stored yet), `refused` (the caller's fault) or `error` (ours)."""
    if status >= 500:
        return "error"
    if status >= 400:
        return "refused"
    return "queued" if status == 202 else "ok"


def count_within(counts: BucketCounts, bound_ms: int) -> int:
    """How many took at most bound_ms, which must be one of BUCKET_EDGES_MS: then it is exact."""
    last = BUCKET_EDGES_MS.index(bound_ms)
    return sum(n for number, n in counts.items() if number <= last)


def quantile(counts: BucketCounts, share: float) -> tuple[float, int, int] | None:
    """The value that `share` of all do not exceed, and its bucket's edges, in ms; None of nothing.

    Interpolated between the edges by rank; the edges hold the truth.
    """
    n = sum(counts.values())
    if n == 0:
        return None
    rank = max(1.0, share * n)
    numbers = sorted(counts)
    below = 0
    totals = accumulate(counts[number] for number in numbers)
    for number, reached in zip(numbers, totals, strict=True):
        if reached >= rank:
            low = BUCKET_EDGES_MS[number - 1] if number else 0
            high = BUCKET_EDGES_MS[min(number, len(BUCKET_EDGES_MS) - 1)]
            return low + (high - low) * (rank - below) / (reached - below), low, high
        below = reached
    raise ValueError("fewer requests than that")


def minute_key(minute: int) -> str:
    """minute: whole minutes since 1970."""
    return f"metrics:{minute}"


def minute_of(moment: datetime) -> int:
    return int(moment.timestamp()) // 60


def parse_minute(value: object) -> dict[Field, int]:
    """A minute's hash as counts; unknown fields are ignored."""
    counts: dict[Field, int] = {}
    pairs = value.items() if isinstance(value, dict) else ()
    for name, n in pairs:
        match str(name).split("|"):
            case [service, deployment, kind, number] if number.isdigit() and str(n).isdigit():
                counts[service, deployment, kind, int(number)] = int(n)
    return counts


class RequestCounter:
    """An instance's counts that are not in Redis yet; shared by its threads.

    execute: `Cache.execute`. on_maintenance: called with the value of the maintenance window.
    """

    def __init__(
        self, execute: Callable[..., object], on_maintenance: Callable[[object], None]
    ) -> None:
        self._execute = execute
        self._on_maintenance = on_maintenance
        self._lock = threading.Lock()
        self._pending: Counter[tuple[int, str]] = Counter()
        self._sent_at = float("-inf")
        self._timer: threading.Timer | None = None

    def count(
        self, service: str, deployment: str, status: int, took_ms: float, now: datetime
    ) -> None:
        """Count one request. Errors of `execute` pass through; the counts are lost."""
        field = f"{service}|{deployment}|{outcome_of(status)}|{bucket_of(took_ms)}"
        with self._lock:
            if len(self._pending) < MAX_PENDING_COUNTS:
                self._pending[minute_of(now), field] += 1
            wait_s = self._sent_at + FLUSH_INTERVAL_S - time.monotonic()
            # An error is sent at once: the instance may be gone before the next request.
            if wait_s > 0 and status < 500:
                if self._timer is None:
                    self._timer = threading.Timer(wait_s, self._flush_from_timer)
                    self._timer.daemon = True
                    self._timer.start()
                return
        self.flush()

    def would_defer(self, status: int) -> bool:
        """Whether a request of this status would be counted later, with nothing sent now."""
        return status < 500 and time.monotonic() < self._sent_at + FLUSH_INTERVAL_S

    def flush(self) -> None:
        """Send all pending counts."""
        with self._lock:
            counts, self._pending = self._pending, Counter()
            self._sent_at = time.monotonic()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if counts:
            self._on_maintenance(self._execute(*_increment_command(counts)))

    def _flush_from_timer(self) -> None:
        with suppress(CacheDown, NotConfigured):  # the next request logs it
            self.flush()


def _increment_command(counts: Mapping[tuple[int, str], int]) -> tuple[str | int, ...]:
    minutes = sorted({minute for minute, _ in counts})
    keys = ["maintenance", *(minute_key(minute) for minute in minutes)]
    args: list[str | int] = [RETENTION_S]
    for (minute, field), n in counts.items():
        args += [minutes.index(minute) + 2, field, n]
    return ("EVAL", INCREMENT, len(keys), *keys, *args)


def minute_start(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC)
