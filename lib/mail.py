"""Resend. One call, one deadline, and each refusal told apart: never, not now, not known.

Resend down delays a mail and loses none: the outbox holds it.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import resend
from resend.exceptions import ResendError
from resend.http_client_requests import RequestsClient

from lib.letters import Letter
from lib.problems import MailDelayed, MailRefused, MailTaken

TIMEOUT_S = 5.0  # for the connection, and again for the answer

# Resend's error names (resend.com/docs/api-reference/errors, read 2026-11).
_NEVER = {
    "validation_error",
    "missing_required_field",
    "invalid_to",
    "invalid_parameter",
    "invalid_attachment",
    "daily_quota_exceeded",
    "monthly_quota_exceeded",
}


# The SDK's client has one timeout for all; a request short of time sets its own.
_timeout_s: ContextVar[float] = ContextVar("mail_timeout_s", default=TIMEOUT_S)


class _Client(RequestsClient):
    def request(self, *args: Any, **kwargs: Any) -> tuple[bytes, int, Mapping[str, str]]:
        timed = RequestsClient(timeout=_timeout_s.get())  # type: ignore[arg-type] # fractions too
        return timed.request(*args, **kwargs)


class Mailer:
    """Resend with one key. The SDK keeps key, address and client in its module: all alike."""

    def __init__(self, api_key: str, api_url: str) -> None:
        resend.api_key = api_key
        resend.api_url = api_url
        resend.default_http_client = _Client()

    def send(self, letter: Letter, idempotency_key: str, *, timeout_s: float = TIMEOUT_S) -> str:
        """Hand one mail over; the provider's id. A repeat within 24 h delivers nothing more.

        Raises MailTaken (it has other bytes under this key), MailRefused (as it stands, never)
        or MailDelayed (not now, or not known).
        """
        _timeout_s.set(timeout_s)
        message: resend.Emails.SendParams = {
            "from": letter.sender,
            "to": list(letter.recipients),
            "subject": letter.subject,
            "text": letter.body_text,
            "html": letter.body_html,
        }
        if letter.reply_to is not None:
            message["reply_to"] = letter.reply_to
        try:
            return str(resend.Emails.send(message, {"idempotency_key": idempotency_key})["id"])
        except ResendError as fault:
            raise _translated(fault) from None


def _translated(fault: ResendError) -> MailTaken | MailRefused | MailDelayed:
    kind = str(fault.error_type)
    if kind == "invalid_idempotent_request":
        return MailTaken()
    if kind == "rate_limit_exceeded":
        return MailDelayed(kind, uncertain=False, retry_after_s=_retry_after_s(fault))
    if kind in _NEVER and str(fault.code) not in ("401", "403"):
        return MailRefused(kind)
    # A key being rotated or a domain being verified mends itself; the rest gave no clear answer.
    definite = str(fault.code) in ("401", "403", "404", "405")
    return MailDelayed(kind, uncertain=not definite)


def _retry_after_s(fault: ResendError) -> float:
    for name, value in fault.headers.items():
        if name.lower() == "retry-after" and value.isdigit():
            return min(float(value), 3600.0)
    return 1.0
