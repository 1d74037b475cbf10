"""What Redis counted, taken over into Postgres, and summed there over windows of time.

A minute in Redis only grows, so taking it over is writing the greater number: it may be done
twice, late, or cut off anywhere. Hours and days are sums of minutes, written over the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lib import metrics
from lib.incidents.model import WIB
from lib.incidents.rules import SLOW_REQUEST_MS, MinuteCounts
from lib.interfaces import RunQuery
from lib.metrics import BUCKET_EDGES_MS, Field

if TYPE_CHECKING:
    from psycopg import Connection

type RunPipeline = Callable[..., list[Any]]

MINUTES_PER_TRIP = 120  # minutes a trip to Redis
MAX_LOOKBACK = timedelta(hours=48)  # Redis keeps no more
OVERLAP_MINUTES = 3  # minutes: an instance may be late with its counts
AVAILABILITY_OBJECTIVE = (
    0.995  # of requests are not our errors: what the burn rate is measured against
)

UPSERT_MINUTES = """
insert into metric_minutes as held (minute, service, deployment, class, bucket, n)
select minute, service, deployment, class, bucket, n
from unnest(%(minute)s::timestamptz[], %(service)s::text[], %(deployment)s::text[],
  %(class)s::text[], %(bucket)s::smallint[], %(n)s::int[])
  as given (minute, service, deployment, class, bucket, n)
order by 1, 2, 3, 4, 5
on conflict (minute, service, deployment, class, bucket) do update set n = excluded.n
where held.n < excluded.n
"""

UPSERT_HOURS = """
insert into metric_hours as held (hour, service, deployment, class, bucket, n)
select date_trunc('hour', minute), service, deployment, class, bucket, sum(n)::int
from metric_minutes where minute >= %(since)s
group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
on conflict (hour, service, deployment, class, bucket) do update set n = excluded.n
where held.n < excluded.n
"""

# An error is never inside, however fast it was.
UPSERT_DAYS = """
insert into service_days as held (day, service, n, errors, within_sla)
select (hour at time zone 'Asia/Jakarta')::date, h.service, sum(n),
  coalesce(sum(n) filter (where class = 'error'), 0),
  coalesce(sum(n) filter (where class <> 'error'
    and (promised.bucket is null or h.bucket <= promised.bucket)), 0)
from metric_hours as h
left join unnest(%(service)s::text[], %(bucket)s::int[]) as promised (service, bucket)
  on promised.service = h.service
where hour >= %(since)s
group by 1, 2 order by 1, 2
on conflict (day, service) do update
set n = excluded.n, errors = excluded.errors, within_sla = excluded.within_sla
where (held.n, held.errors, held.within_sla)
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

SELECT_RECENT_MINUTES = """
select minute, service, deployment, class, bucket, n from metric_minutes where minute >= %(since)s
"""

SELECT_BURN_RATES = """
select service, w.name, sum(n)::float, coalesce(sum(n) filter (where class = 'error'), 0)::float
from metric_minutes, (values ('5m', interval '5 minutes'), ('30m', interval '30 minutes'),
  ('1h', interval '1 hour'), ('6h', interval '6 hours')) as w (name, length)
where minute > %(now)s::timestamptz - w.length
group by service, w.name, w.length order by service, w.length
"""

