"""Taking over what Redis counted, and folding hours into days.

Any step may be cut off, or run twice at once: counts leave Redis as a named batch, and Postgres
marks the name in the transaction that adds them. The rule a newcomer would break: mark and add
belong to one transaction, and a batch is deleted from Redis only after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lib.interfaces import Services
from lib.vitals.ingest import (
    BATCHES_KEY,
    OPEN_COUNTS_KEY,
    ROLLUP_THROTTLE_KEY,
    SAMPLE_ID_TTL_S,
    UPSERT_RELEASES,
    CountRow,
    batch_key,
    parse_counts,
    sample_key,
)

if TYPE_CHECKING:
    from psycopg import Connection

ROLLUP_INTERVAL_S = 600
DATABASE_BUDGET_S = 20.0  # a day's batch, where the cron comes once a day
HOURLY_RETENTION = timedelta(days=3)
MARKER_RETENTION = timedelta(days=30)
LASTS_A_ROUND = 500
SAMPLE_ID_RETENTION = timedelta(days=1)

# KEYS: open counts, then one an id. ARGV: an id's seconds, then for each id the moment, place and
# bucket under which Postgres counted it. An id counted on both sides (the reply was lost, or it
# reported again) is taken back once, from the side with the older value.
HAND_BACK = """
local function take(place, bucket)
  local field = place .. '|' .. bucket
  if redis.call('HINCRBY', KEYS[1], field, -1) == 0 then redis.call('HDEL', KEYS[1], field) end
end
for i = 2, #KEYS do
  local at, place, bucket = unpack(ARGV, (i - 2) * 3 + 2, (i - 2) * 3 + 4)
  local last = redis.call('HMGET', KEYS[i], 'at', 'place', 'bucket', 'back')
  if not last[4] then
    if last[1] and tonumber(last[1]) > tonumber(at) then
      take(place, bucket)
    else
      if last[1] then take(last[2], last[3]) end
      redis.call('HSET', KEYS[i], 'at', at, 'place', place, 'bucket', bucket)
    end
    redis.call('HSET', KEYS[i], 'back', 1)
    redis.call('EXPIRE', KEYS[i], ARGV[1])
  elseif tonumber(last[1]) < tonumber(at) then
    redis.call('HSET', KEYS[i], 'at', at, 'bucket', bucket)
  end
end
return 1
"""

# KEYS: open counts, batches, a new batch. ARGV: its name. All batches not yet taken over.
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

# Where there never is a Redis to hand them to.
DELETE_OLD_SAMPLE_IDS = "delete from rum_lasts where seen_at < %(until)s"

LASTS = """
select id, at, hour, path, device, metric, release, bucket from rum_lasts
order by seen_at limit %(most)s
"""

FORGET_LASTS = """
delete from rum_lasts using unnest(%(id)s::text[], %(at)s::bigint[]) as given (id, at)
where rum_lasts.id = given.id and rum_lasts.at = given.at
"""


@dataclass(frozen=True, slots=True)
class RollupResult:
    """Counts taken over, in how many batches, and ids handed back to Redis."""

    batches: int
    counts: int
    handed_back: int


def roll_up(means: Services, now: datetime) -> RollupResult | None:
    """Take over what Redis counted, if that is due; None when it is not. Tidy in any case.

    Raises CacheDown, DatabaseDown. Safe twice at once, and cut off anywhere.
    """
    try:
        return _store_batches(means, now)
    finally:
        means.database.run(partial(_prune, now=now), budget_s=DATABASE_BUDGET_S)


def _store_batches(means: Services, now: datetime) -> RollupResult | None:
    """A batch is renamed before it is read, and added in the transaction that marks it as added."""
    redis, run = means.cache.execute, means.database.run
    if not redis("SET", ROLLUP_THROTTLE_KEY, "1", "NX", "EX", ROLLUP_INTERVAL_S):
        return None
    fresh = uuid4().hex
    names = redis("EVAL", CLOSE_BATCH, 3, OPEN_COUNTS_KEY, BATCHES_KEY, batch_key(fresh), fresh)
    counts = 0
    for name in names:
        rows = parse_counts(redis("HGETALL", batch_key(name)).items())
        run(partial(add_batch, batch=name, rows=rows, now=now), budget_s=DATABASE_BUDGET_S)
        means.cache.pipeline(("DEL", batch_key(name)), ("SREM", BATCHES_KEY, name))
        counts += len(rows)
    return RollupResult(len(names), counts, _hand_back(means))


def add_batch(
    connection: "Connection[Any]", batch: str, rows: Sequence[CountRow], now: datetime
) -> None:
    """Add a batch's counts, once however often it is offered."""
    names = ("hour", "path", "device", "metric", "release", "bucket", "n")
    values: dict[str, object] = {
        name: [row[index] for row in rows] for index, name in enumerate(names)
    }
    with connection.transaction():
        if connection.execute(MARK_BATCH, {"batch": batch, "now": now}).fetchone():
            connection.execute(ADD_COUNTS, values)
            connection.execute(UPSERT_RELEASES, values)


def _hand_back(means: Services) -> int:
    """Let Redis remember again what Postgres counted while it was down."""
    run = means.database.run
    lasts = run(lambda connection: connection.execute(LASTS, {"most": LASTS_A_ROUND}).fetchall())
    if not lasts:
        return 0
    args: list[str | int] = [SAMPLE_ID_TTL_S]
    for _, at, hour, *rest, bucket in lasts:
        args += [at, "|".join((str(int(hour.timestamp())), *rest)), bucket]
    keys = [OPEN_COUNTS_KEY, *(sample_key(row[0]) for row in lasts)]
    means.cache.execute("EVAL", HAND_BACK, len(keys), *keys, *args)
    given = {"id": [row[0] for row in lasts], "at": [row[1] for row in lasts]}
    run(lambda connection: connection.execute(FORGET_LASTS, given))
    return len(lasts)


def _prune(connection: "Connection[Any]", now: datetime) -> None:
    connection.execute(ROLL_UP_DAYS, {"until": _wib_midnight(now - HOURLY_RETENTION)})
    connection.execute(DELETE_OLD_MARKERS, {"until": now - MARKER_RETENTION})
    connection.execute(DELETE_OLD_SAMPLE_IDS, {"until": now - SAMPLE_ID_RETENTION})


def _wib_midnight(moment: datetime) -> datetime:
    """The start of its day in WIB (UTC+7, no summer time): days are folded whole."""
    there = moment + timedelta(hours=7)
    return there.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=7)
