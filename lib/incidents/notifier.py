"""Bring Slack up to date: one message an incident, edited, with a thread.

An edit notifies nobody: what a person must learn now is a new message, or a reply that the channel
sees. The rule a newcomer would break: claim, send, then mark as notified. A process killed between
those is repeated by the next one, which first looks for the message.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from lib.incidents.messages import Links, render_incidents, render_reminder, render_update
from lib.incidents.model import Incident
from lib.interfaces import MessageRef, Slack
from lib.problems import MessageNotFound, SlackError

if TYPE_CHECKING:
    from lib.incidents.store import IncidentStore

RETRY_DELAY_S = 60.0


@dataclass(slots=True)
class NotifyStats:
    """Messages. reason: why Slack refused one. undelivered_rules: the Sev1 rules it refused."""

    posted: int = 0
    updated: int = 0
    delayed: int = 0
    reason: str | None = None
    undelivered_rules: tuple[str, ...] = ()

    def add_refusal(self, reason: str, incidents: Iterable[Incident]) -> None:
        self.delayed += 1
        self.reason = reason
        rules = (rule for each in incidents if each.severity == "sev1" for rule in each.rules)
        self.undelivered_rules = tuple(dict.fromkeys((*self.undelivered_rules, *rules)))


def notify_due(store: "IncidentStore", channel: Slack, links: Links, now: datetime) -> None:
    """Send what is due. Raises what the store raises; a refusal of Slack only delays."""
    due = store.claim_due()
    # The Sev2 that collected until the morning are one message.
    digest = [each for each in due if each.needs_new_message and each.severity == "sev2"]
    for batch in [digest, *([each] for each in due if each not in digest)]:
        if batch:
            _send(store, channel, links, batch, now)
    for incident in store.claim_reminders():
        try:
            reminder = render_reminder(incident, links, now)
            channel.post(reminder, thread=incident.slack_ts or None, reply_broadcast=True)
            store.stats.posted += 1
        except SlackError as error:
            store.postpone(incident, remind_at=now + _retry_delay(error))
            store.stats.add_refusal(error.reason, [incident])


def _send(
    store: "IncidentStore", channel: Slack, links: Links, batch: Sequence[Incident], now: datetime
) -> None:
    try:
        if batch[0].needs_new_message:
            ref, is_new = _post_new(channel, links, batch, now)
        else:
            ref, is_new = _update_posted(store, channel, links, batch[0], now)
    except SlackError as error:
        for incident in batch:
            store.postpone(incident, notify_at=now + _retry_delay(error))
        store.stats.add_refusal(error.reason, batch)
        return
    for incident in batch:
        store.mark_notified(replace(incident, slack_channel=ref[0], slack_ts=ref[1]))
    store.stats.posted += is_new
    store.stats.updated += not is_new


def _retry_delay(error: SlackError) -> timedelta:
    return timedelta(seconds=error.retry_after_s or RETRY_DELAY_S)


def _post_new(
    channel: Slack, links: Links, batch: Sequence[Incident], now: datetime
) -> tuple[MessageRef, bool]:
    """Unless an attempt whose response was lost has posted it."""
    message = render_incidents(batch, links, now)
    ref = channel.find("key", batch[0].message_key)
    if ref is not None:
        with suppress(MessageNotFound):
            channel.update(ref, message)
            return ref, False
    return channel.post(message), True


def _update_posted(
    store: "IncidentStore", channel: Slack, links: Links, incident: Incident, now: datetime
) -> tuple[MessageRef, bool]:
    """Edit the message; where it cannot be edited, post another."""
    ref = incident.message_ref
    if channel.can_update and ref[1]:
        others = [each for each in store.list_in_message(ref) if each.id != incident.id]
        try:
            channel.update(ref, render_incidents([incident, *others], links, now))
        except MessageNotFound:
            pass
        except SlackError as error:
            if not error.permanent:
                raise
        else:
            if incident.needs_notification:
                is_sev1 = incident.severity == "sev1"
                reply = render_update(incident, now)
                channel.post(reply, thread=ref[1], reply_broadcast=is_sev1)
            return ref, False
    return channel.post(render_incidents([incident], links, now)), True
