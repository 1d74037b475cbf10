"""Three counts that must meet: leads accepted, leads stored, leads sales were told of.

Accepted is kept in Redis when an answer has been given, stored and told in Postgres; a lead may
be on its way between them, so the newest minutes are left out. Covers the last 48 hours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lib.leads import mailed_leads
from lib.leads.queue import ACCEPTED, DEAD_LETTERS, JOURNAL_TTL_S, QUEUE

if TYPE_CHECKING:
    from psycopg import Connection

GRACE_PERIOD = timedelta(minutes=5)
MAX_IDS = 20  # ids; the rest are counted


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Counts, and the ids behind each difference (at most SHOWN of them).

    mailed: references of leads that exist only in a mail.
    """

    accepted: int
    stored: int
    told: int
    queued: int
    set_aside: int
    in_review: int
    missing: tuple[str, ...]
    untold: tuple[str, ...]
    mailed: tuple[str, ...] = ()

    @property
    def balanced(self) -> bool:
        return not (self.missing or self.untold or self.set_aside or self.mailed)


LIST_MISSING = """
select expected.id::text from unnest(%(ids)s::uuid[]) as expected (id)
where not exists (select from leads where leads.id = expected.id)
"""

# A lead in review is one that sales are not told of on purpose, until a person looked.
COUNT_STORED = """
select count(*),
  count(*) filter (where exists (
    select from outbox where lead_id = leads.id and kind = 'sales' and sent_at is not null)),
  count(*) filter (where review <> 'dismissed')
from leads where created_at between %(since)s and %(until)s and not canary
"""

LIST_UNNOTIFIED = """
select leads.id::text from leads
where created_at between %(since)s and %(until)s and not canary and review is null
  and not exists (
    select from outbox where lead_id = leads.id and kind = 'sales' and sent_at is not null)
order by created_at
limit %(shown)s
"""


def reconcile(
    commands: Callable[..., list[Any]], run: Callable[..., Any], now: datetime
) -> Reconciliation:
    """The ledger at `now`. Raises CacheDown or DatabaseDown: then nothing can be said."""
    since, until = now - timedelta(seconds=JOURNAL_TTL_S), now - GRACE_PERIOD
    accepted, queued, set_aside, only_in_redis = commands(
        ("ZRANGE", ACCEPTED, since.timestamp(), until.timestamp(), "BYSCORE"),
        ("HKEYS", QUEUE),
        ("HKEYS", DEAD_LETTERS),
        ("HVALS", mailed_leads.REDIS_KEY),
    )
    mailed = {
        one.lead_id: one
        for one in [*mailed_leads.list_open(run), *mailed_leads.parse(only_in_redis)]
    }
    elsewhere = {*queued, *set_aside, *mailed}
    expected = [lead_id for lead_id in accepted if lead_id not in elsewhere]
    values = {"ids": expected, "since": since, "until": until, "shown": MAX_IDS}

    def look(connection: "Connection[Any]") -> tuple[list[str], tuple[int, int, int], list[str]]:
        missing = [row[0] for row in connection.execute(LIST_MISSING, values)]
        counts = connection.execute(COUNT_STORED, values).fetchone() or (0, 0, 0)
        untold = [row[0] for row in connection.execute(LIST_UNNOTIFIED, values)]
        return missing, (counts[0], counts[1], counts[2]), untold

    missing, (stored, told, in_review), untold = run(look)
    return Reconciliation(
        accepted=len(accepted),
        stored=stored,
        told=told,
        queued=len(queued),
        set_aside=len(set_aside),
        in_review=in_review,
        missing=tuple(missing[:MAX_IDS]),
        untold=tuple(untold),
        mailed=mailed_leads.format_references(list(mailed.values())),
    )
