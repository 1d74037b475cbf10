"""The canary: a synthetic lead that is accepted, stored, mailed, found, and removed.

It is recognised by a signature over its body, never by anything a visitor could type in a form.
Its e-mails go to Resend's test mailbox, and it is counted nowhere.
"""

import hashlib
import hmac
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from lib.interfaces import RedisPipeline, RunQuery
from lib.leads.lead import CANARY_MAILBOX
from lib.leads.queue import ACCEPTED, QUEUE, journal_key

HEADER = "X-Alfa-Canary"
SIGNATURE_MAX_AGE = timedelta(minutes=5)


def payload(now: datetime) -> dict[str, object]:
    """A valid lead, different each time."""
    return {
        "business_name": "Canary",
        "contact_name": "Canary",
        "phone_whatsapp": "+6281200000000",
        "city": "Jakarta",
        "salon_type": "OTHER",
        "consent": True,
        "email": CANARY_MAILBOX,
        "message": f"Canary of {now.isoformat()}",
    }


def sign(secret: str, body: bytes, now: datetime) -> str:
    """The header's value: Unix seconds, a dot, and the hex HMAC-SHA256 of both and the body."""
    signed_at = str(int(now.timestamp()))
    return f"{signed_at}.{_mac(secret, signed_at, body)}"


def is_signed(secret: str, header: str, body: bytes, now: datetime) -> bool:
    """Whether the header was made with `secret` for this body, within SIGNATURE_MAX_AGE of now."""
    signed_at, _, mac = header.partition(".")
    if not hmac.compare_digest(mac.encode(), _mac(secret, signed_at, body).encode()):
        return False
    age_s = abs(now.timestamp() - int(signed_at)) if signed_at.isdigit() else float("inf")
    return age_s <= SIGNATURE_MAX_AGE.total_seconds()


def _mac(secret: str, signed_at: str, body: bytes) -> str:
    return hmac.new(secret.encode(), signed_at.encode() + b"." + body, hashlib.sha256).hexdigest()


class CanaryResult(NamedTuple):
    stored: bool
    emails: int
    sent: int

    @property
    def delivered(self) -> bool:
        return self.stored and self.emails == self.sent == 2


FIND_CANARY = """
select (select count(*) from leads where id = %(id)s and canary), count(*), count(sent_at)
from outbox where lead_id = %(id)s
"""

DELETE_CANARY = "delete from leads where id = %(id)s and canary"

# A queued one may be stored after its sender has stopped looking for it.
DELETE_OLD_CANARIES = "delete from leads where canary and created_at < %(until)s"
MAX_AGE = timedelta(minutes=10)


def find(run: RunQuery, lead_id: UUID) -> CanaryResult:
    values = {"id": str(lead_id)}
    stored, emails, sent = run(lambda c: c.execute(FIND_CANARY, values).fetchone())
    return CanaryResult(bool(stored), emails, sent)


def remove(run: RunQuery, pipeline: RedisPipeline, lead_id: UUID) -> None:
    """Delete it from both stores; safe to repeat, and harmless to a real lead's row.

    Raises CacheDown or DatabaseDown after having tried both.
    """
    try:
        pipeline(
            ("HDEL", QUEUE, str(lead_id)),
            ("DEL", journal_key(lead_id)),
            ("ZREM", ACCEPTED, str(lead_id)),
        )
    finally:
        run(lambda c: c.execute(DELETE_CANARY, {"id": str(lead_id)}))


def remove_old(run: RunQuery, now: datetime) -> None:
    """Delete those left over. Raises DatabaseDown."""
    run(lambda c: c.execute(DELETE_OLD_CANARIES, {"until": now - MAX_AGE}) and None)
