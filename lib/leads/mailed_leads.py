"""The register of leads that exist only in a mail: open until imported, or dismissed by a person.

Neither Postgres nor Redis may answer when such a lead is accepted. Its entry is written to
whichever does; else the instance keeps it, tries again after later answers, and posts it to Slack,
from where the watch enters it once Postgres is back. The rule a newcomer would break: an entry
holds ids, and keyed hashes by which an erasure finds it; never a word of the visitor.
"""

import json
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from lib.interfaces import RunQuery, Services
from lib.leads import repository
from lib.leads.lead import Lead
from lib.problems import CacheDown, DatabaseDown, MessageNotFound, NotConfigured, SlackError

REDIS_KEY = "mailed"  # hash in Redis: id -> entry, until Postgres has it
SLACK_METADATA_KEY = "mailed"  # of a message in Slack that carries entries
MAX_LEADS_PER_MESSAGE = 40  # entries in one message
MAX_REFERENCES = 20  # references named; the rest are counted

if TYPE_CHECKING:
    from lib.incidents.messages import Message, MessageRef


class MailedLead(NamedTuple):
    """marks: keyed hashes of the person; none where they were not carried along."""

    lead_id: str
    ref: str
    accepted_at: datetime
    marks: tuple[str, ...] = ()


# ---------------------------------------------------------------- by the instance that accepted it


class _PendingLeads:
    """An instance's entries that no store has taken yet, and the message that carries them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.leads: dict[str, MailedLead] = {}
        self.posted_ids: set[str] = set()
        self.messages: dict[int, MessageRef] = {}  # by the first entry's place


_pending = _PendingLeads()


def register_after_response(means: Services, lead: Lead, decision: str) -> None:
    """After an answer: register a lead that was `mailed`, and those that still wait to be."""
    if decision == "mailed" and not lead.canary:
        marks = tuple(repository.erasure_hashes(lead, means.erasure_keys))
        entry = MailedLead(str(lead.id), lead.ref, lead.created_at, marks)
        with _pending.lock:
            _pending.leads[entry.lead_id] = entry
    if _pending.leads:
        _register_pending(means)


def _register_pending(means: Services) -> None:
    with _pending.lock:
        waiting = list(_pending.leads.values())
        if not _register(means, waiting):
            _post_to_slack(means, waiting)
            return
        _pending.leads.clear()
        _pending.posted_ids.clear()
        _pending.messages.clear()


def _register(means: Services, entries: list[MailedLead]) -> bool:
    with suppress(DatabaseDown, NotConfigured):
        register(means.database.run_or_down, entries, datetime.now(UTC))
        return True
    with suppress(CacheDown, NotConfigured):
        means.cache.pipeline(*(("HSETNX", REDIS_KEY, e.lead_id, _to_json(e)) for e in entries))
        return True
    return False


def _post_to_slack(means: Services, waiting: list[MailedLead]) -> None:
    """Post them to Slack: one message for CARRIED of them, edited while more come."""
    if all(one.lead_id in _pending.posted_ids for one in waiting):
        return
    with suppress(SlackError, MessageNotFound, NotConfigured):
        channel = means.slack
        for start in range(0, len(waiting), MAX_LEADS_PER_MESSAGE):
            batch = waiting[start : start + MAX_LEADS_PER_MESSAGE]
            if all(one.lead_id in _pending.posted_ids for one in batch):
                continue
            message, before = _render_message(batch), _pending.messages.get(start)
            if before is not None and channel.can_update:
                _pending.messages.pop(start)  # it may be gone
                channel.update(before, message)
                _pending.messages[start] = before
            else:
                _pending.messages[start] = channel.post(message)
            _pending.posted_ids |= {one.lead_id for one in batch}


def _render_message(entries: list[MailedLead]) -> "Message":
    from lib.incidents.messages import Message  # what a lead that is stored never needs

    refs = ", ".join(one.ref for one in entries)
    text = f"{len(entries)} leads exist only in a mail to sales"
    said = f"*{text}*: {refs}\nThe watch registers them once Postgres answers. Keep the mails."
    block = {"type": "section", "text": {"type": "mrkdwn", "text": said}}
    carried = ";".join(f"{e.lead_id} {e.ref} {e.accepted_at.timestamp()}" for e in entries)
    return Message(text, (block,), {SLACK_METADATA_KEY: carried})


# ---------------------------------------------------------------- in Postgres

INSERT_MAILED_LEADS = """
insert into mailed_leads (lead_id, ref, accepted_at, marks, registered_at)
select e.lead_id, e.ref, e.accepted_at, coalesce(e.marks, '{}'), %(now)s
from jsonb_to_recordset(%(entries)s::jsonb) as e (
  lead_id uuid, ref text, accepted_at timestamptz, marks text[])
