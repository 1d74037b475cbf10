"""Counting samples: one atomic call to Redis a beacon, taken over by Postgres every few minutes.

The last value of an id counts once: Redis remembers for some hours where an id was counted, and
a newer value moves that one count to another bucket. Counts are only ever added, so it does not
matter that the old bucket's count has been taken over meanwhile: a minus one follows it.

Redis down: Postgres does the same by itself, and hands what it remembers back later. Both down:
the samples are dropped and the log says how many. The rule a newcomer would break: every step
may be done twice (a lost reply, a killed function), so each one says when it was done already.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from lib.interfaces import Services
from lib.problems import CacheDown, DatabaseDown, NotConfigured
from lib.vitals.samples import KNOWN_PATHS, OTHER_PATHS, Sample

if TYPE_CHECKING:
    from psycopg import Connection

OPEN_COUNTS_KEY = "rum:open"
BATCHES_KEY = "rum:batches"
ROLLUP_THROTTLE_KEY = "rum:folded"
SAMPLE_ID_TTL_S = 6 * 3600  # a page open for longer and reporting again is a second visit
SAMPLES_PER_CALL = 200
MAX_PATHS_PER_DAY = 200  # invented ones beyond the site's own pages; the rest is "(other)"

# KEYS: open counts, the day's paths, when a fold was, then one an id. Answers whether a fold is
# due. ARGV: most paths, an id's seconds, then for
# each id its moment, hour, path, whether that is known, the rest of its place, its bucket.
COUNT_SAMPLES = """
local function add(place, bucket, n)
  local field = place .. '|' .. bucket
  if redis.call('HINCRBY', KEYS[1], field, n) == 0 then redis.call('HDEL', KEYS[1], field) end
end
local function allowed(path)
  if redis.call('SISMEMBER', KEYS[2], path) == 1 then return path end
  if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[1]) then return '(other)' end
  redis.call('SADD', KEYS[2], path)
  redis.call('EXPIRE', KEYS[2], 172800)
  return path
end
for i = 4, #KEYS do
  local at, hour, path, known, rest, bucket = unpack(ARGV, (i - 4) * 6 + 3, (i - 4) * 6 + 8)
  local last = redis.call('HMGET', KEYS[i], 'at', 'place', 'bucket')
  if not last[1] or tonumber(last[1]) < tonumber(at) then
    local place = last[2]
    if place then
      add(place, last[3], -1)
    else
      if known == '0' then path = allowed(path) end
      place = hour .. '|' .. path .. '|' .. rest
    end
    add(place, bucket, 1)
    redis.call('HSET', KEYS[i], 'at', at, 'place', place, 'bucket', bucket)
    redis.call('EXPIRE', KEYS[i], ARGV[2])
  end
end
return 1 - redis.call('EXISTS', KEYS[3])
"""

# KEYS: open counts, batches. What is not in Postgres yet, at one moment: name, fields, name, …
READ_PENDING = """
local found = {'', redis.call('HGETALL', KEYS[1])}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('HGETALL', 'rum:batch:' .. name)
end
return found
"""

# Repeat-safe: an id counts again only when its moment is newer, and what it counted as before
# comes from the row as it was locked, so two at once cannot both be the first.
COUNT_HERE = """
with given as (
  select id, at, hour, device, metric, release, bucket,
    case when path = any(%(known)s) or exists (
        select from rum_hours as had where had.path = g.path and had.hour >= %(today)s)
      or (select count(distinct path) from rum_hours where hour >= %(today)s) < %(max_paths)s
    then path else %(other)s end as path
  from unnest(%(id)s::text[], %(at)s::bigint[], %(hour)s::timestamptz[], %(path)s::text[],
    %(device)s::text[], %(metric)s::text[], %(release)s::text[], %(bucket)s::smallint[])
    as g (id, at, hour, path, device, metric, release, bucket)
), kept as (
  insert into rum_lasts as last
    (id, at, hour, path, device, metric, release, bucket, seen_at)
  select id, at, hour, path, device, metric, release, bucket, %(now)s from given order by id
  on conflict (id) do update set at = excluded.at, bucket_before = last.bucket,
    bucket = excluded.bucket, seen_at = excluded.seen_at
  where last.at < excluded.at
  returning hour, path, device, metric, release, bucket, bucket_before
), changed as (
  select hour, path, device, metric, release, bucket, 1 as n from kept
  union all
  select hour, path, device, metric, release, bucket_before, -1 from kept
  where bucket_before is not null
), summed as (
  select hour, path, device, metric, release, bucket, sum(n)::int as n from changed
  group by hour, path, device, metric, release, bucket having sum(n) <> 0
)
insert into rum_hours as ours (hour, path, device, metric, release, buckets, counts)
select hour, path, device, metric, release, array_agg(bucket order by bucket),
  array_agg(n order by bucket)
