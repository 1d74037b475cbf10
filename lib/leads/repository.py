"""A lead: who asked, when, and the one statement that keeps it together with its mails.

The rule a newcomer would break: nothing is told to anyone before `store` has returned, and a
lead's id is fixed before the first attempt to keep it, so that every attempt is the same one.
"""

import hashlib
import json
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from lib.interfaces import RunQuery
from lib.leads import consent, emails, reference
from lib.leads.emails import Email
from lib.leads.submission import Submission
from lib.privacy import tombstones
from lib.problems import ErasedSubject, IdempotencyKeyReused

if TYPE_CHECKING:
    from psycopg import Connection

"""`Database.run`: runs repeat-safe work on a connection."""

DEDUPLICATION_WINDOW = timedelta(
    hours=24
)  # contract: how long the same submission is the same lead
CANARY_MAILBOX = "delivered@resend.dev"  # resend.com/docs: test addresses, read 2026-11
FIRST_LEASE_DURATION = timedelta(
    seconds=60
)  # the accepting instance delivers; after that, anyone may


class Lead(NamedTuple):
    """A submission with its identity.

    identity, body_sha256, text_sha256 (of the message, whoever sent it): hex. keyed: the caller
    gave an Idempotency-Key. arrival: `direct`, `queue` or `mail`, by which it came to Postgres.
    spam: why it goes to the spam box; None for a lead. review: why sales hear of it only after
    a person looked; None for nearly all.
    """

    id: UUID
    ref: str
    created_at: datetime
    locale: str
    submission: Submission
    ip_address: str | None
    user_agent: str | None
    identity: str
    body_sha256: str
    text_sha256: str
    keyed: bool
    arrival: str = "direct"
    spam: str | None = None
    canary: bool = False
    review: str | None = None

    @property
    def content_identity(self) -> str:
        """What makes the same words the same lead, under whatever key they came. Hex."""
        told = self.submission
        return _sha256("content", told.phone_whatsapp, told.business_name, told.message or "")

    @property
    def key_span(self) -> str:
        """An int8range: all of it without a key, one point of it for each key.

        Two spans overlap unless they are of two keys: only then may the same words be two leads.
        """
        if self.identity == self.content_identity:
            return "(,)"
        point = int(self.identity[:14], 16)
        return f"[{point},{point}]"

    @property
    def status(self) -> int:
        """How it was answered, and is answered again."""
        return 200 if self.arrival == "direct" else 202

    def to_columns(self) -> dict[str, object]:
        """Its columns."""
        version = self.submission.consent_version or consent.CURRENT_VERSION
        return {
            **self.submission.to_dict(exclude={"company", "consent"}),
            "id": str(self.id),
            "ref": self.ref,
            "created_at": self.created_at,
            "locale": self.locale,
            "consent_at": self.created_at,
            "consent_version": version,
            "consent_locale": self.locale,
            "consent_sha256": consent.sentence_sha256(version, self.locale),
            "ip_address": self.ip_address,
            "user_agent": self.user_agent,
            "identity": bytes.fromhex(self.identity),
            "same_until": self.created_at + DEDUPLICATION_WINDOW,
            "body_sha256": bytes.fromhex(self.body_sha256),
            "arrival": self.arrival,
            "canary": self.canary,
            "content_identity": bytes.fromhex(self.content_identity),
            "key_span": self.key_span,
            "review": self.review,
        }


class Recipients(NamedTuple):
    """Who writes and who reads the mails about leads."""

    sender: str
    sales: tuple[str, ...]

    def for_lead(self, lead: Lead) -> "Recipients":
        """The desk for this lead: nobody at sales is bothered with a canary."""
        return self._replace(sales=(CANARY_MAILBOX,)) if lead.canary else self


def from_submission(
    submission: Submission,
    *,
    key: str | None,
    locale: str,
    now: datetime,
    ip_address: str | None,
    user_agent: str | None,
    canary: bool = False,
) -> Lead:
    """A lead with its identity. locale is what the caller reads, unless the form says otherwise.

    key: the caller's Idempotency-Key; without one, the same phone, business and message are the
    same lead.
    """
    told = submission.to_json(exclude_none=True)
    said = (submission.phone_whatsapp, submission.business_name, submission.message or "")
    identity = _sha256("key", key) if key is not None else _sha256("content", *said)
    # One id a day and identity: the same for every attempt, another once the 24 hours are over.
    # Where an attempt falls on the next day, `store` finds the first one's by its identity.
    day = int(now.timestamp()) // int(DEDUPLICATION_WINDOW.total_seconds())
    lead_id = uuid5(NAMESPACE_URL, f"lead:{identity}:{day}")
    return Lead(
        id=lead_id,
        ref=reference.for_lead(lead_id),
        created_at=now,
        locale=submission.locale or locale,
        submission=submission,
        ip_address=ip_address,
        user_agent=user_agent and user_agent[:255],
        identity=identity,
        body_sha256=_sha256("body", told),
        text_sha256=_sha256("text", submission.message or str(lead_id)),
        keyed=key is not None,
        canary=canary,
    )


