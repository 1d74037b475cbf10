"""How long what is kept, and the batches that end it.

A rule deletes, or empties, what is older than its days; a few rows at a time, skipping what another
run holds, so that it may run twice at once, be cut off anywhere, and be taken up by the next. Rows
are simply deleted: no table here grows by enough a day for partitions to be cheaper, and `leads`
could not have any (its references and its no-repeats rule hold over all of time).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lib.interfaces import RunQuery
from lib.leads.queue import ACCEPTED, JOURNAL_TTL_S, journal_key, scan_keys
from lib.privacy.redis_erasure import TOMBSTONES_KEY

if TYPE_CHECKING:
    from psycopg import Connection


BATCH = 1000  # rows
MAX_UNNOTIFIED = 20  # leads that were not ended
STATEMENT_BUDGET_S = 8.0
TOMBSTONE_DAYS = 400  # past the longest backup, which is kept 90 days
GRACE_PERIOD = timedelta(days=1)  # a daily run leaves what became due since

# A lead that ends by age is no erasure: its trigger looks at this.
SET_DELETE_REASON = "select set_config('alfa.deleting', 'retention', true)"

# One that sales never heard of stays until a person has seen to it, and is named (UNHEARD).
LEADS = """
delete from leads where id in (
  select l.id from leads as l where created_at < %(until)s and not sales_never_heard(l)
  order by created_at limit %(batch)s for update skip locked)
"""
OLDEST_LEAD = """
select created_at from leads as l where not sales_never_heard(l) order by created_at limit 1
"""
SELECT_UNNOTIFIED = """
select id::text from leads as l where created_at < %(until)s and sales_never_heard(l)
order by created_at limit %(batch)s
"""

ORIGINS = """
update leads set ip_address = null, user_agent = null where id in (
  select id from leads
  where created_at < %(until)s and (ip_address is not null or user_agent is not null)
  order by created_at limit %(batch)s for update skip locked)
"""
OLDEST_ORIGIN = """
select min(created_at) from leads where ip_address is not null or user_agent is not null
"""

# One that is still to be sent stays, however old: it is not done with. Nor is one to sales that was
# given up.
MAILS = """
delete from outbox where id in (
  select id from outbox
  where created_at < %(until)s
    and (sent_at is not null or dead_at is not null and kind = 'acknowledgement')
  order by created_at limit %(batch)s for update skip locked)
"""
OLDEST_MAIL = """
select min(created_at) from outbox
where sent_at is not null or dead_at is not null and kind = 'acknowledgement'
"""

SPAM = """
delete from spam where id in (
  select id from spam where received_at < %(until)s
  order by received_at limit %(batch)s for update skip locked)
"""
OLDEST_SPAM = "select min(received_at) from spam"

# The timeline is append-only; a note's text may go.
NOTES = """
update incident_events set note = null where (incident_id, seq) in (
  select incident_id, seq from incident_events where at < %(until)s and note is not null
  order by at limit %(batch)s for update skip locked)
"""
OLDEST_NOTE = "select min(at) from incident_events where note is not null"

MINUTES = """
delete from metric_minutes where ctid = any(array(
  select ctid from metric_minutes where minute < %(until)s
  order by minute limit %(batch)s for update skip locked))
"""
OLDEST_MINUTE = "select min(minute) from metric_minutes"

HOURS = """
delete from metric_hours where ctid = any(array(
  select ctid from metric_hours where hour < %(until)s
  order by hour limit %(batch)s for update skip locked))
"""
OLDEST_HOUR = "select min(hour) from metric_hours"

DAYS = """
delete from service_days where ctid = any(array(
  select ctid from service_days where day < %(until)s::timestamptz::date
  order by day limit %(batch)s for update skip locked))
"""
OLDEST_DAY = "select min(day)::timestamptz from service_days"

# An open one waits for a person, however old.
MAILED = """
delete from mailed_leads where lead_id in (
  select lead_id from mailed_leads as m
  where accepted_at < %(until)s and (dismissed_at is not null
    or exists (select from leads where leads.id = m.lead_id))
  order by accepted_at limit %(batch)s for update skip locked)
"""
OLDEST_MAILED = """
select min(accepted_at) from mailed_leads as m
where dismissed_at is not null or exists (select from leads where leads.id = m.lead_id)
"""

SIGHTINGS = """
delete from key_sightings where ctid = any(array(
  select ctid from key_sightings where last_seen_at < %(until)s
  order by last_seen_at limit %(batch)s for update skip locked))
"""
OLDEST_SIGHTING = "select min(last_seen_at) from key_sightings"

BACKUPS = """
delete from backups where ctid = any(array(
  select ctid from backups where taken_at < %(until)s
  order by taken_at limit %(batch)s for update skip locked))
"""
OLDEST_BACKUP = "select min(taken_at) from backups"

DRILLS = """
delete from drills where id in (
  select id from drills where at < %(until)s order by at limit %(batch)s for update skip locked)
"""
OLDEST_DRILL = "select min(at) from drills"

REQUESTS = """
delete from erasure_requests where id in (
  select id from erasure_requests where finished_at < %(until)s
  order by finished_at limit %(batch)s for update skip locked)
"""
OLDEST_REQUEST = "select min(finished_at) from erasure_requests"

TOMBSTONES = """
delete from erasure_tombstones where mark in (
  select mark from erasure_tombstones where erased_at < %(until)s
  order by erased_at limit %(batch)s for update skip locked)
