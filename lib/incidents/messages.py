"""The text of Slack messages about incidents, in Block Kit.

The rule a newcomer would break: a message holds ids, numbers and our own words, never a visitor's.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from lib.incidents.model import Incident, calendar_gap
from lib.interfaces import Message
from lib.jakarta import WIB

# docs.slack.dev, Block Kit, read 2026-11
MAX_HEADER_CHARS, MAX_SECTION_CHARS, MAX_BLOCKS = 150, 3000, 50
MAX_INCIDENTS = 12  # in one message
ACKNOWLEDGE_HINT = "A reply or a reaction here acknowledges it."
NO_STORE = "Neither Postgres nor Redis can be reached: this message is the record."

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
class Links:
    """Addresses for people; '' where there is none."""

    runbook: str = ""
    sentry: str = ""
    status: str = ""


def render_incidents(incidents: Sequence[Incident], links: Links, now: datetime) -> Message:
    """The message of one incident, or of several Sev2."""
    first, is_one = incidents[0], len(incidents) == 1
    headline = _status_title(first, now) if is_one else _summary(incidents)
    header = {"type": "plain_text", "text": _cut(headline, MAX_HEADER_CHARS)}
    blocks: list[dict[str, Any]] = [{"type": "header", "text": header}]
    for incident in incidents[:MAX_INCIDENTS]:
        blocks += _incident_blocks(incident, links, now, with_title=not is_one)
    more = len(incidents) - MAX_INCIDENTS
    if more > 0:
        blocks.append(_section_block(f"and {more} more: `python3 -m ops incident list`"))
    gap = calendar_gap(now.astimezone(WIB).date()) if first.severity == "sev2" else ""
    if gap:
        blocks = [*blocks[: MAX_BLOCKS - 1], _section_block(gap)]
    metadata = {"incident": first.id, "key": first.message_key}
    return Message(headline, tuple(blocks[:MAX_BLOCKS]), metadata)


def render_unrecorded(incident: Incident, links: Links, now: datetime) -> Message:
    """Of an incident that its message alone records: the metadata holds its document."""
    message = render_incidents([incident], links, now)
    document = replace(incident, notified_version=incident.version).to_document()
    metadata = {
        **message.metadata,
        "unrecorded": incident.area,
        "document": json.dumps(document, separators=(",", ":")),
    }
    hint = _section_block(f"{NO_STORE} {ACKNOWLEDGE_HINT}")
    return Message(message.text, (*message.blocks[: MAX_BLOCKS - 1], hint), metadata)


def render_moved(incident: Incident, new_id: str) -> Message:
    """What is left of a message whose incident became part of another."""
    text = f"Continued in {new_id}: {incident.title}"
    return Message(text, (_section_block(text),), {"incident": new_id})


def render_update(incident: Incident, now: datetime) -> Message:
    """What is new, as a reply."""
    label = STATE_LABELS[incident.state]
    text = f"{incident.severity.upper()} {label}: {title_with_effect(incident)}"
    if incident.resolved_at is not None:
        text += f", after {_format_duration(incident.duration(now))}"
    elif incident.acknowledged_by is not None:
        text += f", acknowledged by {_mention(incident.acknowledged_by)}"
    return Message(text, (_section_block(f"*{text}*\n{_descriptions(incident)}"),))


def render_reminder(incident: Incident, links: Links, now: datetime) -> Message:
    """Of a Sev1 that nobody has acknowledged, as a reply."""
    duration = _format_duration(incident.duration(now))
    text = f"Still firing after {duration}, acknowledged by nobody: {title_with_effect(incident)}"
    command = f"`python3 -m ops incident ack {incident.id}`. {ACKNOWLEDGE_HINT}"
    blocks = (_section_block(f"*{text}*\n{command}"), _links_block(links, incident))
    return Message(text, blocks, {"reminder": incident.id, "at": now.isoformat()})


def render_note(note: str, who: str, at: datetime) -> Message:
    """A person's words, as a reply."""
    text = f"note by {who}: {note}"
    plain_text = {"type": "plain_text", "text": text[:MAX_SECTION_CHARS]}
    block = {"type": "section", "text": plain_text}
    return Message(text, (block,), {"note": note, "by": who, "at": at.isoformat()})


def title_with_effect(incident: Incident) -> str:
    """What is wrong, and what happens to leads now."""
    effect = EFFECT_LABELS.get(incident.lead_effect)
    return f"{incident.title}: {effect}" if effect and incident.is_open else incident.title


def _status_title(incident: Incident, now: datetime) -> str:
    severity = incident.severity.upper()
    if incident.resolved_at is not None:
        duration = _format_duration(incident.duration(now))
        return f"RECOVERED {severity} {incident.title} (after {duration})"
    return f"{severity} {title_with_effect(incident)}"


def _summary(incidents: Sequence[Incident]) -> str:
    """Such as: 1 Sev1 and 2 Sev2 incidents, 2 still open."""
    counts = Counter(incident.severity for incident in incidents)
    kinds = [f"{n} {severity.capitalize()}" for severity, n in sorted(counts.items())]
    still_open = sum(incident.is_open for incident in incidents)
    return f"{' and '.join(kinds)} incidents, {still_open} still open"


def _descriptions(incident: Incident) -> str:
    return "\n".join(f"• {description}" for description in incident.descriptions.values())


def _incident_blocks(
    incident: Incident, links: Links, now: datetime, *, with_title: bool
) -> Iterator[dict[str, Any]]:
    title = f"*{_status_title(incident, now)}*\n" if with_title else ""
    yield _section_block(title + _descriptions(incident))
    facts = [
        f"*{incident.severity.upper()}* {STATE_LABELS[incident.state]}",
        f"since {_format_time(incident.started_at)}",
        f"affects {', '.join(incident.services) or 'nothing visitors see'}",
    ]
    if incident.resolved_at is not None:
        duration = _format_duration(incident.duration(now))
        facts.append(f"over {_format_time(incident.resolved_at)}, after {duration}")
    if incident.acknowledged_by is not None:
        facts.append(f"acknowledged by {_mention(incident.acknowledged_by)}")
    yield _section_block(" · ".join(facts))
    yield _links_block(links, incident)


def _links_block(links: Links, incident: Incident) -> dict[str, Any]:
    parts = [f"`{incident.id}`", f"deployment `{_escape(incident.deployment)}`"]
    for rule in incident.rules[:5]:
        page = f"{links.runbook}#{rule}" if links.runbook else ""
        parts.append(f"<{page}|runbook: {rule}>" if page else f"runbook: ops/README.md#{rule}")
    parts += [f"<{links.sentry}|Sentry>"] if links.sentry else []
    parts += [f"<{links.status}|status page>"] if links.status else []
    text = " · ".join(parts)[:MAX_SECTION_CHARS]
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text}]}


def _section_block(text: str) -> dict[str, Any]:
    mrkdwn = _cut(text, MAX_SECTION_CHARS) or "-"
    return {"type": "section", "text": {"type": "mrkdwn", "text": mrkdwn}}


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def _mention(name: str) -> str:
    """A member of Slack (`slack:U…`) as a mention, which an edit notifies nobody of."""
    kind, _, member = name.partition(":")
    return f"<@{member}>" if kind == "slack" and member.isalnum() else _escape(name)


def _escape(text: str) -> str:
    """docs.slack.dev: escape &, <, >."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _format_time(moment: datetime) -> str:
    return f"{moment.astimezone(WIB):%Y-%m-%d %H:%M} WIB"


def _format_duration(duration: timedelta) -> str:
    hours, minutes = divmod(max(0, int(duration.total_seconds() // 60)), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
