"""Whether a lead is let in: idempotency and rate limit, decided in one Redis script.

While Redis is down everybody is let in and not counted; Postgres still recognises duplicates. A
submission is remembered for 24 hours once it is accepted. One that is in flight is waited for
briefly, never longer: the process that took it may have been killed.
"""

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from lib.interfaces import Services
from lib.leads.lead import Lead
from lib.maintenance import KEY as MAINTENANCE_KEY
from lib.problems import CacheDown, IdempotencyKeyReused, NotConfigured, Problem, RateLimited

IDEMPOTENCY_TTL_S = 24 * 3600
IN_FLIGHT_TTL_S = 9  # longer than any request may take
DUPLICATE_WAIT_S, DUPLICATE_POLL_S = 1.5, 0.05

type Execute = Callable[..., Any]
"""`Cache.execute`."""


class RateLimits(NamedTuple):
    per_minute: int
    per_hour: int
    ceiling_per_minute: int  # of all clients together


class IdempotencyRecord(NamedTuple):
    """An accepted submission and how it was answered. keyed: it had an Idempotency-Key."""

    id: UUID
    ref: str
    status: int
    body_sha256: str
    keyed: bool = True


class Admission(NamedTuple):
    """What was decided about one request, in this order.

    refusal: it is refused: IdempotencyKeyReused or RateLimited. duplicate: the same submission was
    accepted before and is answered as it was then. Else it is let in, and this is known of it:
    earlier: the lead that the same phone, business and message made; flooded: the ceiling of all
    clients is passed; repeats: how often this text came within a day, from anybody; in_flight:
    another request with it was let in seconds ago and is not accepted yet; maintenance: the
    maintenance switch as Redis has it; not_counted_because: why no limit was applied.
    """

    refusal: Problem | None = None
    duplicate: IdempotencyRecord | None = None
    earlier: IdempotencyRecord | None = None
    flooded: bool = False
    repeats: int = 0
    in_flight: bool = False
    maintenance: object = None
    not_counted_because: str | None = None

    @property
    def is_counted(self) -> bool:
        """It is let in, and Redis counted it."""
        return not (self.refusal or self.duplicate or self.not_counted_because)


# KEYS: idempotency record, client, all clients' minute, text, the maintenance switch, the record of
# the same words. ARGV: now_ms, per_minute, per_hour, request, the body's hash, 1 with a key,
# IN_FLIGHT_TTL_S. A refused request is not counted: waiting as told always helps. Without a key
# another body is no duplicate: it corrects the lead, and counts.
ADMIT = """
local record = redis.call('GET', KEYS[1])
if record == '' then record = false end
if record and (ARGV[6] == '1' or string.find(record, ARGV[5], 1, true)) then
  return {'duplicate', record}
end
local now, minute, hour = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 3600000)
local in_hour = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
local count = #in_hour / 2
if count >= hour then
  local oldest = tonumber(in_hour[(count - hour) * 2 + 2])
  return {'rate_limited', hour, oldest + 3600000 - now}
end
local since, in_minute = now - 60000, {}
for i = 2, #in_hour, 2 do
  local at = tonumber(in_hour[i])
  if at > since then in_minute[#in_minute + 1] = at end
end
if #in_minute >= minute then
  return {'rate_limited', minute, in_minute[#in_minute - minute + 1] + 60000 - now}
end
redis.call('ZADD', KEYS[2], now, ARGV[4])
redis.call('EXPIRE', KEYS[2], 3600)
local first = record or redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[7])
local flood = redis.call('INCR', KEYS[3])
redis.call('EXPIRE', KEYS[3], 120)
local repeats = redis.call('INCR', KEYS[4])
redis.call('EXPIRE', KEYS[4], 86400)
return {'admitted', flood, repeats, redis.call('GET', KEYS[5]) or '',
  redis.call('GET', KEYS[6]) or '', first and 0 or 1}
"""


def decide(
    services: Services, lead: Lead, limits: RateLimits, request: str, now: datetime
) -> Admission:
    """The decision about a lead. request: unique to it, by which `release` uncounts it."""
    try:
        admission = _ask_redis(services.cache.execute, lead, limits, request, now)
        if admission.in_flight:
            admission = _await_duplicate(services.cache.execute, lead) or admission
    except NotConfigured as error:
        return Admission(not_counted_because=str(error))
    except (CacheDown, AttributeError, LookupError, TypeError, ValueError):
        # Down, or the reply is none of the script's.
        return Admission(not_counted_because="redis is down")
    duplicate, earlier = admission.duplicate, admission.earlier
    if duplicate is not None and lead.keyed and duplicate.body_sha256 != lead.body_sha256:
        return Admission(refusal=IdempotencyKeyReused())
    if earlier is not None and lead.keyed and earlier.keyed:
        return admission._replace(earlier=None)  # two keys are two leads
    return admission


