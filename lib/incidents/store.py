"""Incidents in Postgres: the record. Every change is one transaction with its line in the timeline.

The timeline is sealed by the database itself (see the migration): here events are only added.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lib.incidents import model
from lib.incidents.model import Finding, Incident, Refused

if TYPE_CHECKING:
    from psycopg import Connection

type Run = Callable[[Callable[["Connection[Any]"], Any]], Any]
type Event = tuple[str, str, str, dict[str, Any], str | None]
"""at, kind, actor, facts, a person's words."""

LEASE = timedelta(seconds=60)

OPEN_ONE = """
insert into incidents (id, area, severity, state, title, rules, started_at, detected_at,
  deployment, facts, tell_at, remind_at, version, told, slack_channel, slack_ts)
values (%(id)s, %(area)s, %(severity)s, %(state)s, %(title)s, %(rules)s, %(started_at)s,
  %(detected_at)s, %(deployment)s, %(facts)s::jsonb, %(tell_at)s, %(remind_at)s, %(version)s,
  %(told)s, %(slack_channel)s, %(slack_ts)s)
on conflict do nothing
returning number
"""

CURRENT = """
select * from incidents
where area = %(area)s and state in ('detect', 'classify', 'contain')
for update
"""

WRITE = """
update incidents set severity = %(severity)s, state = %(state)s, title = %(title)s,
  rules = %(rules)s, started_at = %(started_at)s, acknowledged_at = %(acknowledged_at)s,
  acknowledged_by = %(acknowledged_by)s, contained_at = %(contained_at)s,
  resolved_at = %(resolved_at)s, closed_at = %(closed_at)s, remind_at = %(remind_at)s,
  clean_ticks = %(clean_ticks)s, version = %(version)s, tell_at = %(tell_at)s,
  facts = %(facts)s::jsonb
where id = %(id)s
"""

ADD_EVENT = """
insert into incident_events
  (incident_id, seq, at, kind, actor, facts, note, note_sha256, previous, hash)
values (%(id)s, 0, %(at)s, %(kind)s, %(actor)s, %(facts)s::jsonb, %(note)s, '', '', '')
"""

OPEN_ONES = "select * from incidents where state in ('detect', 'classify', 'contain') order by id"
LOCK_OPEN_ONES = """
select * from incidents where state in ('detect', 'classify', 'contain') order by id for update
"""

FIND = """
select * from incidents
where id = %(text)s or number::text = %(text)s
  or (%(text)s = 'last' and number = (select max(number) from incidents))
for update
"""

RECENT = """
select * from incidents where started_at > %(since)s or state not in ('resolve', 'closed')
order by started_at desc limit 50
"""

TIMELINE = """
select seq, at, kind, actor, facts, note from incident_events
where incident_id = %(id)s order by seq
"""

SET_RCA = "update incidents set rca = %(rca)s::jsonb where id = %(id)s"
RCA = "select rca, rca_is_complete(rca) from incidents where id = %(id)s"

# Who tells of it leases it by putting off the next try: killed, the next one comes after a minute.
CLAIM = """
update incidents set tell_at = %(until)s
from (
  select id from incidents where told < version and tell_at <= %(now)s
  order by severity, tell_at limit 20 for update skip locked
) as due
where incidents.id = due.id
returning incidents.*
"""
TOLD = """
update incidents set told = greatest(told, %(version)s), slack_channel = %(channel)s,
  slack_ts = %(ts)s, tell_at = case when version > %(version)s then %(now)s else tell_at end
where id = %(id)s
"""
POSTPONE = "update incidents set tell_at = %(at)s where id = %(id)s and told < version"
TOGETHER = (
    "select * from incidents where slack_ts = %(ts)s and slack_channel = %(channel)s order by id"
)
REMIND = """
update incidents set remind_at = %(next)s
where remind_at <= %(now)s and acknowledged_at is null and slack_ts is not null
  and state in ('detect', 'classify', 'contain')
returning *
"""
REMIND_AGAIN = """
update incidents set remind_at = %(at)s where id = %(id)s and acknowledged_at is null
"""
OLD_SEV2 = """
select * from incidents where severity = 'sev2' and state in ('resolve', 'review')
  and resolved_at < %(before)s order by id for update skip locked
"""


# ---------------------------------------------------------------- found, and over


def found(
    run: Run, findings: Sequence[Finding], now: datetime, deployment: str, actor: str
) -> list[Incident]:
    """Open an incident for each area of the findings, or join the open one; those incidents."""
    areas = sorted({one.area for one in findings})
    return [
        run(partial(_found, [o for o in findings if o.area == area], now, deployment, actor))
        for area in areas
    ]


def _found(
    findings: Sequence[Finding],
    now: datetime,
    deployment: str,
    actor: str,
    connection: "Connection[Any]",
) -> Incident:
    with connection.transaction():
        before = _current(connection, findings[0].area)
        made = model.opened(findings, now, deployment)
        while before is None:
            if adopt(connection, made, actor, now):
                return made
            # Another got there first; or one of this minute is over already.
            before = _current(connection, findings[0].area)
            made = model.another(made)
        after = model.joined(before, findings, now)
        _write(connection, after)
        if after.version > before.version:
            add(connection, after.id, now, "detected", actor, _seen(after, findings))
        return after


