"""What is said of incidents, and saying it: one message an incident, edited and threaded.

An edit notifies nobody: whatever a person must learn now is a new message, or a reply that the
channel sees. Whoever tells claims an incident, brings Slack up to its version and writes that
down; killed in between, the next one does it again, and looks first whether the message is there
already. The rule a newcomer would break: a message holds ids, numbers and our own words, never a
visitor's.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from lib.incidents.model import WIB, Incident
from lib.problems import AlertDelayed, AlertGone

RETRY_AFTER = timedelta(minutes=1)
HEADER_MOST, SECTION_MOST, BLOCKS_MOST = 150, 3000, 50  # docs.slack.dev, Block Kit, read 2026-11
SHOWN = 12  # incidents in one message
HOW_TO_ACK = "A reply or a reaction here acknowledges it."

STATES = {
    "detect": "firing",
    "classify": "firing",
    "contain": "contained",
    "resolve": "recovered",
    "review": "in review",
    "closed": "closed",
}
EFFECTS = {
    "stored": "leads are stored",
    "queued": "leads are queued",
    "mailed": "leads go by mail alone",
    "refused": "leads are refused",
}


@dataclass(frozen=True, slots=True)
class Message:
    """text: what a notification shows. marks: by which it is found again."""

    text: str
    blocks: tuple[dict[str, Any], ...]
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Posted:
    """Where a message is; ts is empty where it cannot be edited."""

    channel: str
    ts: str


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses for people; '' where there is none."""

    runbook: str = ""
    sentry: str = ""
    status: str = ""


class Channel(Protocol):
    """post raises AlertDelayed; update, thread and delete raise AlertGone as well."""

    @property
    def edits(self) -> bool: ...
    def post(
        self, message: Message, *, thread: str | None = None, aloud: bool = False
    ) -> Posted: ...
    def update(self, posted: Posted, message: Message) -> None: ...
    def find(self, mark: str, value: str) -> Posted | None: ...
    def marked(self, mark: str) -> list[tuple[Posted, dict[str, str]]]: ...
    def thread(self, posted: Posted) -> "Thread": ...
    def delete(self, posted: Posted) -> None: ...


@dataclass(frozen=True, slots=True)
class Thread:
    """What was said to a message. person: who replied or reacted first, as Slack names them; None
    for nobody. marks: those of our own replies, oldest first."""

    person: str | None
    marks: tuple[dict[str, str], ...]


class Store(Protocol):
    def claim(self, now: datetime) -> list[Incident]: ...
    def together(self, channel: str, ts: str) -> list[Incident]: ...
    def reminders(self, now: datetime) -> list[Incident]: ...
    def told(self, incident: Incident, now: datetime) -> None: ...
    def remind_again(self, incident: Incident, at: datetime) -> None: ...
    def postpone(self, incident: Incident, at: datetime) -> None: ...


@dataclass(slots=True)
class Tally:
    """What one telling did, in messages. reason: why Slack did not take one. unheard: the rules of
    Sev1 that it did not take."""

    posted: int = 0
    updated: int = 0
    delayed: int = 0
    reason: str | None = None
    unheard: tuple[str, ...] = ()

    def refused(self, reason: str, batch: Iterable[Incident]) -> None:
        self.delayed += 1
        self.reason = reason
        rules = (rule for one in batch if one.severity == "sev1" for rule in one.rules)
        self.unheard = tuple(dict.fromkeys((*self.unheard, *rules)))


# ---------------------------------------------------------------- telling


def tell(store: Store, channel: Channel, links: Links, now: datetime) -> Tally:
    """Bring Slack up to what is due. Raises what the store raises; Slack down only delays."""
    tally = Tally()
    due = store.claim(now)
    fresh = [one for one in due if one.anew]
    # What collected until the morning is one message.
    digest = [one for one in fresh if one.severity == "sev2"]
    for batch in [digest, *([one] for one in fresh if one not in digest)]:
        if batch:
            _tell(lambda b=batch: _first(channel, links, b, now), store, batch, now, tally)
    for one in due:
        if one not in fresh:
            _tell(lambda o=one: _again(store, channel, links, o, now), store, [one], now, tally)
    for one in store.reminders(now):
        try:
            channel.post(reminder(one, links, now), thread=one.slack_ts or None, aloud=True)
            tally.posted += 1
        except AlertDelayed as delay:
            store.remind_again(one, now + _wait(delay))
            tally.refused(delay.reason, [one])
    return tally


