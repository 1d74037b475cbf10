"""A lead: who asked, when, and the one statement that keeps it together with its mails.

The rule a newcomer would break: nothing is told to anyone before `store` has returned.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from lib import consent, letters, reference
from lib.letters import Letter
from lib.submission import Submission

if TYPE_CHECKING:
    from psycopg import Connection

type Run = Callable[[Callable[["Connection[Any]"], Any]], Any]
"""`Database.run`: runs repeat-safe work on a connection."""

FIRST_LEASE = timedelta(seconds=60)  # the accepting instance delivers; after that, anyone may


@dataclass(frozen=True, slots=True)
class Lead:
    """A submission with its identity. id and created_at are fixed before the first attempt."""

    id: UUID
    ref: str
    created_at: datetime
    locale: str
    submission: Submission
    ip_address: str | None
    user_agent: str | None

    def row(self) -> dict[str, object]:
        """Its columns."""
        version = self.submission.consent_version or consent.CURRENT
        return {
            **self.submission.model_dump(exclude={"company", "consent"}),
            "id": str(self.id),
            "ref": self.ref,
            "created_at": self.created_at,
            "locale": self.locale,
            "consent_at": self.created_at,
            "consent_version": version,
            "consent_locale": self.locale,
            "consent_sha256": consent.sha256(version, self.locale),
            "ip_address": self.ip_address,
            "user_agent": self.user_agent,
        }


@dataclass(frozen=True, slots=True)
class Desk:
    """Who writes and who reads the mails about leads."""

    sender: str
    sales: tuple[str, ...]


def make(
    submission: Submission,
    *,
    locale: str,
    now: datetime,
    ip_address: str | None,
    user_agent: str | None,
) -> Lead:
    """A new lead. locale is what the caller reads, unless the form says otherwise."""
    identity = uuid4()
    return Lead(
        id=identity,
        ref=reference.of(identity),
        created_at=now,
        locale=submission.locale or locale,
        submission=submission,
        ip_address=ip_address,
        user_agent=user_agent and user_agent[:255],
    )


def mails(lead: Lead, desk: Desk) -> list[Letter]:
    """One to sales, and one to the sender if they left an address."""
    written = [letters.for_sales(lead.submission, lead.ref, lead.locale, desk.sender, desk.sales)]
    if lead.submission.email is not None:
        written.append(
            letters.acknowledgement(lead.submission.email, lead.ref, lead.locale, desk.sender)
        )
    return written


# One statement, so one transaction and one round trip. The mails are born leased to the
# instance that took the lead: it sends them right after its answer.
STORE = """
with lead as (
  insert into leads (
    id, ref, created_at, business_name, contact_name, phone_whatsapp, city, salon_type, email,
    chair_count, specialization, current_brands_used, monthly_spend_range, message,
    page_url_initial, page_url_current, referrer,
    utm_source, utm_medium, utm_campaign, utm_term, utm_content,
    locale, consent_at, consent_version, consent_locale, consent_sha256, ip_address, user_agent
  ) values (
    %(id)s, %(ref)s, %(created_at)s, %(business_name)s, %(contact_name)s, %(phone_whatsapp)s,
    %(city)s, %(salon_type)s, %(email)s,
    %(chair_count)s, %(specialization)s, %(current_brands_used)s, %(monthly_spend_range)s,
    %(message)s, %(page_url_initial)s, %(page_url_current)s, %(referrer)s,
    %(utm_source)s, %(utm_medium)s, %(utm_campaign)s, %(utm_term)s, %(utm_content)s,
    %(locale)s, %(consent_at)s, %(consent_version)s, %(consent_locale)s, %(consent_sha256)s,
    %(ip_address)s, %(user_agent)s
  )
  on conflict do nothing
  returning id
), mail as (
  insert into outbox (
    lead_id, kind, sender, recipients, reply_to, subject, body_text, body_html,
    created_at, attempts, first_attempt_at, next_attempt_at, leased_until, uncertain
  )
  select lead.id, m.kind, m.sender, m.recipients, m.reply_to, m.subject, m.body_text, m.body_html,
    %(now)s, 1, %(now)s, %(now)s, %(leased_until)s, true
  from lead, jsonb_to_recordset(%(letters)s::jsonb) as m (
    kind text, sender text, recipients text[], reply_to text,
    subject text, body_text text, body_html text
  )
)
select id from lead
"""

REF_OF = "select ref from leads where id = %(id)s"


def store(run: Run, lead: Lead, desk: Desk) -> tuple[Lead, list[Letter]]:
    """Keep a lead and its mails. Returns it as stored, and the mails that are ours to send now.

    Safe to repeat: a lead already there stays as it is, and no mail is ours to send.
    Raises DatabaseDown when that could not be found out.
    """
    for length in reference.LENGTHS:
        candidate = replace(lead, ref=reference.of(lead.id, length))
        written = mails(candidate, desk)
        stored = run(partial(_insert, lead=candidate, written=written))
        if stored is True:
            return candidate, written
        if stored is not None:
            return replace(lead, ref=stored), []
    raise RuntimeError("every length of the reference is taken")


def _insert(
    connection: "Connection[Any]", *, lead: Lead, written: Sequence[Letter]
) -> bool | str | None:
    """True if stored; the ref it has if it was stored before; None if the ref is another's."""
    values = {
        **lead.row(),
        "now": lead.created_at,
        "leased_until": lead.created_at + FIRST_LEASE,
        "letters": json.dumps([letter.row() for letter in written]),
    }
    if connection.execute(STORE, values).fetchone():
        return True
    before = connection.execute(REF_OF, {"id": str(lead.id)}).fetchone()
    return before and str(before[0])


KEEP_AS_SPAM = """
insert into spam (id, ref, received_at, reason, submission, locale, ip_address, user_agent)
values (%(id)s, %(ref)s, %(received_at)s, %(reason)s, %(submission)s::jsonb, %(locale)s,
        %(ip_address)s, %(user_agent)s)
on conflict (id) do nothing
"""


def keep_as_spam(run: Run, lead: Lead, reason: str) -> None:
    """Put it where nobody is mailed and a person can still find it. reason is a short code."""
    values = {
        "id": str(lead.id),
        "ref": lead.ref,
        "received_at": lead.created_at,
        "reason": reason,
        "submission": lead.submission.model_dump_json(exclude_none=True),
        "locale": lead.locale,
        "ip_address": lead.ip_address,
        "user_agent": lead.user_agent,
    }
    run(lambda connection: connection.execute(KEEP_AS_SPAM, values))
