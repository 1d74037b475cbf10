"""Leads in Redis, sealed: those Postgres could not take yet, and a journal of the last 48 hours.

Only writes that are safe to repeat: a lead is put under its id if it is not there, and taken
away after Postgres has it, never before. Redis may lose what it acknowledged, so it is the
queue of last resort and never the record.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import batched
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from lib.interfaces import Cipher, RunQuery
from lib.leads import repository
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
DEAD_LETTERS = "queue:dead"  # hash: id -> what no drain can store; a person must look
ACCEPTED = "accepted"  # sorted set: id by time; the ledger's first column
JOURNAL_TTL_S = 48 * 3600  # above the age of the newest backup
SCAN_COUNT = 100
MIN_SEALED_CHARACTERS = 40  # characters; below any sealed lead
MAX_ATTEMPTS = 5  # of a lead whose statement is cut off each time while others are stored

type RedisCommand = Callable[..., Any]
type RedisPipeline = Callable[..., list[Any]]


class DrainStats:
    """What one drain did, in leads. left: still waiting when it ended.

    erased: dropped, for their person was erased after they were taken. fault: why the database
    would refuse any lead.
    """

    stored: int = 0
    erased: int = 0
    dead: int = 0
    left: int = 0
    database_error: str | None = None


def enqueue(
    commands: RedisPipeline, vault: Cipher, lead: Lead, *remember: tuple[str | int, ...]
) -> None:
    """Queue a lead, and see that it is there. Raises CacheDown when it may not be; KeyReused.

    Under one id there may be several submissions: the first under the id alone, what corrects it
    under the id and its own hash. remember: commands of the same trip.
    """
    queued = lead._replace(arrival="queue")
    sealed = vault.encrypt(queued.to_json())
    waiting = _enqueue_once(commands, str(lead.id), sealed, *remember)
    if waiting == sealed:
        return
    before = _decrypt_or_none(vault, waiting)
    if before is not None and before.body_sha256 == lead.body_sha256:
        return
    if before is not None and lead.keyed and before.identity == lead.identity:
        raise IdempotencyKeyReused
    _enqueue_once(commands, f"{lead.id}:{lead.body_sha256[:16]}", sealed)


def _enqueue_once(
    commands: RedisPipeline, field: str, sealed: str, *remember: tuple[str | int, ...]
) -> str:
    """What is queued under `field` now: ours, or what was there."""
    _, waiting, *_ = commands(("HSETNX", QUEUE, field, sealed), ("HGET", QUEUE, field), *remember)
    if not isinstance(waiting, str) or len(waiting) < MIN_SEALED_CHARACTERS:
        raise CacheDown  # whatever said that is not our Redis
    return waiting


def journal_commands(
    vault: Cipher, lead: Lead, *, correction: bool = False
) -> tuple[tuple[str | int | float, ...], ...]:
    """The commands that enter an accepted lead in the journal and in the ledger.

    correction: beside the copy of what it corrects, not instead of it.
    """
    at = lead.created_at.timestamp()
    sealed = vault.encrypt(lead.to_json())
    key = journal_key(f"{lead.id}:{lead.body_sha256[:16]}" if correction else lead.id)
    return (
        ("SET", key, sealed, "EX", JOURNAL_TTL_S, "NX"),
        ("ZADD", ACCEPTED, "NX", at, str(lead.id)),
        ("ZREMRANGEBYSCORE", ACCEPTED, "-inf", at - JOURNAL_TTL_S),
    )


def journal_key(lead_id: UUID | str) -> str:
    return f"journal:{lead_id}"


def drain(
    command: RedisCommand,
    run: RunQuery,
    vault: Cipher,
    desk: Recipients,
    clock: Callable[[], datetime],
    *,
    budget_s: float,
    store_fault: Callable[[], str | None],
    erasure_keys: tuple[bytes, ...],
) -> DrainStats:
    """Store what is queued, then take it out of the queue; for budget_s seconds at most.

    Any number may run at once and die anywhere: storing twice stores once. store_fault: why the
    database would refuse any lead, else None; asked when it refused one. Where it would refuse any,
    all of them wait; one that it alone refuses becomes a dead letter, never dropped, and holds up
    no other. Raises CacheDown or DatabaseDown, having lost nothing.
    """
    tally = DrainStats()
    end = time.monotonic() + budget_s
    for field, sealed in _hscan(command, QUEUE):
        if time.monotonic() > end:
            break
        try:
            lead = Lead.from_json(vault.decrypt(sealed))
            _insert(run, lead, desk, clock(), erasure_keys)
        except ErasedSubject:
            command("DEL", journal_key(lead.id), journal_key(field))
            command("ZREM", ACCEPTED, str(lead.id))
            tally.erased += 1
        except CacheDown:
            raise
        except Exception as fault:  # noqa: BLE001 - one lead's fault must not hold up the others
            if _is_leads_own(fault):
                dead = True
            else:
                tally.database_error = store_fault()  # raises DatabaseDown where nobody answers
                if tally.database_error is not None:
                    break
                dead = not isinstance(fault, DatabaseDown) or _attempts_exhausted(command, field)
            if not dead:
                continue
            command("HSETNX", DEAD_LETTERS, field, sealed)
            tally.dead += 1
        else:
            tally.stored += 1
        command("HDEL", QUEUE, field)
    tally.left = int(command("HLEN", QUEUE))
    return tally


def _is_leads_own(fault: Exception) -> bool:
    """Whether no other server would take this copy either."""
    return isinstance(fault, DecryptionError | IdempotencyKeyReused)


def _attempts_exhausted(command: RedisCommand, field: str) -> bool:
    """Whether a lead whose statement never comes to an end was tried often enough."""
    key = f"queue:tries:{field}"
    tries = int(command("INCR", key))
    command("EXPIRE", key, JOURNAL_TTL_S)
    return tries >= MAX_ATTEMPTS


# A copy is entered right after the answer; this finds what a crash or an outage left out.
SELECT_UNJOURNALED = """
select id, ref, created_at, locale, host(ip_address) as ip_address, user_agent,
  encode(identity, 'hex') as identity, encode(body_sha256, 'hex') as body_sha256, arrival, canary,
  business_name, contact_name, phone_whatsapp, city, salon_type, email, chair_count,
  specialization, current_brands_used, monthly_spend_range, message,
  page_url_initial, page_url_current, referrer,
  utm_source, utm_medium, utm_campaign, utm_term, utm_content, consent_version
