"""Incidents in Postgres: the record.

The rule a newcomer would break: a change and its line in the timeline are one transaction. The
database seals the timeline (see the migration); events are only added.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lib.incidents import model
from lib.incidents.model import Event, Incident, IncidentError
from lib.incidents.store import Change, IncidentStore
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

UPDATE_INCIDENT = """
update incidents set severity = %(severity)s, state = %(state)s, title = %(title)s,
  rules = %(rules)s, started_at = %(started_at)s, acknowledged_at = %(acknowledged_at)s,
  acknowledged_by = %(acknowledged_by)s, contained_at = %(contained_at)s,
  resolved_at = %(resolved_at)s, closed_at = %(closed_at)s, remind_at = %(remind_at)s,
  clean_ticks = %(clean_ticks)s, version = %(version)s, told = %(told)s, tell_at = %(tell_at)s,
  slack_channel = %(slack_channel)s, slack_ts = %(slack_ts)s, facts = %(facts)s::jsonb
where id = %(id)s
"""

INSERT_EVENT = """
insert into incident_events
  (incident_id, seq, at, kind, actor, facts, note, note_sha256, previous, hash)
values (%(id)s, 0, %(at)s, %(kind)s, %(actor)s, %(facts)s::jsonb, %(note)s, '', '', '')
"""

SELECT_OPEN = """
select * from incidents where state in ('detect', 'classify', 'contain') order by detected_at desc
"""
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

SELECT_DUE = """
select * from incidents
where told < version and tell_at <= %(now)s
  or remind_at <= %(now)s and acknowledged_at is null and slack_ts is not null
order by severity, tell_at limit 40
"""
SELECT_BY_MESSAGE = (
    "select * from incidents where slack_ts = %(ts)s and slack_channel = %(channel)s order by id"
)
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


class PostgresStore(IncidentStore):
    """run: `Database.run` or `run_or_down`."""

    name = "Postgres"

    def __init__(self, run: RunQuery, now: datetime, deployment: str) -> None:
        super().__init__(now, deployment)
        self._run = run

    def _transact[R](self, work: "Callable[[Connection[Any]], R]") -> R:
        def transaction(connection: "Connection[Any]") -> R:
            with connection.transaction():
                return work(connection)

        result: R = self._run(transaction)
        return result

    # ------------------------------------------------------------ reading

    def _select(self, statement: str, **values: object) -> list[Incident]:
        return list(self._run(lambda c: select(c, statement, **values)))

    def list_open(self) -> list[Incident]:
        return self._select(SELECT_OPEN)

    def list_recent(self, since: datetime) -> list[Incident]:
        return self._select(SELECT_RECENT, since=since)

    def list_due(self) -> list[Incident]:
        return self._select(SELECT_DUE, now=self._now)

    def list_in_message(self, ref: MessageRef) -> list[Incident]:
        channel, ts = ref
        return self._select(SELECT_BY_MESSAGE, channel=channel, ts=ts)

    def find(self, text: str) -> Incident:
        return self._transact(partial(require, text=text))

    def list_events(self, incident: Incident) -> list[tuple[Any, ...]]:
        return list(self._run(lambda c: c.execute(SELECT_EVENTS, {"id": incident.id}).fetchall()))

    # ------------------------------------------------------------ writing

    def insert(self, incident: Incident, actor: str) -> bool:
        return self._transact(partial(_insert, incident=incident, actor=actor, now=self._now))

    def change(self, text: str, change: Change) -> Incident:
        def work(connection: "Connection[Any]") -> Incident:
            before = require(connection, text)
            after, event = change(before)
            if after is not before:
                update(connection, after)
            if event is not None:
                add_event(connection, after.id, *event)
            return after

        return self._transact(work)

    def record_clean_check(self, broken_areas: set[str]) -> list[Incident]:
        """For every open incident outside the broken areas; those that are resolved by it."""

        def work(connection: "Connection[Any]") -> list[Incident]:
            resolved = []
            for before in select(connection, SELECT_OPEN_FOR_UPDATE):
                if before.area in broken_areas:
                    continue
                after = model.after_clean_check(before, self._now)
                update(connection, after)
                if not after.is_open:
                    resolved.append(after)
                    facts = {"lasted_s": int(after.duration(self._now).total_seconds())}
                    add_event(connection, after.id, self._now, "recovered", "watch", facts)
            return resolved

        return self._transact(work)

    def close_old_sev2(self, age: timedelta) -> None:
        """Close the Sev2 that were resolved so long ago: nobody owes a review of them."""

        def work(connection: "Connection[Any]") -> None:
            for resolved in select(connection, SELECT_OLD_SEV2, before=self._now - age):
                reviewed = resolved
                if resolved.state == "resolve":
                    reviewed = model.transition(resolved, "review", self._now)
                closed = model.transition(reviewed, "closed", self._now)
                update(connection, replace(closed, notified_version=closed.version))
                add_event(connection, closed.id, self._now, "closed", "watch", {})

        self._transact(work)

    def import_incident(
        self, incident: Incident, events: Sequence[Event], source: str
    ) -> str | None:
        """Enter what Redis or Slack alone knew; twice is once.

        source: "redis" or "slack". The id it has now; None if it is resolved.
        """
        work = partial(_import, incident=incident, events=events, source=source, now=self._now)
        return self._transact(work)


def _insert(connection: "Connection[Any]", incident: Incident, actor: str, now: datetime) -> bool:
    """With its first two events."""
    if connection.execute(INSERT_INCIDENT, _to_row(incident)).fetchone() is None:
        return False
    facts = {"what": incident.descriptions, "started_at": incident.started_at.isoformat()}
    add_event(connection, incident.id, incident.detected_at, "detected", actor, facts)
    add_event(connection, incident.id, now, "classified", actor, {"severity": incident.severity})
    return True


def _import(
    connection: "Connection[Any]",
    incident: Incident,
    events: Sequence[Event],
    source: str,
    now: datetime,
) -> str | None:
    while not _insert(connection, incident, source, now):
        existing = _find_open(connection, incident.area) or _find(connection, incident.id)
        if existing is None or existing.is_open:
            break
        if existing.detected_at == incident.detected_at:
            return None
        incident = model.with_new_id(incident)
    current = _find_open(connection, incident.area)
    if current is None:
        return None
    for event in events:
        values = {"id": current.id, **event._asdict(), "facts": json.dumps(event.facts)}
        connection.execute(INSERT_EVENT_ONCE, values)
    if current.id == incident.id or source != "slack":  # else the open one keeps its message
        connection.execute(UPDATE_FROM_FALLBACK, _to_row(replace(incident, id=current.id)))
    return current.id


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
    open_incidents = select(connection, SELECT_OPEN_FOR_UPDATE)
    return next((incident for incident in open_incidents if incident.area == area), None)


def select(connection: "Connection[Any]", statement: str, **values: object) -> list[Incident]:
    cursor = connection.execute(statement.encode(), values)
    columns = [column.name for column in cursor.description or ()]
    return [model.from_row(dict(zip(columns, row, strict=True))) for row in cursor]


def update(connection: "Connection[Any]", incident: Incident) -> None:
    connection.execute(UPDATE_INCIDENT, _to_row(incident))


def _to_row(incident: Incident) -> dict[str, object]:
    columns = {"rules": list(incident.rules), "facts": json.dumps(incident.facts)}
    return incident.to_row() | columns


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
