"""Leads in Postgres: a lead and its mails are inserted, or a duplicate corrected, in one statement.

The rule a newcomer would break: nobody is told of a lead before `insert` has returned.
"""

import json
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from lib.interfaces import RunQuery
from lib.leads import emails, reference
from lib.leads.emails import Email
from lib.leads.lead import Lead, Recipients
from lib.privacy import tombstones
from lib.problems import ErasedSubject, IdempotencyKeyReused

if TYPE_CHECKING:
    from psycopg import Connection

FIRST_LEASE = timedelta(seconds=60)  # the accepting instance delivers; after that, anyone may
CORRECTABLE_FIELDS = (
    "contact_name",
    "city",
    "salon_type",
    "email",
    "chair_count",
    "specialization",
    "current_brands_used",
    "monthly_spend_range",
)
MAX_CORRECTION_ATTEMPTS = 3


class InsertResult(NamedTuple):
    """decision: `stored`, `stored_before` or `corrected`. emails: for the caller to send now."""

    lead: Lead
    decision: str
    emails: tuple[Email, ...] = ()


def render_emails(lead: Lead, recipients: Recipients) -> list[Email]:
    """One to sales, and one to the sender if they left an address."""
    form, sender = lead.submission, recipients.sender
    rendered = [emails.sales_email(form, lead.ref, lead.locale, sender, recipients.sales)]
    if form.email is not None:
        rendered.append(emails.acknowledgement_email(form.email, lead.ref, lead.locale, sender))
    return rendered


def erasure_hashes(lead: Lead, erasure_keys: tuple[bytes, ...]) -> list[str]:
    """The tombstone hashes under which its person, or this lead alone, may have been erased."""
    form = lead.submission
    return tombstones.hashes(
        erasure_keys, email=form.email, phone=form.phone_whatsapp, lead_id=lead.id
    )


# ------------------------------------------------------------------ insert


# One statement, so one transaction and one round trip. `leased_until` leases the mails to the
# instance that took the lead, which sends them right after its answer. `sales_sent_at` is set where
# sales have the lead already, from the mail it arrived by.
INSERT_LEAD = """
with lead as (
  insert into leads (
    id, ref, created_at, business_name, contact_name, phone_whatsapp, city, salon_type, email,
    chair_count, specialization, current_brands_used, monthly_spend_range, message,
    page_url_initial, page_url_current, referrer,
    utm_source, utm_medium, utm_campaign, utm_term, utm_content,
    locale, consent_at, consent_version, consent_locale, consent_sha256, ip_address, user_agent,
    identity, same_until, body_sha256, arrival, canary, content_identity, key_span, review
  )
  select
    %(id)s, %(ref)s, %(created_at)s, %(business_name)s, %(contact_name)s, %(phone_whatsapp)s,
    %(city)s, %(salon_type)s, %(email)s,
    %(chair_count)s, %(specialization)s, %(current_brands_used)s, %(monthly_spend_range)s,
    %(message)s, %(page_url_initial)s, %(page_url_current)s, %(referrer)s,
    %(utm_source)s, %(utm_medium)s, %(utm_campaign)s, %(utm_term)s, %(utm_content)s,
    %(locale)s, %(consent_at)s, %(consent_version)s, %(consent_locale)s, %(consent_sha256)s,
    %(ip_address)s, %(user_agent)s,
    %(identity)s, %(same_until)s, %(body_sha256)s, %(arrival)s, %(canary)s,
    %(content_identity)s, %(key_span)s::int8range, %(review)s
  where not exists (
    select from erasure_tombstones
    where mark = any(%(marks)s::text[]) and erased_at >= %(created_at)s::timestamptz
  )
  on conflict do nothing
  returning id
), mail as (
  insert into outbox (
    lead_id, kind, sender, recipients, reply_to, subject, body_text, body_html,
    created_at, attempts, first_attempt_at, next_attempt_at, leased_until, uncertain, sent_at
  )
  select lead.id, m.kind, m.sender, m.recipients, m.reply_to, m.subject, m.body_text, m.body_html,
    %(now)s,
    case when %(leased_until)s::timestamptz is null then 0 else 1 end,
    case when %(leased_until)s::timestamptz is null then null else %(now)s::timestamptz end,
    %(now)s,
    %(leased_until)s,
    %(leased_until)s::timestamptz is not null,
    case when m.kind = 'sales' then %(sales_sent_at)s::timestamptz end
  from lead, jsonb_to_recordset(%(letters)s::jsonb) as m (
    kind text, sender text, recipients text[], reply_to text,
    subject text, body_text text, body_html text
  )
)
select id from lead
"""

