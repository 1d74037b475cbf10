"""Open incidents in Slack alone: the record while neither Postgres nor Redis can be reached.

The metadata of an incident's message is its document; a note is a reply in its thread. Slack has no
compare-and-set: of two instances that post at once the earlier message stays, and the other is
deleted. The rule a newcomer would break: only a Sev1 is stored here.
"""

import json
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from lib.incidents import messages, model
from lib.incidents.messages import Links
from lib.incidents.model import Event, Finding, Incident
from lib.incidents.store import Change, IncidentStore
from lib.interfaces import Slack
from lib.problems import MessageNotFound, NotConfigured, SlackError

METADATA_KEY = "unrecorded"
MAX_JITTER_S = 1.0  # instances that meet an outage at once check one after the other
RACE_WINDOW = timedelta(minutes=5)  # two instances' messages about one outage are no further apart

_last_posted_at: dict[tuple[str, ...], float] = {}
_lock = threading.Lock()


class SlackStore(IncidentStore):
    """Raises NotConfigured where only a webhook is left, which cannot be read."""

    name = "Slack"

    def __init__(self, channel: Slack, links: Links, now: datetime, deployment: str) -> None:
        super().__init__(now, deployment)
        self._channel = channel
        self._links = links

    def list_open(self) -> list[Incident]:
        if not self._channel.can_update:
            raise NotConfigured("SLACK_BOT_TOKEN", "is not set: a webhook cannot be read")
        incidents = []
        for (channel, ts), metadata in self._channel.list_with_metadata(METADATA_KEY):
            with suppress(ValueError, LookupError, TypeError, AttributeError):  # none of ours
                incident = model.from_document(json.loads(metadata["document"]))
                incidents.append(replace(incident, slack_channel=channel, slack_ts=ts))
        return incidents

    def list_events(self, incident: Incident) -> list[tuple[Any, ...]]:
        return [(number, *event) for number, event in enumerate(self.read_events(incident), 1)]

    def read_events(self, incident: Incident) -> list[Event]:
        """Who acknowledged it, and the notes."""
        events = []
        if incident.acknowledged_at is not None and incident.acknowledged_by is not None:
            events.append(Event(incident.acknowledged_at, "acknowledged", incident.acknowledged_by))
        with suppress(MessageNotFound):
            _, replies = self._channel.read_thread(incident.message_ref)
            for reply in replies:
                if "note" in reply:
                    at = datetime.fromisoformat(reply["at"])
                    events.append(Event(at, "note", reply["by"], note=reply["note"]))
        return events

    def insert(self, incident: Incident, actor: str) -> bool:
        if actor == "request":  # other instances may record the same outage at this moment
            time.sleep(random.uniform(0, MAX_JITTER_S))  # noqa: S311
            if self._find_open(incident.area) is not None:
                return False
        self._post(incident)
        return True

    def _post(self, incident: Incident) -> None:
        ref = self._channel.post(messages.render_unrecorded(incident, self._links, self._now))
        _, ts = ref
        with suppress(SlackError, MessageNotFound, NotConfigured):
            if ts and self._was_posted_before(incident.area, float(ts)):
                self._channel.delete(ref)
                return
        self.stats.posted += 1

    def _was_posted_before(self, area: str, ts: float) -> bool:
        """Whoever listed the channel before our message was there has posted as well."""
        earliest = ts - RACE_WINDOW.total_seconds()
        same_area = [incident for incident in self.list_open() if incident.area == area]
        return any(earliest < float(incident.slack_ts or 0) < ts for incident in same_area)

    def change(self, text: str, change: Change) -> Incident:
        before = self.find(text)
        after, event = change(before)
        if after.version > before.version:
            self._edit(after)
        if event is not None and event.note is not None:
            reply = messages.render_note(event.note, event.actor, event.at)
            self._channel.post(reply, thread=after.slack_ts)
        return after

    def _edit(self, incident: Incident) -> None:
        with suppress(MessageNotFound):
            message = messages.render_unrecorded(incident, self._links, self._now)
            self._channel.update(incident.message_ref, message)
            if incident.needs_notification:
                reply = messages.render_update(incident, self._now)
                self._channel.post(reply, thread=incident.slack_ts, reply_broadcast=True)
        self.stats.updated += 1

    def _record_area(self, findings: Sequence[Finding], actor: str) -> Incident:
        """A Sev1 only."""
        opened = model.open_incident(findings, self._now, self._deployment)
        try:
            if opened.severity == "sev1":
                return self._record_or_post(opened, findings, actor)
        except SlackError as error:
            self.stats.add_refusal(error.reason, [opened])
        return opened

    def _record_or_post(
        self, opened: Incident, findings: Sequence[Finding], actor: str
    ) -> Incident:
        """Where the channel cannot be read, an instance posts the same rules once an hour."""
        try:
            return super()._record_area(findings, actor)
        except NotConfigured:
            pass
        except SlackError as error:
            if not error.permanent:
                raise
        if _is_first_of_the_hour(opened.rules):
            self._post(opened)
        return opened

    def notify(self, _channel: Slack, _links: Links) -> None:
        """Remind once an hour of what nobody has acknowledged; the rest was posted as it came."""
        if not self._channel.can_update:
            return
        try:
            for incident in self.list_open():
                if incident.acknowledged_at is None:
                    self._remind(incident)
        except SlackError as error:
            self.stats.add_refusal(error.reason, ())

    def _remind(self, incident: Incident) -> None:
        with suppress(MessageNotFound):  # somebody deleted it: the next monitor run posts another
            _, replies = self._channel.read_thread(incident.message_ref)
            reminded = [reply["at"] for reply in replies if "reminder" in reply]
            last = max([incident.detected_at, *map(datetime.fromisoformat, reminded)])
            if self._now - last >= model.REMINDER_INTERVAL:
                reminder = messages.render_reminder(incident, self._links, self._now)
                self._channel.post(reminder, thread=incident.slack_ts, reply_broadcast=True)
                self.stats.posted += 1

    def mark_imported(self, incident: Incident, new_id: str) -> None:
        """Its message belongs to another store's incident from now on."""
        message = messages.render_moved(incident, new_id)
        if new_id == incident.id:
            message = messages.render_incidents([incident], self._links, self._now)
        with suppress(MessageNotFound):
            self._channel.update(incident.message_ref, message)


def _is_first_of_the_hour(rules: tuple[str, ...]) -> bool:
    with _lock:
        hour_s = model.REMINDER_INTERVAL.total_seconds()
        if time.monotonic() < _last_posted_at.get(rules, float("-inf")) + hour_s:
            return False
        _last_posted_at[rules] = time.monotonic()
        return True