def _sha256(*parts: str) -> str:
    # Lengths keep ("ab", "c") and ("a", "bc") apart.
    return hashlib.sha256("".join(f"{len(p)}:{p}" for p in parts).encode()).hexdigest()


def render_emails(lead: Lead, desk: Recipients) -> list[Email]:
    """One to sales, and one to the sender if they left an address."""
    written = [emails.sales_email(lead.submission, lead.ref, lead.locale, desk.sender, desk.sales)]
    if lead.submission.email is not None:
        written.append(
            emails.acknowledgement_email(lead.submission.email, lead.ref, lead.locale, desk.sender)
        )
    return written


# One statement, so one transaction and one round trip. `leased_until` is set where the mails are
# born leased to the instance that took the lead, which sends them right after its answer.
# `sales_sent_at` is set where sales have the lead already, from the mail it arrived by.
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

# What stood in the way: an erasure, the same submission, or no more than its reference.
IS_ERASED = """
select from erasure_tombstones
where mark = any(%(marks)s::text[]) and erased_at >= %(created_at)s::timestamptz
limit 1
"""

FIND_DUPLICATE = """
select id, ref, created_at, body_sha256, arrival, identity, review, corrections,
  coalesce(corrected_at, created_at) as said_at,
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

# The same words came without a key and then with one: the lead goes by the key from now on.
ADOPT_KEY = """
update leads set identity = %(identity)s, body_sha256 = %(body_sha256)s,
  key_span = %(key_span)s::int8range
where id = %(stored_id)s and identity = content_identity
"""

# Compare and set, by the number of corrections that was read. An acknowledgement is written only
# where none was: the first submission gave no address.
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
    """What `store` did: `stored`, `stored_before` or `corrected`; and the mails to send now."""

    lead: Lead
    decision: str
    emails: tuple[Email, ...] = ()


def insert(
    run: RunQuery,
    lead: Lead,
    desk: Recipients,
    *,
    now: datetime,
    deliver_now: bool,
    erasure_keys: tuple[bytes, ...],
) -> InsertResult:
    """Keep a lead and its mails.

    deliver_now: the mails are leased to the caller; else they wait for a drain.
    erasure_keys: for a copy, whose person may have been erased since; none for a lead taken now.
    Safe to repeat: a lead already there stays as it is, but for fields that a later submission of
    the same words gives otherwise: they are corrected, and sales are told once.
    Raises Erased; KeyReused (same Idempotency-Key, other body); DatabaseDown when nothing could
    be found out.
    """
    lease = {"now": now, "leased_until": now + FIRST_LEASE_DURATION if deliver_now else None}
    for ref in reference.candidates(lead.ref, lead.id):
        candidate = lead._replace(ref=ref)
        written = [] if lead.review else render_emails(candidate, desk)
        values = {
            **candidate.to_columns(),
            **lease,
            "sales_sent_at": now if lead.arrival == "mail" else None,
            "letters": json.dumps([letter.to_columns() for letter in written]),
            "marks": erasure_hashes(lead, erasure_keys),
        }
        before = run(partial(_insert_or_find, values=values))
        if before is None:
            return InsertResult(candidate, "stored", tuple(written) if deliver_now else ())
        if before:
            return _merge_duplicate(run, values, lead, before, desk, lease)
    raise RuntimeError("every length of the reference is taken")


def _insert_or_find(
    connection: "Connection[Any]", *, values: dict[str, object]
) -> dict[str, Any] | None:
    """None if stored; the row of the same submission; empty if the reference is another's."""
    if connection.execute(INSERT_LEAD, values).fetchone():
        return None
    if values["marks"] and connection.execute(IS_ERASED, values).fetchone() is not None:
        raise ErasedSubject
    return _find_duplicate(connection, values=values)