IS_ERASED = """
select from erasure_tombstones
where mark = any(%(marks)s::text[]) and erased_at >= %(created_at)s::timestamptz
limit 1
"""

FIND_DUPLICATE = """
select id, ref, created_at, body_sha256, arrival, identity, review, corrections,
  coalesce(corrected_at, created_at) as last_submitted_at,
  contact_name, city, salon_type, email, chair_count, specialization, current_brands_used,
  monthly_spend_range
from leads
where id = %(id)s or (
  tstzrange(created_at, same_until) && tstzrange(%(created_at)s, %(same_until)s)
  and (
    identity = %(identity)s
    or (content_identity = %(content_identity)s and key_span && %(key_span)s::int8range)
  )
)
order by identity = %(identity)s desc, created_at
limit 1
"""


def insert(
    run: RunQuery,
    lead: Lead,
    recipients: Recipients,
    *,
    now: datetime,
    deliver_now: bool,
    erasure_keys: tuple[bytes, ...],
) -> InsertResult:
    """Store a lead and its mails. A duplicate stays as it is, but for the fields it corrects.

    deliver_now: the mails are leased to the caller; else they wait for the worker.
    erasure_keys: for a copy, whose person may have been erased since; none for a new lead.
    Safe to repeat. Raises ErasedSubject; IdempotencyKeyReused (same key, other body); DatabaseDown
    when it is unknown whether the lead is stored.
    """
    lease = {"now": now, "leased_until": now + FIRST_LEASE if deliver_now else None}
    for ref in reference.candidates(lead.ref, lead.id):
        candidate = lead._replace(ref=ref)
        new_emails = [] if lead.review else render_emails(candidate, recipients)
        values = {
            **candidate.to_columns(),
            **lease,
            "sales_sent_at": now if lead.arrival == "mail" else None,
            "letters": _to_json(new_emails),
            "marks": erasure_hashes(lead, erasure_keys),
        }
        inserted, duplicate = run(partial(_insert_or_find, values=values))
        if inserted:
            return InsertResult(candidate, "stored", tuple(new_emails) if deliver_now else ())
        if duplicate is not None:
            return _correct(run, values, lead, duplicate, recipients, lease)
    raise RuntimeError("every length of the reference is taken")


def _to_json(new_emails: list[Email]) -> str:
    return json.dumps([email.to_columns() for email in new_emails])


def _insert_or_find(
    connection: "Connection[Any]", *, values: dict[str, object]
) -> tuple[bool, dict[str, Any] | None]:
    """Whether it was inserted; else its duplicate, or None if only the reference was taken."""
    if connection.execute(INSERT_LEAD, values).fetchone():
        return True, None
    if values["marks"] and connection.execute(IS_ERASED, values).fetchone() is not None:
        raise ErasedSubject
    return False, _find_duplicate(connection, values=values)


def _find_duplicate(
    connection: "Connection[Any]", *, values: dict[str, object]
) -> dict[str, Any] | None:
    cursor = connection.execute(FIND_DUPLICATE, values)
    row = cursor.fetchone()
    names = [column.name for column in cursor.description or ()]
    return None if row is None else dict(zip(names, row, strict=True))


# ------------------------------------------------------------------ correct a duplicate


# The same words came without a key and then with one: the lead is found by the key from now on.
ADOPT_KEY = """
update leads set identity = %(identity)s, body_sha256 = %(body_sha256)s,
  key_span = %(key_span)s::int8range
where id = %(stored_id)s and identity = content_identity
"""

# Compare and set by the number of corrections. An acknowledgement is inserted only where there is
# none: the first submission gave no address.
APPLY_CORRECTION = """
with lead as (
  update leads set contact_name = %(contact_name)s, city = %(city)s, salon_type = %(salon_type)s,
    email = %(email)s, chair_count = %(chair_count)s, specialization = %(specialization)s,
    current_brands_used = %(current_brands_used)s, monthly_spend_range = %(monthly_spend_range)s,
    corrections = corrections + 1, corrected_at = %(corrected_at)s
  where id = %(stored_id)s and corrections = %(corrections)s
  returning id
), mail as (
  insert into outbox (
    lead_id, kind, sender, recipients, reply_to, subject, body_text, body_html,
    created_at, attempts, first_attempt_at, next_attempt_at, leased_until, uncertain
  )
  select lead.id, m.kind, m.sender, m.recipients, m.reply_to, m.subject, m.body_text, m.body_html,
    %(now)s,
    case when %(leased_until)s::timestamptz is null then 0 else 1 end,
    case when %(leased_until)s::timestamptz is null then null else %(now)s::timestamptz end,
    %(now)s,
    %(leased_until)s,
    %(leased_until)s::timestamptz is not null
  from lead, jsonb_to_recordset(%(letters)s::jsonb) as m (
    kind text, sender text, recipients text[], reply_to text,
    subject text, body_text text, body_html text
  )
  on conflict (lead_id, kind) do nothing
  returning kind
)
select coalesce(array_agg(mail.kind), '{}') from lead left join mail on true group by lead.id
"""


