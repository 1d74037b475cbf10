"""The queue of last resort, its dead letters, and the journal: sealed leads in Redis.

The queue holds leads that Postgres could not take; the journal, every lead of the last 48 hours.
Redis may lose what it acknowledged, so it is never the record: every write is safe to repeat, and
a lead is removed only after Postgres has it.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from itertools import batched
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from lib.interfaces import (
    Cipher,
    RedisCommand,
    RedisExecute,
    RedisPipeline,
    Services,
    StoreCheck,
)
from lib.leads import repository
from lib.leads.admission import Decision
from lib.leads.lead import Lead, Recipients
from lib.problems import (
    CacheDown,
    DatabaseDown,
    DecryptionError,
    ErasedSubject,
    IdempotencyKeyReused,
)

if TYPE_CHECKING:
    from psycopg import Connection

QUEUE = "queue"  # hash: id -> sealed lead
DEAD_LETTERS = "queue:dead"  # hash: id -> sealed lead that cannot be stored; a person must look
ACCEPTED = "accepted"  # sorted set: id by time, for the reconciliation
JOURNAL_TTL_S = 48 * 3600  # above the age of the newest backup
SCAN_COUNT = 100
MIN_SEALED_CHARACTERS = 40  # below any sealed lead
MAX_ATTEMPTS = 5  # of a lead whose statement times out each time while others are stored


# ------------------------------------------------------------------ queue


def seal(cipher: Cipher, lead: Lead) -> str:
    return cipher.encrypt(lead._replace(arrival="queue").to_json())


def confirm(
    pipeline: RedisPipeline, cipher: Cipher, lead: Lead, sealed: tuple[str, ...], queued: object
) -> Decision:
    """Make sure of a lead of which `queued` is found under its id: one of `sealed`, if it is ours.

    Several submissions may share an id: the first is queued under the id alone, a correction under
    the id and its own hash. `queued` or `key_reused`. Raises CacheDown.
    """
    if queued in sealed:
        return Decision("queued")
    earlier = _decrypt_or_none(cipher, _require_sealed(queued))
    if earlier is not None and earlier.body_sha256 == lead.body_sha256:
        return Decision("queued")
    if earlier is not None and lead.keyed and earlier.identity == lead.identity:
        return Decision("key_reused")
    field = f"{lead.id}:{lead.body_sha256[:16]}"
    _, queued = pipeline(("HSETNX", QUEUE, field, sealed[0]), ("HGET", QUEUE, field))
    _require_sealed(queued)
    return Decision("queued")


def _require_sealed(queued: object) -> str:
    if not isinstance(queued, str) or len(queued) < MIN_SEALED_CHARACTERS:
        raise CacheDown  # not an answer of our Redis
    return queued


class DrainStats:
    """What one drain did, in leads. left: still queued when it ended.

    erased: dropped, for their person was erased after they were queued. database_error: why the
    database would refuse any lead.
    """

    stored: int = 0
    erased: int = 0
    dead: int = 0
    left: int = 0
    database_error: str | None = None


def drain(
    services: Services, recipients: Recipients, clock: Callable[[], datetime], *, budget_s: float,
    find_store_fault: StoreCheck,
) -> DrainStats:  # fmt: skip
    """Store queued leads, then remove them from the queue; for budget_s seconds at most.

    Any number may run at once and be killed anywhere: a lead stored twice is one lead.
    find_store_fault: called when a lead was refused. If Postgres would refuse any, all wait; a lead
    that it alone refuses becomes a dead letter.
    Raises CacheDown or DatabaseDown, having lost nothing.
    """
    stats, execute = DrainStats(), services.cache.execute
    end = time.monotonic() + budget_s
    for field, sealed in _hscan(execute, QUEUE):
        if time.monotonic() > end:
            break
        try:
            lead = Lead.from_json(services.cipher.decrypt(sealed))
            _insert(services, lead, recipients, clock())
            stats.stored += 1
        except ErasedSubject:
            execute("DEL", journal_key(lead.id), journal_key(field))
            execute("ZREM", ACCEPTED, str(lead.id))
            stats.erased += 1
        except CacheDown:
            raise
        except Exception as error:  # noqa: BLE001 - one lead's error must not hold up the others
            if not isinstance(error, DecryptionError | IdempotencyKeyReused):
                run = partial(services.database.run, even_if_open=True)
                stats.database_error = find_store_fault(run, clock())  # DatabaseDown: no answer
                if stats.database_error is not None:
                    break
                if isinstance(error, DatabaseDown) and not _attempts_exhausted(execute, field):
                    continue
            execute("HSETNX", DEAD_LETTERS, field, sealed)
            stats.dead += 1
        execute("HDEL", QUEUE, field)
    stats.left = int(execute("HLEN", QUEUE))
    return stats


def _insert(services: Services, lead: Lead, recipients: Recipients, now: datetime) -> None:
    run, keys = services.database.run, services.erasure_keys
    if lead.spam is not None:
        repository.insert_spam(run, lead, lead.spam, keys)
    else:
        repository.insert(
            run, lead, recipients.for_lead(lead), now=now, deliver_now=False, erasure_keys=keys
        )


def _attempts_exhausted(execute: RedisExecute, field: str) -> bool:
    key = f"queue:tries:{field}"
    attempts = int(execute("INCR", key))
    execute("EXPIRE", key, JOURNAL_TTL_S)
    return attempts >= MAX_ATTEMPTS


# ------------------------------------------------------------------ journal


def journal_key(lead_id: UUID | str) -> str:
    return f"journal:{lead_id}"


def journal_commands(
    cipher: Cipher, lead: Lead, *, correction: bool = False
) -> tuple[RedisCommand, ...]:
    """Redis commands that add an accepted lead to the journal and to the reconciliation.

    correction: beside the copy of the lead it corrects, not instead of it.
    """
    accepted_at = lead.created_at.timestamp()
    key = journal_key(f"{lead.id}:{lead.body_sha256[:16]}" if correction else lead.id)
    return (
        ("SET", key, cipher.encrypt(lead.to_json()), "EX", JOURNAL_TTL_S, "NX"),
        ("ZADD", ACCEPTED, "NX", accepted_at, str(lead.id)),
        ("ZREMRANGEBYSCORE", ACCEPTED, "-inf", accepted_at - JOURNAL_TTL_S),
    )


# A lead is added to the journal after its answer; these are the ones that a crash or an outage left
# out. Of two columns with one name, the last counts.
SELECT_UNJOURNALED = """
select *, host(ip_address) as ip_address,
  encode(identity, 'hex') as identity, encode(body_sha256, 'hex') as body_sha256