from leads
where not journaled and not canary and created_at > now() - interval '48 hours'
order by created_at
limit 200
"""

MARK_JOURNALED = "update leads set journaled = true where id = any(%(ids)s::uuid[])"


def backfill_journal(commands: RedisPipeline, run: RunQuery, vault: Cipher) -> int:
    """Enter stored leads in the journal that are not marked as being there; how many."""
    rows = run(_select_unjournaled)
    entries = [entry for lead in rows for entry in journal_commands(vault, lead)]
    if entries:
        commands(*entries)
        ids = {"ids": [str(lead.id) for lead in rows]}
        run(lambda connection: connection.execute(MARK_JOURNALED, ids))
    return len(rows)


def _select_unjournaled(connection: "Connection[Any]") -> list[Lead]:
    cursor = connection.execute(SELECT_UNJOURNALED)
    names = [column.name for column in cursor.description or ()]
    return [Lead.from_columns(dict(zip(names, row, strict=True))) for row in cursor]


def _insert(
    run: RunQuery, lead: Lead, desk: Recipients, now: datetime, erasure_keys: tuple[bytes, ...]
) -> None:
    if lead.spam is not None:
        repository.insert_spam(run, lead, lead.spam, erasure_keys)
    else:
        repository.insert(
            run,
            lead,
            desk.for_lead(lead),
            now=now,
            deliver_now=False,
            erasure_keys=erasure_keys,
        )


class SealedLead(NamedTuple):
    """A sealed copy where it lies. place: queue, set_aside or journal; lead: None if unreadable."""

    location: str
    key: str
    sealed: str
    lead: Lead | None


def iter_sealed_leads(command: RedisCommand, vault: Cipher) -> Iterator[SealedLead]:
    """Every sealed copy in Redis; one that moves meanwhile may be given twice, or be missed."""
    for place, key in (("queue", QUEUE), ("set_aside", DEAD_LETTERS)):
        for lead_id, sealed in _hscan(command, key):
            yield SealedLead(place, lead_id, sealed, _decrypt_or_none(vault, sealed))
    for keys in batched(scan_keys(command, journal_key("*")), SCAN_COUNT):
        for key, sealed in zip(keys, command("MGET", *keys), strict=True):
            if sealed is not None:
                yield SealedLead("journal", key, sealed, _decrypt_or_none(vault, sealed))


def scan_keys(command: RedisCommand, pattern: str) -> Iterator[str]:
    """Every key that fits; one may be given twice."""
    cursor: int | str = 0
    while True:
        cursor, found = command("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
        yield from found
        if int(cursor) == 0:
            return


# Only what was looked at goes: under the same key there may be another lead by now.
DELETE_IF_UNCHANGED = """
local held
if KEYS[1] ~= ARGV[1] then held = redis.call('HGET', KEYS[1], ARGV[1])
else held = redis.call('GET', KEYS[1]) end
if held ~= ARGV[2] then return 0 end
if KEYS[1] ~= ARGV[1] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return redis.call('DEL', KEYS[1])
"""


def delete_if_unchanged(command: RedisCommand, copy: SealedLead) -> bool:
    """Take one copy away, if it is still the same; whether it was."""
    key = {"queue": QUEUE, "set_aside": DEAD_LETTERS, "journal": copy.key}[copy.location]
    return bool(command("EVAL", DELETE_IF_UNCHANGED, 1, key, copy.key, copy.sealed))


def _decrypt_or_none(vault: Cipher, sealed: str) -> Lead | None:
    try:
        return Lead.from_json(vault.decrypt(sealed))
    except DecryptionError:
        return None


def _hscan(command: RedisCommand, key: str) -> Iterator[tuple[str, str]]:
    """Everything in the hash when asked; a lead may be given twice."""
    cursor = 0
    while True:
        cursor, found = command("HSCAN", key, cursor, "COUNT", SCAN_COUNT)
        yield from found.items()
        if cursor == 0:
            return
