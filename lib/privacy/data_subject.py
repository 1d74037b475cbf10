"""A person as requests name them, and everything that is held about them.

Addresses and numbers are compared as they are stored: normalised as when a lead is accepted. An
address and a number given together mean either. Someone who shares only the other one is counted
and never named.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lib.interfaces import Services
from lib.leads import queue, tombstones
from lib.leads.lead import Lead
from lib.leads.submission import Person
from lib.leads.validators import renormalize_phone
from lib.problems import CacheDown, NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection

DATABASE_BUDGET_S = 8.0
REDIS_BUDGET_S = 25.0
MIN_NATIONAL_DIGITS = 8  # fewer may belong to someone else
SUFFIX_DIGITS = 7  # in which the legacy forms of a number agree
SEALED_LEAD_STORES = ("queue", "set_aside", "journal")
COUNTED_STORES = ("leads", "mails", "spam", "incident_notes", *SEALED_LEAD_STORES)

# Where no code of ours can search: instructions for an operator.
EXTERNAL_STORES = {
    "sales_mailbox": "every lead was mailed to sales: search for its ref, and for the person",
    "resend": "keeps the mails it sent: by the provider_id of each mail above",
    "sentry": "is sent no personal data: search for the lead's id to see that",
    "logs": "hold ids alone, and are deleted after 90 days at most",
    "backups": "hold what the tables held then, and are overwritten by age",
}


@dataclass(frozen=True, slots=True)
class Subject:
    emails: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()

    def tombstone_hashes(self, keys: tuple[bytes, ...]) -> list[str]:
        """Each once: a legacy form of a number has the hashes of the current form too."""
        hashes = [h for email in self.emails for h in tombstones.hashes(keys, email=email)]
        hashes += [h for phone in self.phones for h in tombstones.hashes(keys, phone=phone)]
        return list(dict.fromkeys(hashes))

    def matches(self, lead: Lead) -> bool:
        email, phone = lead.submission.email, lead.submission.phone_whatsapp
        return email in self.emails or (
            bool(self.phones) and not {phone, renormalize_phone(phone)}.isdisjoint(self.phones)
        )

    def sql_parameters(self) -> dict[str, object]:
        """spoken: the numbers as they may stand in a text, too."""
        phones = list(self.phones)
        spoken = phones + self._national_numbers()
        return {"emails": list(self.emails), "phones": phones, "spoken": spoken}

    def _national_numbers(self) -> list[str]:
        """Without the country's code, which the statements themselves only take off for +62."""
        foreign = [phone for phone in self.phones if not phone.startswith("+62")]
        if not foreign:
            return []
        from lib.leads.phone import national_number

        return [
            number for number in map(national_number, foreign) if len(number) >= MIN_NATIONAL_DIGITS
        ]


def from_person(person: Person) -> Subject:
    return Subject((person.email,) if person.email else (), (person.phone,) if person.phone else ())


SELECT_NUMBERS_BY_SUFFIX = """
select phone_whatsapp from leads where right(phone_whatsapp, %(end)s) = any(%(ends)s::text[])
union
select submission ->> 'phone_whatsapp' from spam
where right(submission ->> 'phone_whatsapp', %(end)s) = any(%(ends)s::text[])
"""


def with_legacy_numbers(services: Services, subject: Subject) -> Subject:
    """The same person by every form of their numbers that is stored. Raises DatabaseDown."""
    if not subject.phones:
        return subject
    values = {"end": SUFFIX_DIGITS, "ends": [phone[-SUFFIX_DIGITS:] for phone in subject.phones]}
    rows = services.database.run(
        lambda c: c.execute(SELECT_NUMBERS_BY_SUFFIX, values).fetchall(),
        budget_s=DATABASE_BUDGET_S,
    )
    stored = sorted({row[0] for row in rows} - {*subject.phones})
    legacy = tuple(phone for phone in stored if renormalize_phone(phone) in subject.phones)
    return Subject(subject.emails, subject.phones + legacy)


SELECT_LEADS = """
select to_jsonb(l) - '{identity,body_sha256,same_until,content_identity,key_span}'::text[]
from leads as l
where (email = any(%(emails)s::text[]) or phone_whatsapp = any(%(phones)s::text[]))
  and not canary
order by created_at
"""

SELECT_MAILS = """
select to_jsonb(o) from outbox as o join leads as l on l.id = o.lead_id
where (l.email = any(%(emails)s::text[]) or l.phone_whatsapp = any(%(phones)s::text[]))
  and not l.canary
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


def export_all(services: Services, subject: Subject, now: datetime) -> dict[str, Any]:
    """Everything held, as JSON values; `not_searched` names the stores that were down.

    Raises DatabaseDown.
    """
    subject = with_legacy_numbers(services, subject)
    hashes = subject.tombstone_hashes(services.erasure_keys)
    values = {**subject.sql_parameters(), "marks": hashes}
    rows = services.database.run(lambda c: _select_all(c, values), budget_s=DATABASE_BUDGET_S)
    sealed: dict[str, list[Any]] = {store: [] for store in SEALED_LEAD_STORES}
    not_searched: tuple[str, ...] = ()
    try:
        for copy in sealed_leads(services):
            if copy.lead is not None and subject.matches(copy.lead):
                sealed[copy.location].append(copy.lead.to_dict())
    except (CacheDown, NotConfigured):
        not_searched = SEALED_LEAD_STORES
    return {
        "subject": {"email": subject.emails, "phone": subject.phones},
        "at": now.isoformat(),
        **rows,
        **sealed,
        "elsewhere": EXTERNAL_STORES,
        "not_searched": not_searched,
    }


def count(data: dict[str, Any]) -> dict[str, int | None]:
    """How much of an export an erasure would delete, by store; None where it is not known."""
    return {
        store: None if store in data["not_searched"] else len(data[store])
        for store in COUNTED_STORES
    }


def sealed_leads(services: Services) -> Iterator[queue.SealedLead]:
    """Every sealed copy in Redis. Raises CacheDown, also when REDIS_BUDGET_S is not enough."""
    deadline = time.monotonic() + REDIS_BUDGET_S
    for copy in queue.iter_sealed_leads(services.cache.execute, services.cipher):
        if time.monotonic() > deadline:
            raise CacheDown
        yield copy


def _select_all(connection: "Connection[Any]", values: dict[str, object]) -> dict[str, Any]:
    def select(statement: str) -> list[Any]:
        return [row[0] for row in connection.execute(statement, values)]

    leads = select(SELECT_LEADS)
    values = values | {"words": [lead[key] for lead in leads for key in ("ref", "id")]}
    return {
        "leads": leads,
        "mails": select(SELECT_MAILS),
        "spam": select(SELECT_SPAM),
        "incident_notes": select(SELECT_NOTES),
        "requests": select(SELECT_REQUESTS),
        "related_leads": select(COUNT_RELATED_LEADS)[0],
    }
