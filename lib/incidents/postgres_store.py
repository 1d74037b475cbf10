"""Incidents in Postgres: the record.

The rule a newcomer would break: a change and its line in the timeline are one transaction. The
database seals the timeline (see the migration); events are only added.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lib.incidents import model
from lib.incidents.messages import Links
from lib.incidents.model import Event, Finding, Incident, IncidentError
from lib.incidents.notifier import Channel, NotifyStats, notify_due
from lib.interfaces import MessageRef, RunQuery

if TYPE_CHECKING:
    from psycopg import Connection


INSERT_INCIDENT = """
insert into incidents (id, area, severity, state, title, rules, started_at, detected_at,
  deployment, facts, tell_at, remind_at, version, told, slack_channel, slack_ts)
values (%(id)s, %(area)s, %(severity)s, %(state)s, %(title)s, %(rules)s, %(started_at)s,
  %(detected_at)s, %(deployment)s, %(facts)s::jsonb, %(tell_at)s, %(remind_at)s, %(version)s,
  %(told)s, %(slack_channel)s, %(slack_ts)s)
on conflict do nothing
returning number
"""

SELECT_OPEN_IN_AREA = """
select * from incidents
where area = %(area)s and state in ('detect', 'classify', 'contain')
for update
"""

UPDATE_INCIDENT = """
update incidents set severity = %(severity)s, state = %(state)s, title = %(title)s,
  rules = %(rules)s, started_at = %(started_at)s, acknowledged_at = %(acknowledged_at)s,
  acknowledged_by = %(acknowledged_by)s, contained_at = %(contained_at)s,
  resolved_at = %(resolved_at)s, closed_at = %(closed_at)s, remind_at = %(remind_at)s,
  clean_ticks = %(clean_ticks)s, version = %(version)s, tell_at = %(tell_at)s,
  facts = %(facts)s::jsonb
where id = %(id)s
"""

INSERT_EVENT = """
insert into incident_events
  (incident_id, seq, at, kind, actor, facts, note, note_sha256, previous, hash)
values (%(id)s, 0, %(at)s, %(kind)s, %(actor)s, %(facts)s::jsonb, %(note)s, '', '', '')
"""

SELECT_OPEN = "select * from incidents where state in ('detect', 'classify', 'contain') order by id"
SELECT_OPEN_FOR_UPDATE = """
select * from incidents where state in ('detect', 'classify', 'contain') order by id for update
"""

SELECT_BY_ID_OR_NUMBER = """
select * from incidents
where id = %(text)s or number::text = %(text)s
  or (%(text)s = 'last' and number = (select max(number) from incidents))
for update
"""

SELECT_RECENT = """
select * from incidents where started_at > %(since)s or state not in ('resolve', 'closed')
order by started_at desc limit 50
"""

SELECT_EVENTS = """
select seq, at, kind, actor, facts, note from incident_events
where incident_id = %(id)s order by seq
"""

# Postponing the next attempt is the lease: after a kill it is claimed again.
CLAIM_DUE = """
update incidents set tell_at = %(until)s
from (
  select id from incidents where told < version and tell_at <= %(now)s
  order by severity, tell_at limit 20 for update skip locked
) as due
where incidents.id = due.id
returning incidents.*
"""
MARK_NOTIFIED = """
update incidents set told = greatest(told, %(version)s), slack_channel = %(channel)s,
  slack_ts = %(ts)s, tell_at = case when version > %(version)s then %(now)s else tell_at end
where id = %(id)s
"""
POSTPONE = "update incidents set tell_at = %(at)s where id = %(id)s and told < version"
SELECT_BY_MESSAGE = (
    "select * from incidents where slack_ts = %(ts)s and slack_channel = %(channel)s order by id"
)
CLAIM_REMINDERS = """
update incidents set remind_at = %(next)s
where remind_at <= %(now)s and acknowledged_at is null and slack_ts is not null
  and state in ('detect', 'classify', 'contain')
