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
from lib.problems import MessageNotFound, SlackError

RETRY_DELAY = timedelta(minutes=1)
MAX_HEADER_CHARS, MAX_SECTION_CHARS, MAX_BLOCKS = (
    150,
    3000,
    50,
)  # docs.slack.dev, Block Kit, read 2026-11
MAX_INCIDENTS = 12  # incidents in one message
ACKNOWLEDGE_HINT = "A reply or a reaction here acknowledges it."

STATE_LABELS = {
    "detect": "firing",
    "classify": "firing",
    "contain": "contained",
    "resolve": "recovered",
    "review": "in review",
    "closed": "closed",
}
EFFECT_LABELS = {
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
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MessageRef:
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
    def can_update(self) -> bool: ...
    def post(
        self, message: Message, *, thread: str | None = None, aloud: bool = False
    ) -> MessageRef: ...
    def update(self, posted: MessageRef, message: Message) -> None: ...
    def find(self, mark: str, value: str) -> MessageRef | None: ...
    def list_with_metadata(self, mark: str) -> list[tuple[MessageRef, dict[str, str]]]: ...
    def read_thread(self, posted: MessageRef) -> "Thread": ...
    def delete(self, posted: MessageRef) -> None: ...


@dataclass(frozen=True, slots=True)
class Thread:
    """What was said to a message. person: who replied or reacted first, as Slack names them; None
    for nobody. marks: those of our own replies, oldest first."""

    first_responder: str | None
    reply_metadata: tuple[dict[str, str], ...]


class NotificationStore(Protocol):
    def claim_due(self, now: datetime) -> list[Incident]: ...
    def incidents_in_message(self, channel: str, ts: str) -> list[Incident]: ...
    def claim_reminders(self, now: datetime) -> list[Incident]: ...
    def mark_notified(self, incident: Incident, now: datetime) -> None: ...
    def postpone_reminder(self, incident: Incident, at: datetime) -> None: ...
    def postpone(self, incident: Incident, at: datetime) -> None: ...


@dataclass(slots=True)
class NotifyStats:
    """What one telling did, in messages. reason: why Slack did not take one. unheard: the rules of
    Sev1 that it did not take."""

    posted: int = 0
    updated: int = 0
    delayed: int = 0
    reason: str | None = None
    undelivered_rules: tuple[str, ...] = ()

    def add_refusal(self, reason: str, batch: Iterable[Incident]) -> None:
        self.delayed += 1
        self.reason = reason
        rules = (rule for one in batch if one.severity == "sev1" for rule in one.rules)
        self.undelivered_rules = tuple(dict.fromkeys((*self.undelivered_rules, *rules)))


# ---------------------------------------------------------------- telling


def notify_due(
    store: NotificationStore, channel: Channel, links: Links, now: datetime
) -> NotifyStats:
    """Bring Slack up to what is due. Raises what the store raises; Slack down only delays."""
    tally = NotifyStats()
    due = store.claim_due(now)
    fresh = [one for one in due if one.needs_new_message]
    # What collected until the morning is one message.
    digest = [one for one in fresh if one.severity == "sev2"]
    for batch in [digest, *([one] for one in fresh if one not in digest)]:
        if batch:
            _deliver(lambda b=batch: _post_new(channel, links, b, now), store, batch, now, tally)
    for one in due:
        if one not in fresh:
            _deliver(
                lambda o=one: _update_posted(store, channel, links, o, now),
                store,
                [one],
                now,
                tally,
            )
    for one in store.claim_reminders(now):
        try:
            channel.post(render_reminder(one, links, now), thread=one.slack_ts or None, aloud=True)
            tally.posted += 1
        except SlackError as delay:
            store.postpone_reminder(one, now + _retry_delay(delay))
            tally.add_refusal(delay.reason, [one])
    return tally


def _deliver(
    say: Any, store: NotificationStore, batch: Sequence[Incident], now: datetime, tally: NotifyStats
) -> None:
    try:
        posted, new = say()
    except SlackError as delay:
        for one in batch:
            store.postpone(one, now + _retry_delay(delay))
        tally.add_refusal(delay.reason, batch)
        return
    for one in batch:
        store.mark_notified(replace(one, slack_channel=posted.channel, slack_ts=posted.ts), now)
    tally.posted += new
    tally.updated += not new


def _retry_delay(delay: SlackError) -> timedelta:
    return timedelta(seconds=delay.retry_after_s or RETRY_DELAY.total_seconds())


def _post_new(
    channel: Channel, links: Links, batch: Sequence[Incident], now: datetime
) -> tuple[MessageRef, bool]:
    message = render_incidents(batch, links, now)
    there = channel.find("key", batch[0].message_key)
    if there is not None:
        with suppress(MessageNotFound):
            channel.update(there, message)
            return there, False
    return channel.post(message), True


def _update_posted(
    store: NotificationStore, channel: Channel, links: Links, incident: Incident, now: datetime
) -> tuple[MessageRef, bool]:
    before = MessageRef(incident.slack_channel or "", incident.slack_ts or "")
    if not (channel.can_update and before.ts):
        return channel.post(render_incidents([incident], links, now)), True
    others = [
        one
        for one in store.incidents_in_message(before.channel, before.ts)
        if one.id != incident.id
    ]
    try:
        channel.update(before, render_incidents([incident, *others], links, now))
    except MessageNotFound:
        return channel.post(render_incidents([incident], links, now)), True
    except SlackError as delay:
        if not delay.permanent:
            raise
        # The bot is refused: whatever way is left says it anew.
        return channel.post(render_incidents([incident], links, now)), True
    if incident.needs_notification:
        aloud = incident.severity == "sev1"
        channel.post(render_update(incident, now), thread=before.ts, aloud=aloud)
    return before, False


# ---------------------------------------------------------------- words


def render_incidents(incidents: Sequence[Incident], links: Links, now: datetime) -> Message:
    """The whole message: of one incident, or of those that collected."""
    headline = _status_title(incidents[0], now) if len(incidents) == 1 else _summary(incidents)
    blocks: list[dict[str, Any]] = [_header_block(headline)]
    for one in incidents[:MAX_INCIDENTS]:
        blocks += _incident_blocks(one, links, now, with_title=len(incidents) > 1)
    if len(incidents) > MAX_INCIDENTS:
        blocks.append(
            _section_block(
                f"and {len(incidents) - MAX_INCIDENTS} more: `python3 -m ops incident list`"
            )
        )
    first = incidents[0]
    return Message(
        headline, tuple(blocks[:MAX_BLOCKS]), {"incident": first.id, "key": first.message_key}
    )


def _summary(incidents: Sequence[Incident]) -> str:
    """How many of which severity: 1 Sev1 and 2 Sev2 incidents, 2 still open."""
    counts = Counter(one.severity for one in incidents)
    kinds = [f"{n} {severity.capitalize()}" for severity, n in sorted(counts.items())]
    still = sum(one.is_open for one in incidents)
    return f"{' and '.join(kinds)} incidents, {still} still open"


def render_unrecorded(one: Incident, links: Links, now: datetime) -> Message:
    """An incident that neither Postgres nor Redis can hold: the message itself is its record."""
    made = render_incidents([one], links, now)
    said = (
        f"Neither Postgres nor Redis can be reached: this message is the record. {ACKNOWLEDGE_HINT}"
    )
    kept = json.dumps(one.to_document(), separators=(",", ":"))
    marks = {**made.metadata, "unrecorded": one.area, "document": kept}
    return Message(made.text, (*made.blocks[: MAX_BLOCKS - 1], _section_block(said)), marks)


def render_moved(one: Incident, to: str) -> Message:
    """What is left of a message whose incident is told of in another."""
    text = f"Told of in {to} from here on: {one.title}"
    return Message(text, (_section_block(text),), {"incident": to})


def _incident_blocks(
    one: Incident, links: Links, now: datetime, *, with_title: bool
) -> Iterable[dict[str, Any]]:
    lines = [f"• {what}" for what in one.descriptions.values()]
    title = f"*{_status_title(one, now)}*\n" if with_title else ""
    yield _section_block(title + "\n".join(lines))
    facts = [
        f"*{one.severity.upper()}* {STATE_LABELS[one.state]}",
        f"since {_format_time(one.started_at)}",
        f"affects {', '.join(one.services) or 'nothing visitors see'}",
    ]
    if one.resolved_at is not None:
        facts.append(
            f"over {_format_time(one.resolved_at)}, after {_format_duration(one.duration(now))}"
        )
    if one.acknowledged_by is not None:
        facts.append(f"acknowledged by {_mention(one.acknowledged_by)}")
    yield _section_block(" · ".join(facts))
    yield _links_block(links, one.rules, one)


def _links_block(links: Links, rules: Sequence[str], one: Incident | None = None) -> dict[str, Any]:
    parts = [f"`{one.id}`", f"deployment `{_escape(one.deployment)}`"] if one else []
    for rule in rules[:5]:
        page = f"{links.runbook}#{rule}" if links.runbook else ""
        parts.append(f"<{page}|runbook: {rule}>" if page else f"runbook: ops/README.md#{rule}")
    parts += [f"<{links.sentry}|Sentry>"] if links.sentry else []
    parts += [f"<{links.status}|status page>"] if links.status else []
    text = " · ".join(parts) or "-"
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text[:MAX_SECTION_CHARS]}]}