def adopt(connection: "Connection[Any]", made: Incident, actor: str, now: datetime) -> bool:
    """Keep a new incident, with its first two steps; False when there is one already."""
    if connection.execute(OPEN_ONE, _row(made)).fetchone() is None:
        return False
    facts = {"what": made.what, "started_at": made.started_at.isoformat()}
    add(connection, made.id, made.detected_at, "detected", actor, facts)
    add(connection, made.id, now, "classified", actor, {"severity": made.severity})
    return True


def quiet(run: Run, troubled: set[str], now: datetime) -> list[Incident]:
    """One more tick without findings for every open incident outside `troubled` areas; those that
    are over now."""

    def look(connection: "Connection[Any]") -> list[Incident]:
        over = []
        with connection.transaction():
            for before in _several(connection, LOCK_OPEN_ONES):
                if before.area in troubled:
                    continue
                after = model.quieter(before, now)
                _write(connection, after)
                if after.state == "resolve":
                    over.append(after)
                    lasted_s = int(after.lasted(now).total_seconds())
                    add(connection, after.id, now, "recovered", "watch", {"lasted_s": lasted_s})
        return over

    return list(run(look))


def close_old(run: Run, now: datetime, age: timedelta) -> None:
    """Close Sev2 incidents that have been over for `age`: nobody owes a review of them."""

    def work(connection: "Connection[Any]") -> None:
        with connection.transaction():
            for before in _several(connection, OLD_SEV2, before=now - age):
                reviewed = before
                if reviewed.state == "resolve":
                    reviewed = model.step_to(before, "review", now)
                after = model.step_to(reviewed, "closed", now)
                _write(connection, after)
                connection.execute(TOLD, _told(after, now))
                add(connection, after.id, now, "closed", "watch", {})

    run(work)


CATCH_UP = """
update incidents set severity = %(severity)s, title = %(title)s, rules = %(rules)s,
  facts = %(facts)s::jsonb, version = greatest(version, %(version)s),
  told = greatest(told, %(told)s), tell_at = %(tell_at)s, slack_channel = %(slack_channel)s,
  slack_ts = %(slack_ts)s, remind_at = %(remind_at)s,
  acknowledged_at = coalesce(acknowledged_at, %(acknowledged_at)s),
  acknowledged_by = coalesce(acknowledged_by, %(acknowledged_by)s)
where id = %(id)s and state in ('detect', 'classify', 'contain') and version <= %(version)s
"""


ADD_ONCE = """
insert into incident_events
  (incident_id, seq, at, kind, actor, facts, note, note_sha256, previous, hash)
select %(id)s, 0, %(at)s, %(kind)s, %(actor)s, %(facts)s::jsonb, %(note)s, '', '', ''
where not exists (
  select from incident_events where incident_id = %(id)s and at = %(at)s and kind = %(kind)s)
"""


