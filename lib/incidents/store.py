"""Open incidents while Postgres is down: one document each, in Redis, else in Slack.

What happens to them is here, once; where they are is redis_store and slack_store. The first monitor
run that reaches Postgres imports them under the same id. The rule a newcomer would break: a write
is a compare-and-set, because a request and the monitor may write at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lib.incidents import model
from lib.incidents.model import Event, Finding, Incident, IncidentError
from lib.incidents.notifier import NotifyStats

MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Document:
    """pending_events: what Postgres does not have yet. raw_json: as it was read from Redis."""

    incident: Incident
    pending_events: tuple[Event, ...] = ()
    raw_json: str = ""

    def with_event(self, incident: Incident, event: Event) -> "Document":
        return replace(self, incident=incident, pending_events=(*self.pending_events, event))


class DocumentStore(ABC):
    """Each method raises CacheDown, SlackError or NotConfigured."""

    name: str

    def __init__(self, now: datetime, deployment: str) -> None:
        self._now = now
        self._deployment = deployment

    @abstractmethod
    def list_documents(self) -> list[Document]:
        """Newest first."""

    @abstractmethod
    def write(self, before: Document | None, after: Document) -> bool:
        """Compare and set; False when another write came first."""

    @abstractmethod
    def events(self, document: Document) -> Sequence[Event]: ...

    def list_open(self) -> list[Incident]:
        return [document.incident for document in self.list_documents()]

    def list_recent(self, _since: datetime) -> list[Incident]:
        """The open ones: what is over is in Postgres alone."""
        return self.list_open()

    def find(self, text: str) -> Incident:
        """By id, number, or `last`. Raises IncidentError."""
        return self._find(text).incident

    def list_events(self, incident: Incident) -> list[tuple[Any, ...]]:
        """As store.list_events, of what Postgres does not have yet."""
        events = self.events(self._find(incident.id))
        return [
            (number, datetime.fromisoformat(at), *rest)
            for number, (at, *rest) in enumerate(events, 1)
        ]

    def record_findings(self, findings: Sequence[Finding], actor: str) -> NotifyStats:
        """Open an incident for each area of the findings, or merge them into the open one."""
        for of_area in model.by_area(findings).values():
            self.record_area(of_area, actor)
        return NotifyStats()

    def record_area(self, findings: Sequence[Finding], actor: str) -> None:
        descriptions = {finding.rule: finding.description for finding in findings}
        event = self._event("detected", actor, {"what": descriptions})
        for _ in range(MAX_ATTEMPTS):
            before = self.find_in_area(findings[0].area)
            if before is None:
                opened = model.open_incident(findings, self._now, self._deployment)
                after = Document(opened, (event,))
            else:
                merged = model.merge_findings(before.incident, findings, self._now)
                after = replace(before, incident=merged)
                if merged.version > before.incident.version:
                    after = before.with_event(merged, event)
            if self.write(before, after):
                return

    def find_in_area(self, area: str) -> Document | None:
        return next((d for d in self.list_documents() if d.incident.area == area), None)

    def acknowledge(self, text: str, who: str) -> Incident:
        """Raises IncidentError."""

        def change(before: Document) -> Document:
            incident = model.acknowledge(before.incident, who, self._now)
            if incident is before.incident:
                return before
            return before.with_event(incident, self._event("acknowledged", who))

        return self._update(text, change)

    def add_note(self, text: str, who: str, note: str) -> Incident:
        """Raises IncidentError."""
        event = self._event("note", who, note=note)
        return self._update(text, lambda before: before.with_event(before.incident, event))

    def _event(
        self, kind: str, actor: str, facts: dict[str, Any] | None = None, note: str | None = None
    ) -> Event:
        return self._now.isoformat(), kind, actor, facts or {}, note

    def _find(self, text: str) -> Document:
        for document in self.list_documents():
            if text in ("last", document.incident.id, str(document.incident.number or "")):
                return document
        raise IncidentError(f"there is no open incident {text} in {self.name}")

    def _update(self, text: str, change: Callable[[Document], Document]) -> Incident:
        for _ in range(MAX_ATTEMPTS):
            before = self._find(text)
            after = change(before)
            if after is before or self.write(before, after):
                return after.incident
        raise IncidentError(f"{text} is being changed by others: run it again")
