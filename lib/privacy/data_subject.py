"""A person, as requests name them, and everything that is held of them.

Matched by what was stored, normalised as at intake: an address and a number given together mean
either. Who shares only the other of the two is counted and named nowhere.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lib.leads import queue, serialization
from lib.leads.repository import Lead
from lib.leads.service import Means
from lib.leads.submission import Person
from lib.leads.validators import same_number
from lib.privacy import tombstones
from lib.problems import CacheDown, NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection

READ_BUDGET_S = 8.0
SEARCH_BUDGET_S = 25.0  # of Redis
LEAST_SPOKEN = 8  # digits that are still nobody else's
END = 7  # digits in which the older forms of a number are alike
IN_REDIS = ("queue", "set_aside", "journal")

# Where nothing of ours can look. Words for an operator, who reads English.
ELSEWHERE = {
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

    def marks(self, keys: tuple[bytes, ...]) -> list[str]:
        """Each once: an older form of a number has the marks of today's too."""
        found = [mark for mail in self.emails for mark in tombstones.marks(keys, email=mail)]
        found += [mark for phone in self.phones for mark in tombstones.marks(keys, phone=phone)]
        return list(dict.fromkeys(found))

    def is_of(self, lead: Lead) -> bool:
        told = lead.submission
        return told.email in self.emails or (
            bool(self.phones)
            and not {told.phone_whatsapp, same_number(told.phone_whatsapp)}.isdisjoint(self.phones)
        )

    def values(self) -> dict[str, object]:
        """For statements. spoken: the numbers as sentences may have them, too."""
        phones = list(self.phones)
        return {"emails": list(self.emails), "phones": phones, "spoken": phones + self._national()}

    def _national(self) -> list[str]:
        abroad = [phone for phone in self.phones if not phone.startswith("+62")]
        if not abroad:
            return []  # a statement takes +62 off itself
        from lib.leads.phone import national

        return [short for short in map(national, abroad) if len(short) >= LEAST_SPOKEN]


def of(person: Person) -> Subject:
    return Subject((person.email,) if person.email else (), (person.phone,) if person.phone else ())


ALIKE = """
select phone_whatsapp from leads where right(phone_whatsapp, %(end)s) = any(%(ends)s::text[])
union
select submission ->> 'phone_whatsapp' from spam
where right(submission ->> 'phone_whatsapp', %(end)s) = any(%(ends)s::text[])
"""


def with_older_forms(means: Means, subject: Subject) -> Subject:
    """The same person by every form of their numbers that is stored. Raises DatabaseDown."""
    values = {"end": END, "ends": [phone[-END:] for phone in subject.phones]}
    if not subject.phones:
        return subject
    rows = means.database.run(lambda c: c.execute(ALIKE, values).fetchall(), budget_s=READ_BUDGET_S)
    alike = sorted({row[0] for row in rows} - {*subject.phones})
    older = tuple(phone for phone in alike if same_number(phone) in subject.phones)
    return Subject(subject.emails, subject.phones + older)


LEADS = """
select to_jsonb(l) - '{identity,body_sha256,same_until,content_identity,key_span}'::text[]
from leads as l
where (email = any(%(emails)s::text[]) or phone_whatsapp = any(%(phones)s::text[]))
order by created_at
"""

MAILS = """
select to_jsonb(o) from outbox as o join leads as l on l.id = o.lead_id
where l.email = any(%(emails)s::text[]) or l.phone_whatsapp = any(%(phones)s::text[])
order by o.created_at, o.kind
"""

SPAM = """
select to_jsonb(s) from spam as s
where submission ->> 'email' = any(%(emails)s::text[])
  or submission ->> 'phone_whatsapp' = any(%(phones)s::text[])
order by received_at
"""

NOTES = """
select jsonb_build_object('incident', incident_id, 'seq', seq, 'at', at, 'note', note)
from incident_events
where note is not null
  and speaks_of(note, %(emails)s::text[] || %(words)s::text[], %(spoken)s::text[])
order by incident_id, seq
"""

