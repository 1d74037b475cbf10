"""A person, as requests name them, and everything that is held of them.

Matched by what was stored, normalised as at intake: an address and a number given together mean
either. Who shares only the other of the two is counted and named nowhere.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lib.interfaces import Services
from lib.leads import queue
from lib.leads.lead import Lead
from lib.leads.submission import Person
from lib.leads.validators import renormalize_phone
from lib.privacy import tombstones
from lib.problems import CacheDown, NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection

DATABASE_BUDGET_S = 8.0
REDIS_BUDGET_S = 25.0  # of Redis
MIN_NATIONAL_DIGITS = 8  # digits that are still nobody else's
SUFFIX_DIGITS = 7  # digits in which the older forms of a number are alike
SEALED_LEAD_STORES = ("queue", "set_aside", "journal")

# Where nothing of ours can look. Words for an operator, who reads English.
EXTERNAL_STORES = {
    "sales_mailbox": "every lead was mailed to sales: search for its ref, and for the person",
    "resend": "keeps the mails it sent: by the provider_id of each mail above",
    "sentry": "is sent no personal data: search for the lead's id to see that",
    "logs": "hold ids alone, and are deleted after 90 days at most",
    "backups": "hold what the tables held then, and are overwritten by age",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    emails: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()

    def tombstone_hashes(self, keys: tuple[bytes, ...]) -> list[str]:
        """Each once: an older form of a number has the marks of today's too."""
        found = [mark for mail in self.emails for mark in tombstones.hashes(keys, email=mail)]
        found += [mark for phone in self.phones for mark in tombstones.hashes(keys, phone=phone)]
        return list(dict.fromkeys(found))

    def matches(self, lead: Lead) -> bool:
        told = lead.submission
        return told.email in self.emails or (
            bool(self.phones)
            and not {told.phone_whatsapp, renormalize_phone(told.phone_whatsapp)}.isdisjoint(
                self.phones
            )
        )

    def sql_parameters(self) -> dict[str, object]:
        """For statements. spoken: the numbers as sentences may have them, too."""
        phones = list(self.phones)
        return {
            "emails": list(self.emails),
            "phones": phones,
            "spoken": phones + self._national_numbers(),
        }

    def _national_numbers(self) -> list[str]:
        abroad = [phone for phone in self.phones if not phone.startswith("+62")]
        if not abroad:
            return []  # a statement takes +62 off itself
        from lib.leads.phone import national_number

        return [
            short for short in map(national_number, abroad) if len(short) >= MIN_NATIONAL_DIGITS
        ]


def from_person(person: Person) -> Subject:
    return Subject((person.email,) if person.email else (), (person.phone,) if person.phone else ())


SELECT_NUMBERS_BY_SUFFIX = """
select phone_whatsapp from leads where right(phone_whatsapp, %(end)s) = any(%(ends)s::text[])
union
select submission ->> 'phone_whatsapp' from spam
where right(submission ->> 'phone_whatsapp', %(end)s) = any(%(ends)s::text[])
"""


def with_legacy_numbers(means: Services, subject: Subject) -> Subject:
    """The same person by every form of their numbers that is stored. Raises DatabaseDown."""
    values = {"end": SUFFIX_DIGITS, "ends": [phone[-SUFFIX_DIGITS:] for phone in subject.phones]}
    if not subject.phones:
        return subject
    rows = means.database.run(
        lambda c: c.execute(SELECT_NUMBERS_BY_SUFFIX, values).fetchall(), budget_s=DATABASE_BUDGET_S
    )
    alike = sorted({row[0] for row in rows} - {*subject.phones})
    older = tuple(phone for phone in alike if renormalize_phone(phone) in subject.phones)
    return Subject(subject.emails, subject.phones + older)


SELECT_LEADS = """
select to_jsonb(l) - '{identity,body_sha256,same_until,content_identity,key_span}'::text[]
from leads as l
where (email = any(%(emails)s::text[]) or phone_whatsapp = any(%(phones)s::text[]))
order by created_at
"""

SELECT_MAILS = """
select to_jsonb(o) from outbox as o join leads as l on l.id = o.lead_id
where l.email = any(%(emails)s::text[]) or l.phone_whatsapp = any(%(phones)s::text[])
order by o.created_at, o.kind
"""

SELECT_SPAM = """
select to_jsonb(s) from spam as s
where submission ->> 'email' = any(%(emails)s::text[])
  or submission ->> 'phone_whatsapp' = any(%(phones)s::text[])
order by received_at
"""

SELECT_NOTES = """
select jsonb_build_object('incident', incident_id, 'seq', seq, 'at', at, 'note', note)
from incident_events
where note is not null
  and speaks_of(note, %(emails)s::text[] || %(words)s::text[], %(spoken)s::text[])
order by incident_id, seq
"""

SELECT_REQUESTS = """
select jsonb_build_object('receipt', receipt, 'kind', kind, 'received_at', received_at,
  'due_at', due_at, 'answered_at', answered_at, 'finished_at', finished_at)
from erasure_requests
where marks && %(marks)s::text[]
order by received_at
"""

