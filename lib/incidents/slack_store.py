"""Open incidents in Slack alone: the record while neither Postgres nor Redis can be reached.

The message of an incident carries it, in its metadata; what people do is a reply in its thread.
Slack has no compare-and-set: of two instances that post at once the earlier message stands, and
the other takes its own away. When a store is back the watch takes the incident over under the same
id. The rule a newcomer would break: only a Sev1 is kept here.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lib.incidents import messages, model
from lib.incidents.messages import Channel, Links, Message, MessageRef, NotifyStats
from lib.incidents.model import Finding, Incident, IncidentError
from lib.incidents.store import Event
from lib.problems import MessageNotFound, SlackError

METADATA_KEY = "unrecorded"
MAX_JITTER_S = 1.0  # instances that meet an outage at once look one after the other
RACE_WINDOW = timedelta(
    minutes=5
)  # messages of two instances about one outage lie no further apart

_last_posted_at: dict[tuple[str, tuple[str, ...]], float] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class SlackIncident:
    """An incident that only its message holds."""

    incident: Incident
    message_ref: MessageRef


def list_open(channel: Channel) -> list[SlackIncident]:
    """Those not taken over by a store, newest first. Raises AlertDelayed."""
    held = []
    for posted, marks in channel.list_with_metadata(METADATA_KEY):
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # none of ours
            incident = model.from_document(json.loads(marks["document"]))
            held.append(SlackIncident(_with_message_ref(incident, posted), posted))
    return held


def record_findings(
    channel: Channel,
    findings: Sequence[Finding],
    now: datetime,
    deployment: str,
    links: Links,
    *,
    hurried: bool = False,
) -> NotifyStats:
    """Open or join the Sev1 incidents of what was found, and say what is new. Slack down delays.

    hurried: other instances may be at it this very moment.
    """
    tally = NotifyStats()
    for area in sorted({one.area for one in findings}):
        of_area = [one for one in findings if one.area == area]
        made = model.open_incident(of_area, now, deployment)
        if made.severity != "sev1":
            continue
        if hurried:
            time.sleep(random.uniform(0, MAX_JITTER_S))  # noqa: S311
        try:
            readable, held = _list_if_permitted(channel)
            before = next((one for one in held if one.incident.area == area), None)
            if before is None:
                tally.posted += _post_new(channel, made, links, now, readable=readable)
            else:
                after = model.merge_findings(before.incident, of_area, now)
                tally.updated += _update_message(channel, before, after, links, now)
        except SlackError as delay:
            tally.add_refusal(delay.reason, [made])
    return tally


def _list_if_permitted(channel: Channel) -> tuple[bool, list[SlackIncident]]:
    """Whether the channel can be read, and what it holds. Raises AlertDelayed."""
    try:
        return channel.can_update, list_open(channel)
    except SlackError as delay:
        if delay.permanent:  # refused, or without the right to read
            return False, []
        raise


def _post_new(
    channel: Channel, made: Incident, links: Links, now: datetime, *, readable: bool
) -> bool:
    """Post it; whether there is a new message."""
    if not readable and not _not_posted_this_hour(made):
        return False
    mine = channel.post(messages.render_unrecorded(_marked_notified(made), links, now))
    if not readable:
        return True
    # Whoever read before this was posted has posted as well: the earliest stands.
    with suppress(SlackError, MessageNotFound):
        earliest = float(mine.ts) - RACE_WINDOW.total_seconds()
        for one in list_open(channel):
            before = earliest < float(one.message_ref.ts) < float(mine.ts)
            if one.incident.area == made.area and before:
                channel.delete(mine)
                return False
    return True


def _not_posted_this_hour(made: Incident) -> bool:
    """Where nothing can be read back, an instance remembers for itself what it said this hour."""
    what = (made.area, made.rules)
    with _lock:
        if time.monotonic() < _last_posted_at.get(what, float("-inf")):
            return False
        _last_posted_at[what] = time.monotonic() + model.REMINDER_INTERVAL.total_seconds()
        return True


def _update_message(
    channel: Channel, before: SlackIncident, after: Incident, links: Links, now: datetime
) -> bool:
    """Bring the message up to date; whether there was anything to say."""
    if after.version == before.incident.version:
        return False
    loud = after.needs_notification
    with suppress(MessageNotFound):
        channel.update(
            before.message_ref, messages.render_unrecorded(_marked_notified(after), links, now)
        )
        if loud:
            channel.post(
                messages.render_update(after, now), thread=before.message_ref.ts, aloud=True
            )
    return True


def remind_unacknowledged(channel: Channel, links: Links, now: datetime) -> NotifyStats:
    """Take in who acknowledged in Slack; remind of the rest each hour."""
    tally = NotifyStats()
    try:
        waiting = [one for one in list_open(channel) if one.incident.acknowledged_at is None]
        for one in waiting:
            thread = channel.read_thread(one.message_ref)
            if thread.first_responder is not None:
                after = model.acknowledge(one.incident, f"slack:{thread.first_responder}", now)
                tally.updated += _update_message(channel, one, after, links, now)
                continue
            said = [marks["at"] for marks in thread.reply_metadata if "reminder" in marks]
            last = max([one.incident.detected_at, *map(datetime.fromisoformat, said)])
            if now - last >= model.REMINDER_INTERVAL:
                words = messages.render_reminder(one.incident, links, now)
                channel.post(words, thread=one.message_ref.ts, aloud=True)
                tally.posted += 1
    except SlackError as delay:
        tally.add_refusal(delay.reason, ())
    except MessageNotFound:
        pass  # somebody deleted the message: the next watch opens another
    return tally


# ---------------------------------------------------------------- what people do


def find(channel: Channel, text: str) -> SlackIncident:
    """By id, or `last`. Raises AlertDelayed, Refused."""
    for one in list_open(channel):
        if text in ("last", one.incident.id):
            return one
    raise IncidentError(f"there is no open incident {text} in Slack")


def acknowledge(channel: Channel, text: str, who: str, now: datetime, links: Links) -> Incident:
    """Somebody has it. Raises AlertDelayed, Refused."""
    held = find(channel, text)
    after = model.acknowledge(held.incident, who, now)
    _update_message(channel, held, after, links, now)
    return after


def add_note(channel: Channel, text: str, who: str, now: datetime, words: str) -> Incident:
    """A person's words, as a reply. Raises AlertDelayed, Refused."""
    held = find(channel, text)
    said = f"note by {who}: {words}"
    block = {
        "type": "section",
        "text": {"type": "plain_text", "text": said[: messages.MAX_SECTION_CHARS]},
    }
    marks = {"note": words, "by": who, "at": now.isoformat()}
    channel.post(Message(said, (block,), marks), thread=held.message_ref.ts)
    return held.incident