def take_over(
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
        while not stored and not adopt(connection, incident, actor, now):
            held = _current(connection, incident.area) or _named(connection, incident.id)
            if held is None or held.open:
                break
            if held.detected_at == incident.detected_at:
                return None
            incident = model.another(incident)
        current = _current(connection, incident.area)
        if current is None:
            return None
        joins = current.id != incident.id
        incident = replace(incident, id=current.id)
        for at, kind, who, facts, note in events:
            values = {"id": incident.id, "at": datetime.fromisoformat(at), "kind": kind}
            values |= {"actor": who, "facts": json.dumps(facts), "note": note}
            connection.execute(ADD_ONCE, values)
        if not (joins and actor == "slack"):  # then the one that stands has its own message
            connection.execute(CATCH_UP, _row(incident))
        return incident.id


def open_ones(run: Run) -> list[Incident]:
    return list(run(partial(_several, statement=OPEN_ONES)))


# ---------------------------------------------------------------- what people do


def find(run: Run, text: str) -> Incident:
    """By id, number, or `last`. Raises Refused."""
    return run(partial(_find, text=text))  # type: ignore[no-any-return]


def step(run: Run, text: str, state: str, who: str, now: datetime, note: str | None) -> Incident:
    """One step on. Raises Refused: an illegal one, or closing a Sev1 without its RCA."""

    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            before = _find(connection, text)
            after = model.step_to(before, state, now)
            if state == "closed" and before.severity == "sev1":
                row = connection.execute(RCA, {"id": before.id}).fetchone()
                if row is None or not row[1]:
                    raise Refused(
                        f"{before.id} is Sev1: it is closed with an RCA that has a cause, an "
                        "impact, and an action with owner and date (ops incident rca)"
                    )
            _write(connection, after)
            add(connection, after.id, now, state, who, {}, note)
            return after

    return run(work)  # type: ignore[no-any-return]


def acknowledge(run: Run, text: str, who: str, now: datetime) -> Incident:
    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            before = _find(connection, text)
            after = model.acknowledged(before, who, now)
            if after is not before:
                _write(connection, after)
                add(connection, after.id, now, "acknowledged", who, {})
            return after

    return run(work)  # type: ignore[no-any-return]


def note(run: Run, text: str, who: str, now: datetime, words: str) -> Incident:
    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            incident = _find(connection, text)
            add(connection, incident.id, now, "note", who, {}, words)
            return incident

    return run(work)  # type: ignore[no-any-return]


def record(
    run: Run,
    kind: str,
    actor: str,
    now: datetime,
    facts: dict[str, Any],
    words: str | None = None,
) -> list[str]:
    """Enter what was done (maintenance, rollback, restore …) on every open incident; their ids."""

    def work(connection: "Connection[Any]") -> list[str]:
        with connection.transaction():
            open_ones = [one.id for one in _several(connection, LOCK_OPEN_ONES)]
            for incident_id in open_ones:
                add(connection, incident_id, now, kind, actor, facts, words)
            return open_ones

    return list(run(work))


def set_rca(run: Run, text: str, rca: dict[str, object], who: str, now: datetime) -> bool:
    """Keep the root cause analysis; whether it is complete."""

    def work(connection: "Connection[Any]") -> bool:
        with connection.transaction():
            incident = _find(connection, text)
            connection.execute(SET_RCA, {"id": incident.id, "rca": json.dumps(rca)})
            row = connection.execute(RCA, {"id": incident.id}).fetchone()
            complete = bool(row and row[1])
            add(connection, incident.id, now, "rca", who, {"complete": complete})
            return complete

    return bool(run(work))


# ---------------------------------------------------------------- reading


def recent(run: Run, since: datetime) -> list[Incident]:
    """Those that began since then, and those that wait for somebody; newest first."""
    return list(run(partial(_several, statement=RECENT, since=since)))


def timeline(run: Run, incident_id: str) -> list[tuple[Any, ...]]:
    """(seq, at, kind, actor, facts, note), oldest first."""
    return list(run(lambda c: c.execute(TIMELINE, {"id": incident_id}).fetchall()))


def add(
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
    connection.execute(ADD_EVENT, {**values, "facts": json.dumps(facts)})


# ---------------------------------------------------------------- telling


class Store:
    """What lib/incidents/messages.py asks of a store, over Postgres."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def claim(self, now: datetime) -> list[Incident]:
        return list(self._run(partial(_several, statement=CLAIM, now=now, until=now + LEASE)))

    def together(self, channel: str, ts: str) -> list[Incident]:
        """All that one message tells of."""
        return list(self._run(partial(_several, statement=TOGETHER, channel=channel, ts=ts)))

    def reminders(self, now: datetime) -> list[Incident]:
        next_at = now + model.REMIND_EVERY
        return list(self._run(partial(_several, statement=REMIND, now=now, next=next_at)))

    def told(self, incident: Incident, now: datetime) -> None:
        """Slack knows. The first time is a line of the timeline: detect to alert, in seconds."""

        def work(connection: "Connection[Any]") -> None:
            with connection.transaction():
                connection.execute(TOLD, _told(incident, now))
                if incident.told == 0:
                    after_s = int((now - incident.detected_at).total_seconds())
                    add(connection, incident.id, now, "alerted", "slack", {"after_s": after_s})

        self._run(work)

    def remind_again(self, incident: Incident, at: datetime) -> None:
        self._run(lambda c: c.execute(REMIND_AGAIN, {"id": incident.id, "at": at}))

    def postpone(self, incident: Incident, at: datetime) -> None:
        self._run(lambda connection: connection.execute(POSTPONE, {"id": incident.id, "at": at}))


def _told(incident: Incident, now: datetime) -> dict[str, object]:
    return {
        "id": incident.id,
        "version": incident.version,
        "channel": incident.slack_channel,
        "ts": incident.slack_ts,
        "now": now,
    }


# ---------------------------------------------------------------- rows


def _current(connection: "Connection[Any]", area: str) -> Incident | None:
    held = _several(connection, CURRENT, area=area)
    return held[0] if held else None


def _named(connection: "Connection[Any]", text: str) -> Incident | None:
    held = _several(connection, FIND, text=text)
    return held[0] if held else None


def _find(connection: "Connection[Any]", text: str) -> Incident:
    found = _named(connection, text)
    if found is None:
        raise Refused(f"there is no incident {text}")
    return found


def _several(connection: "Connection[Any]", statement: str, **values: object) -> list[Incident]:
    cursor = connection.execute(statement.encode(), values)
    names = [column.name for column in cursor.description or ()]
    made = []
    for row in cursor.fetchall():
        held = dict(zip(names, row, strict=True))
        made.append(
            Incident(**{name: held[name] for name in model.NAMES} | {"rules": tuple(held["rules"])})
        )
    return made


def _row(incident: Incident) -> dict[str, object]:
    values = asdict(incident)
    return values | {"rules": list(incident.rules), "facts": json.dumps(incident.facts)}


def _write(connection: "Connection[Any]", incident: Incident) -> None:
    connection.execute(WRITE, _row(incident))


def _seen(incident: Incident, findings: Sequence[Finding]) -> dict[str, object]:
    return {"severity": incident.severity, "what": {one.rule: one.what for one in findings}}