returning *
"""
POSTPONE_REMINDER = """
update incidents set remind_at = %(at)s where id = %(id)s and acknowledged_at is null
"""
SELECT_OLD_SEV2 = """
select * from incidents where severity = 'sev2' and state in ('resolve', 'review')
  and resolved_at < %(before)s order by id for update skip locked
"""
UPDATE_FROM_FALLBACK = """
update incidents set severity = %(severity)s, title = %(title)s, rules = %(rules)s,
  facts = %(facts)s::jsonb, version = greatest(version, %(version)s),
  told = greatest(told, %(told)s), tell_at = %(tell_at)s, slack_channel = %(slack_channel)s,
  slack_ts = %(slack_ts)s, remind_at = %(remind_at)s,
  acknowledged_at = coalesce(acknowledged_at, %(acknowledged_at)s),
  acknowledged_by = coalesce(acknowledged_by, %(acknowledged_by)s)
where id = %(id)s and state in ('detect', 'classify', 'contain') and version <= %(version)s
"""
INSERT_EVENT_ONCE = """
insert into incident_events
  (incident_id, seq, at, kind, actor, facts, note, note_sha256, previous, hash)
select %(id)s, 0, %(at)s, %(kind)s, %(actor)s, %(facts)s::jsonb, %(note)s, '', '', ''
where not exists (
  select from incident_events where incident_id = %(id)s and at = %(at)s and kind = %(kind)s)
