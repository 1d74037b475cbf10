"""How requests were answered, counted by the minute: how many, how well, how fast.

A request costs one write to Redis after its answer, never a wait; requests within a second of one
another share a write, so that load does not multiply it. Redis down loses counts, nothing else.
The rule a newcomer would break: a bucket's number is stored for weeks, so EDGES_MS never changes.
"""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate

# Ten milliseconds, then a quarter of a doubling each, to 80 s; and exactly every bound that a
# promise is about, so that "how many were faster" is counted, never estimated.
BUCKET_EDGES_MS = tuple(
    sorted({*(round(10 * 2 ** (step / 4)) for step in range(53)), 200, 500, 1000, 5000})
)
RETENTION_S = 49 * 3600  # in Redis: a watch that comes once a day still finds every minute
FLUSH_INTERVAL_S = 1.0  # how close requests are that share a write
MAX_PENDING_COUNTS = (
    2000  # counts an instance holds back; more is a fault, and not worth its memory
)

type BucketCounts = Mapping[int, int]
"""Bucket number -> how many requests."""
type Field = tuple[str, str, str, int]
"""service, deployment, class, bucket."""

# KEYS: the maintenance switch, then a minute each. ARGV: seconds to keep them, then for every
# count which minute's (from 2), field, how many. Answers what the switch says: one trip for both.
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
    """How many took at most bound_ms, which must be one of EDGES_MS: then it is exact."""
    last = BUCKET_EDGES_MS.index(bound_ms)
    return sum(n for number, n in counts.items() if number <= last)


def quantile(counts: BucketCounts, share: float) -> tuple[float, int, int] | None:
    """The value that `share` of all do not exceed, and its bucket's edges, in ms; None of nothing.

    Interpolated between the edges by rank; the edges hold the truth.
    """
    n = sum(counts.values())
    if n == 0:
        return None
    wanted = max(1.0, share * n)
    numbers = sorted(counts)
    below = 0
    for number, reached in zip(numbers, accumulate(counts[one] for one in numbers), strict=True):
        if reached >= wanted:
            low = BUCKET_EDGES_MS[number - 1] if number else 0
            high = BUCKET_EDGES_MS[min(number, len(BUCKET_EDGES_MS) - 1)]
            return low + (high - low) * (wanted - below) / (reached - below), low, high
        below = reached
    raise ValueError("fewer requests than that")


def minute_key(minute: int) -> str:
    """minute: whole minutes since 1970."""
    return f"metrics:{minute}"


def minute_of(moment: datetime) -> int:
    return int(moment.timestamp()) // 60


def parse_minute(found: object) -> dict[Field, int]:
    """A minute's hash as counts; what is not ours in it is passed over."""
    counts: dict[Field, int] = {}
    pairs = found.items() if isinstance(found, dict) else ()
    for name, n in pairs:
        match str(name).split("|"):
            case [service, deployment, kind, number] if number.isdigit() and str(n).isdigit():
                counts[service, deployment, kind, int(number)] = int(n)
    return counts


class RequestCounter:
    """An instance's counts on their way to Redis; shared by its threads.

    send: `Cache.run`; told: called with what the maintenance switch says.
    """

    def __init__(self, send: Callable[..., object], told: Callable[[object], None]) -> None:
        self._execute = send
        self._on_maintenance = told
        self._lock = threading.Lock()
        self._pending: Counter[tuple[int, str]] = Counter()
        self._sent_at = float("-inf")
        self._timer: threading.Timer | None = None

    def count(
        self, service: str, deployment: str, status: int, took_ms: float, now: datetime
    ) -> None:
        """Count one answered request. What the send raises passes through; the counts are gone."""
        field = f"{service}|{deployment}|{outcome_of(status)}|{bucket_of(took_ms)}"
        with self._lock:
            if len(self._pending) < MAX_PENDING_COUNTS:
                self._pending[minute_of(now), field] += 1
            wait_s = self._sent_at + FLUSH_INTERVAL_S - time.monotonic()
            # An error is told at once: the instance may be gone before the next request.
            if wait_s > 0 and status < 500:
                self._schedule_flush(wait_s)
                return
        self.flush()

    def would_defer(self, status: int) -> bool:
        """Whether a request answered so would only be held back: then nothing is sent after it."""
        return status < 500 and time.monotonic() < self._sent_at + FLUSH_INTERVAL_S

    def flush(self) -> None:
        """Send what is held back."""
        with self._lock:
            held, self._pending = self._pending, Counter()
            self._sent_at = time.monotonic()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if held:
            self._on_maintenance(self._execute(*_increment_command(held.items())))

    def _schedule_flush(self, wait_s: float) -> None:
        if self._timer is None:
            self._timer = threading.Timer(wait_s, self._flush_from_timer)
            self._timer.daemon = True
            self._timer.start()

    def _flush_from_timer(self) -> None:
        from lib.problems import CacheDown, NotConfigured

        try:
            self.flush()
        except (CacheDown, NotConfigured):
            return  # nobody is left to tell; the next request says so


def _increment_command(held: Iterable[tuple[tuple[int, str], int]]) -> tuple[str | int, ...]:
    counts = list(held)
    minutes = sorted({minute for (minute, _), _ in counts})
    keys = ["maintenance", *(minute_key(minute) for minute in minutes)]
    args: list[str | int] = [RETENTION_S]
    for (minute, field), n in counts:
        args += [minutes.index(minute) + 2, field, n]
    return ("EVAL", INCREMENT, len(keys), *keys, *args)


def minute_start(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC)