SELECT_BY_DEPLOYMENT = """
select service, deployment, min(hour), max(hour), sum(n)::bigint,
  coalesce(sum(n) filter (where class = 'error'), 0)::bigint, array_agg(bucket), array_agg(n)
from metric_hours where hour > %(since)s group by service, deployment order by service, min(hour)
"""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A service's requests over a window. counts: bucket -> how many, errors included; good: the
    same without the errors."""

    requests: int
    errors: int
    histogram: Mapping[int, int]
    success_histogram: Mapping[int, int]


# ---------------------------------------------------------------- taking over


def roll_up(
    run: RunQuery, run_all: RunPipeline, since: datetime, now: datetime, promised: Mapping[str, int]
) -> int:
    """Take over every minute from `since` on; how many counts. promised: service -> its SLA's
    bucket. Raises CacheDown, DatabaseDown."""
    first = metrics.minute_of(max(since, now - MAX_LOOKBACK)) - OVERLAP_MINUTES
    minutes = range(first, metrics.minute_of(now) + 1)
    taken = 0
    for start in range(0, len(minutes), MINUTES_PER_TRIP):
        found = _read_minutes(run_all, minutes[start : start + MINUTES_PER_TRIP])
        taken += sum(len(counts) for counts in found.values())
        run(partial(_upsert_minutes, found=found))
    run(partial(_upsert_hours_and_days, since=metrics.minute_start(first), promised=promised))
    return taken


def _read_minutes(run_all: RunPipeline, minutes: Sequence[int]) -> dict[datetime, dict[Field, int]]:
    replies = run_all(*(("HGETALL", metrics.minute_key(minute)) for minute in minutes))
    found = {
        metrics.minute_start(minute): metrics.parse_minute(reply)
        for minute, reply in zip(minutes, replies, strict=True)
    }
    return {minute: counts for minute, counts in found.items() if counts}


def _upsert_minutes(
    connection: "Connection[Any]", found: Mapping[datetime, Mapping[Field, int]]
) -> None:
    rows = [
        (minute, *field, n)
        for minute, counts in sorted(found.items())
        for field, n in counts.items()
    ]
    names = ("minute", "service", "deployment", "class", "bucket", "n")
    values = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    if rows:
        connection.execute(UPSERT_MINUTES, values)


def _upsert_hours_and_days(
    connection: "Connection[Any]", since: datetime, promised: Mapping[str, int]
) -> None:
    hour = since.replace(minute=0, second=0, microsecond=0)
    there = since.astimezone(WIB)
    day = there.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    with connection.transaction():
        connection.execute(UPSERT_HOURS, {"since": hour})
        given = {"service": list(promised), "bucket": list(promised.values())}
        connection.execute(UPSERT_DAYS, {"since": day, **given})


# ---------------------------------------------------------------- windows


def recent_from_redis(
    run_all: RunPipeline, now: datetime, length: timedelta
) -> dict[str, dict[datetime, MinuteCounts]]:
    """What was answered lately, by service and minute, out of Redis. Raises CacheDown."""
    last = metrics.minute_of(now)
    minutes = range(last - int(length.total_seconds()) // 60, last + 1)
    return _minutes_by_service(_read_minutes(run_all, minutes))


def recent_from_postgres(
    run: RunQuery, now: datetime, length: timedelta
) -> dict[str, dict[datetime, MinuteCounts]]:
    """The same out of Postgres, as far as it was taken over. Raises DatabaseDown."""
    rows = run(lambda c: c.execute(SELECT_RECENT_MINUTES, {"since": now - length}).fetchall())
    found: dict[datetime, dict[Field, int]] = {}
    for minute, *field, n in rows:
        found.setdefault(minute, {})[field[0], field[1], field[2], field[3]] = n
    return _minutes_by_service(found)


def _minutes_by_service(
    found: Mapping[datetime, Mapping[Field, int]],
) -> dict[str, dict[datetime, MinuteCounts]]:
    slow_from = BUCKET_EDGES_MS.index(SLOW_REQUEST_MS)
    made: dict[str, dict[datetime, MinuteCounts]] = {}
    for minute, counts in found.items():
        for (service, _, kind, bucket), n in counts.items():
            before = made.setdefault(service, {}).get(minute, MinuteCounts(0, 0, 0))
            made[service][minute] = MinuteCounts(
                before.requests + n,
                before.errors + (n if kind == "error" else 0),
                before.slow + (n if bucket > slow_from else 0),
                before.queued + (n if kind == "queued" else 0),
            )
    return made


def load_windows(connection: "Connection[Any]", now: datetime) -> dict[tuple[str, str], Aggregate]:
    """(window, service) -> what was answered; windows 1h, 24h, 30d."""
    parts: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
    for window, service, kind, bucket, n in connection.execute(SELECT_WINDOWS, {"now": now}):
        parts.setdefault((window, service), []).append((kind, bucket, n))
    return {place: aggregate(rows) for place, rows in parts.items()}


def aggregate(rows: Sequence[tuple[str, int, int]]) -> Aggregate:
    """(class, bucket, n) rows as one."""
    counts: dict[int, int] = {}
    good: dict[int, int] = {}
    for kind, bucket, n in rows:
        counts[bucket] = counts.get(bucket, 0) + n
        if kind != "error":
            good[bucket] = good.get(bucket, 0) + n
    n = sum(counts.values())
    return Aggregate(n, n - sum(good.values()), counts, good)


def burn_rates(connection: "Connection[Any]", now: datetime) -> dict[str, dict[str, float]]:
    """service -> window -> how many times faster than OBJECTIVE allows errors are made: above
    14.4 over 1h and 5m, or 6 over 6h and 30m, is worth a look (SRE workbook). For reports."""
    rates: dict[str, dict[str, float]] = {}
    for service, window, n, errors in connection.execute(SELECT_BURN_RATES, {"now": now}):
        rates.setdefault(service, {})[window] = round(errors / n / (1 - AVAILABILITY_OBJECTIVE), 2)
    return rates