from summed group by hour, path, device, metric, release
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


class IngestResult(NamedTuple):
    """where: redis, postgres, or nowhere (then `lost` samples are gone). due: fold now."""

    where: str
    lost: int = 0
    rollup_due: bool = False


def record(means: Services, samples: Sequence[Sample], now: datetime) -> IngestResult:
    """Count the samples, in Redis, else in Postgres, else not at all."""
    lost, where, due = 0, "redis", False
    for start in range(0, len(samples), SAMPLES_PER_CALL):
        some = samples[start : start + SAMPLES_PER_CALL]
        try:
            due = bool(means.cache.execute(*_count_command(some, now)))
            continue
        except (CacheDown, NotConfigured):
            where = "postgres"
        try:
            means.database.run(partial(_count_here, samples=some, now=now))
        except (DatabaseDown, NotConfigured):
            lost += len(some)
    return IngestResult("nowhere" if lost else where, lost, due)


type CountRow = tuple[datetime, str, str, str, str, int, int]
"""hour, path, device, metric, release, bucket, n"""


def parse_counts(counts: Iterable[tuple[str, Any]]) -> list[CountRow]:
    """Rows from the fields and counts of a hash in Redis."""
    rows = []
    for place, n in counts:
        hour, path, device, metric, release, bucket = place.split("|")
        at = datetime.fromtimestamp(int(hour), UTC)
        rows.append((at, path, device, metric, release, int(bucket), int(n)))
    return rows


def read_pending(redis: Callable[..., Any]) -> dict[str, list[CountRow]]:
    """What is not in Postgres yet, by batch; the open counts under "". Raises CacheDown."""
    found = redis("EVAL", READ_PENDING, 2, OPEN_COUNTS_KEY, BATCHES_KEY)
    return {name: parse_counts(_pairs(flat)) for name, flat in _pairs(found)}


def _pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """What Redis lists as one, two, one, two, …"""
    return list(zip(flat[::2], flat[1::2], strict=True))


def _count_command(samples: Sequence[Sample], now: datetime) -> tuple[str | int, ...]:
    keys = [OPEN_COUNTS_KEY, f"rum:paths:{now:%Y%m%d}", ROLLUP_THROTTLE_KEY]
    args: list[str | int] = [MAX_PATHS_PER_DAY, SAMPLE_ID_TTL_S]
    for one in samples:
        keys.append(sample_key(one.id))
        known = int(one.path in KNOWN_PATHS)
        rest = f"{one.device}|{one.metric}|{one.release}"
        args += [one.at_ms, int(one.hour.timestamp()), one.path, known, rest, one.bucket]
    return ("EVAL", COUNT_SAMPLES, len(keys), *keys, *args)


def _count_here(connection: "Connection[Any]", samples: Sequence[Sample], now: datetime) -> None:
    values: dict[str, object] = {
        name: [getattr(one, name) for one in samples]
        for name in ("id", "hour", "path", "device", "metric", "release", "bucket")
    }
    values |= {
        "at": [one.at_ms for one in samples],
        "now": now,
        "today": now - timedelta(days=1),
        "known": [*KNOWN_PATHS, OTHER_PATHS],
        "other": OTHER_PATHS,
        "max_paths": MAX_PATHS_PER_DAY,
    }
    with connection.transaction():
        connection.execute(COUNT_HERE, values)
        connection.execute(UPSERT_RELEASES, values)


def sample_key(sample_id: str) -> str:
    return f"rum:last:{sample_id}"


def batch_key(name: str) -> str:
    return f"rum:batch:{name}"