"""


# ---------------------------------------------------------------- from findings


def record_findings(
    run: RunQuery, findings: Sequence[Finding], now: datetime, deployment: str, actor: str
) -> list[Incident]:
    """Open an incident for each area of the findings, or merge them into the open one."""
    return [
        run(partial(_record_area, of_area, now, deployment, actor))
        for of_area in model.by_area(findings).values()
    ]


def _record_area(
    findings: Sequence[Finding],
    now: datetime,
    deployment: str,
    actor: str,
    connection: "Connection[Any]",
) -> Incident:
    with connection.transaction():
        before = _find_open(connection, findings[0].area)
        opened = model.open_incident(findings, now, deployment)
        while before is None:
            if insert(connection, opened, actor, now):
                return opened
            # Another process opened it; or one of the same minute is resolved.
            before = _find_open(connection, findings[0].area)
            opened = model.with_new_id(opened)
        after = model.merge_findings(before, findings, now)
        update(connection, after)
        if after.version > before.version:
            descriptions = {finding.rule: finding.description for finding in findings}
            facts = {"severity": after.severity, "what": descriptions}
            add_event(connection, after.id, now, "detected", actor, facts)
        return after


def insert(connection: "Connection[Any]", incident: Incident, actor: str, now: datetime) -> bool:
    """With its first two events; False when its area has an open one, or its id is taken."""
    if connection.execute(INSERT_INCIDENT, _to_row(incident)).fetchone() is None:
        return False
    facts = {"what": incident.descriptions, "started_at": incident.started_at.isoformat()}
    add_event(connection, incident.id, incident.detected_at, "detected", actor, facts)
    add_event(connection, incident.id, now, "classified", actor, {"severity": incident.severity})
    return True


def record_clean_check(run: RunQuery, broken_areas: set[str], now: datetime) -> list[Incident]:
    """For every open incident outside the broken areas; those that are resolved by it."""

    def work(connection: "Connection[Any]") -> list[Incident]:
        resolved = []
        with connection.transaction():
            for before in select(connection, SELECT_OPEN_FOR_UPDATE):
                if before.area in broken_areas:
                    continue
                after = model.after_clean_check(before, now)
                update(connection, after)
                if not after.is_open:
                    resolved.append(after)
                    facts = {"lasted_s": int(after.duration(now).total_seconds())}
                    add_event(connection, after.id, now, "recovered", "watch", facts)
        return resolved

    return list(run(work))


def close_old_sev2(run: RunQuery, now: datetime, age: timedelta) -> None:
    """Close the Sev2 that were resolved so long ago: nobody owes a review of them."""

    def work(connection: "Connection[Any]") -> None:
        with connection.transaction():
            for resolved in select(connection, SELECT_OLD_SEV2, before=now - age):
                reviewed = resolved
                if resolved.state == "resolve":
                    reviewed = model.transition(resolved, "review", now)
                closed = model.transition(reviewed, "closed", now)
                update(connection, closed)
                _mark_notified(connection, closed, now)
                add_event(connection, closed.id, now, "closed", "watch", {})

    run(work)


def import_incident(
    connection: "Connection[Any]",
    incident: Incident,
    events: Sequence[Event],
    now: datetime,
    source: str,
) -> str | None:
    """Enter what Redis or Slack alone knew; twice is once. The id it has now; None if resolved.

    source: "redis" or "slack".
    """
    with connection.transaction():
        while not insert(connection, incident, source, now):
            existing = _find_open(connection, incident.area) or _find(connection, incident.id)
            if existing is None or existing.is_open:
                break
            if existing.detected_at == incident.detected_at:
                return None
            incident = model.with_new_id(incident)
        current = _find_open(connection, incident.area)
        if current is None:
            return None
        for at, kind, actor, facts, note in events:
            values = {"id": current.id, "at": datetime.fromisoformat(at), "kind": kind}
            values |= {"actor": actor, "facts": json.dumps(facts), "note": note}
            connection.execute(INSERT_EVENT_ONCE, values)
        if current.id == incident.id or source != "slack":  # else the open one keeps its message
            connection.execute(UPDATE_FROM_FALLBACK, _to_row(replace(incident, id=current.id)))
        return current.id


# ---------------------------------------------------------------- by people


def acknowledge(run: RunQuery, text: str, who: str, now: datetime) -> Incident:
    """Raises IncidentError."""

    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            before = require(connection, text)
            after = model.acknowledge(before, who, now)
            if after is not before:
                update(connection, after)
                add_event(connection, after.id, now, "acknowledged", who, {})
            return after

    return run(work)  # type: ignore[no-any-return]


def add_note(run: RunQuery, text: str, who: str, now: datetime, note: str) -> Incident:
    """Raises IncidentError."""

    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            incident = require(connection, text)
            add_event(connection, incident.id, now, "note", who, {}, note)
            return incident

    return run(work)  # type: ignore[no-any-return]


# ---------------------------------------------------------------- reading


def find(run: RunQuery, text: str) -> Incident:
    """By id, number, or `last`. Raises IncidentError."""
    return run(partial(require, text=text))  # type: ignore[no-any-return]


def list_open(run: RunQuery) -> list[Incident]:
    return list(run(partial(select, statement=SELECT_OPEN)))


def list_recent(run: RunQuery, since: datetime) -> list[Incident]:
    """Those that began since then, and those that wait for somebody; newest first."""
    return list(run(partial(select, statement=SELECT_RECENT, since=since)))


def list_events(run: RunQuery, incident_id: str) -> list[tuple[Any, ...]]:
    """(seq, at, kind, actor, facts, note), oldest first."""
    return list(run(lambda c: c.execute(SELECT_EVENTS, {"id": incident_id}).fetchall()))


# ---------------------------------------------------------------- as one of lib/incidents/stores.py


class PostgresStore:
    """It is a notifier.NotificationStore, too."""

    name = "Postgres"

    def __init__(self, run: RunQuery, now: datetime, deployment: str) -> None:
        self._run = run
        self._now = now
        self._deployment = deployment
        self.find = partial(find, run)
        self.list_open = partial(list_open, run)
        self.list_recent = partial(list_recent, run)

    def record_findings(self, findings: Sequence[Finding], actor: str) -> NotifyStats:
        record_findings(self._run, findings, self._now, self._deployment, actor)
        return NotifyStats()

    def list_events(self, incident: Incident) -> list[tuple[Any, ...]]:
        return list_events(self._run, incident.id)

    def acknowledge(self, text: str, who: str) -> Incident:
        return acknowledge(self._run, text, who, self._now)

    def add_note(self, text: str, who: str, note: str) -> Incident:
        return add_note(self._run, text, who, self._now, note)

    def notify(self, channel: Channel, links: Links) -> NotifyStats:
        return notify_due(self, channel, links, self._now)

    def claim_due(self, now: datetime) -> list[Incident]:
        until = now + model.NOTIFY_LEASE
        return list(self._run(partial(select, statement=CLAIM_DUE, now=now, until=until)))

    def claim_reminders(self, now: datetime) -> list[Incident]:
        next_at = now + model.REMINDER_INTERVAL
        return list(self._run(partial(select, statement=CLAIM_REMINDERS, now=now, next=next_at)))

    def incidents_in_message(self, ref: MessageRef) -> list[Incident]:
        channel, ts = ref
        return list(self._run(partial(select, statement=SELECT_BY_MESSAGE, channel=channel, ts=ts)))

    def mark_notified(self, incident: Incident, now: datetime) -> None:
        """The first time is an event: seconds from detection to alert."""

        def work(connection: "Connection[Any]") -> None:
            with connection.transaction():
                _mark_notified(connection, incident, now)
                if incident.told == 0:
                    facts = {"after_s": int((now - incident.detected_at).total_seconds())}
                    add_event(connection, incident.id, now, "alerted", "slack", facts)

        self._run(work)

    def postpone(self, incident: Incident, at: datetime) -> None:
        self._run(lambda c: c.execute(POSTPONE, {"id": incident.id, "at": at}))

    def postpone_reminder(self, incident: Incident, at: datetime) -> None:
        self._run(lambda c: c.execute(POSTPONE_REMINDER, {"id": incident.id, "at": at}))


# ---------------------------------------------------------------- rows


def require(connection: "Connection[Any]", text: str) -> Incident:
    """By id, number, or `last`. Raises IncidentError."""
    incident = _find(connection, text)
    if incident is None:
        raise IncidentError(f"there is no incident {text}")
    return incident


def _find(connection: "Connection[Any]", text: str) -> Incident | None:
    return next(iter(select(connection, SELECT_BY_ID_OR_NUMBER, text=text)), None)


def _find_open(connection: "Connection[Any]", area: str) -> Incident | None:
    return next(iter(select(connection, SELECT_OPEN_IN_AREA, area=area)), None)


def select(connection: "Connection[Any]", statement: str, **values: object) -> list[Incident]:
    cursor = connection.execute(statement.encode(), values)
    columns = [column.name for column in cursor.description or ()]
    incidents = []
    for row in cursor.fetchall():
        by_name = dict(zip(columns, row, strict=True))
        fields = {name: by_name[name] for name in model.FIELD_NAMES}
        incidents.append(Incident(**fields | {"rules": tuple(by_name["rules"])}))
    return incidents


def update(connection: "Connection[Any]", incident: Incident) -> None:
    connection.execute(UPDATE_INCIDENT, _to_row(incident))


def _to_row(incident: Incident) -> dict[str, object]:
    values = asdict(incident)
    return values | {"rules": list(incident.rules), "facts": json.dumps(incident.facts)}


def _mark_notified(connection: "Connection[Any]", incident: Incident, now: datetime) -> None:
    channel, ts = incident.slack_channel, incident.slack_ts
    values = {"id": incident.id, "version": incident.version, "channel": channel, "ts": ts}
    connection.execute(MARK_NOTIFIED, {**values, "now": now})


def add_event(
    connection: "Connection[Any]",
    incident_id: str,
    at: datetime,
    kind: str,
    actor: str,
    facts: dict[str, Any],
    note: str | None = None,
) -> None:
    """One line of the timeline. facts: no personal data; note: a person's own words."""
    values = {"id": incident_id, "at": at, "kind": kind, "actor": actor, "note": note}
    connection.execute(INSERT_EVENT, {**values, "facts": json.dumps(facts)})
