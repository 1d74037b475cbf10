"""A lead: a submission with its identity, and its two written forms, columns and JSON.

The rule a newcomer would break: a lead's id is fixed before the first attempt to store it, so that
every attempt, in whichever store, is the same lead.
"""

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import NAMESPACE_URL, UUID, uuid5

from lib.leads import consent, reference
from lib.leads.submission import Submission
from lib.problems import DecryptionError

DEDUPLICATION_WINDOW = timedelta(
    hours=24
)  # contract: how long the same submission is the same lead
CANARY_MAILBOX = "delivered@resend.dev"  # resend.com/docs: test addresses, read 2026-11


class Lead(NamedTuple):
    """A submission with its identity.

    identity, body_sha256, text_sha256 (of the message, whoever sent it): hex. keyed: the caller
    gave an Idempotency-Key. arrival: how it came to Postgres, `direct`, `queue` or `mail`.
    spam: why it goes to the spam table. review: why a person looks at it before sales are mailed.
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
    text_sha256: str = ""
    keyed: bool = False
    arrival: str = "direct"
    spam: str | None = None
    canary: bool = False
    review: str | None = None

    @classmethod
    def from_submission(
        cls,
        submission: Submission,
        *,
        key: str | None,
        locale: str,
        now: datetime,
        ip_address: str | None,
        user_agent: str | None,
        canary: bool = False,
    ) -> Self:
        """A lead with its identity. locale: the caller's, unless the form names one.

        key: the caller's Idempotency-Key; without one, the same phone, business and message are the
        same lead.
        """
        words = (submission.phone_whatsapp, submission.business_name, submission.message or "")
        identity = _sha256("key", key) if key is not None else _sha256("content", *words)
        # One id a day and identity: the same for every attempt, another once the 24 hours are over.
        # An attempt on the next day finds the first one by its identity, in the repository.
        day = int(now.timestamp()) // int(DEDUPLICATION_WINDOW.total_seconds())
        lead_id = uuid5(NAMESPACE_URL, f"lead:{identity}:{day}")
        return cls(
            id=lead_id,
            ref=reference.for_lead(lead_id),
            created_at=now,
            locale=submission.locale or locale,
            submission=submission,
            ip_address=ip_address,
            user_agent=user_agent and user_agent[:255],
            identity=identity,
            body_sha256=_sha256("body", submission.to_json(exclude_none=True)),
            text_sha256=_sha256("text", submission.message or str(lead_id)),
            keyed=key is not None,
            canary=canary,
        )

    @property
    def content_identity(self) -> str:
        """The hash of phone, business and message: the identity of a lead without a key."""
        form = self.submission
        return _sha256("content", form.phone_whatsapp, form.business_name, form.message or "")

    @property
    def key_span(self) -> str:
        """An int8range: everything without a key, one point for each key.

        Two spans overlap unless they are of two keys: only then may the same words be two leads.
        """
        if self.identity == self.content_identity:
            return "(,)"
        point = int(self.identity[:14], 16)
        return f"[{point},{point}]"

    @property
    def status(self) -> int:
        """The HTTP status it was answered with, and is answered with again."""
        return 200 if self.arrival == "direct" else 202

    def to_columns(self) -> dict[str, object]:
        """The SQL parameters of its row."""
        version = self.submission.consent_version or consent.CURRENT_VERSION
        return {
            **self.submission.to_dict(),
            **self._asdict(),
            "id": str(self.id),
            "consent_at": self.created_at,
            "consent_version": version,
            "consent_locale": self.locale,
            "consent_sha256": consent.sentence_sha256(version, self.locale),
            "identity": bytes.fromhex(self.identity),
            "same_until": self.created_at + DEDUPLICATION_WINDOW,
            "body_sha256": bytes.fromhex(self.body_sha256),
            "content_identity": bytes.fromhex(self.content_identity),
            "key_span": self.key_span,
        }

    def to_dict(self) -> dict[str, object]:
        """Its fields as JSON values."""
        return {
            **self._asdict(),
            "id": str(self.id),
            "created_at": self.created_at.isoformat(),
            "submission": self.submission.to_dict(exclude_none=True),
        }

    def to_json(self) -> str:
        """The plain text of a sealed copy: in the queue, the journal, the mail of an outage."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_columns(cls, row: dict[str, Any]) -> Self:
        """A lead from its row, the hashes in hex. Columns that are no field of a lead are ignored.

        Its fields are not checked again, nor in `from_json`: a newer rule must not lose the lead.
        """
        fields = {name: row[name] for name in cls._fields if name in row}
        return cls(**fields, submission=Submission.from_stored(**row, consent=True))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The lead of `to_json`. Raises DecryptionError when the text is no lead."""
        try:
            values = json.loads(text)
            values["id"] = UUID(values["id"])
            values["created_at"] = datetime.fromisoformat(values["created_at"])
            values["submission"] = Submission.from_stored(**values["submission"])
            return cls(**values)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise DecryptionError from error


class Recipients(NamedTuple):
    """Who writes and who reads the mails about leads."""

    sender: str
    sales: tuple[str, ...]

    def for_lead(self, lead: Lead) -> "Recipients":
        """Without sales for a canary."""
        return self._replace(sales=(CANARY_MAILBOX,)) if lead.canary else self


def _sha256(*parts: str) -> str:
    # Lengths keep ("ab", "c") and ("a", "bc") apart.
    return hashlib.sha256("".join(f"{len(p)}:{p}" for p in parts).encode()).hexdigest()