def _correct(
    run: RunQuery,
    values: dict[str, Any],
    lead: Lead,
    duplicate: dict[str, Any],
    recipients: Recipients,
    lease: dict[str, Any],
) -> InsertResult:
    """The stored lead, after what this submission of the same words corrects in it."""
    if lead.keyed and duplicate["identity"] == values["identity"]:
        if duplicate["body_sha256"] != values["body_sha256"]:
            raise IdempotencyKeyReused
        return InsertResult(_as_stored(lead, duplicate), "stored_before")
    if lead.keyed:
        adoption = {**values, "stored_id": duplicate["id"]}
        run(lambda connection: connection.execute(ADOPT_KEY, adoption) and None)
    for _ in range(MAX_CORRECTION_ATTEMPTS):
        stored = _as_stored(lead, duplicate)
        before = {name: duplicate[name] for name in CORRECTABLE_FIELDS}
        submitted = lead.submission.to_dict(exclude_none=True)  # what is left out now stays
        after = {name: submitted.get(name, value) for name, value in before.items()}
        if after == before or lead.created_at <= duplicate["last_submitted_at"]:
            return InsertResult(stored, "stored_before")
        new_emails = _render_correction(stored, duplicate, after, recipients)
        correction = {
            **after,
            **lease,
            "stored_id": duplicate["id"],
            "corrections": duplicate["corrections"],
            "corrected_at": lead.created_at,
            "letters": _to_json([] if duplicate["review"] else new_emails),
        }
        kinds = run(partial(_apply_correction, values=correction))
        if kinds is not None:
            inserted = [email for email in new_emails if email.kind in kinds]
            return InsertResult(
                stored, "corrected", tuple(inserted) if lease["leased_until"] else ()
            )
        duplicate = run(partial(_find_duplicate, values=values)) or duplicate
    raise RuntimeError("the lead is corrected by others at this moment")


def _as_stored(lead: Lead, row: dict[str, Any]) -> Lead:
    return lead._replace(**{name: row[name] for name in ("id", "ref", "created_at", "arrival")})


def _apply_correction(
    connection: "Connection[Any]", *, values: dict[str, object]
) -> list[str] | None:
    """The kinds of mail that were inserted; None when another correction came between."""
    row = connection.execute(APPLY_CORRECTION, values).fetchone()
    return row[0] if row else None


def _render_correction(
    lead: Lead, row: dict[str, Any], fields: dict[str, Any], recipients: Recipients
) -> list[Email]:
    """One to sales that names the changes, and the acknowledgement if there is an address."""
    corrected = lead._replace(submission=lead.submission._replace(**fields))
    correction = emails.correction_email(
        corrected.submission,
        lead.ref,
        lead.locale,
        recipients.sender,
        recipients.sales,
        number=row["corrections"] + 1,
        before={name: row[name] for name in fields if row[name] != fields[name]},
    )
    return [correction, *render_emails(corrected, recipients)[1:]]


# ------------------------------------------------------------------ spam


INSERT_SPAM = """
insert into spam (id, ref, received_at, reason, submission, locale, ip_address, user_agent)
select %(id)s, %(ref)s, %(received_at)s, %(reason)s, %(submission)s::jsonb, %(locale)s,
  %(ip_address)s, %(user_agent)s
where not exists (
  select from erasure_tombstones
  where mark = any(%(marks)s::text[]) and erased_at >= %(received_at)s::timestamptz
)
on conflict (id) do nothing
"""


def insert_spam(run: RunQuery, lead: Lead, reason: str, erasure_keys: tuple[bytes, ...]) -> None:
    """Store it where nobody is mailed and a person can restore it. reason: signals, joined by `+`.

    A copy whose person was erased since is not stored.
    """
    values = {
        **lead.to_columns(),
        "received_at": lead.created_at,
        "reason": reason,
        "submission": lead.submission.to_json(exclude_none=True),
        "marks": erasure_hashes(lead, erasure_keys),
    }
    run(lambda connection: connection.execute(INSERT_SPAM, values))
