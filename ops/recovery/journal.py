"""The lead journal, replayed into Postgres: leads that were accepted after a backup was taken.

Safe to repeat: a lead that exists stays as it is, and gets no further e-mails. The e-mails of a
replayed lead may have been sent before: they are inserted as uncertain, so that they are sent only
while Resend still knows their idempotency keys, and become dead letters after that.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import batched
from typing import Any

from lib.interfaces import Cache, RedisExecute
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
from lib.leads.reconciliation import LIST_MISSING
from lib.problems import CacheDown, DecryptionError, ErasedSubject, IdempotencyKeyReused
from lib.services import Services

BATCH_SIZE = 100
MAX_ATTEMPTS, RETRY_DELAY_S = 4, 0.5

MARK_UNCERTAIN = """
update outbox set uncertain = true, first_attempt_at = %(created_at)s
where lead_id = %(id)s and sent_at is null and attempts = 0
"""


@dataclass(slots=True)
class ReplayStats:
    """What became of the journal's leads. there: already in Postgres."""

    found: int = 0
    stored: int = 0
    there: int = 0
    erased: int = 0
    unreadable: int = 0
    refused: int = 0

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def replay(services: Services, now: datetime, *, dry_run: bool = False) -> ReplayStats:
    """Store what the journal holds and Postgres does not. Raises CacheDown, DatabaseDown."""
    stats = ReplayStats()
    refusals: tuple[type[Exception], ...] = (
        IdempotencyKeyReused,
        *services.database.data_errors,
    )
    for sealed in _iter_sealed_leads(with_retries(services.cache)):
        stats.found += 1
        try:
            lead = Lead.from_json(services.cipher.decrypt(sealed))
            if dry_run:
                is_new = bool(_list_missing(services, [str(lead.id)]))
            else:
                is_new = _insert_if_missing(services, lead, now)
        except ErasedSubject:
            stats.erased += 1
        except DecryptionError:
            stats.unreadable += 1
        except refusals:
            stats.refused += 1
        else:
            stats.stored += is_new
            stats.there += not is_new
    return stats


def _insert_if_missing(services: Services, lead: Lead, now: datetime) -> bool:
    """Whether it was missing."""
    is_new = False

    def run_in_transaction(insert: Callable[[Any], Any]) -> Any:
        """The lead is inserted and its e-mails are marked uncertain in one transaction."""

        def query(connection: Any) -> Any:
            nonlocal is_new
            with connection.transaction():
                result = insert(connection)
                if is_new := getattr(result, "name", None) == "stored":
                    values = {"id": lead.id, "created_at": lead.created_at}
                    connection.execute(MARK_UNCERTAIN, values)
            return result

        return services.database.run(query)

    settings = services.settings
    repository.insert(
        run_in_transaction,
        lead,
        Recipients(settings.mail_from, settings.mail_sales_to),
        now=now,
        deliver_now=False,
        erasure_keys=services.erasure_keys,
    )
    return is_new


def _iter_sealed_leads(command: RedisExecute) -> Iterator[str]:
    """Every sealed lead in the journal; one may come twice."""
    for keys in batched(scan_keys(command, journal_key("*")), BATCH_SIZE):
        yield from (sealed for sealed in command("MGET", *keys) if sealed is not None)


def with_retries(cache: Cache) -> RedisExecute:
    """Commands that may be repeated, retried while Redis is slow: a restore can wait for it."""

    def execute(*command: str | int | float) -> Any:
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return cache.execute(*command)
            except CacheDown:
                time.sleep(RETRY_DELAY_S)
                with suppress(CacheDown):
                    cache.ping()
        return cache.execute(*command)

    return execute


@dataclass(frozen=True, slots=True)
class LostLeads:
    """Accepted leads that are in no store. oldest: when the first of them was accepted."""

    ids: tuple[str, ...]
    oldest: datetime | None


def find_lost(services: Services, now: datetime) -> LostLeads:
    """Leads accepted in the last 48 hours that are neither in Postgres nor queued."""
    command = with_retries(services.cache)
    since = now.timestamp() - JOURNAL_TTL_S
    accepted = command("ZRANGE", ACCEPTED, since, "+inf", "BYSCORE")
    queued = {*command("HKEYS", QUEUE), *command("HKEYS", DEAD_LETTERS)}
    missing = _list_missing(services, [lead_id for lead_id in accepted if lead_id not in queued])
    if not missing:
        return LostLeads((), None)
    times = [float(score) for score in command("ZMSCORE", ACCEPTED, *missing) if score]
    oldest = datetime.fromtimestamp(min(times), now.tzinfo) if times else None
    return LostLeads(tuple(missing), oldest)


def _list_missing(services: Services, ids: list[str]) -> list[str]:
    rows = services.database.run(lambda c: c.execute(LIST_MISSING, {"ids": ids}).fetchall())
    return [lead_id for (lead_id,) in rows]