def render_update(one: Incident, now: datetime) -> Message:
    """What is new, for the thread and, where it is Sev1, for the channel."""
    text = f"{one.severity.upper()} {STATE_LABELS[one.state]}: {title_with_effect(one)}"
    if one.resolved_at is not None:
        text += f", after {_format_duration(one.duration(now))}"
    elif one.acknowledged_by is not None:
        text += f", acknowledged by {_mention(one.acknowledged_by)}"
    lines = "\n".join(f"• {what}" for what in one.descriptions.values())
    return Message(text, (_section_block(f"*{text}*\n{lines}"),))


def render_reminder(one: Incident, links: Links, now: datetime) -> Message:
    """Nobody has acknowledged it for another hour."""
    lasted = _format_duration(one.duration(now))
    text = f"Still firing after {lasted}, acknowledged by nobody: {title_with_effect(one)}"
    command = f"`python3 -m ops incident ack {one.id}`. {ACKNOWLEDGE_HINT}"
    blocks = (_section_block(f"*{text}*\n{command}"), _links_block(links, one.rules, one))
    return Message(text, blocks, {"reminder": one.id, "at": now.isoformat()})


def _status_title(one: Incident, now: datetime) -> str:
    mark = one.severity.upper()
    if one.resolved_at is not None:
        return f"RECOVERED {mark} {one.title} (after {_format_duration(one.duration(now))})"
    return f"{mark} {title_with_effect(one)}"


