"""A synthetic lead that walks the whole path, is found at its end, and is taken away again.

It is known by a signature over its body, never by anything a visitor could write in a form.
It is mailed to Resend's own test mailbox, and counted nowhere.
"""

import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from lib.leads.lead import CANARY_MAILBOX
from lib.leads.queue import ACCEPTED, QUEUE, journal_key

if TYPE_CHECKING:
    from psycopg import Connection

HEADER = "X-Alfa-Canary"
SIGNATURE_MAX_AGE = timedelta(minutes=5)


def payload(now: datetime) -> dict[str, object]:
    """A lead every rule accepts, never the same twice."""
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
    """The header's value: unix seconds, a dot, and the hex HMAC-SHA256 of both and the body."""
    at = str(int(now.timestamp()))
    return f"{at}.{_mac(secret, at, body)}"


def is_signed(secret: str, header: str, body: bytes, now: datetime) -> bool:
    """Whether the header was made with `secret` for this body, within VALID_FOR of now."""
    at, _, mac = header.partition(".")
    right = hmac.compare_digest(mac.encode(), _mac(secret, at, body).encode())
    return (
        right
        and at.isdigit()
        and abs(now.timestamp() - int(at)) <= SIGNATURE_MAX_AGE.total_seconds()
    )


def _mac(secret: str, at: str, body: bytes) -> str:
    return hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()


class CanaryResult(NamedTuple):
    """How far it came."""

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

# One that was drained after its sender had stopped looking.
DELETE_OLD_CANARIES = "delete from leads where canary and created_at < %(until)s"
MAX_AGE = timedelta(minutes=10)


def find(run: Callable[..., Any], lead_id: UUID) -> CanaryResult:
    """Where it is now."""

    def ask(connection: "Connection[Any]") -> Any:
        return connection.execute(FIND_CANARY, {"id": str(lead_id)}).fetchone()

    stored, mails, sent = run(ask)
    return CanaryResult(bool(stored), mails, sent)


def remove(run: Callable[..., Any], commands: Callable[..., Any], lead_id: UUID) -> None:
    """Take it away from everywhere; safe to repeat, and harmless to a real lead's row.

    Raises CacheDown or DatabaseDown after having tried both.
    """
    try:
        commands(
            ("HDEL", QUEUE, str(lead_id)),
            ("DEL", journal_key(lead_id)),
            ("ZREM", ACCEPTED, str(lead_id)),
        )
    finally:
        run(lambda connection: connection.execute(DELETE_CANARY, {"id": str(lead_id)}))


def remove_old(run: Callable[..., Any], now: datetime) -> None:
    """Take those away that nobody looks for any more. Raises DatabaseDown."""
    run(
        lambda connection: (
            connection.execute(DELETE_OLD_CANARIES, {"until": now - MAX_AGE}) and None
        )
    )