def _ask_redis(
    execute: Execute, lead: Lead, limits: RateLimits, request: str, now: datetime
) -> Admission:
    keys = (
        _record_key(lead.identity),
        f"rate:{client_key(lead.ip_address)}",
        f"flood:{int(now.timestamp()) // 60}",
        f"text:{lead.text_sha256}",
        MAINTENANCE_KEY,
        _record_key(lead.content_identity),
    )
    args = (
        int(now.timestamp() * 1000),
        limits.per_minute,
        limits.per_hour,
        request,
        lead.body_sha256,
        int(lead.keyed),
        IN_FLIGHT_TTL_S,
    )
    return _parse_reply(execute("EVAL", ADMIT, len(keys), *keys, *args), limits, now)


def _parse_reply(reply: Any, limits: RateLimits, now: datetime) -> Admission:
    decision, first, *rest = reply
    if decision == "duplicate":
        return Admission(duplicate=_parse_record(first))
    if decision == "rate_limited":
        wait_s = max(1, -(-int(rest[0]) // 1000))
        return Admission(
            refusal=RateLimited(
                limit=int(first),
                remaining=0,
                wait_s=wait_s,
                reset_at_s=int(now.timestamp()) + wait_s,
            )
        )
    if decision != "admitted":
        raise ValueError("not a reply of the script")
    repeats, maintenance, earlier, in_flight = rest
    return Admission(
        earlier=_parse_record(earlier) if earlier else None,
        flooded=int(first) > limits.ceiling_per_minute,
        repeats=int(repeats),
        in_flight=bool(int(in_flight)),
        maintenance=maintenance or None,
    )


def _parse_record(text: str) -> IdempotencyRecord:
    record = json.loads(text)
    return IdempotencyRecord(
        UUID(record["id"]),
        record["ref"],
        int(record["status"]),
        record["body_sha256"],
        bool(record.get("keyed", True)),
    )


def _await_duplicate(execute: Execute, lead: Lead) -> Admission | None:
    """The decision once the request in flight is accepted; None when that takes too long."""
    end = time.monotonic() + DUPLICATE_WAIT_S
    while time.monotonic() < end:
        time.sleep(DUPLICATE_POLL_S)
        try:
            record = _parse_record(execute("GET", _record_key(lead.identity)))
        except (CacheDown, AttributeError, LookupError, TypeError, ValueError):
            continue  # in flight still, or nobody answers
        # Without a key another body is no duplicate: it corrects what was just accepted.
        is_duplicate = lead.keyed or record.body_sha256 == lead.body_sha256
        return Admission(duplicate=record) if is_duplicate else None
    return None


def remember_command(identity: str, record: IdempotencyRecord) -> tuple[str | int, ...]:
    """The Redis command that remembers an accepted submission; safe to repeat."""
    text = json.dumps({**record._asdict(), "id": str(record.id)})
    return ("SET", _record_key(identity), text, "EX", IDEMPOTENCY_TTL_S)


# A record that was accepted meanwhile stays.
FORGET_IN_FLIGHT = """
if redis.call('GET', KEYS[1]) == '' then return redis.call('DEL', KEYS[1]) end
return 0
"""


def release(services: Services, lead: Lead, request: str) -> None:
    """After a lead was stored nowhere: it may come again at once, and is not counted."""
    services.cache.pipeline(
        ("EVAL", FORGET_IN_FLIGHT, 1, _record_key(lead.identity)),
        ("ZREM", f"rate:{client_key(lead.ip_address)}", request),
    )


def client_key(address: str | None) -> str:
    """Whose allowance a request uses: an IPv4 address, or an IPv6 network of 64 bits."""
    if address is None:
        return "unknown"
    if ":" not in address:
        return address
    import ipaddress  # only for those

    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return str(mapped or ipaddress.ip_network(f"{address}/64", strict=False))


def _record_key(identity: str) -> str:
    return f"seen:{identity}"
