"""An incident: its states, and when somebody is notified. No storage, no network.

Detect, classify, contain, resolve, review, closed. One is open at a time in an area, and whatever
else fails there is merged into it: one incident, one alert. A resolved incident stays resolved: the
next failure is another incident, with a message of its own, since an edit notifies nobody. The rule
a newcomer would break: only a change worth a notification raises `version`; `notified_version` is
the one that Slack shows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lib.interfaces import MessageRef
from lib.jakarta import WIB

SEVERITIES = ("sev1", "sev2")  # worst first
# What happens to a lead that is sent now, best first; "" is unknown.
LEAD_EFFECTS = ("", "stored", "queued", "mailed", "refused")
OPEN_STATES = ("detect", "classify", "contain")
NEXT_STATES = {
    "detect": {"classify"},
    "classify": {"contain", "resolve"},
    "contain": {"resolve"},
    "resolve": {"review"},
    "review": {"closed"},
    "closed": set[str](),
}
MORNING_HOUR = 9  # of a working day in Jakarta
CLEAN_CHECKS = 2  # in a row, before it is resolved
QUIET_PERIOD = timedelta(minutes=10)  # after the last event that is no lasting state
REMINDER_INTERVAL = timedelta(minutes=60)  # while nobody has acknowledged a Sev1
NOTIFY_LEASE = timedelta(seconds=60)
DAYS_OFF = Path(__file__).with_name("days_off.json")


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule. description: a sentence with its numbers, and no personal data.

    is_state: it is over when no longer found; else something that happened. lead_effect: one of
    LEAD_EFFECTS.
    """

    rule: str
    area: str
    severity: str
    title: str
    description: str
    started_at: datetime
    services: tuple[str, ...] = ()
    is_state: bool = True
    lead_effect: str = ""


