"""Incidents in Postgres: the record. Every change is one transaction with its line in the timeline.

The timeline is sealed by the database itself (see the migration): here events are only added.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lib.incidents import model
from lib.incidents.model import Finding, Incident, IncidentError
from lib.interfaces import RunQuery

if TYPE_CHECKING:
    from psycopg import Connection

type Event = tuple[str, str, str, dict[str, Any], str | None]
"""at, kind, actor, facts, a person's words."""

LEASE = timedelta(seconds=60)

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

UPDATE_RCA = "update incidents set rca = %(rca)s::jsonb where id = %(id)s"
SELECT_RCA = "select rca, rca_is_complete(rca) from incidents where id = %(id)s"

# Who tells of it leases it by putting off the next try: killed, the next one comes after a minute.
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


# ---------------------------------------------------------------- found, and over


def record_findings(
    run: RunQuery, findings: Sequence[Finding], now: datetime, deployment: str, actor: str
) -> list[Incident]:
    """Open an incident for each area of the findings, or join the open one; those incidents."""
    areas = sorted({one.area for one in findings})
    return [
        run(partial(_record_area, [o for o in findings if o.area == area], now, deployment, actor))
        for area in areas
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
        made = model.open_incident(findings, now, deployment)
        while before is None:
            if insert(connection, made, actor, now):
                return made
            # Another got there first; or one of this minute is over already.
            before = _find_open(connection, findings[0].area)
            made = model.with_new_id(made)
        after = model.merge_findings(before, findings, now)
        _update(connection, after)
        if after.version > before.version:
            add_event(connection, after.id, now, "detected", actor, _finding_facts(after, findings))
        return after


def insert(connection: "Connection[Any]", made: Incident, actor: str, now: datetime) -> bool:
    """Keep a new incident, with its first two steps; False when there is one already."""
    if connection.execute(INSERT_INCIDENT, _to_row(made)).fetchone() is None:
        return False
    facts = {"what": made.descriptions, "started_at": made.started_at.isoformat()}
    add_event(connection, made.id, made.detected_at, "detected", actor, facts)
    add_event(connection, made.id, now, "classified", actor, {"severity": made.severity})
    return True


def record_clean_check(run: RunQuery, troubled: set[str], now: datetime) -> list[Incident]:
    """One more tick without findings for every open incident outside `troubled` areas; those that
    are over now."""

    def look(connection: "Connection[Any]") -> list[Incident]:
        over = []
        with connection.transaction():
            for before in _select(connection, SELECT_OPEN_FOR_UPDATE):
                if before.area in troubled:
                    continue
                after = model.after_clean_check(before, now)
                _update(connection, after)
                if after.state == "resolve":
                    over.append(after)
                    lasted_s = int(after.duration(now).total_seconds())
                    add_event(
                        connection, after.id, now, "recovered", "watch", {"lasted_s": lasted_s}
                    )
        return over

    return list(run(look))


def close_old_sev2(run: RunQuery, now: datetime, age: timedelta) -> None:
    """Close Sev2 incidents that have been over for `age`: nobody owes a review of them."""

    def work(connection: "Connection[Any]") -> None:
        with connection.transaction():
            for before in _select(connection, SELECT_OLD_SEV2, before=now - age):
                reviewed = before
                if reviewed.state == "resolve":
                    reviewed = model.transition(before, "review", now)
                after = model.transition(reviewed, "closed", now)
                _update(connection, after)
                connection.execute(MARK_NOTIFIED, _message_values(after, now))
                add_event(connection, after.id, now, "closed", "watch", {})

    run(work)


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


def import_fallback(
    connection: "Connection[Any]",
    incident: Incident,
    events: Sequence[Event],
    now: datetime,
    *,
    stored: bool,
    actor: str = "spool",
) -> str | None:
    """Enter what Redis or Slack alone knew of an incident, safe to repeat; under which id it stands
    now. None where it is over already."""
    with connection.transaction():
        while not stored and not insert(connection, incident, actor, now):
            held = _find_open(connection, incident.area) or _find_or_none(connection, incident.id)
            if held is None or held.is_open:
                break
            if held.detected_at == incident.detected_at:
                return None
            incident = model.with_new_id(incident)
        current = _find_open(connection, incident.area)
        if current is None:
            return None
        joins = current.id != incident.id
        incident = replace(incident, id=current.id)
        for at, kind, who, facts, note in events:
            values = {"id": incident.id, "at": datetime.fromisoformat(at), "kind": kind}
            values |= {"actor": who, "facts": json.dumps(facts), "note": note}
            connection.execute(INSERT_EVENT_ONCE, values)
        if not (joins and actor == "slack"):  # then the one that stands has its own message
            connection.execute(UPDATE_FROM_FALLBACK, _to_row(incident))
        return incident.id


def list_open(run: RunQuery) -> list[Incident]:
    return list(run(partial(_select, statement=SELECT_OPEN)))


# ---------------------------------------------------------------- what people do


def find(run: RunQuery, text: str) -> Incident:
    """By id, number, or `last`. Raises Refused."""
    return run(partial(_find, text=text))  # type: ignore[no-any-return]


def transition(
    run: RunQuery, text: str, state: str, who: str, now: datetime, note: str | None
) -> Incident:
    """One step on. Raises Refused: an illegal one, or closing a Sev1 without its RCA."""

    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            before = _find(connection, text)
            after = model.transition(before, state, now)
            if state == "closed" and before.severity == "sev1":
                row = connection.execute(SELECT_RCA, {"id": before.id}).fetchone()
                if row is None or not row[1]:
                    raise IncidentError(
                        f"{before.id} is Sev1: it is closed with an RCA that has a cause, an "
                        "impact, and an action with owner and date (ops incident rca)"
                    )
            _update(connection, after)
            add_event(connection, after.id, now, state, who, {}, note)
            return after

    return run(work)  # type: ignore[no-any-return]


def acknowledge(run: RunQuery, text: str, who: str, now: datetime) -> Incident:
    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            before = _find(connection, text)
            after = model.acknowledge(before, who, now)
            if after is not before:
                _update(connection, after)
                add_event(connection, after.id, now, "acknowledged", who, {})
            return after

    return run(work)  # type: ignore[no-any-return]


def add_note(run: RunQuery, text: str, who: str, now: datetime, words: str) -> Incident:
    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            incident = _find(connection, text)
            add_event(connection, incident.id, now, "note", who, {}, words)
            return incident

    return run(work)  # type: ignore[no-any-return]


def add_event_to_open(
    run: RunQuery,
    kind: str,
    actor: str,
    now: datetime,
    facts: dict[str, Any],
    words: str | None = None,
) -> list[str]:
    """Enter what was done (maintenance, rollback, restore …) on every open incident; their ids."""

    def work(connection: "Connection[Any]") -> list[str]:
        with connection.transaction():
            open_ones = [one.id for one in _select(connection, SELECT_OPEN_FOR_UPDATE)]
            for incident_id in open_ones:
                add_event(connection, incident_id, now, kind, actor, facts, words)
            return open_ones

    return list(run(work))


def set_rca(run: RunQuery, text: str, rca: dict[str, object], who: str, now: datetime) -> bool:
    """Keep the root cause analysis; whether it is complete."""

    def work(connection: "Connection[Any]") -> bool:
        with connection.transaction():
            incident = _find(connection, text)
            connection.execute(UPDATE_RCA, {"id": incident.id, "rca": json.dumps(rca)})
            row = connection.execute(SELECT_RCA, {"id": incident.id}).fetchone()
            complete = bool(row and row[1])
            add_event(connection, incident.id, now, "rca", who, {"complete": complete})
            return complete

    return bool(run(work))


# ---------------------------------------------------------------- reading


def list_recent(run: RunQuery, since: datetime) -> list[Incident]:
    """Those that began since then, and those that wait for somebody; newest first."""
    return list(run(partial(_select, statement=SELECT_RECENT, since=since)))


def list_events(run: RunQuery, incident_id: str) -> list[tuple[Any, ...]]:
    """(seq, at, kind, actor, facts, note), oldest first."""
    return list(run(lambda c: c.execute(SELECT_EVENTS, {"id": incident_id}).fetchall()))


def add_event(
    connection: "Connection[Any]",
    incident_id: str,
    at: datetime,
    kind: str,
    actor: str,
    facts: dict[str, Any],
    words: str | None = None,
) -> None:
    """One more line of a timeline. facts: no personal data; words: a person's own."""
    values = {"id": incident_id, "at": at, "kind": kind, "actor": actor, "note": words}
    connection.execute(INSERT_EVENT, {**values, "facts": json.dumps(facts)})


# ---------------------------------------------------------------- telling


class NotificationStore:
    """What lib/incidents/messages.py asks of a store, over Postgres."""

    def __init__(self, run: RunQuery) -> None:
        self._run = run

    def claim_due(self, now: datetime) -> list[Incident]:
        return list(self._run(partial(_select, statement=CLAIM_DUE, now=now, until=now + LEASE)))

    def incidents_in_message(self, channel: str, ts: str) -> list[Incident]:
        """All that one message tells of."""
        return list(
            self._run(partial(_select, statement=SELECT_BY_MESSAGE, channel=channel, ts=ts))
        )

    def claim_reminders(self, now: datetime) -> list[Incident]:
        next_at = now + model.REMINDER_INTERVAL
        return list(self._run(partial(_select, statement=CLAIM_REMINDERS, now=now, next=next_at)))

    def mark_notified(self, incident: Incident, now: datetime) -> None:
        """Slack knows. The first time is a line of the timeline: detect to alert, in seconds."""

        def work(connection: "Connection[Any]") -> None:
            with connection.transaction():
                connection.execute(MARK_NOTIFIED, _message_values(incident, now))
                if incident.told == 0:
                    after_s = int((now - incident.detected_at).total_seconds())
                    add_event(
                        connection, incident.id, now, "alerted", "slack", {"after_s": after_s}
                    )

        self._run(work)

    def postpone_reminder(self, incident: Incident, at: datetime) -> None:
        self._run(lambda c: c.execute(POSTPONE_REMINDER, {"id": incident.id, "at": at}))

    def postpone(self, incident: Incident, at: datetime) -> None:
        self._run(lambda connection: connection.execute(POSTPONE, {"id": incident.id, "at": at}))


def _message_values(incident: Incident, now: datetime) -> dict[str, object]:
    return {
        "id": incident.id,
        "version": incident.version,
        "channel": incident.slack_channel,
        "ts": incident.slack_ts,
        "now": now,
    }


# ---------------------------------------------------------------- rows


def _find_open(connection: "Connection[Any]", area: str) -> Incident | None:
    held = _select(connection, SELECT_OPEN_IN_AREA, area=area)
    return held[0] if held else None


def _find_or_none(connection: "Connection[Any]", text: str) -> Incident | None:
    held = _select(connection, SELECT_BY_ID_OR_NUMBER, text=text)
    return held[0] if held else None


def _find(connection: "Connection[Any]", text: str) -> Incident:
    found = _find_or_none(connection, text)
    if found is None:
        raise IncidentError(f"there is no incident {text}")
    return found


def _select(connection: "Connection[Any]", statement: str, **values: object) -> list[Incident]:
    cursor = connection.execute(statement.encode(), values)
    names = [column.name for column in cursor.description or ()]
    made = []
    for row in cursor.fetchall():
        held = dict(zip(names, row, strict=True))
        made.append(
            Incident(
                **{name: held[name] for name in model.FIELD_NAMES} | {"rules": tuple(held["rules"])}
            )
        )
    return made


def _to_row(incident: Incident) -> dict[str, object]:
    values = asdict(incident)
    return values | {"rules": list(incident.rules), "facts": json.dumps(incident.facts)}


def _update(connection: "Connection[Any]", incident: Incident) -> None:
    connection.execute(UPDATE_INCIDENT, _to_row(incident))


def _finding_facts(incident: Incident, findings: Sequence[Finding]) -> dict[str, object]:
    return {"severity": incident.severity, "what": {one.rule: one.description for one in findings}}