def _tell(say: Any, store: Store, batch: Sequence[Incident], now: datetime, tally: Tally) -> None:
    try:
        posted, new = say()
    except AlertDelayed as delay:
        for one in batch:
            store.postpone(one, now + _wait(delay))
        tally.refused(delay.reason, batch)
        return
    for one in batch:
        store.told(replace(one, slack_channel=posted.channel, slack_ts=posted.ts), now)
    tally.posted += new
    tally.updated += not new


def _wait(delay: AlertDelayed) -> timedelta:
    return timedelta(seconds=delay.retry_after_s or RETRY_AFTER.total_seconds())


def _first(
    channel: Channel, links: Links, batch: Sequence[Incident], now: datetime
) -> tuple[Posted, bool]:
    message = message_of(batch, links, now)
    there = channel.find("key", batch[0].key)
    if there is not None:
        with suppress(AlertGone):
            channel.update(there, message)
            return there, False
    return channel.post(message), True


def _again(
    store: Store, channel: Channel, links: Links, incident: Incident, now: datetime
) -> tuple[Posted, bool]:
    before = Posted(incident.slack_channel or "", incident.slack_ts or "")
    if not (channel.edits and before.ts):
        return channel.post(message_of([incident], links, now)), True
    others = [one for one in store.together(before.channel, before.ts) if one.id != incident.id]
    try:
        channel.update(before, message_of([incident, *others], links, now))
    except AlertGone:
        return channel.post(message_of([incident], links, now)), True
    except AlertDelayed as delay:
        if not delay.final:
            raise
        # The bot is refused: whatever way is left says it anew.
        return channel.post(message_of([incident], links, now)), True
    if incident.loud:
        aloud = incident.severity == "sev1"
        channel.post(reply(incident, now), thread=before.ts, aloud=aloud)
    return before, False


# ---------------------------------------------------------------- words


def message_of(incidents: Sequence[Incident], links: Links, now: datetime) -> Message:
    """The whole message: of one incident, or of those that collected."""
    headline = _headline(incidents[0], now) if len(incidents) == 1 else _of_several(incidents)
    blocks: list[dict[str, Any]] = [_header(headline)]
    for one in incidents[:SHOWN]:
        blocks += _blocks(one, links, now, with_title=len(incidents) > 1)
    if len(incidents) > SHOWN:
        blocks.append(
            _section(f"and {len(incidents) - SHOWN} more: `python3 -m ops incident list`")
        )
    first = incidents[0]
    return Message(headline, tuple(blocks[:BLOCKS_MOST]), {"incident": first.id, "key": first.key})


def _of_several(incidents: Sequence[Incident]) -> str:
    """How many of which severity: 1 Sev1 and 2 Sev2 incidents, 2 still open."""
    counts = Counter(one.severity for one in incidents)
    kinds = [f"{n} {severity.capitalize()}" for severity, n in sorted(counts.items())]
    still = sum(one.open for one in incidents)
    return f"{' and '.join(kinds)} incidents, {still} still open"


def unrecorded(one: Incident, links: Links, now: datetime) -> Message:
    """An incident that neither Postgres nor Redis can hold: the message itself is its record."""
    made = message_of([one], links, now)
    said = f"Neither Postgres nor Redis can be reached: this message is the record. {HOW_TO_ACK}"
    kept = json.dumps(one.to_document(), separators=(",", ":"))
    marks = {**made.marks, "unrecorded": one.area, "document": kept}
    return Message(made.text, (*made.blocks[: BLOCKS_MOST - 1], _section(said)), marks)


def moved(one: Incident, to: str) -> Message:
    """What is left of a message whose incident is told of in another."""
    text = f"Told of in {to} from here on: {one.title}"
    return Message(text, (_section(text),), {"incident": to})


