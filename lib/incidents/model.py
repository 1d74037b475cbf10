"""An incident: what it is, how it moves, and when somebody is told. No storage, no wire.

Detect, classify, contain, resolve, review, closed. One is open at a time in an area, and whatever
else goes wrong there joins it: one incident, one alert. Once over it stays over: what goes wrong
after that is another incident, with a message of its own, since an edit notifies nobody. The rule
a newcomer would break: a change worth telling raises `version`, and only that; who tells brings
Slack up to the version, once.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

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
WIB = timezone(timedelta(hours=7), "WIB")
MORNING_HOUR = 9  # of a working day in Jakarta; public holidays are not known here
CLEAN_CHECKS = 2  # in a row, before it is called over
QUIET_PERIOD = timedelta(minutes=10)  # after the last of what happens rather than lasts
REMINDER_INTERVAL = timedelta(minutes=60)  # while nobody has acknowledged a Sev1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. what: a sentence with its numbers, and no personal data.

    since: when it began, as far as can be told. lasting: it is a state, over when no longer found;
    else something that happened. effect: one of EFFECTS.
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


@dataclass(frozen=True, slots=True)
class Incident:
    """One row of `incidents`, or one document in Redis while Postgres is away (number 0)."""

    id: str
    area: str
    severity: str
    state: str
    title: str
    rules: tuple[str, ...]
    started_at: datetime
    detected_at: datetime
    deployment: str
    tell_at: datetime
    number: int = 0
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    contained_at: datetime | None = None
    resolved_at: datetime | None = None
    closed_at: datetime | None = None
    remind_at: datetime | None = None
    clean_ticks: int = 0
    version: int = 1
    told: int = 0
    slack_channel: str | None = None
    slack_ts: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def message_key(self) -> str:
        """By which its message is found again; another one once it is a matter for now."""
        return f"{self.id}/{self.severity}/{self.detected_at.timestamp():.6f}"

    @property
    def lead_effect(self) -> str:
        """One of EFFECTS."""
        return str(self.facts.get("effect", ""))

    @property
    def needs_notification(self) -> bool:
        """Whether what is to be told is worth a notification."""
        return int(self.facts.get("loud", 1)) > self.told

    @property
    def needs_new_message(self) -> bool:
        """Whether it is to have a message of its own: none yet, or one that collected Sev2."""
        untold = self.slack_ts is None and self.slack_channel is None
        return untold or int(self.facts.get("anew", 0)) > self.told

    @property
    def descriptions(self) -> dict[str, str]:
        """Rule -> its sentence."""
        return dict(self.facts.get("what", {}))

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(self.facts.get("services", ()))

    def duration(self, now: datetime) -> timedelta:
        return (self.resolved_at or now) - self.started_at

    def to_document(self) -> dict[str, Any]:
        """JSON values."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


class IncidentError(Exception):
    """A step that an incident does not take; the text says why, for an operator."""


FIELD_NAMES = tuple(one.name for one in fields(Incident))
_TIME_FIELDS = tuple(name for name in FIELD_NAMES if name.endswith("_at"))


def from_document(document: dict[str, Any]) -> Incident:
    """The incident again. Raises LookupError, TypeError or ValueError when it is none."""
    values = {name: document[name] for name in FIELD_NAMES}
    for name in _TIME_FIELDS:
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])
    return Incident(**values | {"rules": tuple(values["rules"])})


# ---------------------------------------------------------------- how it begins and moves


def open_incident(findings: Sequence[Finding], now: datetime, deployment: str) -> Incident:
    """A new incident of one area's findings. Two who open it in the same minute open the same."""
    worst = min(findings, key=lambda one: SEVERITIES.index(one.severity))
    made = Incident(
        id=f"INC-{now.astimezone(UTC):%Y%m%d-%H%M}-{worst.area}",
        area=worst.area,
        severity=worst.severity,
        state="classify",
        title=worst.title,
        rules=tuple(sorted({one.rule for one in findings})),
        started_at=min(one.started_at for one in findings),
        detected_at=now,
        deployment=deployment,
        tell_at=notify_time(worst.severity, now),
        remind_at=now + REMINDER_INTERVAL if worst.severity == "sev1" else None,
    )
    return replace(made, facts=_merge_facts(made, findings, now))


