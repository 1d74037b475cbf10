"""Rollup: the counts in Redis into Postgres, and there hours into days.

Any step may be cut off, or run twice at once: counts leave Redis as a named batch. The rule a
newcomer would break: Postgres marks the name in the transaction that adds the counts, and the
batch is deleted from Redis only after it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lib import jakarta
from lib.interfaces import Services
from lib.vitals.ingest import (
    BATCHES_KEY,
    OPEN_COUNTS_KEY,
    ROLLUP_THROTTLE_KEY,
    CountRow,
    batch_key,
    parse_counts,
)

if TYPE_CHECKING:
    from psycopg import Connection

ROLLUP_INTERVAL_S = 600
DATABASE_BUDGET_S = 20.0  # a day's batch, where the cron comes once a day
HOURLY_RETENTION = timedelta(days=3)
MARKER_RETENTION = timedelta(days=30)
SAMPLE_ID_RETENTION = timedelta(days=1)

# KEYS: open counts, batches, a new batch. ARGV: its name. Returns the batches not yet stored.
CLOSE_BATCH = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('RENAME', KEYS[1], KEYS[3])
  redis.call('SADD', KEYS[2], ARGV[1])
end
return redis.call('SMEMBERS', KEYS[2])
"""

MARK_BATCH = """
insert into rum_folds (batch, at) values (%(batch)s, %(now)s)
on conflict do nothing returning batch
"""

ADD_COUNTS = """
insert into rum_hours as ours (hour, path, device, metric, release, buckets, counts)
select hour, path, device, metric, release, array_agg(bucket order by bucket),
  array_agg(n order by bucket)
from unnest(%(hour)s::timestamptz[], %(path)s::text[], %(device)s::text[], %(metric)s::text[],
  %(release)s::text[], %(bucket)s::smallint[], %(n)s::int[])
  as given (hour, path, device, metric, release, bucket, n)
group by hour, path, device, metric, release
order by hour, path, device, metric, release
on conflict (hour, path, device, metric, release) do update set (buckets, counts) = (
  select * from rum_sum(ours.buckets, ours.counts, excluded.buckets, excluded.counts))
"""

UPSERT_RELEASES = """
insert into rum_releases as ours (release, first_at)
select release, min(hour) from unnest(%(release)s::text[], %(hour)s::timestamptz[])
  as given (release, hour)
group by release order by release
on conflict (release) do update set first_at = excluded.first_at
where excluded.first_at < ours.first_at
"""

# One statement, hence all or nothing: an hour is in rum_hours or in rum_days, never in both.
ROLL_UP_DAYS = """
with gone as (
  delete from rum_hours where hour < %(until)s returning *
), flat as (
  select (hour at time zone 'Asia/Jakarta')::date as day, path, device, metric, release,
    bucket, sum(n)::int as n
  from gone, unnest(buckets, counts) as u (bucket, n)
  group by 1, path, device, metric, release, bucket having sum(n) <> 0
)
insert into rum_days as ours (day, path, device, metric, release, buckets, counts)
select day, path, device, metric, release, array_agg(bucket order by bucket),
  array_agg(n order by bucket)
from flat group by day, path, device, metric, release
order by day, path, device, metric, release
on conflict (day, path, device, metric, release) do update set (buckets, counts) = (
  select * from rum_sum(ours.buckets, ours.counts, excluded.buckets, excluded.counts))
"""

DELETE_OLD_MARKERS = "delete from rum_folds where at < %(until)s"

# Nothing writes rum_lasts any more; an older deployment may have left rows in it.
DELETE_OLD_SAMPLE_IDS = "delete from rum_lasts where seen_at < %(until)s"


def roll_up(services: Services, now: datetime) -> int | None:
    """Store what Redis counted; how many counts, None when that is not due yet.

    Prunes Postgres in any case. Raises CacheDown, DatabaseDown.
    """
    run, redis = services.database.run, services.cache
    run(partial(_prune, now=now), budget_s=DATABASE_BUDGET_S)
    if not redis.execute("SET", ROLLUP_THROTTLE_KEY, "1", "NX", "EX", ROLLUP_INTERVAL_S):
        return None
    new = uuid4().hex
    keys = (OPEN_COUNTS_KEY, BATCHES_KEY, batch_key(new))
    stored = 0
    for name in redis.execute("EVAL", CLOSE_BATCH, len(keys), *keys, new):
        rows = parse_counts(redis.execute("HGETALL", batch_key(name)).items())
        run(partial(add_batch, batch=name, rows=rows, now=now), budget_s=DATABASE_BUDGET_S)
        redis.pipeline(("DEL", batch_key(name)), ("SREM", BATCHES_KEY, name))
        stored += len(rows)
    return stored


def add_batch(
    connection: "Connection[Any]", batch: str, rows: Sequence[CountRow], now: datetime
) -> None:
    """Add a batch's counts, once however often it is offered."""
    names = ("hour", "path", "device", "metric", "release", "bucket", "n")
    columns: dict[str, object] = {
        name: [row[index] for row in rows] for index, name in enumerate(names)
    }
    with connection.transaction():
        if connection.execute(MARK_BATCH, {"batch": batch, "now": now}).fetchone():
            connection.execute(ADD_COUNTS, columns)
            connection.execute(UPSERT_RELEASES, columns)


def _prune(connection: "Connection[Any]", now: datetime) -> None:
    # Days are rolled up whole.
    connection.execute(ROLL_UP_DAYS, {"until": jakarta.day_start(now - HOURLY_RETENTION)})
    connection.execute(DELETE_OLD_MARKERS, {"until": now - MARKER_RETENTION})
    connection.execute(DELETE_OLD_SAMPLE_IDS, {"until": now - SAMPLE_ID_RETENTION})
