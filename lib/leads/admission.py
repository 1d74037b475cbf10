"""Whether a lead is let in: what a store decides, and how the queue in Redis decides.

Redis is asked only when Postgres cannot take a lead. One script decides by the rules of
`accept_lead` in Postgres and queues the lead, so of many at once each is decided about for itself.
Redis knows a submission that Postgres took by its record, which is written after the answer and
kept for 24 hours.
"""

import hmac
import json
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from lib.interfaces import RedisCommand, RedisPipeline
from lib.leads.emails import Email
from lib.leads.lead import Lead
from lib.problems import (
    CacheDown,
    ErasedSubject,
    IdempotencyKeyReused,
    IntakeClosed,
    NotConfigured,
    RateLimited,
)

IDEMPOTENCY_TTL_S = 24 * 3600


class RateLimits(NamedTuple):
    per_minute: int
    per_hour: int
    ceiling_per_minute: int  # of all clients together


UNLIMITED = RateLimits(1_000_000, 1_000_000, 1_000_000)


class Decision(NamedTuple):
    """What one statement (`accept_lead`) or script (ADMIT) decided about a lead.

    name: the migration lists those of Postgres, ADMIT those of Redis. stored: the row in Postgres;
    an IdempotencyRecord; or of `queued`, what is queued under the lead's id now.
    """

    name: str
    stored: Any = None
    rate_limit: int | None = None
    retry_at: datetime | None = None

    def raise_refusal(self, now: datetime) -> None:
        """Raises IdempotencyKeyReused, RateLimited, ErasedSubject or IntakeClosed if it is one."""
        if self.name == "rate_limited" and self.rate_limit and self.retry_at:
            wait_s = max(1, -(-(self.retry_at - now) // timedelta(seconds=1)))
            reset_at_s = int(now.timestamp()) + wait_s
            raise RateLimited(
                limit=self.rate_limit, remaining=0, wait_s=wait_s, reset_at_s=reset_at_s
            )
        if self.name in REFUSALS:
            raise REFUSALS[self.name]


REFUSALS: dict[str, type[Exception]] = {
    "key_reused": IdempotencyKeyReused,
    "erased": ErasedSubject,
    "closed": IntakeClosed,
}


class StoreFailure(NamedTuple):
    """A store that did not take the lead, and why."""

    store: str
    error: Exception

    def __str__(self) -> str:
        name = type(self.error).__name__
        return f"{self.store}: {self.error if isinstance(self.error, NotConfigured) else name}"


class Admission(NamedTuple):
    """A lead that was let in, as its store has it, and the mails to send now.

    decision: stored, stored_before, corrected, spam, queued, duplicate (of a record in Redis),
    mailed; from a store alone also repeated_text: nothing is stored, screen it once more.
    failures: of the stores that were asked before.
    """

    lead: Lead
    decision: str
    emails: tuple[Email, ...] = ()
    failures: tuple[StoreFailure, ...] = ()


# ------------------------------------------------------------------ Redis


class IdempotencyRecord(NamedTuple):
    """An accepted submission and how it was answered. keyed: it had an Idempotency-Key."""

    id: UUID
    ref: str
    status: int
    body_sha256: str
    keyed: bool = True

    def identify(self, lead: Lead) -> Lead:
        """The lead, under the record's id."""
        return lead._replace(id=self.id, ref=self.ref)


# KEYS: idempotency record, client, all clients' minute, text, the record of the same words, queue.
# ARGV: now_ms, per_minute, per_hour, ceiling, a name for this request, the body's hash, 1 with a
# key, repeats allowed (-1: any), 1 once the earlier lead is known, field, the sealed lead, the same
# for review, its record, how long that is kept.
# duplicate: of the submission in the record, which is answered as it was then. earlier: the same
# words made the lead in the record: ask again with its id. repeated_text: screen it once more, and
# ask again. A refused request is not counted. Without a key another body is no duplicate: it
# corrects the lead, and counts. Two keys are two leads.
ADMIT = """
local record = redis.call('GET', KEYS[1])
if record and (ARGV[7] == '1' or string.find(record, ARGV[6], 1, true)) then
  return {'duplicate', record}
end
local words = redis.call('GET', KEYS[5])
if words and ARGV[9] == '0'
  and (ARGV[7] == '0' or string.find(words, '"keyed": false', 1, true)) then
  return {'earlier', words}
end
local repeats, most = tonumber(redis.call('GET', KEYS[4]) or '0'), tonumber(ARGV[8])
if most >= 0 and repeats >= most then return {'repeated_text'} end
local now, waits = tonumber(ARGV[1]), {}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 3600000)
for limit, span in pairs({[3] = 3600000, [2] = 60000}) do
  local most = tonumber(ARGV[limit])
  local at = redis.call('ZREVRANGE', KEYS[2], most - 1, most - 1, 'WITHSCORES')[2]
  local wait = (tonumber(at) or 0) + span - now
  if at and wait > (waits[2] or 0) then waits = {most, wait} end
end
if waits[1] then return {'rate_limited', waits[1], waits[2]} end
redis.call('ZADD', KEYS[2], now, ARGV[5])
redis.call('EXPIRE', KEYS[2], 3600)
redis.call('INCR', KEYS[4])
redis.call('EXPIRE', KEYS[4], 86400)
local flood = redis.call('INCR', KEYS[3])
redis.call('EXPIRE', KEYS[3], 120)
local sealed = flood > tonumber(ARGV[4]) and ARGV[12] or ARGV[11]
redis.call('HSETNX', KEYS[6], ARGV[10], sealed)
redis.call('SET', KEYS[1], ARGV[13], 'EX', ARGV[14])
return {'queued', redis.call('HGET', KEYS[6], ARGV[10])}
"""


def decide(
    pipeline: RedisPipeline, lead: Lead, sealed: tuple[str, str], limits: RateLimits, *, queue: str,
    max_repeats: int | None, knows_earlier: bool,
) -> Decision:  # fmt: skip
    """Queue a lead if it is let in. Raises CacheDown, for an unreadable answer too.

    sealed: the lead, and the lead for review. knows_earlier: it has the id of an earlier lead of
    the same words, if there is one.
    """
    now = lead.created_at
    keys = (
        record_key(lead.identity),
        rate_key(lead.ip_address),
        f"flood:{int(now.timestamp()) // 60}",
        text_key(lead.text_sha256),
        record_key(lead.content_identity),
        queue,
    )
    record = IdempotencyRecord(lead.id, lead.ref, 202, lead.body_sha256, lead.keyed)
    args = (
        int(now.timestamp() * 1000),
        *limits,
        uuid4().hex,
        lead.body_sha256,
        int(lead.keyed),
        -1 if max_repeats is None else max_repeats,
        int(knows_earlier),
        str(lead.id),
        *sealed,
        _to_json(record),
        IDEMPOTENCY_TTL_S,
    )
    (reply,) = pipeline(("EVAL", ADMIT, len(keys), *keys, *args))
    try:
        return _parse_reply(lead, *reply)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CacheDown from error  # the reply is none of the script's


def _parse_reply(lead: Lead, name: str, stored: Any = None, wait_ms: Any = None) -> Decision:
    if name == "duplicate":
        return _as_repeat(lead, _parse_record(stored))
    if name == "earlier":
        return Decision(name, _parse_record(stored))
    if name == "rate_limited":
        retry_at = lead.created_at + timedelta(milliseconds=int(wait_ms))
        return Decision(name, rate_limit=int(stored), retry_at=retry_at)
    if name in ("queued", "repeated_text"):
        return Decision(name, stored)
    raise ValueError("not a reply of the script")


def _as_repeat(lead: Lead, record: IdempotencyRecord) -> Decision:
    is_reused = lead.keyed and record.body_sha256 != lead.body_sha256
    return Decision("key_reused" if is_reused else "duplicate", record)


def find_record(pipeline: RedisPipeline, lead: Lead) -> Decision:
    """What Redis knows of a lead that Postgres may not have yet; `new` if nothing.

    Raises CacheDown.
    """
    texts = pipeline(("GET", record_key(lead.identity)), ("GET", record_key(lead.content_identity)))
    try:
        record, words = (text and _parse_record(text) for text in texts)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CacheDown from error
    if record and (lead.keyed or record.body_sha256 == lead.body_sha256):
        return _as_repeat(lead, record)
    if words and not (lead.keyed and words.keyed):
        return Decision("earlier", words)
    return Decision("new")


def remember_command(identity: str, record: IdempotencyRecord) -> RedisCommand:
    """The Redis command that remembers an accepted submission; safe to repeat."""
    return ("SET", record_key(identity), _to_json(record), "EX", IDEMPOTENCY_TTL_S)


def _to_json(record: IdempotencyRecord) -> str:
    return json.dumps({**record._asdict(), "id": str(record.id)})


def _parse_record(text: str) -> IdempotencyRecord:
    record = json.loads(text)
    return IdempotencyRecord(
        UUID(record["id"]),
        record["ref"],
        int(record["status"]),
        record["body_sha256"],
        bool(record.get("keyed", True)),
    )


def record_key(identity: str) -> str:
    return f"seen:{identity}"


def text_key(text_sha256: str) -> str:
    return f"text:{text_sha256}"


# ------------------------------------------------------------------ whose limits


def rate_key(address: str | None) -> str:
    return f"rate:{client_key(address)}"


def client_key(address: str | None) -> str:
    """Whose allowance a request uses: an IPv4 address, or an IPv6 network of 64 bits."""
    if address is None:
        return "unknown"
    if ":" not in address:
        return address
    import ipaddress  # only for those

    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return str(mapped or ipaddress.ip_network(f"{address}/64", strict=False))


def client_hash(key: bytes, address: str | None) -> bytes:
    """The client as Postgres knows it, where no address is kept beside its count."""
    return hmac.digest(key, client_key(address).encode(), "sha256")


DELETE_CLIENTS = "delete from lead_clients where client = any(%(clients)s::bytea[])"