def _find_duplicate(connection: "Connection[Any]", *, values: dict[str, object]) -> dict[str, Any]:
    cursor = connection.execute(FIND_DUPLICATE, values)
    row = cursor.fetchone()
    names = [column.name for column in cursor.description or ()]
    return {} if row is None else dict(zip(names, row, strict=True))


def _merge_duplicate(
    run: RunQuery,
    values: dict[str, Any],
    lead: Lead,
    row: dict[str, Any],
    desk: Recipients,
    lease: dict[str, Any],
) -> InsertResult:
    """The lead as it is stored, after what this submission of the same words corrects."""
    if lead.keyed and row["identity"] == values["identity"]:
        if row["body_sha256"] != values["body_sha256"]:
            raise IdempotencyKeyReused
        return InsertResult(_as_existing(lead, row), "stored_before")
    if lead.keyed:
        adopt = {**values, "stored_id": row["id"]}
        run(lambda connection: connection.execute(ADOPT_KEY, adopt) and None)
    for _ in range(MAX_CORRECTION_ATTEMPTS):
        stored = _as_existing(lead, row)
        corrected = _corrected_fields(lead, row)
        if corrected is None or lead.created_at <= row["said_at"]:
            return InsertResult(stored, "stored_before")
        told = run(
            partial(
                _apply_correction, lead=stored, row=row, fields=corrected, desk=desk, lease=lease
            )
        )
        if told is not None:
            return InsertResult(stored, "corrected", tuple(told) if lease["leased_until"] else ())
        row = run(partial(_find_duplicate, values=values)) or row
    raise RuntimeError("others correct the same lead at this very moment")


def _as_existing(lead: Lead, row: dict[str, Any]) -> Lead:
    return lead._replace(
        id=row["id"], ref=row["ref"], created_at=row["created_at"], arrival=row["arrival"]
    )


def _corrected_fields(lead: Lead, row: dict[str, Any]) -> dict[str, Any] | None:
    """The fields as they are to be; None when nothing changes. What is left out now stays."""
    given = lead.submission.to_dict()
    after = {name: row[name] if given[name] is None else given[name] for name in CORRECTABLE_FIELDS}
    return None if after == {name: row[name] for name in CORRECTABLE_FIELDS} else after


def _apply_correction(
    connection: "Connection[Any]",
    *,
    lead: Lead,
    row: dict[str, Any],
    fields: dict[str, Any],
    desk: Recipients,
    lease: dict[str, Any],
) -> list[Email] | None:
    """Write the corrected fields and their mails. None when another correction came between."""
    whole = lead.submission._replace(**fields)
    before = {name: row[name] for name in CORRECTABLE_FIELDS if row[name] != fields[name]}
    written = [
        emails.correction_email(
            whole,
            lead.ref,
            lead.locale,
            desk.sender,
            desk.sales,
            number=row["corrections"] + 1,
            before=before,
        ),
        *render_emails(lead._replace(submission=whole), desk)[1:],
    ]
    values = {
        **fields,
        **lease,
        "stored_id": row["id"],
        "corrections": row["corrections"],
        "corrected_at": lead.created_at,
        "letters": json.dumps([] if row["review"] else [letter.to_columns() for letter in written]),
    }
    answer = connection.execute(APPLY_CORRECTION, values).fetchone()
    if answer is None:
        return None
    return [letter for letter in written if letter.kind in answer[0]]


def as_duplicate(lead: Lead, lead_id: UUID, ref: str) -> Lead:
    """The lead as it was accepted before."""
    return lead._replace(id=lead_id, ref=ref)


def erasure_hashes(lead: Lead, erasure_keys: tuple[bytes, ...]) -> list[str]:
    """Every mark under which its person, or this lead alone, may have been erased."""
    told = lead.submission
    return tombstones.hashes(
        erasure_keys, email=told.email, phone=told.phone_whatsapp, lead_id=lead.id
    )


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
    """Put it where nobody is mailed and a person can still find it. reason: short codes.

    A copy whose person was erased since is put nowhere.
    """
    values = {
        "id": str(lead.id),
        "ref": lead.ref,
        "received_at": lead.created_at,
        "reason": reason,
        "submission": lead.submission.to_json(exclude_none=True),
        "locale": lead.locale,
        "ip_address": lead.ip_address,
        "user_agent": lead.user_agent,
        "marks": erasure_hashes(lead, erasure_keys),
    }
    run(lambda connection: connection.execute(INSERT_SPAM, values))
