"""Resend. One call, one deadline, and each refusal told apart: never, not now, not known.

Resend down delays a mail and loses none: the outbox holds it.
"""

import json
from typing import Any

from lib.letters import Letter
from lib.problems import MailDelayed, MailRefused, MailTaken
from lib.rest import Answer, Rest, Unreached

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


class Mailer:
    """Resend with one key."""

    def __init__(self, api_key: str, api_url: str) -> None:
        headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "User-Agent": "alfa-beauty-api",  # without one Resend refuses
        }
        self._rest = Rest(api_url, headers, connect_s=TIMEOUT_S)

    def close(self) -> None:
        self._rest.close()

    def send(self, letter: Letter, idempotency_key: str, *, timeout_s: float = TIMEOUT_S) -> str:
        """Hand one mail over; the provider's id. A repeat within 24 h delivers nothing more.

        Raises MailTaken (it has other bytes under this key), MailRefused (as it stands, never)
        or MailDelayed (not now, or not known).
        """
        message: dict[str, object] = {
            "from": letter.sender,
            "to": list(letter.recipients),
            "subject": letter.subject,
            "text": letter.body_text,
            "html": letter.body_html,
        }
        if letter.reply_to is not None:
            message["reply_to"] = letter.reply_to
        key = {"Idempotency-Key": idempotency_key}
        try:
            answer = self._rest.post(
                "/emails", json.dumps(message).encode(), key, within_s=timeout_s
            )
        except Unreached:
            raise MailDelayed("no_answer", uncertain=True) from None
        told = _told(answer)
        if answer.status == 200 and told.get("id"):
            return str(told["id"])
        raise _translated(answer, told)


def _told(answer: Answer) -> dict[str, Any]:
    """Empty where it is no JSON object: whatever stands in between may answer in its place."""
    try:
        told = answer.json()
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _translated(answer: Answer, told: dict[str, Any]) -> MailTaken | MailRefused | MailDelayed:
    kind = str(told.get("name", f"status_{answer.status}"))
    if kind == "invalid_idempotent_request":
        return MailTaken()
    if kind == "rate_limit_exceeded":
        return MailDelayed(kind, uncertain=False, retry_after_s=_retry_after_s(answer))
    if kind in _NEVER and answer.status not in (401, 403):
        return MailRefused(kind)
    # A key being rotated or a domain being verified mends itself; the rest gave no clear answer.
    return MailDelayed(kind, uncertain=answer.status not in (401, 403, 404, 405))


def _retry_after_s(answer: Answer) -> float:
    given = answer.headers.get("retry-after", "")
    return min(float(given), 3600.0) if given.isdigit() else 1.0