"""
OLDEST_TOMBSTONE = "select min(erased_at) from erasure_tombstones"


@dataclass(frozen=True, slots=True)
class Rule:
    """A retention class. prune: ends one batch; oldest: the time of the oldest row it has left."""

    name: str
    description: str
    days: int
    delete_batch: str
    select_oldest: str

    def cutoff(self, now: datetime) -> datetime:
        return now - timedelta(days=self.days)


def rules(leads_days: int) -> tuple[Rule, ...]:
    """Every class, personal data first. leads_days: how long a lead is kept."""
    return (
        Rule("leads", "leads, and their mails with them", leads_days, LEADS, OLDEST_LEAD),
        Rule("origins", "IP address and user agent of leads", 90, ORIGINS, OLDEST_ORIGIN),
        Rule("mails", "rendered mails that are sent or given up", 90, MAILS, OLDEST_MAIL),
        Rule("spam", "submissions kept for review", 30, SPAM, OLDEST_SPAM),
        Rule("mailed", "entries of leads once in a mail alone", 90, MAILED, OLDEST_MAILED),
        Rule("notes", "texts of notes on incidents", 365, NOTES, OLDEST_NOTE),
        Rule("minutes", "requests by the minute", 2, MINUTES, OLDEST_MINUTE),
        Rule("hours", "requests by the hour", 90, HOURS, OLDEST_HOUR),
        Rule("days", "a service's days, for the status page", 730, DAYS, OLDEST_DAY),
        Rule("sightings", "which deployment used which key", 400, SIGHTINGS, OLDEST_SIGHTING),
        Rule("backups", "backups that were seen", 400, BACKUPS, OLDEST_BACKUP),
        Rule("drills", "exercises and their verdicts", 1095, DRILLS, OLDEST_DRILL),
        Rule("requests", "the register of persons' requests", 1095, REQUESTS, OLDEST_REQUEST),
        Rule("tombstones", "marks of who was erased", TOMBSTONE_DAYS, TOMBSTONES, OLDEST_TOMBSTONE),
    )


def prune(
    run: RunQuery, every: tuple[Rule, ...], now: datetime, *, budget_s: float
) -> dict[str, int]:
    """Rows ended, by rule; a batch of each in turn, for budget_s seconds. Raises DatabaseDown."""
    ended = dict.fromkeys((rule.name for rule in every), 0)
    end, left = time.monotonic() + budget_s, list(every)
    while left and time.monotonic() < end:
        for rule in list(left):
            if time.monotonic() >= end:
                break
            n = run(partial(_prune_batch, rule=rule, now=now), budget_s=STATEMENT_BUDGET_S)
            ended[rule.name] += n
            if n < BATCH:
                left.remove(rule)
    return ended


def _prune_batch(connection: "Connection[Any]", *, rule: Rule, now: datetime) -> int:
    with connection.transaction():
        connection.execute(SET_DELETE_REASON)
        values = {"until": rule.cutoff(now), "batch": BATCH}
        return connection.execute(rule.delete_batch, values).rowcount


def unnotified_leads(run: RunQuery, every: tuple[Rule, ...], now: datetime) -> list[str]:
    """Ids of leads past their time that sales never heard of, the oldest first. DatabaseDown."""
    until = next(rule for rule in every if rule.name == "leads").cutoff(now)
    values = {"until": until, "batch": MAX_UNNOTIFIED}
    rows = run(
        lambda c: c.execute(SELECT_UNNOTIFIED, values).fetchall(), budget_s=STATEMENT_BUDGET_S
    )
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Age:
    """How old the oldest row of a class is. late: it should have ended more than a day ago."""

    name: str
    what: str
    days: int
    oldest_at: datetime | None
    late: bool


def ages(run: RunQuery, every: tuple[Rule, ...], now: datetime) -> list[Age]:
    """The oldest row of every class: what shows that retention works. Raises DatabaseDown."""

    def look(connection: "Connection[Any]") -> list[Age]:
        return [_age(connection, rule, now) for rule in every]

    found: list[Age] = run(look, budget_s=STATEMENT_BUDGET_S)
    return found


def prune_redis(command: Callable[..., Any], now: datetime) -> int:
    """End what Redis does not end by itself; how many entries. Raises CacheDown.

    The journal's copies expire one by one; one that would not is made to.
    """
    at = now.timestamp()
    ended = int(command("ZREMRANGEBYSCORE", ACCEPTED, "-inf", at - JOURNAL_TTL_S))
    kept = timedelta(days=TOMBSTONE_DAYS).total_seconds()
    ended += int(command("ZREMRANGEBYSCORE", TOMBSTONES_KEY, "-inf", at - kept))
    for key in scan_keys(command, journal_key("*")):
        ended += int(command("EXPIRE", key, JOURNAL_TTL_S, "NX"))
    return ended


def _age(connection: "Connection[Any]", rule: Rule, now: datetime) -> Age:
    row = connection.execute(rule.select_oldest).fetchone()
    oldest_at = row[0] if row else None
    late = oldest_at is not None and oldest_at < rule.cutoff(now) - GRACE_PERIOD
    return Age(rule.name, rule.description, rule.days, oldest_at, late)


def overdue(run: RunQuery, every: tuple[Rule, ...], now: datetime) -> list[Age]:
    """The classes that hold more than they should."""
    return [age for age in ages(run, every, now) if age.late]
