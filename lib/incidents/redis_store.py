"""Open incidents in Redis: a copy while Postgres answers, the record while it does not.

One hash, area -> JSON document. A document with pending events is not imported into Postgres yet.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lib.incidents import model
from lib.incidents.model import Event, Incident, IncidentError
from lib.incidents.store import MAX_ATTEMPTS, Change, IncidentStore
from lib.interfaces import RedisExecute

KEY = "incidents"

# KEYS: the hash. ARGV: area, the document that was read ('' for none), the new one ('' to remove).
COMPARE_AND_SET = """
local stored = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if stored ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Document:
    """pending_events: what Postgres does not have yet. raw_json: as it was read."""

    incident: Incident
    pending_events: tuple[Event, ...] = ()
    raw_json: str = ""


class RedisStore(IncidentStore):
    """execute: `Cache.execute`."""

    name = "Redis"

    def __init__(self, execute: RedisExecute, now: datetime, deployment: str) -> None:
        super().__init__(now, deployment)
        self._execute = execute

    def list_documents(self) -> list[Document]:
        """Newest first."""
        documents = parse_all(self._execute("HGETALL", KEY))
        return sorted(documents, key=lambda each: each.incident.detected_at, reverse=True)

    def list_open(self) -> list[Incident]:
        return [document.incident for document in self.list_documents()]

    def list_events(self, incident: Incident) -> list[tuple[Any, ...]]:
        """Those that Postgres does not have yet."""
        events = self._find_document(incident.id).pending_events
        return [(number, *event) for number, event in enumerate(events, 1)]

    def insert(self, incident: Incident, actor: str, later_events: Sequence[Event] = ()) -> bool:
        facts = {"what": incident.descriptions}
        detected = Event(incident.detected_at, "detected", actor, facts)
        return self._write(None, Document(incident, (detected, *later_events)))

    def change(self, text: str, change: Change) -> Incident:
        for _ in range(MAX_ATTEMPTS):
            before = self._find_document(text)
            incident, event = change(before.incident)
            events = before.pending_events if event is None else (*before.pending_events, event)
            after = Document(incident, events, before.raw_json)
            if after == before or self._write(before, after):
                return incident
        raise IncidentError(f"{text} is being changed by others: run it again")

    def _find_document(self, text: str) -> Document:
        for document in self.list_documents():
            if document.incident.is_named(text):
                return document
        raise self._not_found(text)

    def import_incident(self, incident: Incident, events: Sequence[Event], source: str) -> str:
        """Enter what another store alone knew; the id it has now."""
        existing = self._find_open(incident.area)
        if existing is not None:
            return existing.id
        self.insert(incident, source, events)
        return incident.id

    def sync(self, open_in_postgres: Sequence[Incident]) -> None:
        """Copy what Postgres holds, except over what is not imported yet."""
        stored = {document.incident.area: document for document in self.list_documents()}
        for incident in open_in_postgres:
            before = stored.pop(incident.area, None)
            if before is None or not (before.pending_events or before.incident == incident):
                self._write(before, Document(incident))
        for document in stored.values():
            if not document.pending_events:
                self.remove(document)

    def remove(self, document: Document) -> None:
        """Unless it was changed since."""
        self._compare_and_set(document.incident.area, document, "")

    def _write(self, before: Document | None, after: Document) -> bool:
        return self._compare_and_set(after.incident.area, before, _to_json(after))

    def _compare_and_set(self, area: str, before: Document | None, text: str) -> bool:
        """False when another write came first."""
        read = "" if before is None else before.raw_json
        return bool(self._execute("EVAL", COMPARE_AND_SET, 1, KEY, area, read, text))


def parse_all(reply: object) -> list[Document]:
    """The reply to HGETALL KEY; a document that cannot be parsed is skipped."""
    documents = reply.values() if isinstance(reply, dict) else ()
    return [document for document in map(_from_json, documents) if document is not None]


def _to_json(document: Document) -> str:
    values = {
        "incident": document.incident.to_document(),
        "events": document.pending_events,
        "stored": not document.pending_events,  # read by the release before, after a rollback
    }
    return json.dumps(values, ensure_ascii=False, default=datetime.isoformat)


def _from_json(text: object) -> Document | None:
    try:
        values = json.loads(str(text))
        events = tuple(Event(datetime.fromisoformat(at), *rest) for at, *rest in values["events"])
        return Document(model.from_document(values["incident"]), events, str(text))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
