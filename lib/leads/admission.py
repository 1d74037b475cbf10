"""Idempotency and rate limit, in one Redis script.

Redis down: let in and count nothing; Postgres still knows what it has. A submission is remembered
for 24 hours once it is accepted. One that is still in work is waited for a moment, never longer:
whoever was at it may have been killed.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from lib.maintenance import KEY as SWITCH
from lib.problems import CacheDown

type RunCommand = Callable[..., Any]
"""`Cache.run`."""

IDEMPOTENCY_TTL_S = 24 * 3600
IN_FLIGHT_TTL_S = 9  # longer than any request may take


class RateLimits(NamedTuple):
    per_minute: int
    per_hour: int
    ceiling_per_minute: int


class IdempotencyRecord(NamedTuple):
    """A submission accepted before, and how it was answered. keyed: it had an Idempotency-Key."""

    id: UUID
    ref: str
    status: int
    body_sha256: str
    keyed: bool = True


class Admitted(NamedTuple):
    """A submission not seen before, or one that says something else in the same words.

    flooded: everybody's ceiling is passed. repeats: how often this text came within a day,
    whoever sent it. uncounted: why nobody counted it; None when it was counted. maintenance:
    what the switch says, from the same trip. earlier: the lead that the same phone, business and
    message made. in_work: another request with it was let in seconds ago and is not accepted yet.
    """

    flooded: bool
    repeats: int
    not_counted_because: str | None = None
    maintenance: object = None
    earlier: IdempotencyRecord | None = None
    in_flight: bool = False


class TooMany(NamedTuple):
    """One too many from this client. wait_s: until the next would be let in."""

    limit: int
    retry_after_s: int


# KEYS: idempotency record, client, everybody's minute, text, the maintenance switch, the record of
# the same words. ARGV: now_ms, per_minute, per_hour, member, the body's hash, 1 with a key,
# IN_WORK_S. A refused request is not counted: waiting as told always helps. Without a key another
# body is no repeat: it corrects the lead, and counts.
ADMIT = """
local seen = redis.call('GET', KEYS[1])
if seen == '' then seen = false end
if seen and (ARGV[6] == '1' or string.find(seen, ARGV[5], 1, true)) then return {'seen', seen} end
local now, minute, hour = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 3600000)
local in_hour = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
local count = #in_hour / 2
if count >= hour then
  local oldest = tonumber(in_hour[(count - hour) * 2 + 2])
  return {'turned', hour, oldest + 3600000 - now}
end
local since, in_minute = now - 60000, {}
for i = 2, #in_hour, 2 do
  local at = tonumber(in_hour[i])
  if at > since then in_minute[#in_minute + 1] = at end
end
if #in_minute >= minute then
  return {'turned', minute, in_minute[#in_minute - minute + 1] + 60000 - now}
end
redis.call('ZADD', KEYS[2], now, ARGV[4])
redis.call('EXPIRE', KEYS[2], 3600)
local first = seen or redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[7])
local flood = redis.call('INCR', KEYS[3])
redis.call('EXPIRE', KEYS[3], 120)
local repeats = redis.call('INCR', KEYS[4])
redis.call('EXPIRE', KEYS[4], 86400)
return {'entered', flood, repeats, redis.call('GET', KEYS[5]) or '',
  redis.call('GET', KEYS[6]) or '', first and 0 or 1}
"""


def admit(
    command: RunCommand,
    *,
    identity: str,
    content_identity: str,
    body_sha256: str,
    keyed: bool,
    text_sha256: str,
    client: str,
    member: str,
    limits: RateLimits,
    now: datetime,
) -> Admitted | IdempotencyRecord | TooMany | None:
    """Ask Redis; None when it does not answer. member: unique to this request."""
    minute = int(now.timestamp()) // 60
    keys = (
        _record_key(identity),
        f"rate:{client}",
        f"flood:{minute}",
        f"text:{text_sha256}",
        SWITCH,
        _record_key(content_identity),
    )
    now_ms = int(now.timestamp() * 1000)
    args = (
        now_ms,
        limits.per_minute,
        limits.per_hour,
        member,
        body_sha256,
        int(keyed),
        IN_FLIGHT_TTL_S,
    )
    try:
        answer = command("EVAL", ADMIT, len(keys), *keys, *args)
        return _parse_reply(answer, limits)
    except (CacheDown, AttributeError, LookupError, TypeError, ValueError):
        # Down, or what it said is none of our answers.
        return None


def _parse_reply(answer: Any, limits: RateLimits) -> Admitted | IdempotencyRecord | TooMany:
    word, first, *rest = answer
    if word == "entered":
        flooded = int(first) > limits.ceiling_per_minute
        earlier = _parse_record(rest[2]) if rest[2] else None
        return Admitted(
            flooded,
            int(rest[0]),
            maintenance=rest[1] or None,
            earlier=earlier,
            in_flight=bool(int(rest[3])),
        )
    if word == "turned":
        return TooMany(int(first), max(1, -(-int(rest[0]) // 1000)))
    if word != "seen":
        raise ValueError("no such answer")
    return _parse_record(first)


def _parse_record(text: str) -> IdempotencyRecord:
    record = json.loads(text)
    return IdempotencyRecord(
        UUID(record["id"]),
        record["ref"],
        int(record["status"]),
        record["body_sha256"],
        bool(record.get("keyed", True)),
    )


def find_record(command: RunCommand, identity: str) -> IdempotencyRecord | None:
    """The submission as it was accepted; None when it is in work, or unknown, or nobody answers."""
    try:
        return _parse_record(command("GET", _record_key(identity)))
    except (CacheDown, AttributeError, LookupError, TypeError, ValueError):
        return None


def remember_command(identity: str, seen: IdempotencyRecord) -> tuple[str | int, ...]:
    """The command that remembers an accepted submission; safe to repeat."""
    record = {**seen._asdict(), "id": str(seen.id)}
    return ("SET", _record_key(identity), json.dumps(record), "EX", IDEMPOTENCY_TTL_S)


# Only the mark of work goes: whoever was accepted meanwhile stays remembered.
FORGET_IN_FLIGHT = """
if redis.call('GET', KEYS[1]) == '' then return redis.call('DEL', KEYS[1]) end
return 0
"""


def release_commands(identity: str, client: str, member: str) -> tuple[tuple[str | int, ...], ...]:
    """The commands that forget one that was kept nowhere: it may come again, and was not one."""
    return (
        ("EVAL", FORGET_IN_FLIGHT, 1, _record_key(identity)),
        ("ZREM", f"rate:{client}", member),
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