def events(channel: Channel, held: SlackIncident) -> list[Event]:
    """What a timeline must have of it: who acknowledged, and the notes. Raises AlertDelayed."""
    one, made = held.incident, list[Event]()
    if one.acknowledged_at is not None and one.acknowledged_by is not None:
        at = one.acknowledged_at.isoformat()
        made.append((at, "acknowledged", one.acknowledged_by, {}, None))
    with suppress(MessageNotFound):
        for marks in channel.read_thread(held.message_ref).reply_metadata:
            if "note" in marks:
                made.append((marks["at"], "note", marks["by"], {}, marks["note"]))
    return made


def transfer(
    channel: Channel, links: Links, now: datetime, keep: Callable[[SlackIncident], str | None]
) -> None:
    """Give every incident to a store, whose message it is from then on. Raises AlertDelayed.

    keep: enters it, and says under which id it stands now; None while no store takes it.
    """
    for one in list_open(channel):
        kept = keep(one)
        if kept is None:
            return
        message = messages.render_moved(one.incident, kept)
        if kept == one.incident.id:
            message = messages.render_incidents([one.incident], links, now)
        with suppress(MessageNotFound):
            channel.update(one.message_ref, message)


def _with_message_ref(incident: Incident, posted: MessageRef) -> Incident:
    return replace(incident, slack_channel=posted.channel, slack_ts=posted.ts)


def _marked_notified(incident: Incident) -> Incident:
    """As its own message holds it: told of."""
    return replace(incident, told=incident.version)
