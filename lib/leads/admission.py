"""Whether a lead is let in, by the queue in Redis: what Postgres decides in `accept_lead`.

Redis is asked only when Postgres cannot take a lead. One script decides by the same rules and
queues the lead, so of many at once each is decided about for itself. Redis knows a submission that
Postgres took by its record, which is written after the answer and kept for 24 hours.
"""

import hmac
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from lib.leads.lead import Lead
from lib.problems import CacheDown, RateLimited

IDEMPOTENCY_TTL_S = 24 * 3600

type Pipeline = Callable[..., list[Any]]
"""`Cache.pipeline`."""


class RateLimits(NamedTuple):
    per_minute: int
    per_hour: int
    ceiling_per_minute: int  # of all clients together


UNLIMITED = RateLimits(1_000_000, 1_000_000, 1_000_000)


class IdempotencyRecord(NamedTuple):
    """An accepted submission and how it was answered. keyed: it had an Idempotency-Key."""

    id: UUID
    ref: str
    status: int
    body_sha256: str
    keyed: bool = True


class Admission(NamedTuple):
    """What Redis decided.

    queued: `queued_copy` is what is queued under the lead's id now. duplicate: of the submission in
    `record`, which is answered as it was then. earlier: the same words made the lead in `record`:
    ask again with its id. repeated_text: screen it once more, and ask again. rate_limited:
    `rate_limit`, until `wait` is over.
    """

    decision: str
    record: IdempotencyRecord | None = None
    queued_copy: object = None
    rate_limit: int = 0
    wait: timedelta = timedelta()


# KEYS: idempotency record, client, all clients' minute, text, the record of the same words, queue.
# ARGV: now_ms, per_minute, per_hour, ceiling, a name for this request, the body's hash, 1 with a
# key, repeats allowed (-1: any), 1 once the record of the words was heeded, field, the sealed lead,
# the same for review, its record, how long that is kept. A refused request is not counted. Without
# a key another body is no duplicate: it corrects the lead, and counts.
ADMIT = """
local record = redis.call('GET', KEYS[1])
if record and (ARGV[7] == '1' or string.find(record, ARGV[6], 1, true)) then
  return {'duplicate', record}
end
local words = redis.call('GET', KEYS[5])
if words and ARGV[9] == '0' then return {'earlier', words} end
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
    pipeline: Pipeline,
    lead: Lead,
    sealed: tuple[str, str],
    limits: RateLimits,
    now: datetime,
    *,
    queue: str,
    request: str,
    max_repeats: int | None,
    heed_earlier: bool = True,
) -> Admission:
    """Queue a lead if it is accepted. Raises CacheDown, for an unreadable answer too.

    sealed: the lead, and the lead for review. request: a name that no other request has.
    """
    keys = (
        _record_key(lead.identity),
        f"rate:{client_key(lead.ip_address)}",
        f"flood:{int(now.timestamp()) // 60}",
        f"text:{lead.text_sha256}",
        _record_key(lead.content_identity),
        queue,
    )
    record = IdempotencyRecord(lead.id, lead.ref, 202, lead.body_sha256, lead.keyed)
    args = (
        int(now.timestamp() * 1000),
        *limits,
        request,
        lead.body_sha256,
        int(lead.keyed),
        -1 if max_repeats is None else max_repeats,
        int(not heed_earlier),
        str(lead.id),
        *sealed,
        _to_json(record),
        IDEMPOTENCY_TTL_S,
    )
    (reply,) = pipeline(("EVAL", ADMIT, len(keys), *keys, *args))
    try:
        return _parse_reply(reply)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CacheDown from error  # the reply is none of the script's


def _parse_reply(reply: Any) -> Admission:
    decision, *rest = reply
    if decision in ("duplicate", "earlier"):
        return Admission(decision, record=_parse_record(rest[0]))
    if decision == "rate_limited":
        wait = timedelta(milliseconds=int(rest[1]))
        return Admission(decision, rate_limit=int(rest[0]), wait=wait)
    if decision == "queued":
        return Admission(decision, queued_copy=rest[0])
    if decision == "repeated_text":
        return Admission(decision)
    raise ValueError("not a reply of the script")


def find_record(pipeline: Pipeline, lead: Lead) -> Admission | None:
    """The duplicate or earlier lead that Redis knows, for one that Postgres may not have yet.

    Raises CacheDown.
    """
    texts = pipeline(
        ("GET", _record_key(lead.identity)), ("GET", _record_key(lead.content_identity))
    )
    try:
        record, words = (text and _parse_record(text) for text in texts)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CacheDown from error
    if record and (lead.keyed or record.body_sha256 == lead.body_sha256):
        return Admission("duplicate", record)
    if words and not (lead.keyed and words.keyed):
        return Admission("earlier", words)
    return None


def rate_limited(limit: int, wait: timedelta, now: datetime) -> RateLimited:
    """The refusal: waiting as long as it says helps."""
    wait_s = max(1, -(-wait // timedelta(seconds=1)))
    reset_at_s = int(now.timestamp()) + wait_s
    return RateLimited(limit=limit, remaining=0, wait_s=wait_s, reset_at_s=reset_at_s)


def remember_command(identity: str, record: IdempotencyRecord) -> tuple[str | int, ...]:
    """The Redis command that remembers an accepted submission; safe to repeat."""
    return ("SET", _record_key(identity), _to_json(record), "EX", IDEMPOTENCY_TTL_S)


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


def _record_key(identity: str) -> str:
    return f"seen:{identity}"


# ------------------------------------------------------------------ whose limits


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
