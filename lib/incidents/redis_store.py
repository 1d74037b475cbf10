"""Open incidents in Redis: a mirror while Postgres is there, the record while it is not.

A hash, area -> document. While Postgres is away incidents begin here and are told of from here;
when it is back the watch takes them over, under the same id. The rule a newcomer would break:
every write is a compare-and-set, for a request and the watch may both be at it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from lib.incidents import model
from lib.incidents.model import Finding, Incident, IncidentError
from lib.incidents.store import Event

type RunCommand = Callable[..., Any]
"""`Cache.run`."""

KEY = "incidents"
LEASE = timedelta(seconds=60)
MAX_ATTEMPTS = 5

# KEYS: the hash. ARGV: area, what was read ('' for nothing), what it is to be ('' to remove it).
COMPARE_AND_SET = """
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if held ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class StoredIncident:
    """An incident as Redis holds it. stored: Postgres has it too. events: what Postgres has not
    been told. text: as it was read."""

    incident: Incident
    in_postgres: bool
    pending_events: tuple[Event, ...]
    raw_json: str


def list_open(command: RunCommand) -> list[StoredIncident]:
    """Everything in it; what is none of ours is passed over. Raises CacheDown."""
    return parse_all(command("HGETALL", KEY))


def parse_all(held: object) -> list[StoredIncident]:
    """What Redis answers to HGETALL KEY."""
    texts = held.values() if isinstance(held, dict) else ()
    return [found for found in map(_from_json, texts) if found is not None]


def record_findings(
    command: RunCommand, findings: Sequence[Finding], now: datetime, deployment: str, actor: str
) -> list[Incident]:
    """Open or join, as lib/incidents/store.py does. Raises CacheDown."""
    areas = sorted({one.area for one in findings})
    return [
        _record_area(command, [o for o in findings if o.area == area], now, deployment, actor)
        for area in areas
    ]


def _record_area(
    command: RunCommand, findings: Sequence[Finding], now: datetime, deployment: str, actor: str
) -> Incident:
    area = findings[0].area
    for _ in range(MAX_ATTEMPTS):
        before = _from_json(command("HGET", KEY, area))
        if before is None:
            incident = model.open_incident(findings, now, deployment)
            after = StoredIncident(incident, False, (), "")
        else:
            incident = model.merge_findings(before.incident, findings, now)
            events = before.pending_events
            if incident.version > before.incident.version:
                what = {one.rule: one.description for one in findings}
                events = (*events, (now.isoformat(), "detected", actor, {"what": what}, None))
            after = replace(before, incident=incident, pending_events=events)
        if compare_and_set(command, area, before, after):
            return incident
    return incident  # others are at it this very moment, and tell of it


def insert_from_slack(command: RunCommand, incident: Incident, events: Sequence[Event]) -> str:
    """Enter what Slack alone knew; the id it stands under now. Raises CacheDown."""
    before = _from_json(command("HGET", KEY, incident.area))
    if before is None:
        before = StoredIncident(incident, False, tuple(events), "")
        compare_and_set(command, incident.area, None, before)
    return before.incident.id


def acknowledge(command: RunCommand, text: str, who: str, now: datetime) -> Incident:
    """Somebody has it. Raises CacheDown, Refused."""

    def work(before: StoredIncident) -> StoredIncident:
        after = model.acknowledge(before.incident, who, now)
        if after is before.incident:
            return before
        event: Event = (now.isoformat(), "acknowledged", who, {}, None)
        return replace(before, incident=after, pending_events=(*before.pending_events, event))

    return _update(command, text, work)


def add_note(command: RunCommand, text: str, who: str, now: datetime, words: str) -> Incident:
    """A person's words. Raises CacheDown, Refused."""

    def work(before: StoredIncident) -> StoredIncident:
        event: Event = (now.isoformat(), "note", who, {}, words)
        return replace(before, pending_events=(*before.pending_events, event))

    return _update(command, text, work)


def find(command: RunCommand, text: str) -> StoredIncident:
    """By id, number, or `last`. Raises CacheDown, Refused."""
    held = sorted(list_open(command), key=lambda one: one.incident.detected_at)
    named = held[-1:] if text == "last" else held
    for one in named:
        if text in ("last", one.incident.id, str(one.incident.number or "")):
            return one
    raise IncidentError(f"there is no open incident {text} in Redis")