from leads
where not journaled and not canary and created_at > now() - interval '48 hours'
order by created_at
limit 200
"""

MARK_JOURNALED = "update leads set journaled = true where id = any(%(ids)s::uuid[])"


def backfill_journal(services: Services) -> int:
    """Add the stored leads that the journal lacks; how many. Raises CacheDown, DatabaseDown."""
    run = services.database.run
    leads: list[Lead] = run(_select_unjournaled)
    commands = [command for lead in leads for command in journal_commands(services.cipher, lead)]
    if commands:
        services.cache.pipeline(*commands)
        ids = {"ids": [str(lead.id) for lead in leads]}
        run(lambda connection: connection.execute(MARK_JOURNALED, ids))
    return len(leads)


def _select_unjournaled(connection: "Connection[Any]") -> list[Lead]:
    cursor = connection.execute(SELECT_UNJOURNALED)
    names = [column.name for column in cursor.description or ()]
    return [Lead.from_columns(dict(zip(names, row, strict=True))) for row in cursor]


# ------------------------------------------------------------------ every sealed lead


class SealedLead(NamedTuple):
    """location: queue, set_aside (the dead letters) or journal. lead: None if unreadable."""

    location: str
    key: str
    sealed: str
    lead: Lead | None


def iter_sealed_leads(execute: RedisExecute, cipher: Cipher) -> Iterator[SealedLead]:
    """Every sealed lead in Redis; one that moves meanwhile may come twice, or be missed."""
    for location, key in (("queue", QUEUE), ("set_aside", DEAD_LETTERS)):
        for field, sealed in _hscan(execute, key):
            yield SealedLead(location, field, sealed, _decrypt_or_none(cipher, sealed))
    for keys in batched(scan_keys(execute, journal_key("*")), SCAN_COUNT):
        for key, sealed in zip(keys, execute("MGET", *keys), strict=True):
            if sealed is not None:
                yield SealedLead("journal", key, sealed, _decrypt_or_none(cipher, sealed))


def _decrypt_or_none(cipher: Cipher, sealed: str) -> Lead | None:
    try:
        return Lead.from_json(cipher.decrypt(sealed))
    except DecryptionError:
        return None


def scan_keys(execute: RedisExecute, pattern: str) -> Iterator[str]:
    """Every key that matches; one may come twice."""
    cursor: int | str = 0
    while True:
        cursor, keys = execute("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
        yield from keys
        if int(cursor) == 0:
            return


def _hscan(execute: RedisExecute, key: str) -> Iterator[tuple[str, str]]:
    """Every field of the hash; one may come twice."""
    cursor = 0
    while True:
        cursor, values = execute("HSCAN", key, cursor, "COUNT", SCAN_COUNT)
        yield from values.items()
        if cursor == 0:
            return


# Compare and delete: under the same key there may be another lead by now.
DELETE_IF_UNCHANGED = """
local current
if KEYS[1] ~= ARGV[1] then current = redis.call('HGET', KEYS[1], ARGV[1])
else current = redis.call('GET', KEYS[1]) end
if current ~= ARGV[2] then return 0 end
if KEYS[1] ~= ARGV[1] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return redis.call('DEL', KEYS[1])
"""


def delete_if_unchanged(execute: RedisExecute, copy: SealedLead) -> bool:
    """Whether it was unchanged, and is deleted."""
    key = {"queue": QUEUE, "set_aside": DEAD_LETTERS, "journal": copy.key}[copy.location]
    return bool(execute("EVAL", DELETE_IF_UNCHANGED, 1, key, copy.key, copy.sealed))
