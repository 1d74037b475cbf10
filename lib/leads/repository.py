"""Leads in Postgres: one statement accepts a lead and inserts its row and mails.

The rule a newcomer would break: nobody is notified of a lead before `insert` has returned.
"""

import json
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from lib.interfaces import RunQuery
from lib.leads import emails, reference, tombstones
from lib.leads.admission import Admission, Decision
from lib.leads.emails import Email
from lib.leads.lead import Lead, Recipients

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


class Terms(NamedTuple):
    """What a visitor's lead has to meet, and a copy of one has not.

    client: the hash whose limits apply. ceiling_per_minute: of all clients together. max_repeats:
    of a text within a day; None: any. bypass_maintenance: store it while intake is closed.
    """

    client: bytes
    per_minute: int
    per_hour: int
    ceiling_per_minute: int
    max_repeats: int | None
    bypass_maintenance: bool = False


# One statement, so one transaction and one round trip; it is decided in the database
# (supabase/migrations, accept_lead).
ACCEPT_LEAD = """
select decision, stored, rate_limit, retry_at
from accept_lead(
  %(lead)s::jsonb, %(mails)s::jsonb, %(now)s::timestamptz, %(leased_until)s::timestamptz,
  %(sales_sent_at)s::timestamptz, %(marks)s::text[],
  %(client)s::bytea, %(per_minute)s::integer, %(per_hour)s::integer,
  %(ceiling_per_minute)s::integer, %(max_repeats)s::integer, not %(bypass_maintenance)s::boolean
)
"""

NO_TERMS: dict[str, object] = {**dict.fromkeys(Terms._fields), "bypass_maintenance": True}


def insert(
    run: RunQuery, lead: Lead, recipients: Recipients, *, now: datetime, deliver_now: bool,
    erasure_keys: tuple[bytes, ...], terms: Terms | None = None,
) -> Admission:  # fmt: skip
    """Store a lead and its mails. A duplicate stays as it is, but for the fields it corrects.

    deliver_now: the mails are leased to the caller; else they wait for the worker.
    erasure_keys: for a copy, whose person may have been erased since; none for a new lead.
    Safe to repeat. Raises ErasedSubject; IdempotencyKeyReused (same key, other body); RateLimited
    and IntakeClosed by the terms; DatabaseDown when it is unknown whether the lead is stored.
    """
    values: dict[str, Any] = {
        "now": now,
        "leased_until": now + FIRST_LEASE if deliver_now else None,
        "sales_sent_at": now if lead.arrival == "mail" else None,
        "marks": erasure_hashes(lead, erasure_keys),
        **(NO_TERMS if terms is None else terms._asdict()),
    }
    for ref in reference.candidates(lead.ref, lead.id):
        candidate = lead._replace(ref=ref)
        new_emails = [] if lead.review or lead.spam else render_emails(candidate, recipients)
        values |= {"lead": _to_json(candidate), "mails": _emails_to_json(new_emails)}
        decision: Decision = run(partial(_accept, values=values))
        if decision.name != "reference_taken":
            break
    else:
        raise RuntimeError("every length of the reference is taken")
    decision.raise_refusal(now)
    if decision.name == "stored":
        stored = candidate._replace(review=decision.stored["review"])
        return Admission(
            stored, "stored", tuple(new_emails) if deliver_now and not stored.review else ()
        )
    if decision.name == "differs":
        return _correct(run, values, lead, decision.stored, recipients)
    row = decision.stored
    return Admission(candidate if row is None else _as_stored(lead, row), decision.name)


def insert_spam(run: RunQuery, lead: Lead, reason: str, erasure_keys: tuple[bytes, ...]) -> None:
    """Store a copy where nobody is mailed and a person can restore it.

    reason: signals, joined by `+`. A copy whose person was erased since is not stored.
    """
    insert(
        run,
        lead._replace(spam=reason),
        Recipients("", ()),
        now=lead.created_at,
        deliver_now=False,
        erasure_keys=erasure_keys,
    )


def _accept(connection: "Connection[Any]", *, values: dict[str, object]) -> Decision:
    return Decision(*(connection.execute(ACCEPT_LEAD, values).fetchone() or ("",)))


def _to_json(lead: Lead) -> str:
    """The columns of its row; of spam also the submission, as that table holds it."""
    columns = lead.to_columns()
    columns["submission"] = lead.spam and lead.submission.to_dict(exclude_none=True)
    return json.dumps(
        columns, default=lambda v: f"\\x{v.hex()}" if isinstance(v, bytes) else str(v)
    )


def _emails_to_json(new_emails: list[Email]) -> str:
    return json.dumps([email.to_columns() for email in new_emails])


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
    corrections = corrections + 1, corrected_at = %(corrected_at)s,
    body_sha256 = case when identity = content_identity then %(body_sha256)s else body_sha256 end
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
  from lead, jsonb_to_recordset(%(mails)s::jsonb) as m (
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
) -> Admission:
    """The stored lead, after what this submission of the same words corrects in it."""
    columns = lead.to_columns()
    if lead.keyed:
        adoption = {**columns, "stored_id": duplicate["id"]}
        run(lambda connection: connection.execute(ADOPT_KEY, adoption) and None)
    for _ in range(MAX_CORRECTION_ATTEMPTS):
        stored = _as_stored(lead, duplicate)
        before = {name: duplicate[name] for name in CORRECTABLE_FIELDS}
        submitted = lead.submission.to_dict(exclude_none=True)  # what is left out now stays
        after = {name: submitted.get(name, value) for name, value in before.items()}
        last_submitted_at = duplicate["corrected_at"] or duplicate["created_at"]
        if after == before or lead.created_at <= datetime.fromisoformat(last_submitted_at):
            return Admission(stored, "stored_before")
        new_emails = _render_correction(stored, duplicate, after, recipients)
        correction = {
            **after,
            "now": values["now"],
            "leased_until": values["leased_until"],
            "stored_id": duplicate["id"],
            "corrections": duplicate["corrections"],
            "corrected_at": lead.created_at,
            "body_sha256": columns["body_sha256"],
            "mails": _emails_to_json([] if duplicate["review"] else new_emails),
        }
        kinds = run(partial(_apply_correction, values=correction))
        if kinds is not None:
            inserted = [email for email in new_emails if email.kind in kinds]
            return Admission(stored, "corrected", tuple(inserted) if values["leased_until"] else ())
        again: Decision = run(partial(_accept, values={**values, **NO_TERMS}))
        duplicate = again.stored or duplicate
    raise RuntimeError("the lead is corrected by others at this moment")


def _as_stored(lead: Lead, row: dict[str, Any]) -> Lead:
    """The lead as its row, in JSON, names it."""
    return lead._replace(
        id=UUID(row["id"]),
        ref=row["ref"],
        created_at=datetime.fromisoformat(row["created_at"]),
        arrival=row["arrival"],
    )


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
