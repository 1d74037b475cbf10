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
from lib.incidents.messages import Channel, Links, Message, Posted, Tally
from lib.incidents.model import Finding, Incident, Refused
from lib.incidents.store import Event
from lib.problems import AlertDelayed, AlertGone

MARK = "unrecorded"
HASTE_S = 1.0  # instances that meet an outage at once look one after the other
RACE = timedelta(minutes=5)  # messages of two instances about one outage lie no further apart

_said: dict[tuple[str, tuple[str, ...]], float] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Held:
    """An incident that only its message holds."""

    incident: Incident
    posted: Posted


def read(channel: Channel) -> list[Held]:
    """Those not taken over by a store, newest first. Raises AlertDelayed."""
    held = []
    for posted, marks in channel.marked(MARK):
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # none of ours
            incident = model.from_document(json.loads(marks["document"]))
            held.append(Held(_at(incident, posted), posted))
    return held


def found(
    channel: Channel,
    findings: Sequence[Finding],
    now: datetime,
    deployment: str,
    links: Links,
    *,
    hurried: bool = False,
) -> Tally:
    """Open or join the Sev1 incidents of what was found, and say what is new. Slack down delays.

    hurried: other instances may be at it this very moment.
    """
    tally = Tally()
    for area in sorted({one.area for one in findings}):
        of_area = [one for one in findings if one.area == area]
        made = model.opened(of_area, now, deployment)
        if made.severity != "sev1":
            continue
        if hurried:
            time.sleep(random.uniform(0, HASTE_S))  # noqa: S311
        try:
            readable, held = _held(channel)
            before = next((one for one in held if one.incident.area == area), None)
            if before is None:
                tally.posted += _open(channel, made, links, now, readable=readable)
            else:
                after = model.joined(before.incident, of_area, now)
                tally.updated += _move(channel, before, after, links, now)
        except AlertDelayed as delay:
            tally.refused(delay.reason, [made])
    return tally


def _held(channel: Channel) -> tuple[bool, list[Held]]:
    """Whether the channel can be read, and what it holds. Raises AlertDelayed."""
    try:
        return channel.edits, read(channel)
    except AlertDelayed as delay:
        if delay.final:  # refused, or without the right to read
            return False, []
        raise


def _open(channel: Channel, made: Incident, links: Links, now: datetime, *, readable: bool) -> bool:
    """Post it; whether there is a new message."""
    if not readable and not _once(made):
        return False
    mine = channel.post(messages.unrecorded(_told(made), links, now))
    if not readable:
        return True
    # Whoever read before this was posted has posted as well: the earliest stands.
    with suppress(AlertDelayed, AlertGone):
        earliest = float(mine.ts) - RACE.total_seconds()
        for one in read(channel):
            before = earliest < float(one.posted.ts) < float(mine.ts)
            if one.incident.area == made.area and before:
                channel.delete(mine)
                return False
    return True


def _once(made: Incident) -> bool:
    """Where nothing can be read back, an instance remembers for itself what it said this hour."""
    what = (made.area, made.rules)
    with _lock:
        if time.monotonic() < _said.get(what, float("-inf")):
            return False
        _said[what] = time.monotonic() + model.REMIND_EVERY.total_seconds()
        return True


def _move(channel: Channel, before: Held, after: Incident, links: Links, now: datetime) -> bool:
    """Bring the message up to date; whether there was anything to say."""
    if after.version == before.incident.version:
        return False
    loud = after.loud
    with suppress(AlertGone):
        channel.update(before.posted, messages.unrecorded(_told(after), links, now))
        if loud:
            channel.post(messages.reply(after, now), thread=before.posted.ts, aloud=True)
    return True


def remind(channel: Channel, links: Links, now: datetime) -> Tally:
    """Take in who acknowledged in Slack; remind of the rest each hour."""
    tally = Tally()
    try:
        waiting = [one for one in read(channel) if one.incident.acknowledged_at is None]
        for one in waiting:
            thread = channel.thread(one.posted)
            if thread.person is not None:
                after = model.acknowledged(one.incident, f"slack:{thread.person}", now)
                tally.updated += _move(channel, one, after, links, now)
                continue
            said = [marks["at"] for marks in thread.marks if "reminder" in marks]
            last = max([one.incident.detected_at, *map(datetime.fromisoformat, said)])
            if now - last >= model.REMIND_EVERY:
                words = messages.reminder(one.incident, links, now)
                channel.post(words, thread=one.posted.ts, aloud=True)
                tally.posted += 1
    except AlertDelayed as delay:
        tally.refused(delay.reason, ())
    except AlertGone:
        pass  # somebody deleted the message: the next watch opens another
    return tally


# ---------------------------------------------------------------- what people do


def find(channel: Channel, text: str) -> Held:
    """By id, or `last`. Raises AlertDelayed, Refused."""
    for one in read(channel):
        if text in ("last", one.incident.id):
            return one
    raise Refused(f"there is no open incident {text} in Slack")


def acknowledge(channel: Channel, text: str, who: str, now: datetime, links: Links) -> Incident:
    """Somebody has it. Raises AlertDelayed, Refused."""
    held = find(channel, text)
    after = model.acknowledged(held.incident, who, now)
    _move(channel, held, after, links, now)
    return after


def note(channel: Channel, text: str, who: str, now: datetime, words: str) -> Incident:
    """A person's words, as a reply. Raises AlertDelayed, Refused."""
    held = find(channel, text)
    said = f"note by {who}: {words}"
    block = {
        "type": "section",
        "text": {"type": "plain_text", "text": said[: messages.SECTION_MOST]},
    }
    marks = {"note": words, "by": who, "at": now.isoformat()}
    channel.post(Message(said, (block,), marks), thread=held.posted.ts)
    return held.incident


def events(channel: Channel, held: Held) -> list[Event]:
    """What a timeline must have of it: who acknowledged, and the notes. Raises AlertDelayed."""
    one, made = held.incident, list[Event]()
    if one.acknowledged_at is not None and one.acknowledged_by is not None:
        at = one.acknowledged_at.isoformat()
        made.append((at, "acknowledged", one.acknowledged_by, {}, None))
    with suppress(AlertGone):
        for marks in channel.thread(held.posted).marks:
            if "note" in marks:
                made.append((marks["at"], "note", marks["by"], {}, marks["note"]))
    return made


def hand_over(
    channel: Channel, links: Links, now: datetime, keep: Callable[[Held], str | None]
) -> None:
    """Give every incident to a store, whose message it is from then on. Raises AlertDelayed.

    keep: enters it, and says under which id it stands now; None while no store takes it.
    """
    for one in read(channel):
        kept = keep(one)
        if kept is None:
            return
        message = messages.moved(one.incident, kept)
        if kept == one.incident.id:
            message = messages.message_of([one.incident], links, now)
        with suppress(AlertGone):
            channel.update(one.posted, message)


def _at(incident: Incident, posted: Posted) -> Incident:
    return replace(incident, slack_channel=posted.channel, slack_ts=posted.ts)


def _told(incident: Incident) -> Incident:
    """As its own message holds it: told of."""
    return replace(incident, told=incident.version)