REQUESTS = """
select jsonb_build_object('receipt', receipt, 'kind', kind, 'received_at', received_at,
  'due_at', due_at, 'answered_at', answered_at, 'finished_at', finished_at)
from erasure_requests
where marks && %(marks)s::text[]
order by received_at
"""

# Leads of the same number under another address, or of the same address under another number.
RELATED = """
select count(*) from leads as l
where (phone_whatsapp in (
    select phone_whatsapp from leads where email = any(%(emails)s::text[])
  ) or email in (
    select email from leads where phone_whatsapp = any(%(phones)s::text[])
  ))
  and coalesce(email <> all(%(emails)s::text[]), true)
  and phone_whatsapp <> all(%(phones)s::text[])
"""


def held(means: Means, subject: Subject, now: datetime) -> dict[str, Any]:
    """Everything held, as JSON values. `not_searched` names what was down, and must be asked again.

    Raises DatabaseDown.
    """
    subject = with_older_forms(means, subject)
    values = {**subject.values(), "marks": subject.marks(means.erasure_keys)}
    found: dict[str, Any] = means.database.run(
        lambda connection: _rows(connection, values), budget_s=READ_BUDGET_S
    )
    not_searched: tuple[str, ...] = ()
    copies_found: list[dict[str, object]] = []
    try:
        each_copy(means, lambda copy: copies_found.append(_shown(copy, subject)))
    except (CacheDown, NotConfigured):
        not_searched = IN_REDIS
    shown = [copy for copy in copies_found if copy]
    return {
        "subject": {"email": subject.emails, "phone": subject.phones},
        "at": now.isoformat(),
        **found,
        **{place: [c["copy"] for c in shown if c["place"] == place] for place in IN_REDIS},
        "elsewhere": ELSEWHERE,
        "not_searched": not_searched,
    }


def each_copy(means: Means, look: Callable[[queue.Copy], Any]) -> None:
    """Show every sealed copy in Redis to `look`. Raises CacheDown, also when it takes too long."""
    end = time.monotonic() + SEARCH_BUDGET_S
    for copy in queue.copies_held(means.cache.run, means.vault):
        if time.monotonic() > end:
            raise CacheDown
        look(copy)


def _shown(copy: queue.Copy, subject: Subject) -> dict[str, object]:
    if copy.lead is None or not subject.is_of(copy.lead):
        return {}
    return {"place": copy.place, "copy": serialization.values_of(copy.lead)}


def _rows(connection: "Connection[Any]", values: dict[str, object]) -> dict[str, Any]:
    leads = _column(connection, LEADS, values)
    words = {"words": [word for lead in leads for word in (lead["ref"], lead["id"])]}
    return {
        "leads": leads,
        "mails": _column(connection, MAILS, values),
        "spam": _column(connection, SPAM, values),
        "incident_notes": _column(connection, NOTES, values | words),
        "requests": _column(connection, REQUESTS, values),
        "related_leads": (connection.execute(RELATED, values).fetchone() or (0,))[0],
    }


def _column(connection: "Connection[Any]", statement: str, values: dict[str, object]) -> list[Any]:
    return [row[0] for row in connection.execute(statement, values)]


# ------------------------------------------------------------------ how much it is

COUNTS = """
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


def count(means: Means, whom: Subject) -> dict[str, int | None]:
    """How much is held, by place; None where it cannot be asked. Raises DatabaseDown."""
    whom = with_older_forms(means, whom)
    row = means.database.run(
        lambda c: c.execute(COUNTS, whom.values()).fetchone(), budget_s=READ_BUDGET_S
    )
    counts: dict[str, int | None] = dict(
        zip(("leads", "mails", "spam", "incident_notes"), row, strict=True)
    )
    counts |= _copies_of(means, whom)
    return counts


def _copies_of(means: Means, whom: Subject) -> dict[str, int | None]:
    found: dict[str, int | None] = dict.fromkeys(IN_REDIS, 0)

    def look(copy: queue.Copy) -> None:
        if copy.lead is not None and whom.is_of(copy.lead):
            found[copy.place] = (found[copy.place] or 0) + 1

    try:
        each_copy(means, look)
    except (CacheDown, NotConfigured):
        return dict.fromkeys(IN_REDIS, None)
    return found
