"""Retention: how long each class of data is kept, and the batches that delete what is older.

A batch skips rows that another run holds, so a run may overlap another or be interrupted; the next
run goes on. A rule for personal data also belongs in ops/privacy/data_inventory.py.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lib.interfaces import RedisExecute, RunQuery
from lib.leads.queue import ACCEPTED, JOURNAL_TTL_S, journal_key, scan_keys
from lib.leads.tombstones import REDIS_KEY

if TYPE_CHECKING:
    from psycopg import Connection

BATCH = 1000  # rows
MAX_UNNOTIFIED = 20  # leads that are named
STATEMENT_BUDGET_S = 8.0
TOMBSTONE_DAYS = 400  # longer than any backup is kept: 90 days
GRACE_PERIOD = timedelta(days=1)  # between two runs of the cron

# Templates: filled in from `rules` alone, and prepared so in a test.
DELETE_BATCH = """
delete from {table} where ctid = any(array(
  select ctid from {table} as t where {time} < %(until)s and {condition}
  order by {time} limit %(batch)s for update skip locked))
"""
CLEAR_BATCH = """
update {table} set {clear} where ctid = any(array(
  select ctid from {table} as t where {time} < %(until)s and {condition}
  order by {time} limit %(batch)s for update skip locked))
"""
SELECT_OLDEST = "select min({time}) from {table} as t where {condition}"

# The trigger on leads takes any other deletion for an erasure.
SET_DELETE_REASON = "select set_config('alfa.deleting', 'retention', true)"

SELECT_UNNOTIFIED = """
select id::text from leads as l where created_at < %(until)s and sales_never_heard(l)
order by created_at limit %(batch)s
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """A retention class: the rows of `table` that are kept `days` from `time`.

    time, condition: SQL; the condition calls the row t. clear: assignments, where only some columns
    end and the row stays.
    """

    name: str
    description: str
    days: int
    table: str
    time: str
    condition: str = "true"
    clear: str = ""

    def cutoff(self, now: datetime) -> datetime:
        return now - timedelta(days=self.days)

    def statements(self) -> tuple[str, str]:
        """The statement that ends one batch, and the one that finds the oldest row's time."""
        parts = {"table": self.table, "time": self.time, "condition": self.condition}
        batch = CLEAR_BATCH if self.clear else DELETE_BATCH
        return batch.format(**parts, clear=self.clear), SELECT_OLDEST.format(**parts)


def rules(leads_days: int) -> tuple[Rule, ...]:
    """Every class, personal data first. leads_days: how long a lead is kept."""
    return (
        # A lead that sales were never told of stays until a person has dealt with it.
        Rule("leads", "leads, and their mails with them", leads_days, "leads", "created_at",
             "not sales_never_heard(t)"),
        Rule("origins", "IP address and user agent of leads", 90, "leads", "created_at",
             "(ip_address is not null or user_agent is not null)",
             clear="ip_address = null, user_agent = null"),
        # Neither a mail that is still to be sent, nor one to sales that was given up.
        Rule("mails", "rendered mails that are sent or given up", 90, "outbox", "created_at",
             "(sent_at is not null or dead_at is not null and kind = 'acknowledgement')"),
        Rule("spam", "submissions kept for review", 30, "spam", "received_at"),
        Rule("clients", "clients' leads of an hour, for their rate limits", 1, "lead_clients",
             "last_at"),
        # An open entry waits for a person.
        Rule("mailed", "entries of leads once in a mail alone", 90, "mailed_leads", "accepted_at",
             "(dismissed_at is not null or exists (select from leads where leads.id = t.lead_id))"),
        # The timeline is append-only; only a note's text may end.
        Rule("notes", "texts of notes on incidents", 365, "incident_events", "at",
             "note is not null", clear="note = null"),
        Rule("minutes", "requests by the minute", 2, "metric_minutes", "minute"),
        Rule("hours", "requests by the hour", 90, "metric_hours", "hour"),
        # A day's age counts from its end.
        Rule("days", "a service's days, for the status page", 730, "service_days",
             "(day + 1)::timestamptz"),
        Rule("sightings", "which deployment used which key", 400, "key_sightings", "last_seen_at"),
        Rule("backups", "backups that were seen", 400, "backups", "taken_at"),
        Rule("drills", "exercises and their verdicts", 1095, "drills", "at"),
        Rule("requests", "the register of persons' requests", 1095, "erasure_requests",
             "finished_at"),
        Rule("tombstones", "hashes of who was erased", TOMBSTONE_DAYS, "erasure_tombstones",
             "erased_at"),
    )  # fmt: skip


