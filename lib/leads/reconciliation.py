"""The reconciliation: leads accepted, leads stored, and leads sales were notified of must agree.

Accepted is counted in Redis once a request is answered, stored and notified in Postgres. The newest
minutes are left out: their leads may be between the two. Covers the last 48 hours.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lib.interfaces import RedisPipeline, RunQuery
from lib.leads import mailed_leads
from lib.leads.queue import ACCEPTED, DEAD_LETTERS, JOURNAL_TTL_S, QUEUE

if TYPE_CHECKING:
    from psycopg import Connection

GRACE_PERIOD = timedelta(minutes=5)
MAX_IDS = 20


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Counts, and the ids behind each difference (at most MAX_IDS). told: sales were notified.

    set_aside: dead letters of the queue. mailed: references of leads that exist only in an e-mail.
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

# Sales are not notified of a lead in review until a person has looked at it.
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


def reconcile(pipeline: RedisPipeline, run: RunQuery, now: datetime) -> Reconciliation:
    """Raises CacheDown or DatabaseDown: without both there is no result."""
    since, until = now - timedelta(seconds=JOURNAL_TTL_S), now - GRACE_PERIOD
    accepted, queued, dead_letters, mailed_in_redis = pipeline(
        ("ZRANGE", ACCEPTED, since.timestamp(), until.timestamp(), "BYSCORE"),
        ("HKEYS", QUEUE),
        ("HKEYS", DEAD_LETTERS),
        ("HVALS", mailed_leads.REDIS_KEY),
    )
    mailed = {
        lead.lead_id: lead
        for lead in [*mailed_leads.list_open(run), *mailed_leads.parse(mailed_in_redis)]
    }
    elsewhere = {*queued, *dead_letters, *mailed}
    expected = [lead_id for lead_id in accepted if lead_id not in elsewhere]
    values = {"ids": expected, "since": since, "until": until, "shown": MAX_IDS}

    def query(connection: "Connection[Any]") -> tuple[list[str], Any, list[str]]:
        missing = [row[0] for row in connection.execute(LIST_MISSING, values)]
        counts = connection.execute(COUNT_STORED, values).fetchone()
        return missing, counts, [row[0] for row in connection.execute(LIST_UNNOTIFIED, values)]

    missing, (stored, notified, in_review), unnotified = run(query)
    return Reconciliation(
        accepted=len(accepted),
        stored=stored,
        told=notified,
        queued=len(queued),
        set_aside=len(dead_letters),
        in_review=in_review,
        missing=tuple(missing[:MAX_IDS]),
        untold=tuple(unnotified),
        mailed=mailed_leads.format_references(list(mailed.values())),
    )