def title_with_effect(one: Incident) -> str:
    """What is wrong, and what it does to leads now."""
    effect = EFFECT_LABELS.get(one.lead_effect)
    return f"{one.title}: {effect}" if effect and one.is_open else one.title


def _mention(name: str) -> str:
    """A name as it was given; a member of Slack as a mention, which an edit notifies nobody of."""
    kind, _, member = name.partition(":")
    return f"<@{member}>" if kind == "slack" and member.isalnum() else _escape(name)


def _header_block(text: str) -> dict[str, Any]:
    short = text if len(text) <= MAX_HEADER_CHARS else text[: MAX_HEADER_CHARS - 1] + "…"
    return {"type": "header", "text": {"type": "plain_text", "text": short}}


def _section_block(text: str) -> dict[str, Any]:
    short = text if len(text) <= MAX_SECTION_CHARS else text[: MAX_SECTION_CHARS - 1] + "…"
    return {"type": "section", "text": {"type": "mrkdwn", "text": short or "-"}}


def _escape(text: str) -> str:
    """Text that Slack shows as it is (docs.slack.dev: escape &, <, >)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _format_time(moment: datetime) -> str:
    return f"{moment.astimezone(WIB):%d %b %H:%M} WIB"


def _format_duration(length: timedelta) -> str:
    minutes = max(0, int(length.total_seconds() // 60))
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours else f"{minutes} min"
