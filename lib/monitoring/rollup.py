"""Rollup: the minute counts of metrics in Redis, written to Postgres as minutes, hours and days.

A count in Redis only grows, so a rollup writes the greater number: it may run twice, late, or be
cut off anywhere. Hours and days are sums of minutes, written the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lib import jakarta, metrics
from lib.incidents.rules import SLOW_REQUEST_MS, MinuteCounts
from lib.interfaces import RedisPipeline, RunQuery
from lib.metrics import BUCKET_EDGES_MS, Field

if TYPE_CHECKING:
    from psycopg import Connection

type Counts = Mapping[datetime, Mapping[Field, int]]

MINUTES_PER_TRIP = 120
MAX_LOOKBACK = timedelta(hours=48)  # Redis keeps no more
OVERLAP_MINUTES = 3  # an instance may be late with its counts

UPSERT_MINUTES = """
insert into metric_minutes as existing (minute, service, deployment, class, bucket, n)
select minute, service, deployment, class, bucket, n
from unnest(%(minute)s::timestamptz[], %(service)s::text[], %(deployment)s::text[],
  %(class)s::text[], %(bucket)s::smallint[], %(n)s::int[])
  as counts (minute, service, deployment, class, bucket, n)
order by 1, 2, 3, 4, 5
on conflict (minute, service, deployment, class, bucket) do update set n = excluded.n
where existing.n < excluded.n
"""

UPSERT_HOURS = """
insert into metric_hours as existing (hour, service, deployment, class, bucket, n)
select date_trunc('hour', minute), service, deployment, class, bucket, sum(n)::int
from metric_minutes where minute >= %(since)s
group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
on conflict (hour, service, deployment, class, bucket) do update set n = excluded.n
where existing.n < excluded.n
"""

# An error is never inside, however fast it was.
UPSERT_DAYS = """
insert into service_days as existing (day, service, n, errors, within_sla)
select (hour at time zone 'Asia/Jakarta')::date, h.service, sum(n),
  coalesce(sum(n) filter (where class = 'error'), 0),
  coalesce(sum(n) filter (where class <> 'error'
    and (sla.bucket is null or h.bucket <= sla.bucket)), 0)
from metric_hours as h
left join unnest(%(service)s::text[], %(bucket)s::int[]) as sla (service, bucket)
  on sla.service = h.service
where hour >= %(since)s
group by 1, 2 order by 1, 2
on conflict (day, service) do update
set n = excluded.n, errors = excluded.errors, within_sla = excluded.within_sla
where (existing.n, existing.errors, existing.within_sla)
  is distinct from (excluded.n, excluded.errors, excluded.within_sla)
"""

SELECT_WINDOWS = """
select '1h', service, class, bucket, sum(n)::bigint from metric_minutes
where minute > %(now)s::timestamptz - interval '1 hour' group by 2, 3, 4
union all
select '24h', service, class, bucket, sum(n)::bigint from metric_hours
where hour > %(now)s::timestamptz - interval '24 hours' group by 2, 3, 4
union all
select '30d', service, class, bucket, sum(n)::bigint from metric_hours
where hour > %(now)s::timestamptz - interval '30 days' group by 2, 3, 4
"""

SELECT_DAYS = """
select day, service, n, errors, within_sla from service_days where day > %(since)s order by day
"""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A service's requests over a window. histogram: bucket -> requests, errors included."""

    requests: int
    errors: int
    histogram: Mapping[int, int]
    success_histogram: Mapping[int, int]


# ---------------------------------------------------------------- from Redis to Postgres


