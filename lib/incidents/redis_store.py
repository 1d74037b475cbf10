"""Open incidents in Redis: a copy while Postgres answers, the record while it does not.

One hash, area -> JSON document. A document with pending events is not imported into Postgres yet.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from lib.incidents import model
from lib.incidents.messages import Links
from lib.incidents.model import Event, Incident, IncidentError
from lib.incidents.notifier import Channel, NotifyStats, notify_due
from lib.incidents.store import Document, DocumentStore
from lib.interfaces import MessageRef

KEY = "incidents"

# KEYS: the hash. ARGV: area, the document that was read ('' for none), the new one ('' to remove).
COMPARE_AND_SET = """
local stored = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if stored ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
"""


class RedisStore(DocumentStore):
    """It is a notifier.NotificationStore, too. execute: `Cache.execute`."""

    name = "Redis"

    def __init__(self, execute: Callable[..., Any], now: datetime, deployment: str) -> None:
        super().__init__(now, deployment)
        self._execute = execute

    def list_documents(self) -> list[Document]:
        documents = list_open(self._execute)
        return sorted(documents, key=lambda each: each.incident.detected_at, reverse=True)

    def events(self, document: Document) -> Sequence[Event]:
        return document.pending_events

    def write(self, before: Document | None, after: Document) -> bool:
        return self._compare_and_set(after.incident.area, before, _to_json(after))

    def remove(self, document: Document) -> bool:
        return self._compare_and_set(document.incident.area, document, "")

    def _compare_and_set(self, area: str, before: Document | None, text: str) -> bool:
        read = "" if before is None else before.raw_json
        return bool(self._execute("EVAL", COMPARE_AND_SET, 1, KEY, area, read, text))

    def import_incident(self, incident: Incident, events: Sequence[Event]) -> str:
        """Enter what Slack alone knew; the id it has now."""
        existing = self.find_in_area(incident.area)
        if existing is not None:
            return existing.incident.id
        descriptions = {"what": incident.descriptions}
        opened: Event = (incident.detected_at.isoformat(), "detected", "slack", descriptions, None)
        self.write(None, Document(incident, (opened, *events)))
        return incident.id

    def sync(self, open_in_postgres: Sequence[Incident]) -> None:
        """Copy what Postgres holds, except over what is not imported yet."""
        stored = {document.incident.area: document for document in self.list_documents()}
        for incident in open_in_postgres:
            before = stored.pop(incident.area, None)
            if before is None or not (before.pending_events or before.incident == incident):
                self.write(before, Document(incident))
        for document in stored.values():
            if not document.pending_events:
                self.remove(document)

    def notify(self, channel: Channel, links: Links) -> NotifyStats:
        return notify_due(self, channel, links, self._now)

    def claim_due(self, now: datetime) -> list[Incident]:
        def is_due(incident: Incident) -> bool:
            return incident.told < incident.version and incident.tell_at <= now

        return self._claim(is_due, tell_at=now + model.NOTIFY_LEASE)

    def claim_reminders(self, now: datetime) -> list[Incident]:
        def is_due(incident: Incident) -> bool:
            remind_at = incident.remind_at
            return remind_at is not None and remind_at <= now and incident.slack_ts is not None

        return self._claim(is_due, remind_at=now + model.REMINDER_INTERVAL)

    def _claim(self, is_due: Callable[[Incident], bool], **lease: Any) -> list[Incident]:
        due = [document for document in self.list_documents() if is_due(document.incident)]
        return [
            before.incident
            for before in due
            if self.write(before, replace(before, incident=replace(before.incident, **lease)))
        ]

    def incidents_in_message(self, ref: MessageRef) -> list[Incident]:
        return [incident for incident in self.list_open() if incident.message_ref == ref]

    def mark_notified(self, incident: Incident, now: datetime) -> None:
        def change(current: Incident) -> Incident:
            return replace(
                current,
                told=max(current.told, incident.version),
                slack_channel=incident.slack_channel,
                slack_ts=incident.slack_ts,
                tell_at=now if current.version > incident.version else current.tell_at,
            )

        self._change(incident, change)

    def postpone(self, incident: Incident, at: datetime) -> None:
        self._change(incident, lambda current: replace(current, tell_at=at))

    def postpone_reminder(self, incident: Incident, at: datetime) -> None:
        self._change(incident, lambda current: replace(current, remind_at=at))

    def _change(self, incident: Incident, change: Callable[[Incident], Incident]) -> None:
        with suppress(IncidentError):  # it is no longer there
            self._update(
                incident.id, lambda before: replace(before, incident=change(before.incident))
            )


def list_open(execute: Callable[..., Any]) -> list[Document]:
    """Raises CacheDown."""
    return parse_all(execute("HGETALL", KEY))


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
    return json.dumps(values, ensure_ascii=False)


def _from_json(text: object) -> Document | None:
    try:
        values = json.loads(str(text))
        events = tuple(_event(*event) for event in values["events"])
        return Document(model.from_document(values["incident"]), events, str(text))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _event(at: str, kind: str, actor: str, facts: dict[str, Any], note: str | None = None) -> Event:
    return at, kind, actor, facts, note
