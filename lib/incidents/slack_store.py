"""Open incidents in Slack alone: the record while neither Postgres nor Redis can be reached.

The metadata of an incident's message is its document; a note is a reply in its thread. Slack has no
compare-and-set: of two instances that post at once the earlier message stays, and the other is
deleted. The rule a newcomer would break: only a Sev1 is kept here.
"""

import json
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from lib.incidents import messages, model
from lib.incidents.messages import Links
from lib.incidents.model import Event, Finding, Incident
from lib.incidents.notifier import Channel, NotifyStats
from lib.incidents.store import Document, DocumentStore
from lib.problems import MessageNotFound, NotConfigured, SlackError

METADATA_KEY = "unrecorded"
MAX_JITTER_S = 1.0  # instances that meet an outage at once check one after the other
RACE_WINDOW = timedelta(minutes=5)  # two instances' messages about one outage are no further apart

_last_posted_at: dict[tuple[str, ...], float] = {}
_lock = threading.Lock()


class SlackStore(DocumentStore):
    """Raises NotConfigured where only a webhook is left, which cannot be read."""

    name = "Slack"

    def __init__(self, channel: Channel, links: Links, now: datetime, deployment: str) -> None:
        super().__init__(now, deployment)
        self._channel = channel
        self._links = links
        self._stats = NotifyStats()

    def list_documents(self) -> list[Document]:
        if not self._channel.can_update:
            raise NotConfigured("SLACK_BOT_TOKEN", "is not set: a webhook cannot be read")
        documents = []
        for (channel, ts), metadata in self._channel.list_with_metadata(METADATA_KEY):
            with suppress(ValueError, LookupError, TypeError, AttributeError):  # none of ours
                incident = model.from_document(json.loads(metadata["document"]))
                documents.append(Document(replace(incident, slack_channel=channel, slack_ts=ts)))
        return documents

    def events(self, document: Document) -> Sequence[Event]:
        """Who acknowledged it, and the notes."""
        incident, events = document.incident, list[Event]()
        if incident.acknowledged_at is not None and incident.acknowledged_by is not None:
            at = incident.acknowledged_at.isoformat()
            events.append((at, "acknowledged", incident.acknowledged_by, {}, None))
        with suppress(MessageNotFound):
            _, replies = self._channel.read_thread(incident.message_ref)
            events += [
                (reply["at"], "note", reply["by"], {}, reply["note"])
                for reply in replies
                if "note" in reply
            ]
        return events

    def write(self, before: Document | None, after: Document) -> bool:
        incident = after.incident
        if before is None:
            self._post(incident)
            return True
        if incident.version > before.incident.version:
            self._edit(incident)
        for at, kind, who, _, note in after.pending_events:
            if kind == "note":
                reply = messages.render_note(note or "", who, at)
                self._channel.post(reply, thread=incident.slack_ts)
        return True

    def _post(self, incident: Incident) -> None:
        ref = self._channel.post(messages.render_unrecorded(incident, self._links, self._now))
        _, ts = ref
        with suppress(SlackError, MessageNotFound, NotConfigured):
            if ts and self._was_posted_before(incident.area, float(ts)):
                self._channel.delete(ref)
                return
        self._stats.posted += 1

    def _was_posted_before(self, area: str, ts: float) -> bool:
        """Whoever listed the channel before our message was there has posted as well."""
        earliest = ts - RACE_WINDOW.total_seconds()
        others = [incident for incident in self.list_open() if incident.area == area]
        return any(earliest < float(other.slack_ts or 0) < ts for other in others)

    def _edit(self, incident: Incident) -> None:
        with suppress(MessageNotFound):
            message = messages.render_unrecorded(incident, self._links, self._now)
            self._channel.update(incident.message_ref, message)
            if incident.needs_notification:
                reply = messages.render_update(incident, self._now)
                self._channel.post(reply, thread=incident.slack_ts, reply_broadcast=True)
        self._stats.updated += 1

    def record_findings(self, findings: Sequence[Finding], actor: str) -> NotifyStats:
        for of_area in model.by_area(findings).values():
            if not any(finding.severity == "sev1" for finding in of_area):
                continue
            if actor == "request":  # other instances may record the same outage at this moment
                time.sleep(random.uniform(0, MAX_JITTER_S))  # noqa: S311
            try:
                self._record_or_post(of_area, actor)
            except SlackError as error:
                incident = model.open_incident(of_area, self._now, self._deployment)
                self._stats.add_refusal(error.reason, [incident])
        return self._stats

    def _record_or_post(self, findings: Sequence[Finding], actor: str) -> None:
        """Where the channel cannot be read, an instance posts the same rules once an hour."""
        try:
            self.record_area(findings, actor)
            return
        except NotConfigured:
            pass
        except SlackError as error:
            if not error.permanent:
                raise
        rules = tuple(sorted(finding.rule for finding in findings))
        with _lock:
            hour_s = model.REMINDER_INTERVAL.total_seconds()
            if time.monotonic() < _last_posted_at.get(rules, float("-inf")) + hour_s:
                return
            _last_posted_at[rules] = time.monotonic()
        self._post(model.open_incident(findings, self._now, self._deployment))

    def notify(self, _channel: Channel, _links: Links) -> NotifyStats:
        """Remind once an hour of what nobody has acknowledged; the rest was posted as it came."""
        if not self._channel.can_update:
            return self._stats
        try:
            for incident in self.list_open():
                if incident.acknowledged_at is None:
                    self._remind(incident)
        except SlackError as error:
            self._stats.add_refusal(error.reason, ())
        return self._stats

    def _remind(self, incident: Incident) -> None:
        with suppress(MessageNotFound):  # somebody deleted it: the next monitor run posts another
            _, replies = self._channel.read_thread(incident.message_ref)
            reminded = [reply["at"] for reply in replies if "reminder" in reply]
            last = max([incident.detected_at, *map(datetime.fromisoformat, reminded)])
            if self._now - last >= model.REMINDER_INTERVAL:
                reminder = messages.render_reminder(incident, self._links, self._now)
                self._channel.post(reminder, thread=incident.slack_ts, reply_broadcast=True)
                self._stats.posted += 1

    def mark_imported(self, incident: Incident, new_id: str) -> None:
        """Its message belongs to another store's incident from now on."""
        message = messages.render_moved(incident, new_id)
        if new_id == incident.id:
            message = messages.render_incidents([incident], self._links, self._now)
        with suppress(MessageNotFound):
            self._channel.update(incident.message_ref, message)