class Event(NamedTuple):
    """A line of the timeline. facts: no personal data; note: a person's own words."""

    at: datetime
    kind: str
    actor: str
    facts: dict[str, Any] = {}
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """A row of `incidents`, or a document in Redis or Slack while Postgres is down (number 0).

    version: of what Slack should show; notified_version: of what it shows. notify_at, remind_at:
    when the next attempt to notify, and the next reminder, are due. clean_checks: monitor runs
    without findings.
    """

    id: str
    area: str
    severity: str
    state: str
    title: str
    rules: tuple[str, ...]
    started_at: datetime
    detected_at: datetime
    deployment: str
    notify_at: datetime
    number: int = 0
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    contained_at: datetime | None = None
    resolved_at: datetime | None = None
    closed_at: datetime | None = None
    remind_at: datetime | None = None
    clean_checks: int = 0
    version: int = 1
    notified_version: int = 0
    slack_channel: str | None = None
    slack_ts: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def message_ref(self) -> MessageRef:
        return self.slack_channel or "", self.slack_ts or ""

    @property
    def message_key(self) -> str:
        """Metadata by which its message is found; it changes when a Sev2 becomes a Sev1."""
        return f"{self.id}/{self.severity}/{self.detected_at.timestamp():.6f}"

    @property
    def lead_effect(self) -> str:
        return str(self.facts.get("effect", ""))

    @property
    def needs_notification(self) -> bool:
        """Whether an edit of the message is not enough."""
        return int(self.facts.get("loud", 1)) > self.notified_version

    @property
    def needs_new_message(self) -> bool:
        """There is none, or only one about several Sev2."""
        has_none = self.slack_ts is None and self.slack_channel is None
        return has_none or int(self.facts.get("anew", 0)) > self.notified_version

    @property
    def descriptions(self) -> dict[str, str]:
        """By rule."""
        return dict(self.facts.get("what", {}))

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(self.facts.get("services", ()))

    def is_named(self, text: str) -> bool:
        """By its id, its number, or as the `last` of a list, newest first."""
        return text in ("last", self.id, str(self.number or "-"))

    def duration(self, now: datetime) -> timedelta:
        return (self.resolved_at or now) - self.started_at

    def to_row(self) -> dict[str, Any]:
        """Its values by the names of COLUMNS."""
        return {COLUMNS[name]: value for name, value in asdict(self).items()}

    def to_document(self) -> dict[str, Any]:
        """JSON values, by the names of COLUMNS."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in self.to_row().items()
        }


class IncidentError(Exception):
    """An incident that is not there, or a step it cannot take; the text is for an operator."""


# Attribute -> its column in Postgres, and its key in a document.
COLUMNS = {each.name: each.name for each in fields(Incident)} | {
    "notified_version": "told", "notify_at": "tell_at", "clean_checks": "clean_ticks"
}  # fmt: skip


def from_row(row: Mapping[str, Any]) -> Incident:
    """The reverse of to_row; other columns are ignored. Raises LookupError."""
    values = {name: row[column] for name, column in COLUMNS.items()}
    return Incident(**values | {"rules": tuple(values["rules"])})


def from_document(document: dict[str, Any]) -> Incident:
    """The reverse of to_document. Raises LookupError, TypeError or ValueError."""
    times = {
        name: datetime.fromisoformat(value)
        for name, value in document.items()
        if name.endswith("_at") and value is not None
    }
    return from_row(document | times)


# ---------------------------------------------------------------- from findings


def by_area(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    areas = sorted({finding.area for finding in findings})
    return {area: [each for each in findings if each.area == area] for area in areas}


def open_incident(findings: Sequence[Finding], now: datetime, deployment: str) -> Incident:
    """Of one area's findings. Two processes that open it in the same minute get the same id."""
    worst = min(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    incident = Incident(
        id=f"INC-{now.astimezone(UTC):%Y%m%d-%H%M}-{worst.area}",
        area=worst.area,
        severity=worst.severity,
        state="classify",
        title=worst.title,
        rules=tuple(sorted({finding.rule for finding in findings})),
        started_at=min(finding.started_at for finding in findings),
        detected_at=now,
        deployment=deployment,
        notify_at=notify_time(worst.severity, now),
        remind_at=now + REMINDER_INTERVAL if worst.severity == "sev1" else None,
    )
    return replace(incident, facts=_merge_facts(incident, findings, now))


def merge_findings(before: Incident, findings: Sequence[Finding], now: datetime) -> Incident:
    """Its version is raised by a new rule, a higher severity, or another effect on leads."""
    worst = min(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    rules = {*before.rules, *(finding.rule for finding in findings)}
    # A milder finding began on its own: it does not say when this incident did.
    starts = [each.started_at for each in findings if each.severity <= before.severity]
    after = replace(
        before,
        rules=tuple(sorted(rules)),
        started_at=min([before.started_at, *starts]),
        clean_checks=0,
        facts=_merge_facts(before, findings, now),
    )
    is_worse = SEVERITIES.index(worst.severity) < SEVERITIES.index(before.severity)
    if is_worse:
        after = replace(
            after, severity=worst.severity, title=worst.title, started_at=worst.started_at
        )
        after.facts["anew"] = before.version + 1
    effect_change = LEAD_EFFECTS.index(after.lead_effect) - LEAD_EFFECTS.index(before.lead_effect)
    if is_worse or effect_change > 0 or rules > {*before.rules}:
        after = bump_version(after, now)
        if after.severity == "sev1" and after.acknowledged_at is None:
            after = replace(after, remind_at=now + REMINDER_INTERVAL)
    elif effect_change < 0:
        after = bump_version(after, now, notifies=False)
    return after


def _merge_facts(before: Incident, findings: Sequence[Finding], now: datetime) -> dict[str, Any]:
    services = {service for finding in findings for service in finding.services}
    descriptions = {finding.rule: finding.description for finding in findings}
    facts = {
        **before.facts,
        "what": before.descriptions | descriptions,
        "services": sorted({*before.services, *services}),
    }
    effects = [finding.lead_effect for finding in findings if finding.lead_effect]
    if effects:
        facts["effect"] = max(effects, key=LEAD_EFFECTS.index)
    if any(not finding.is_state for finding in findings):
        facts["quiet_from"] = (now + QUIET_PERIOD).isoformat()
    return facts


def with_new_id(incident: Incident) -> Incident:
    """For one that began in the same minute as one that is resolved."""
    return replace(incident, id=f"{incident.id}_again")


def notify_time(severity: str, now: datetime) -> datetime:
    """Sev1 now; Sev2 on the next working morning in Jakarta."""
    if severity == "sev1":
        return now
    local = now.astimezone(WIB)
    morning = local.replace(hour=MORNING_HOUR, minute=0, second=0, microsecond=0)
    while morning <= local or not is_working_day(morning.date()):
        morning += timedelta(days=1)
    return morning.astimezone(UTC)


def is_working_day(day: date) -> bool:
    """Whether offices in Jakarta work: no weekend, no public holiday, no joint leave."""
    return day.weekday() < 5 and day.isoformat() not in _days_off()["names"]


def calendar_gap(day: date) -> str:
    """What is not known of that year's days off; "" where all of them are."""
    if day.year > _days_off()["last_year"]:
        return f"The public holidays of {day.year} are not known here: only weekends are skipped."
    if day.year > _days_off()["last_year_of_joint_leave"]:
        return (
            f"The joint leave of {day.year} is not known here: weekends and the public holidays"
            " themselves are skipped."
        )
    return ""


@cache
def _days_off() -> dict[str, Any]:
    """Written by `python -m dev.build.days_off`. Joint leave is known up to the last decree."""
    document: dict[str, Any] = json.loads(DAYS_OFF.read_text(encoding="utf-8"))
    return document


def is_due(incident: Incident, now: datetime) -> bool:
    """Whether Slack shows an older version, and the next attempt to notify is due."""
    return incident.notified_version < incident.version and incident.notify_at <= now


def is_reminder_due(incident: Incident, now: datetime) -> bool:
    """Of a Sev1 that was notified and that nobody has acknowledged."""
    is_waiting = incident.acknowledged_at is None and incident.slack_ts is not None
    return is_waiting and incident.remind_at is not None and incident.remind_at <= now


def mark_notified(current: Incident, shown: Incident, now: datetime) -> Incident:
    """shown: as Slack shows it now; `current` may have changed since."""
    return replace(
        current,
        notified_version=max(current.notified_version, shown.version),
        slack_channel=shown.slack_channel,
        slack_ts=shown.slack_ts,
        notify_at=now if current.version > shown.version else current.notify_at,
    )


# ---------------------------------------------------------------- from state to state


def after_clean_check(before: Incident, now: datetime) -> Incident:
    """After a monitor run without findings in its area: resolved after some of them."""
    after = replace(before, clean_checks=before.clean_checks + 1)
    quiet_from = before.facts.get("quiet_from")
    if after.clean_checks < CLEAN_CHECKS:
        return after
    if quiet_from is not None and now < datetime.fromisoformat(quiet_from):
        return after
    return bump_version(replace(after, state="resolve", resolved_at=now, remind_at=None), now)


def acknowledge(before: Incident, who: str, now: datetime) -> Incident:
    """Reminders stop. A second acknowledgement changes nothing."""
    if before.acknowledged_at is not None:
        return before
    after = replace(before, acknowledged_at=now, acknowledged_by=who, remind_at=None)
    return bump_version(after, now)


def transition(before: Incident, state: str, now: datetime) -> Incident:
    """Raises IncidentError for a state that is none of NEXT_STATES."""
    if state not in NEXT_STATES[before.state]:
        legal = ", ".join(sorted(NEXT_STATES[before.state])) or "none"
        raise IncidentError(
            f"{before.id} is in state `{before.state}`; the next state can only be: {legal}"
        )
    after = replace(
        before,
        state=state,
        contained_at=now if state == "contain" else before.contained_at,
        resolved_at=now if state == "resolve" else before.resolved_at,
        closed_at=now if state == "closed" else before.closed_at,
    )
    return bump_version(replace(after, remind_at=after.remind_at if after.is_open else None), now)


def bump_version(incident: Incident, now: datetime, *, notifies: bool = True) -> Incident:
    """One more version for Slack: at once if Sev1 or notified before, else as planned.

    notifies: False where an edit of the message is enough.
    """
    is_urgent = incident.severity == "sev1" or incident.notified_version > 0
    version = incident.version + 1
    return replace(
        incident,
        version=version,
        notify_at=min(incident.notify_at, now) if is_urgent else incident.notify_at,
        facts={**incident.facts, "loud": version} if notifies else incident.facts,
    )
