"""What every store of incidents does: Postgres, the record; else Redis; else Slack (see fallback).

A store lists, inserts and changes incidents; everything else is here, once. The rule a newcomer
would break: a change is a compare-and-set, because a request and the monitor may write at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from lib.incidents import model, notifier
from lib.incidents.messages import Links
from lib.incidents.model import Event, Finding, Incident, IncidentError
from lib.incidents.notifier import NotifyStats
from lib.interfaces import MessageRef, Slack

MAX_ATTEMPTS = 8

type Change = Callable[[Incident], tuple[Incident, Event | None]]
"""The incident afterwards, and the event of its timeline. Raises IncidentError to refuse."""


class IncidentStore(ABC):
    """Each method raises DatabaseDown, CacheDown, SlackError or NotConfigured.

    stats: what was sent to Slack.
    """

    name: str

    def __init__(self, now: datetime, deployment: str) -> None:
        self._now = now
        self._deployment = deployment
        self.stats = NotifyStats()

    @abstractmethod
    def list_open(self) -> list[Incident]:
        """Newest first."""

    @abstractmethod
    def list_events(self, incident: Incident) -> list[tuple[Any, ...]]:
        """(seq, at, kind, actor, facts, note), oldest first."""

    @abstractmethod
    def insert(self, incident: Incident, actor: str) -> bool:
        """False when its area has an open one, or its id is taken."""

    @abstractmethod
    def change(self, text: str, change: Change) -> Incident:
        """Compare and set. text: as of `find`. Raises IncidentError."""

    # What a store that forgets resolved incidents does; Postgres has queries of its own.

    def list_recent(self, _since: datetime) -> list[Incident]:
        """Those that began since then, and those that wait for somebody; newest first."""
        return self.list_open()

    def list_due(self) -> list[Incident]:
        """Those whose notification or reminder is due."""
        incidents = self.list_open()
        return [
            each for each in incidents
            if model.is_due(each, self._now) or model.is_reminder_due(each, self._now)
        ]  # fmt: skip

    def list_in_message(self, ref: MessageRef) -> list[Incident]:
        return [incident for incident in self.list_open() if incident.message_ref == ref]

    def find(self, text: str) -> Incident:
        """By id, number, or `last`. Raises IncidentError."""
        for incident in self.list_open():
            if incident.is_named(text):
                return incident
        raise self._not_found(text)

    def _not_found(self, text: str) -> IncidentError:
        return IncidentError(f"there is no open incident {text} in {self.name}")

    # ------------------------------------------------------------ from findings

    def record_findings(self, findings: Sequence[Finding], actor: str) -> list[Incident]:
        """Open an incident for each area of the findings, or merge them into the open one."""
        return [self._record_area(each, actor) for each in model.by_area(findings).values()]

    def _record_area(self, findings: Sequence[Finding], actor: str) -> Incident:
        descriptions = {finding.rule: finding.description for finding in findings}

        def merge(before: Incident) -> tuple[Incident, Event | None]:
            if not before.is_open:
                raise IncidentError(f"{before.id} is resolved")
            after = model.merge_findings(before, findings, self._now)
            facts = {"severity": after.severity, "what": descriptions}
            event = Event(self._now, "detected", actor, facts)
            return after, event if after.version > before.version else None

        opened = model.open_incident(findings, self._now, self._deployment)
        for _ in range(MAX_ATTEMPTS):
            before = self._find_open(opened.area)
            if before is not None:
                with suppress(IncidentError):  # resolved by another process
                    return self.change(before.id, merge)
            elif self.insert(opened, actor):
                return opened
            else:  # opened by another process; or one of the same minute is resolved
                opened = model.with_new_id(opened)
        raise IncidentError(f"{opened.id} is being changed by others")

    def _find_open(self, area: str) -> Incident | None:
        return next((each for each in self.list_open() if each.area == area), None)

    # ------------------------------------------------------------ by people

    def acknowledge(self, text: str, who: str) -> Incident:
        """Raises IncidentError."""

        def change(before: Incident) -> tuple[Incident, Event | None]:
            after = model.acknowledge(before, who, self._now)
            event = Event(self._now, "acknowledged", who)
            return after, None if after is before else event

        return self.change(text, change)

    def add_note(self, text: str, who: str, note: str) -> Incident:
        """Raises IncidentError."""
        event = Event(self._now, "note", who, note=note)
        return self.change(text, lambda incident: (incident, event))

    # ------------------------------------------------------------ notifications

    def notify(self, channel: Slack, links: Links) -> None:
        """Bring Slack up to date."""
        notifier.notify_due(self, channel, links, self._now)

    def claim_due(self) -> list[Incident]:
        return self._claim(model.is_due, notify_at=self._now + model.NOTIFY_LEASE)

    def claim_reminders(self) -> list[Incident]:
        return self._claim(model.is_reminder_due, remind_at=self._now + model.REMINDER_INTERVAL)

    def _claim(
        self, is_due: Callable[[Incident, datetime], bool], **next_attempt: datetime
    ) -> list[Incident]:
        """Postponing the next attempt is the lease: after a kill it is claimed again."""

        def take(before: Incident) -> tuple[Incident, None]:
            if not is_due(before, self._now):
                raise IncidentError(f"{before.id} is claimed")
            return replace(before, **next_attempt), None  # type: ignore[arg-type]

        claimed = []
        for incident in self.list_due():
            if is_due(incident, self._now):
                with suppress(IncidentError):
                    claimed.append(self.change(incident.id, take))
        return claimed

    def postpone(self, incident: Incident, **next_attempt: datetime) -> None:
        """next_attempt: notify_at or remind_at."""
        with suppress(IncidentError):  # resolved, and forgotten
            self.change(incident.id, lambda before: (replace(before, **next_attempt), None))  # type: ignore[arg-type]

    def mark_notified(self, shown: Incident) -> None:
        """The first time is an event: seconds from detection to alert."""

        def change(before: Incident) -> tuple[Incident, Event | None]:
            facts = {"after_s": int((self._now - shown.detected_at).total_seconds())}
            event = Event(self._now, "alerted", "slack", facts)
            return model.mark_notified(
                before, shown, self._now
            ), None if shown.notified_version else event

        with suppress(IncidentError):  # resolved, and forgotten
            self.change(shown.id, change)