def roll_up(
    run: RunQuery,
    pipeline: RedisPipeline,
    since: datetime,
    now: datetime,
    sla_buckets: Mapping[str, int],
) -> int:
    """Write every minute from `since` on; returns how many counts. Raises CacheDown, DatabaseDown.

    sla_buckets: service -> the last bucket inside its SLA.
    """
    first = metrics.minute_of(max(since, now - MAX_LOOKBACK)) - OVERLAP_MINUTES
    minutes = range(first, metrics.minute_of(now) + 1)
    written = 0
    for start in range(0, len(minutes), MINUTES_PER_TRIP):
        counts = _read_minutes(pipeline, minutes[start : start + MINUTES_PER_TRIP])
        written += sum(len(fields) for fields in counts.values())
        run(partial(_upsert_minutes, counts=counts))
    since = metrics.minute_start(first)
    run(partial(_upsert_hours_and_days, since=since, sla_buckets=sla_buckets))
    return written


def _read_minutes(pipeline: RedisPipeline, minutes: Sequence[int]) -> Counts:
    replies = pipeline(*(("HGETALL", metrics.minute_key(minute)) for minute in minutes))
    return {
        metrics.minute_start(minute): fields
        for minute, reply in zip(minutes, replies, strict=True)
        if (fields := metrics.parse_minute(reply))
    }


def _upsert_minutes(connection: "Connection[Any]", counts: Counts) -> None:
    rows = [
        (minute, *field, n)
        for minute, fields in sorted(counts.items())
        for field, n in fields.items()
    ]
    names = ("minute", "service", "deployment", "class", "bucket", "n")
    if rows:
        columns = zip(*rows, strict=True)
        values = {name: list(column) for name, column in zip(names, columns, strict=True)}
        connection.execute(UPSERT_MINUTES, values)


def _upsert_hours_and_days(
    connection: "Connection[Any]", since: datetime, sla_buckets: Mapping[str, int]
) -> None:
    hour = since.replace(minute=0, second=0, microsecond=0)
    buckets = {"service": list(sla_buckets), "bucket": list(sla_buckets.values())}
    with connection.transaction():
        connection.execute(UPSERT_HOURS, {"since": hour})
        connection.execute(UPSERT_DAYS, {"since": jakarta.day_start(since), **buckets})


# ---------------------------------------------------------------- reading


def recent_traffic(
    pipeline: RedisPipeline, now: datetime, length: timedelta
) -> dict[str, dict[datetime, MinuteCounts]]:
    """service -> minute -> its requests, from Redis. Raises CacheDown."""
    last = metrics.minute_of(now)
    minutes = range(last - int(length.total_seconds()) // 60, last + 1)
    slow_from = BUCKET_EDGES_MS.index(SLOW_REQUEST_MS)
    traffic: dict[str, dict[datetime, MinuteCounts]] = {}
    for minute, fields in _read_minutes(pipeline, minutes).items():
        for (service, _, outcome, bucket), n in fields.items():
            total = traffic.setdefault(service, {}).get(minute, MinuteCounts(0, 0, 0))
            traffic[service][minute] = MinuteCounts(
                total.requests + n,
                total.errors + (n if outcome == "error" else 0),
                total.slow + (n if bucket > slow_from else 0),
                total.queued + (n if outcome == "queued" else 0),
            )
    return traffic


def load_windows(connection: "Connection[Any]", now: datetime) -> dict[tuple[str, str], Aggregate]:
    """(window, service) -> its requests; windows 1h, 24h, 30d."""
    rows: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
    for window, service, outcome, bucket, n in connection.execute(SELECT_WINDOWS, {"now": now}):
        rows.setdefault((window, service), []).append((outcome, bucket, n))
    return {key: _aggregate(window_rows) for key, window_rows in rows.items()}


def _aggregate(rows: Sequence[tuple[str, int, int]]) -> Aggregate:
    histogram: dict[int, int] = {}
    successes: dict[int, int] = {}
    for outcome, bucket, n in rows:
        histogram[bucket] = histogram.get(bucket, 0) + n
        if outcome != "error":
            successes[bucket] = successes.get(bucket, 0) + n
    total = sum(histogram.values())
    return Aggregate(total, total - sum(successes.values()), histogram, successes)