def _update(
    command: RunCommand, text: str, work: Callable[[StoredIncident], StoredIncident]
) -> Incident:
    for _ in range(MAX_ATTEMPTS):
        before = find(command, text)
        after = work(before)
        if after is before or compare_and_set(command, before.incident.area, before, after):
            return after.incident
    raise IncidentError(f"{text} is being changed by others: run it again")


def compare_and_set(
    command: RunCommand, area: str, before: StoredIncident | None, after: StoredIncident | None
) -> bool:
    """Compare and set; whether it was as read. after: None to remove it."""
    held = "" if before is None else before.raw_json
    return bool(
        command(
            "EVAL", COMPARE_AND_SET, 1, KEY, area, held, "" if after is None else _to_json(after)
        )
    )


def sync(command: RunCommand, open_ones: Sequence[Incident]) -> None:
    """Make it what Postgres says, but for what Postgres does not have yet. Raises CacheDown."""
    now_open = {one.area: one for one in open_ones}
    held = {one.incident.area: one for one in list_open(command)}
    for area, before in held.items():
        if before.in_postgres and not before.pending_events and area not in now_open:
            compare_and_set(command, area, before, None)
    for area, incident in now_open.items():
        before_it = held.get(area)
        ahead = before_it is not None and (not before_it.in_postgres or before_it.pending_events)
        if not ahead and (before_it is None or before_it.incident != incident):
            compare_and_set(command, area, before_it, StoredIncident(incident, True, (), ""))


class NotificationStore:
    """What lib/incidents/messages.py asks of a store, over Redis."""

    def __init__(self, command: RunCommand) -> None:
        self._command = command

    def claim_due(self, now: datetime) -> list[Incident]:
        """Those to tell of; putting the next try off is the lease."""
        mine = []
        for before in list_open(self._command):
            one = before.incident
            due = one.told < one.version and one.tell_at <= now
            leased = replace(before, incident=replace(one, tell_at=now + LEASE))
            if due and compare_and_set(self._command, one.area, before, leased):
                mine.append(one)
        return mine

    def incidents_in_message(self, channel: str, ts: str) -> list[Incident]:
        held = [one.incident for one in list_open(self._command)]
        return [one for one in held if (one.slack_channel, one.slack_ts) == (channel, ts)]

    def claim_reminders(self, now: datetime) -> list[Incident]:
        mine = []
        for before in list_open(self._command):
            one = before.incident
            if one.remind_at is None or one.remind_at > now or one.slack_ts is None:
                continue
            after = replace(one, remind_at=now + model.REMINDER_INTERVAL)
            if compare_and_set(self._command, one.area, before, replace(before, incident=after)):
                mine.append(one)
        return mine

    def mark_notified(self, incident: Incident, now: datetime) -> None:
        def heard(one: Incident) -> Incident:
            behind = one.version > incident.version
            return replace(
                one,
                told=max(one.told, incident.version),
                slack_channel=incident.slack_channel,
                slack_ts=incident.slack_ts,
                tell_at=now if behind else one.tell_at,
            )

        self._change(incident, heard)

    def postpone_reminder(self, incident: Incident, at: datetime) -> None:
        self._change(incident, lambda one: replace(one, remind_at=at))

    def postpone(self, incident: Incident, at: datetime) -> None:
        self._change(incident, lambda one: replace(one, tell_at=at))

    def _change(self, incident: Incident, change: Callable[[Incident], Incident]) -> None:
        for _ in range(MAX_ATTEMPTS):
            before = _from_json(self._command("HGET", KEY, incident.area))
            if before is None or before.incident.id != incident.id:
                return
            after = replace(before, incident=change(before.incident))
            if compare_and_set(self._command, incident.area, before, after):
                return


def _to_json(spooled: StoredIncident) -> str:
    return json.dumps(
        {
            "incident": spooled.incident.to_document(),
            "stored": spooled.in_postgres,
            "events": spooled.pending_events,
        },
        ensure_ascii=False,
    )


def _from_json(text: object) -> StoredIncident | None:
    if not isinstance(text, str):
        return None
    try:
        held = json.loads(text)
        events = tuple(_event(*each) for each in held["events"])
        return StoredIncident(
            model.from_document(held["incident"]), held["stored"] is True, events, text
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _event(
    at: str, kind: str, actor: str, facts: dict[str, Any], words: str | None = None
) -> Event:
    return at, kind, actor, facts, words