def _blocks(
    one: Incident, links: Links, now: datetime, *, with_title: bool
) -> Iterable[dict[str, Any]]:
    lines = [f"• {what}" for what in one.what.values()]
    title = f"*{_headline(one, now)}*\n" if with_title else ""
    yield _section(title + "\n".join(lines))
    facts = [
        f"*{one.severity.upper()}* {STATES[one.state]}",
        f"since {_moment(one.started_at)}",
        f"affects {', '.join(one.services) or 'nothing visitors see'}",
    ]
    if one.resolved_at is not None:
        facts.append(f"over {_moment(one.resolved_at)}, after {_length(one.lasted(now))}")
    if one.acknowledged_by is not None:
        facts.append(f"acknowledged by {_person(one.acknowledged_by)}")
    yield _section(" · ".join(facts))
    yield _context(links, one.rules, one)


def _context(links: Links, rules: Sequence[str], one: Incident | None = None) -> dict[str, Any]:
    parts = [f"`{one.id}`", f"deployment `{_plain(one.deployment)}`"] if one else []
    for rule in rules[:5]:
        page = f"{links.runbook}#{rule}" if links.runbook else ""
        parts.append(f"<{page}|runbook: {rule}>" if page else f"runbook: ops/README.md#{rule}")
    parts += [f"<{links.sentry}|Sentry>"] if links.sentry else []
    parts += [f"<{links.status}|status page>"] if links.status else []
    text = " · ".join(parts) or "-"
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text[:SECTION_MOST]}]}


def reply(one: Incident, now: datetime) -> Message:
    """What is new, for the thread and, where it is Sev1, for the channel."""
    text = f"{one.severity.upper()} {STATES[one.state]}: {title(one)}"
    if one.resolved_at is not None:
        text += f", after {_length(one.lasted(now))}"
    elif one.acknowledged_by is not None:
        text += f", acknowledged by {_person(one.acknowledged_by)}"
    lines = "\n".join(f"• {what}" for what in one.what.values())
    return Message(text, (_section(f"*{text}*\n{lines}"),))


def reminder(one: Incident, links: Links, now: datetime) -> Message:
    """Nobody has acknowledged it for another hour."""
    lasted = _length(one.lasted(now))
    text = f"Still firing after {lasted}, acknowledged by nobody: {title(one)}"
    command = f"`python3 -m ops incident ack {one.id}`. {HOW_TO_ACK}"
    blocks = (_section(f"*{text}*\n{command}"), _context(links, one.rules, one))
    return Message(text, blocks, {"reminder": one.id, "at": now.isoformat()})


def _headline(one: Incident, now: datetime) -> str:
    mark = one.severity.upper()
    if one.resolved_at is not None:
        return f"RECOVERED {mark} {one.title} (after {_length(one.lasted(now))})"
    return f"{mark} {title(one)}"


def title(one: Incident) -> str:
    """What is wrong, and what it does to leads now."""
    effect = EFFECTS.get(one.effect)
    return f"{one.title}: {effect}" if effect and one.open else one.title


def _person(name: str) -> str:
    """A name as it was given; a member of Slack as a mention, which an edit notifies nobody of."""
    kind, _, member = name.partition(":")
    return f"<@{member}>" if kind == "slack" and member.isalnum() else _plain(name)


def _header(text: str) -> dict[str, Any]:
    short = text if len(text) <= HEADER_MOST else text[: HEADER_MOST - 1] + "…"
    return {"type": "header", "text": {"type": "plain_text", "text": short}}


def _section(text: str) -> dict[str, Any]:
    short = text if len(text) <= SECTION_MOST else text[: SECTION_MOST - 1] + "…"
    return {"type": "section", "text": {"type": "mrkdwn", "text": short or "-"}}


def _plain(text: str) -> str:
    """Text that Slack shows as it is (docs.slack.dev: escape &, <, >)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(WIB):%d %b %H:%M} WIB"


def _length(length: timedelta) -> str:
    minutes = max(0, int(length.total_seconds() // 60))
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours else f"{minutes} min"
