"""At the door: has this submission been here before, and may its sender send another?

Asked in one atomic call. Redis down: let in and count nothing; Postgres still knows what it has.
A submission is remembered for 24 hours once accepted, and only briefly while it is being kept.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from lib.maintenance import KEY as SWITCH
from lib.problems import CacheDown

type Command = Callable[..., Any]
"""`Cache.run`."""

REMEMBERED_S = 24 * 3600
# Longer than any request may take; a crash leaves its sender waiting no longer than this.
PROGRESS_S = 9


class Limits(NamedTuple):
    per_minute: int
    per_hour: int
    ceiling_per_minute: int


class Entered(NamedTuple):
    """A submission not seen before.

    flooded: everybody's ceiling is passed. repeats: how often this text came within a day,
    whoever sent it. uncounted: why nobody counted it; None when it was counted. maintenance:
    what the switch says, from the same trip.
    """

    flooded: bool
    repeats: int
    uncounted: str | None = None
    maintenance: object = None


class Seen(NamedTuple):
    """A submission accepted before, and how it was answered."""

    id: UUID
    ref: str
    status: int
    body_sha256: str


class Busy:
    """Its first request is still on its way."""


class Turned(NamedTuple):
    """One too many from this client. wait_s: until the next would be let in."""

    limit: int
    wait_s: int


# KEYS: seen, client, everybody's minute, text, the maintenance switch. ARGV: now_ms, per_minute,
# per_hour, member, progress_s. A refused request is not counted: waiting as told always helps.
ENTER = """
local seen = redis.call('GET', KEYS[1])
if seen then return {'seen', seen} end
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
redis.call('SET', KEYS[1], '', 'EX', ARGV[5])
local flood = redis.call('INCR', KEYS[3])
redis.call('EXPIRE', KEYS[3], 120)
local repeats = redis.call('INCR', KEYS[4])
redis.call('EXPIRE', KEYS[4], 86400)
return {'entered', flood, repeats, redis.call('GET', KEYS[5]) or ''}
"""


def enter(
    command: Command,
    *,
    identity: str,
    text_sha256: str,
    client: str,
    member: str,
    limits: Limits,
    now: datetime,
) -> Entered | Seen | Busy | Turned | None:
    """Ask at the door; None when nobody is there. member: unique to this request."""
    minute = int(now.timestamp()) // 60
    keys = (_seen(identity), f"rate:{client}", f"flood:{minute}", f"text:{text_sha256}", SWITCH)
    args = (int(now.timestamp() * 1000), limits.per_minute, limits.per_hour, member, PROGRESS_S)
    try:
        answer = command("EVAL", ENTER, len(keys), *keys, *args)
        return _understood(answer, limits)
    except (CacheDown, AttributeError, LookupError, TypeError, ValueError):
        # Down, or what it said is none of our answers.
        return None


def _understood(answer: Any, limits: Limits) -> Entered | Seen | Busy | Turned:
    word, first, *rest = answer
    if word == "entered":
        flooded = int(first) > limits.ceiling_per_minute
        return Entered(flooded, int(rest[0]), maintenance=rest[1] or None)
    if word == "turned":
        return Turned(int(first), max(1, -(-int(rest[0]) // 1000)))
    if word != "seen":
        raise ValueError("no such answer")
    if first == "":
        return Busy()
    found = json.loads(first)
    return Seen(UUID(found["id"]), found["ref"], int(found["status"]), found["body_sha256"])


def settled(identity: str, seen: Seen) -> tuple[str | int, ...]:
    """The command that remembers an accepted submission; safe to repeat."""
    record = {
        "id": str(seen.id),
        "ref": seen.ref,
        "status": seen.status,
        "body_sha256": seen.body_sha256,
    }
    return ("SET", _seen(identity), json.dumps(record), "EX", REMEMBERED_S)


def left(identity: str, client: str, member: str) -> tuple[tuple[str, ...], ...]:
    """The commands that forget one that was kept nowhere: it may come again, and was not one."""
    return (("DEL", _seen(identity)), ("ZREM", f"rate:{client}", member))


def client_of(address: str | None) -> str:
    """Whose allowance a request uses: an IPv4 address, or an IPv6 network of 64 bits."""
    if address is None:
        return "unknown"
    if ":" not in address:
        return address
    import ipaddress  # only for those

    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return str(mapped or ipaddress.ip_network(f"{address}/64", strict=False))


def _seen(identity: str) -> str:
    return f"seen:{identity}"
