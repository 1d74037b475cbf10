"""The lead journal, put back into Postgres: what was accepted after a backup was taken.

Repeat-safe: a lead that is there stays as it is, and none of its mails is written again. A mail
of a lead that comes back may have left before: it is written as in doubt since then, so that it
is sent only while Resend still knows its idempotency key, and parked for a person after that.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

from lib import copies, leads
from lib.backlog import ACCEPTED, DEAD, JOURNAL_S, QUEUE, Vault
from lib.leads import Desk, Lead, Run
from lib.problems import KeyReused, Unreadable

AT_ONCE = 100
JOURNAL = "journal:*"  # the keys of lib.backlog.journal_key

DOUBT = """
update outbox set uncertain = true, first_attempt_at = %(created_at)s
where lead_id = %(id)s and sent_at is null and attempts = 0
"""

MISSING = """
select expected.id::text from unnest(%(ids)s::uuid[]) as expected (id)
where not exists (select from leads where leads.id = expected.id)
"""

type Command = Callable[..., Any]


@dataclass(slots=True)
class Tally:
    """What became of the journal, in leads."""

    found: int = 0
    stored: int = 0
    there: int = 0
    erased: int = 0
    unreadable: int = 0
    refused: int = 0

    def facts(self) -> dict[str, object]:
        return asdict(self)


def replay(
    command: Command,
    run: Run,
    vault: Vault,
    desk: Desk,
    now: datetime,
    *,
    poison: tuple[type[Exception], ...],
    guard: Mapping[str, Any],
    erased: tuple[type[Exception], ...],
    dry_run: bool = False,
) -> Tally:
    """Store what the journal holds and Postgres does not. Raises CacheDown, DatabaseDown.

    guard, erased: what makes `leads.store` refuse the leads of erased persons, and how it does.
    """
    tally = Tally()
    set_aside: tuple[type[Exception], ...] = (KeyReused, *poison)
    for sealed in _entries(command):
        tally.found += 1
        try:
            lead = copies.from_json(vault.open(sealed))
        except Unreadable:
            tally.unreadable += 1
            continue
        if dry_run:
            missing = bool(run(partial(_missing, ids=[str(lead.id)])))
            tally.stored += missing
            tally.there += not missing
        else:
            try:
                new = _put_back(run, lead, desk, now, guard)
            except erased:
                tally.erased += 1
                continue
            except set_aside:
                tally.refused += 1
                continue
            tally.stored += new
            tally.there += not new
    return tally


def _put_back(run: Run, lead: Lead, desk: Desk, now: datetime, guard: Mapping[str, Any]) -> bool:
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
                    connection.execute(DOUBT, values)
            return before

        return run(once)

    leads.store(in_doubt, lead, desk, now=now, deliver_now=False, **guard)
    return new


def _entries(command: Command) -> Iterator[str]:
    """Every sealed lead in the journal; one may be given twice."""
    cursor = 0
    while True:
        cursor, keys = command("SCAN", cursor, "MATCH", JOURNAL, "COUNT", 1000)
        for start in range(0, len(keys), AT_ONCE):
            held = command("MGET", *keys[start : start + AT_ONCE])
            yield from (sealed for sealed in held if sealed is not None)
        if int(cursor) == 0:
            return


@dataclass(frozen=True, slots=True)
class Lost:
    """Accepted leads that are nowhere, and since when."""

    ids: tuple[str, ...]
    oldest: datetime | None


def lost(command: Command, run: Run, now: datetime) -> Lost:
    """Every lead accepted in the last 48 hours that is neither in Postgres nor queued."""
    since = now.timestamp() - JOURNAL_S
    accepted = command("ZRANGE", ACCEPTED, since, "+inf", "BYSCORE")
    waiting = {*command("HKEYS", QUEUE), *command("HKEYS", DEAD)}
    ids = [one for one in accepted if one not in waiting]
    missing = list(run(lambda c: _missing(c, ids)))
    if not missing:
        return Lost((), None)
    scores = [float(score) for score in command("ZMSCORE", ACCEPTED, *missing) if score]
    oldest = datetime.fromtimestamp(min(scores), now.tzinfo) if scores else None
    return Lost(tuple(missing), oldest)


def _missing(connection: Any, ids: list[str]) -> list[str]:
    return [row[0] for row in connection.execute(MISSING, {"ids": ids})]