where not exists (
  select from erasure_tombstones as t
  where t.mark = any(e.marks) and t.erased_at >= e.accepted_at
)
on conflict (lead_id) do nothing
"""

LIST_OPEN = """
select lead_id::text, ref, accepted_at from mailed_leads as m
where dismissed_at is null and not exists (select from leads where leads.id = m.lead_id)
order by accepted_at, lead_id
"""

DISMISS = """
update mailed_leads set dismissed_at = %(now)s, dismissed_by = %(by)s, reason = %(reason)s
where (ref = %(which)s or lead_id::text = %(which)s) and dismissed_at is null
returning lead_id::text, ref
"""

# Imported under the id of an earlier submission of the same words; or of a person erased since.
CLOSE_IMPORTED = """
update mailed_leads set dismissed_at = %(now)s, dismissed_by = 'import', reason = %(reason)s
where lead_id = %(lead_id)s and dismissed_at is null
"""
DELETE_MAILED_LEAD = "delete from mailed_leads where lead_id = %(lead_id)s"
DELETE_OF_PERSON = """
delete from mailed_leads
where marks && %(marks)s::text[] and accepted_at <= %(until)s::timestamptz
"""


def register(run: RunQuery, entries: Iterable[MailedLead], now: datetime) -> None:
    """Register them; safe to repeat. One whose person was erased since is not. DatabaseDown."""
    values = {"entries": json.dumps([_to_dict(one) for one in entries]), "now": now}
    run(lambda connection: connection.execute(INSERT_MAILED_LEADS, values) and None)


def list_open(run: RunQuery) -> list[MailedLead]:
    """Those that wait to be imported or dismissed, oldest first. Raises DatabaseDown."""
    rows = run(lambda connection: connection.execute(LIST_OPEN).fetchall())
    return [MailedLead(*row) for row in rows]


def dismiss(run: RunQuery, which: str, by: str, reason: str, now: datetime) -> list[MailedLead]:
    """Close the entry of a reference or an id, for a person's reason; those closed."""
    values = {"which": which, "by": by, "reason": reason, "now": now}
    rows = run(lambda connection: connection.execute(DISMISS, values).fetchall())
    return [MailedLead(lead_id, ref, now) for lead_id, ref in rows]


def record_import(run: RunQuery, lead: Lead, stored: Lead | None, now: datetime) -> None:
    """After an import. stored: the lead as it is kept, perhaps under an earlier id; None: its
    person was erased."""
    values: dict[str, object] = {"lead_id": str(lead.id), "now": now}
    if stored is None:
        run(lambda connection: connection.execute(DELETE_MAILED_LEAD, values) and None)
    elif stored.id != lead.id:
        values["reason"] = f"is lead {stored.id}"
        run(lambda connection: connection.execute(CLOSE_IMPORTED, values) and None)


# ---------------------------------------------------------------- by the watch


def list_in_redis(commands: Callable[..., list[Any]]) -> list[MailedLead]:
    """Those that only Redis has. Raises CacheDown."""
    return parse(commands(("HVALS", REDIS_KEY))[0])


def import_from_redis(means: Services, now: datetime) -> None:
    """Enter in Postgres what Redis holds. Raises CacheDown, DatabaseDown, NotConfigured."""
    held = list_in_redis(means.cache.pipeline)
    if held:
        register(means.database.run_or_down, held, now)
        means.cache.execute("HDEL", REDIS_KEY, *(one.lead_id for one in held))


def import_from_slack(means: Services, now: datetime) -> None:
    """Enter what only Slack's messages carry, and say so there. Raises AlertDelayed, DatabaseDown,
    NotConfigured."""
    from lib.incidents.messages import Message

    channel = means.slack
    for posted, marks in channel.list_with_metadata(SLACK_METADATA_KEY):
        entries = [
            entry
            for part in marks[SLACK_METADATA_KEY].split(";")
            if (entry := _parse_metadata(part))
        ]
        register(means.database.run_or_down, entries, now)
        refs = ", ".join(one.ref for one in entries)
        said = f"Registered: {refs}\n`python3 -m ops leads mailed` says which are still open."
        block = {"type": "section", "text": {"type": "mrkdwn", "text": said}}
        text = f"{len(entries)} leads that exist only in a mail are registered"
        with suppress(MessageNotFound):
            channel.update(posted, Message(text, (block,), {"registered": text}))


def format_references(entries: list[MailedLead]) -> tuple[str, ...]:
    """Their references, the first of many."""
    first = [one.ref for one in entries[:MAX_REFERENCES]]
    more = len(entries) - len(first)
    return (*first, f"and {more} more") if more else tuple(first)


def _parse_metadata(text: str) -> MailedLead | None:
    try:
        lead_id, ref, at = text.split(" ")
        return MailedLead(lead_id, ref, datetime.fromtimestamp(float(at), UTC))
    except ValueError:
        return None


def _to_dict(entry: MailedLead) -> dict[str, object]:
    return {**entry._asdict(), "accepted_at": entry.accepted_at.isoformat()}


def _to_json(entry: MailedLead) -> str:
    return json.dumps(_to_dict(entry))


def parse(texts: Iterable[str]) -> list[MailedLead]:
    """The entries that Redis holds, oldest first; what is none is left out."""
    found = []
    for text in texts:
        with suppress(LookupError, TypeError, ValueError):
            held = json.loads(text)
            at = datetime.fromisoformat(held["accepted_at"])
            found.append(MailedLead(held["lead_id"], held["ref"], at, tuple(held["marks"])))
    return sorted(found, key=lambda one: one.accepted_at)
