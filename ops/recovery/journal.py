"""The lead journal, put back into Postgres: what was accepted after a backup was taken.

Repeat-safe: a lead that is there stays as it is, and none of its mails is written again. A mail
of a lead that comes back may have left before: it is written as in doubt since then, so that it
is sent only while Resend still knows its idempotency key, and parked for a person after that.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from itertools import batched
from typing import Any

from lib.interfaces import Cache, RunQuery
from lib.leads import repository
from lib.leads.lead import Lead, Recipients
from lib.leads.queue import (
    ACCEPTED,
    DEAD_LETTERS,
    JOURNAL_TTL_S,
    QUEUE,
    journal_key,
    scan_keys,
)
from lib.problems import CacheDown, DecryptionError, ErasedSubject, IdempotencyKeyReused
from lib.services import Services

BATCH_SIZE = 100
MAX_ATTEMPTS, RETRY_DELAY_S = 4, 0.5

MARK_UNCERTAIN = """
update outbox set uncertain = true, first_attempt_at = %(created_at)s
where lead_id = %(id)s and sent_at is null and attempts = 0
"""

LIST_MISSING = """
select expected.id::text from unnest(%(ids)s::uuid[]) as expected (id)
where not exists (select from leads where leads.id = expected.id)
"""

type RedisCommand = Callable[..., Any]


@dataclass(slots=True)
class ReplayStats:
    """What became of the journal, in leads."""

    found: int = 0
    stored: int = 0
    there: int = 0
    erased: int = 0
    unreadable: int = 0
    refused: int = 0

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def replay(services: Services, now: datetime, *, dry_run: bool = False) -> ReplayStats:
    """Store what the journal holds and Postgres does not; nobody erased comes back.

    Raises CacheDown, DatabaseDown.
    """
    run, command, vault = services.database.run, with_retries(services.cache), services.cipher
    desk = Recipients(services.settings.mail_from, services.settings.mail_sales_to)
    erasure_keys = services.erasure_keys
    set_aside: tuple[type[Exception], ...] = (IdempotencyKeyReused, *services.database.data_errors)
    tally = ReplayStats()
    for sealed in _iter_sealed_leads(command):
        tally.found += 1
        try:
            lead = Lead.from_json(vault.decrypt(sealed))
            if dry_run:
                new = bool(run(partial(_list_missing, ids=[str(lead.id)])))
            else:
                new = _insert_missing(run, lead, desk, now, erasure_keys)
        except ErasedSubject:
            tally.erased += 1
        except DecryptionError:
            tally.unreadable += 1
        except set_aside:
            tally.refused += 1
        else:
            tally.stored += new
            tally.there += not new
    return tally


def _insert_missing(
    run: RunQuery, lead: Lead, desk: Recipients, now: datetime, erasure_keys: tuple[bytes, ...]
) -> bool:
    """Whether it was missing."""
    new = False

    def in_doubt(work: Callable[[Any], Any]) -> Any:
        """The lead, and the doubt about its mails, in one transaction."""

        def once(connection: Any) -> Any:
            nonlocal new
            with connection.transaction():
                before = work(connection)
                if new := before is None:
                    values = {"id": str(lead.id), "created_at": lead.created_at}
                    connection.execute(MARK_UNCERTAIN, values)
            return before

        return run(once)

    repository.insert(in_doubt, lead, desk, now=now, deliver_now=False, erasure_keys=erasure_keys)
    return new


def _iter_sealed_leads(command: RedisCommand) -> Iterator[str]:
    """Every sealed lead in the journal; one may be given twice."""
    for keys in batched(scan_keys(command, journal_key("*")), BATCH_SIZE):
        yield from (sealed for sealed in command("MGET", *keys) if sealed is not None)


def with_retries(cache: Cache) -> RedisCommand:
    """Redis for an operator, who would rather wait than hear that it was slow for a second.

    For what may be repeated: after a failure it is asked whether it is there, and then again.
    """

    def run(*command: str | int | float) -> Any:
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return cache.execute(*command)
            except CacheDown:
                time.sleep(RETRY_DELAY_S)
                with suppress(CacheDown):
                    cache.ping()
        return cache.execute(*command)

    return run


@dataclass(frozen=True, slots=True)
class LostLeads:
    """Accepted leads that are nowhere, and since when."""

    ids: tuple[str, ...]
    oldest: datetime | None


def find_lost(services: Services, now: datetime) -> LostLeads:
    """Every lead accepted in the last 48 hours that is neither in Postgres nor queued."""
    command = with_retries(services.cache)
    since = now.timestamp() - JOURNAL_TTL_S
    accepted = command("ZRANGE", ACCEPTED, since, "+inf", "BYSCORE")
    waiting = {*command("HKEYS", QUEUE), *command("HKEYS", DEAD_LETTERS)}
    ids = [lead_id for lead_id in accepted if lead_id not in waiting]
    missing = services.database.run(partial(_list_missing, ids=ids))
    if not missing:
        return LostLeads((), None)
    scores = [float(score) for score in command("ZMSCORE", ACCEPTED, *missing) if score]
    oldest = datetime.fromtimestamp(min(scores), now.tzinfo) if scores else None
    return LostLeads(tuple(missing), oldest)


def _list_missing(connection: Any, ids: list[str]) -> list[str]:
    return [row[0] for row in connection.execute(LIST_MISSING, {"ids": ids})]