def merge_findings(before: Incident, findings: Sequence[Finding], now: datetime) -> Incident:
    """The open incident with what was found now. It is worth telling when a rule is new, when it
    is worse than it was, or when something else happens to leads."""
    worst = min(findings, key=lambda one: SEVERITIES.index(one.severity))
    found = {one.rule for one in findings}
    # A milder finding began on its own: it does not say when this did.
    since = [one.started_at for one in findings if one.severity <= before.severity]
    after = replace(
        before,
        rules=tuple(sorted({*before.rules, *found})),
        started_at=min(before.started_at, *since) if since else before.started_at,
        clean_ticks=0,
        facts=_merge_facts(before, findings, now),
    )
    worse = SEVERITIES.index(worst.severity) < SEVERITIES.index(before.severity)
    if worse:
        after = replace(
            after, severity=worst.severity, title=worst.title, started_at=worst.started_at
        )
        after.facts["anew"] = before.version + 1
    harder = LEAD_EFFECTS.index(after.lead_effect) > LEAD_EFFECTS.index(before.lead_effect)
    if worse or harder or found - {*before.rules}:
        after = bump_version(after, now)
        if after.severity == "sev1" and after.acknowledged_at is None:
            after = replace(after, remind_at=now + REMINDER_INTERVAL)
    elif after.lead_effect != before.lead_effect:
        after = bump_version(after, now, loud=False)
    return after


def with_new_id(made: Incident) -> Incident:
    """The same under another id: one that began in the same minute is over already."""
    return replace(made, id=f"{made.id}_again")


def after_clean_check(before: Incident, now: datetime) -> Incident:
    """After a tick that found nothing in its area: nearer to its end, or over."""
    after = replace(before, clean_ticks=before.clean_ticks + 1)
    quiet_from = before.facts.get("quiet_from")
    if after.clean_ticks < CLEAN_CHECKS:
        return after
    if quiet_from is not None and now < datetime.fromisoformat(quiet_from):
        return after
    return bump_version(replace(after, state="resolve", resolved_at=now, remind_at=None), now)


def bump_version(incident: Incident, now: datetime, *, loud: bool = True) -> Incident:
    """One more version to tell of: at once if it is Sev1 or was told before, else as planned.

    loud: a person must learn of it; else an edit of the message is enough.
    """
    soon = incident.severity == "sev1" or incident.told > 0
    version = incident.version + 1
    return replace(
        incident,
        version=version,
        tell_at=min(incident.tell_at, now) if soon else incident.tell_at,
        facts={**incident.facts, "loud": version} if loud else incident.facts,
    )


def _merge_facts(before: Incident, findings: Sequence[Finding], now: datetime) -> dict[str, Any]:
    facts = {**before.facts}
    facts["what"] = before.descriptions | {one.rule: one.description for one in findings}
    facts["services"] = sorted({*before.services, *(s for one in findings for s in one.services)})
    effects = [one.lead_effect for one in findings if one.lead_effect]
    if effects:
        facts["effect"] = max(effects, key=LEAD_EFFECTS.index)
    if any(not one.is_state for one in findings):
        facts["quiet_from"] = (now + QUIET_PERIOD).isoformat()
    return facts


def notify_time(severity: str, now: datetime) -> datetime:
    """Sev1 now; Sev2 on the next working morning in Jakarta."""
    if severity == "sev1":
        return now
    there = now.astimezone(WIB)
    morning = there.replace(hour=MORNING_HOUR, minute=0, second=0, microsecond=0)
    while morning <= there or morning.weekday() >= 5:
        morning += timedelta(days=1)
    return morning.astimezone(UTC)


def transition(before: Incident, state: str, now: datetime) -> Incident:
    """A person's step. Raises Refused for one that is none of NEXT."""
    if state not in NEXT_STATES[before.state]:
        legal = ", ".join(sorted(NEXT_STATES[before.state])) or "nothing"
        raise IncidentError(f"{before.id} is in {before.state}; what follows is {legal}")
    after = replace(
        before,
        state=state,
        contained_at=now if state == "contain" else before.contained_at,
        resolved_at=now if state == "resolve" else before.resolved_at,
        closed_at=now if state == "closed" else before.closed_at,
    )
    return bump_version(replace(after, remind_at=after.remind_at if after.is_open else None), now)


def acknowledge(before: Incident, who: str, now: datetime) -> Incident:
    """Somebody has it: nobody else is reminded. A second one changes nothing."""
    if before.acknowledged_at is not None:
        return before
    after = replace(before, acknowledged_at=now, acknowledged_by=who, remind_at=None)
    return bump_version(after, now)