def prune(
    run: RunQuery,
    rules: tuple[Rule, ...],
    now: datetime,
    *,
    budget_s: float,
    progress: Callable[[str], None] = lambda _words: None,
) -> dict[str, int]:
    """Rows ended, by rule; a batch of each in turn, for budget_s seconds. Raises DatabaseDown.

    progress: called after each batch with what was ended so far.
    """
    ended = dict.fromkeys((rule.name for rule in rules), 0)
    deadline, unfinished = time.monotonic() + budget_s, list(rules)
    while unfinished:
        for rule in list(unfinished):
            if time.monotonic() >= deadline:
                return ended
            rows = run(partial(_prune_batch, rule=rule, now=now), budget_s=STATEMENT_BUDGET_S)
            ended[rule.name] += rows
            progress(f"{sum(ended.values()):,} so far, now {rule.name}")
            if rows < BATCH:
                unfinished.remove(rule)
    return ended


def _prune_batch(connection: "Connection[Any]", *, rule: Rule, now: datetime) -> int:
    end_batch, _ = rule.statements()
    with connection.transaction():
        connection.execute(SET_DELETE_REASON)
        return connection.execute(end_batch, {"until": rule.cutoff(now), "batch": BATCH}).rowcount


def unnotified_leads(run: RunQuery, rules: tuple[Rule, ...], now: datetime) -> list[str]:
    """Ids of leads past their time that sales were never told of, the oldest first.

    Raises DatabaseDown.
    """
    cutoff = next(rule for rule in rules if rule.name == "leads").cutoff(now)
    values = {"until": cutoff, "batch": MAX_UNNOTIFIED}
    rows = run(lambda c: c.execute(SELECT_UNNOTIFIED, values).fetchall(),
               budget_s=STATEMENT_BUDGET_S)  # fmt: skip
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Age:
    """The oldest row of a class. late: it should have ended more than GRACE_PERIOD ago."""

    name: str
    what: str
    days: int
    oldest_at: datetime | None
    late: bool


def ages(run: RunQuery, rules: tuple[Rule, ...], now: datetime) -> list[Age]:
    """The oldest row of every class: what shows that retention works. Raises DatabaseDown."""
    oldest: list[Age] = run(
        lambda connection: [_age(connection, rule, now) for rule in rules],
        budget_s=STATEMENT_BUDGET_S,
    )
    return oldest


def _age(connection: "Connection[Any]", rule: Rule, now: datetime) -> Age:
    _, select_oldest = rule.statements()
    (oldest_at,) = connection.execute(select_oldest).fetchone() or (None,)
    late = oldest_at is not None and oldest_at < rule.cutoff(now) - GRACE_PERIOD
    return Age(rule.name, rule.description, rule.days, oldest_at, late)


def overdue(run: RunQuery, rules: tuple[Rule, ...], now: datetime) -> list[Age]:
    """The classes that hold rows which should have ended more than GRACE_PERIOD ago."""
    return [age for age in ages(run, rules, now) if age.late]


def prune_redis(execute: RedisExecute, now: datetime) -> int:
    """End what does not expire by itself in Redis; how many entries. Raises CacheDown."""
    oldest_lead = now.timestamp() - JOURNAL_TTL_S
    oldest_tombstone = (now - timedelta(days=TOMBSTONE_DAYS)).timestamp()
    ended = int(execute("ZREMRANGEBYSCORE", ACCEPTED, "-inf", oldest_lead))
    ended += int(execute("ZREMRANGEBYSCORE", REDIS_KEY, "-inf", oldest_tombstone))
    # Sealed copies of the journal expire; one that would not is made to.
    for key in scan_keys(execute, journal_key("*")):
        ended += int(execute("EXPIRE", key, JOURNAL_TTL_S, "NX"))
    return ended
