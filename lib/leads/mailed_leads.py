"""The register of leads that exist only in an e-mail: open until imported or dismissed.

Neither Postgres nor Redis may answer when such a lead is accepted. It is registered in whichever
does; else the instance retries after later answers, and posts it to Slack, from where the monitor
registers it once Postgres is back. The rule a newcomer would break: an entry holds ids, and keyed
hashes by which an erasure finds it; never anything that the visitor typed.
"""

import json
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from lib.interfaces import Message, MessageRef, RedisPipeline, RunQuery, Services
from lib.leads import repository
from lib.leads.lead import Lead
from lib.problems import CacheDown, DatabaseDown, MessageNotFound, NotConfigured, SlackError

REDIS_KEY = "mailed"  # hash: id -> entry, until Postgres has it
SLACK_METADATA_KEY = "mailed"  # of a message that carries entries
MAX_LEADS_PER_MESSAGE = 40
MAX_REFERENCES = 20  # listed; the rest are counted


class MailedLead(NamedTuple):
    """marks: keyed hashes of the person; none where Slack carried the entry."""

    lead_id: str
    ref: str
    accepted_at: datetime
    marks: tuple[str, ...] = ()


# ---------------------------------------------------------------- the instance that accepted it


class _PendingLeads:
    """An instance's leads that no store has registered yet. posted: how many of them Slack has."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.leads: dict[str, MailedLead] = {}
        self.posted = 0
        self.last_message: MessageRef | None = None


_pending = _PendingLeads()


def register_after_response(services: Services, lead: Lead, decision: str) -> None:
    """Register a lead that was `mailed`, and those that are still pending."""
    with _pending.lock:
        if decision == "mailed" and not lead.canary:
            hashes = tuple(repository.erasure_hashes(lead, services.erasure_keys))
            mailed_lead = MailedLead(str(lead.id), lead.ref, lead.created_at, hashes)
            _pending.leads[mailed_lead.lead_id] = mailed_lead
        leads = list(_pending.leads.values())
        if not leads:
            return
        if _register_anywhere(services, leads):
            _pending.clear()
        else:
            _post_to_slack(services, leads)


def _register_anywhere(services: Services, leads: list[MailedLead]) -> bool:
    with suppress(DatabaseDown, NotConfigured):
        register(services.database.run_or_down, leads, datetime.now(UTC))
        return True
    with suppress(CacheDown, NotConfigured):
        services.cache.pipeline(
            *(("HSETNX", REDIS_KEY, lead.lead_id, json.dumps(_to_dict(lead))) for lead in leads)
        )
        return True
    return False


def _post_to_slack(services: Services, leads: list[MailedLead]) -> None:
    """Post those not posted yet: the last message is updated until it is full."""
    if _pending.posted == len(leads):
        return
    size = MAX_LEADS_PER_MESSAGE
    with suppress(SlackError, MessageNotFound, NotConfigured):
        slack = services.slack
        for start in range(_pending.posted // size * size, len(leads), size):
            batch = leads[start : start + size]
            message = _render_entries(batch)
            earlier = _pending.last_message if start < _pending.posted else None
            _pending.last_message = None  # an update may fail because it was deleted
            if earlier is not None and slack.can_update:
                slack.update(earlier, message)
                _pending.last_message = earlier
            else:
                _pending.last_message = slack.post(message)
            _pending.posted = start + len(batch)


def _render_entries(leads: list[MailedLead]) -> Message:
    count = "1 lead exists" if len(leads) == 1 else f"{len(leads)} leads exist"
    text = f"{count} only in a mail to sales"
    refs = ", ".join(lead.ref for lead in leads)
    details = f"*{text}*: {refs}\nThe monitor registers them once Postgres answers. Keep the mails."
    entries = ";".join(f"{e.lead_id} {e.ref} {e.accepted_at.timestamp()}" for e in leads)
    return _render_message(text, details, {SLACK_METADATA_KEY: entries})


def _render_message(text: str, details: str, metadata: dict[str, str]) -> Message:
    block = {"type": "section", "text": {"type": "mrkdwn", "text": details}}
    return Message(text, (block,), metadata)


# ---------------------------------------------------------------- Postgres

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

DELETE_OF_PERSON = """
delete from mailed_leads
where marks && %(marks)s::text[] and accepted_at <= %(until)s::timestamptz
"""


def register(run: RunQuery, leads: Iterable[MailedLead], now: datetime) -> None:
    """Safe to repeat; skips those whose person was erased since. Raises DatabaseDown."""
    values = {"entries": json.dumps([_to_dict(lead) for lead in leads]), "now": now}
    run(lambda connection: connection.execute(INSERT_MAILED_LEADS, values) and None)


def list_open(run: RunQuery) -> list[MailedLead]:
    """Those neither imported nor dismissed, oldest first. Raises DatabaseDown."""
    rows = run(lambda connection: connection.execute(LIST_OPEN).fetchall())
    return [MailedLead(*row) for row in rows]


# ---------------------------------------------------------------- the monitor


def list_in_redis(pipeline: RedisPipeline) -> list[MailedLead]:
    """Those that only Redis has. Raises CacheDown."""
    return parse(pipeline(("HVALS", REDIS_KEY))[0])


def import_from_redis(services: Services, now: datetime) -> None:
    """Register in Postgres what Redis holds. Raises CacheDown, DatabaseDown, NotConfigured."""
    leads = list_in_redis(services.cache.pipeline)
    if leads:
        register(services.database.run_or_down, leads, now)
        services.cache.execute("HDEL", REDIS_KEY, *(lead.lead_id for lead in leads))


def import_from_slack(services: Services, now: datetime) -> None:
    """Register what only Slack's messages carry, and update them. Raises SlackError, DatabaseDown,
    NotConfigured."""
    for message, metadata in services.slack.list_with_metadata(SLACK_METADATA_KEY):
        entries = metadata[SLACK_METADATA_KEY].split(";")
        leads = [lead for entry in entries if (lead := _parse_metadata(entry))]
        register(services.database.run_or_down, leads, now)
        refs = ", ".join(lead.ref for lead in leads)
        count = "1 lead" if len(leads) == 1 else f"{len(leads)} leads"
        text = f"Registered: {count} held by a mail alone"
        details = f"Registered: {refs}\nThose still open: `python3 -m ops leads mailed`"
        with suppress(MessageNotFound):
            services.slack.update(message, _render_message(text, details, {"registered": text}))


def format_references(leads: list[MailedLead]) -> tuple[str, ...]:
    """At most MAX_REFERENCES, and how many more there are."""
    refs = tuple(lead.ref for lead in leads[:MAX_REFERENCES])
    more = len(leads) - len(refs)
    return (*refs, f"and {more} more") if more else refs


# ---------------------------------------------------------------- an entry as text


def _to_dict(lead: MailedLead) -> dict[str, object]:
    return {**lead._asdict(), "accepted_at": lead.accepted_at.isoformat()}


def parse(texts: Iterable[str]) -> list[MailedLead]:
    """The entries of Redis, oldest first; malformed ones are skipped."""
    leads = []
    for text in texts:
        with suppress(LookupError, TypeError, ValueError):
            entry = json.loads(text)
            accepted_at = datetime.fromisoformat(entry["accepted_at"])
            leads.append(
                MailedLead(entry["lead_id"], entry["ref"], accepted_at, tuple(entry["marks"]))
            )
    return sorted(leads, key=lambda lead: lead.accepted_at)


def _parse_metadata(text: str) -> MailedLead | None:
    try:
        lead_id, ref, accepted_at = text.split(" ")
        return MailedLead(lead_id, ref, datetime.fromtimestamp(float(accepted_at), UTC))
    except ValueError:
        return None
