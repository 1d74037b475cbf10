"""Counting samples in Redis: one atomic call a beacon, which may be repeated.

Redis remembers for some hours in which bucket an id was counted; a newer value moves that count to
another bucket, so the last value of an id counts once. Counts are only ever added: it does not
matter that the rollup has stored the old bucket's count meanwhile, a minus one follows it.
Redis down: the samples are lost, and the log says how many.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import batched
from typing import Any, NamedTuple

from lib.interfaces import RedisExecute, Services
from lib.problems import CacheDown, NotConfigured
from lib.vitals.samples import KNOWN_PATHS, Sample

OPEN_COUNTS_KEY = "rum:open"
BATCHES_KEY = "rum:batches"
ROLLUP_THROTTLE_KEY = "rum:folded"
SAMPLE_ID_TTL_S = 6 * 3600  # a page open for longer and reporting again is a second visit
SAMPLES_PER_CALL = 200
MAX_PATHS_PER_DAY = 200  # beyond the site's own pages; the rest is "(other)"

# KEYS: open counts, the day's paths, the rollup's throttle, then one an id. ARGV: the limit of
# paths, an id's TTL, then for each id its time, hour, path, whether the path is one of the site's,
# the other dimensions and the bucket. Returns whether a rollup is due.
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

# KEYS: open counts, batches. Returns what Postgres does not hold yet: name, fields, name, …
READ_PENDING = """
local pending = {'', redis.call('HGETALL', KEYS[1])}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  pending[#pending + 1] = name
  pending[#pending + 1] = redis.call('HGETALL', 'rum:batch:' .. name)
end
return pending
"""

type CountRow = tuple[datetime, str, str, str, str, int, int]
"""hour, path, device, metric, release, bucket, n"""


class IngestResult(NamedTuple):
    """lost: how many samples Redis did not take."""

    lost: int
    rollup_due: bool


def record(services: Services, samples: Sequence[Sample], now: datetime) -> IngestResult:
    """Count the samples."""
    lost, rollup_due = 0, False
    for chunk in batched(samples, SAMPLES_PER_CALL):
        try:
            rollup_due = bool(services.cache.execute(*_count_command(chunk, now)))
        except (CacheDown, NotConfigured):
            lost += len(chunk)
    return IngestResult(lost, rollup_due)


def _count_command(samples: Sequence[Sample], now: datetime) -> tuple[str | int, ...]:
    keys = [OPEN_COUNTS_KEY, f"rum:paths:{now:%Y%m%d}", ROLLUP_THROTTLE_KEY]
    args: list[str | int] = [MAX_PATHS_PER_DAY, SAMPLE_ID_TTL_S]
    for sample in samples:
        keys.append(f"rum:last:{sample.id}")
        is_site_page = int(sample.path in KNOWN_PATHS)
        rest = f"{sample.device}|{sample.metric}|{sample.release}"
        hour = int(sample.hour.timestamp())
        args += [sample.at_ms, hour, sample.path, is_site_page, rest, sample.bucket]
    return ("EVAL", COUNT_SAMPLES, len(keys), *keys, *args)


def read_pending(execute: RedisExecute) -> dict[str, list[CountRow]]:
    """The counts that Postgres does not hold yet, by batch; the open ones under "".

    Raises CacheDown.
    """
    flat = execute("EVAL", READ_PENDING, 2, OPEN_COUNTS_KEY, BATCHES_KEY)
    return {name: parse_counts(batched(fields, 2)) for name, fields in batched(flat, 2)}


def parse_counts(counts: Iterable[tuple[str, Any]]) -> list[CountRow]:
    """Rows from the fields and counts of a hash in Redis."""
    rows = []
    for field, n in counts:
        hour, path, device, metric, release, bucket = field.split("|")
        at = datetime.fromtimestamp(int(hour), UTC)
        rows.append((at, path, device, metric, release, int(bucket), int(n)))
    return rows


def batch_key(name: str) -> str:
    return f"rum:batch:{name}"