# Leads of the same number under another address, or of the same address under another number.
COUNT_RELATED_LEADS = """
select count(*) from leads as l
where (phone_whatsapp in (
    select phone_whatsapp from leads where email = any(%(emails)s::text[])
  ) or email in (
    select email from leads where phone_whatsapp = any(%(phones)s::text[])
  ))
  and coalesce(email <> all(%(emails)s::text[]), true)
  and phone_whatsapp <> all(%(phones)s::text[])
"""


def export_all(means: Services, subject: Subject, now: datetime) -> dict[str, Any]:
    """Everything held, as JSON values. `not_searched` names what was down, and must be asked again.

    Raises DatabaseDown.
    """
    subject = with_legacy_numbers(means, subject)
    values = {**subject.sql_parameters(), "marks": subject.tombstone_hashes(means.erasure_keys)}
    found: dict[str, Any] = means.database.run(
        lambda connection: _select_all(connection, values), budget_s=DATABASE_BUDGET_S
    )
    not_searched: tuple[str, ...] = ()
    copies_found: list[dict[str, object]] = []
    try:
        for_each_sealed_lead(means, lambda copy: copies_found.append(_shown(copy, subject)))
    except (CacheDown, NotConfigured):
        not_searched = SEALED_LEAD_STORES
    shown = [copy for copy in copies_found if copy]
    return {
        "subject": {"email": subject.emails, "phone": subject.phones},
        "at": now.isoformat(),
        **found,
        **{
            place: [c["copy"] for c in shown if c["place"] == place] for place in SEALED_LEAD_STORES
        },
        "elsewhere": EXTERNAL_STORES,
        "not_searched": not_searched,
    }


def for_each_sealed_lead(means: Services, look: Callable[[queue.SealedLead], Any]) -> None:
    """Show every sealed copy in Redis to `look`. Raises CacheDown, also when it takes too long."""
    end = time.monotonic() + REDIS_BUDGET_S
    for copy in queue.iter_sealed_leads(means.cache.execute, means.cipher):
        if time.monotonic() > end:
            raise CacheDown
        look(copy)


def _shown(copy: queue.SealedLead, subject: Subject) -> dict[str, object]:
    if copy.lead is None or not subject.matches(copy.lead):
        return {}
    return {"place": copy.location, "copy": copy.lead.to_dict()}


def _select_all(connection: "Connection[Any]", values: dict[str, object]) -> dict[str, Any]:
    leads = _first_column(connection, SELECT_LEADS, values)
    words = {"words": [word for lead in leads for word in (lead["ref"], lead["id"])]}
    return {
        "leads": leads,
        "mails": _first_column(connection, SELECT_MAILS, values),
        "spam": _first_column(connection, SELECT_SPAM, values),
        "incident_notes": _first_column(connection, SELECT_NOTES, values | words),
        "requests": _first_column(connection, SELECT_REQUESTS, values),
        "related_leads": (connection.execute(COUNT_RELATED_LEADS, values).fetchone() or (0,))[0],
    }


def _first_column(
    connection: "Connection[Any]", statement: str, values: dict[str, object]
) -> list[Any]:
    return [row[0] for row in connection.execute(statement, values)]


# ------------------------------------------------------------------ how much it is

COUNT_ROWS = """
select
  (select count(*) from leads where not canary
    and (email = any(%(emails)s::text[]) or phone_whatsapp = any(%(phones)s::text[]))),
  (select count(*) from outbox as o join leads as l on l.id = o.lead_id where not l.canary
    and (l.email = any(%(emails)s::text[]) or l.phone_whatsapp = any(%(phones)s::text[]))),
  (select count(*) from spam where submission ->> 'email' = any(%(emails)s::text[])
    or submission ->> 'phone_whatsapp' = any(%(phones)s::text[])),
  (select count(*) from incident_events where note is not null and speaks_of(note,
    %(emails)s::text[] || array(
      select word from leads, unnest(array[ref, id::text]) as word
      where email = any(%(emails)s::text[]) or phone_whatsapp = any(%(phones)s::text[])
    ), %(spoken)s::text[]))
"""


def count_all(means: Services, whom: Subject) -> dict[str, int | None]:
    """How much is held, by place; None where it cannot be asked. Raises DatabaseDown."""
    whom = with_legacy_numbers(means, whom)
    row = means.database.run(
        lambda c: c.execute(COUNT_ROWS, whom.sql_parameters()).fetchall()[0],
        budget_s=DATABASE_BUDGET_S,
    )
    counts: dict[str, int | None] = dict(
        zip(("leads", "mails", "spam", "incident_notes"), row, strict=True)
    )
    counts |= _count_sealed_leads(means, whom)
    return counts


def _count_sealed_leads(means: Services, whom: Subject) -> dict[str, int | None]:
    found: dict[str, int | None] = dict.fromkeys(SEALED_LEAD_STORES, 0)

    def look(copy: queue.SealedLead) -> None:
        if copy.lead is not None and whom.matches(copy.lead):
            found[copy.location] = (found[copy.location] or 0) + 1

    try:
        for_each_sealed_lead(means, look)
    except (CacheDown, NotConfigured):
        return dict.fromkeys(SEALED_LEAD_STORES, None)
    return found
