"""Resend. One call, one deadline, and each refusal told apart: never, not now, not known.

Resend down delays a mail and loses none: the outbox holds it. What is ours to mend (the key, the
sender, the plan's quota) is never held against a mail.
"""

import json
import re
from typing import Any

from lib.http_client import HttpClient, HttpResponse, RequestFailed
from lib.leads import emails, send_rate
from lib.leads.emails import Email
from lib.problems import IdempotencyConflict, PermanentMailError, TransientMailError

TIMEOUT_S = 5.0  # for the connection, and again for the answer
MAX_PAUSE_S = 3600.0
# Asked again so often, by one mail for all: what is mended at Resend is known soon after.
API_KEY_PAUSE_S, SENDER_PAUSE_S = 60.0, 900.0
QUOTA_PAUSE_S = {"daily_quota_exceeded": 900.0, "monthly_quota_exceeded": 3600.0}

# Resend's error names (resend.com/docs/api-reference/errors, read 2026-11-28). An unknown key is
# `invalid_api_key` (403) in one edition, `validation_error` (401, or 400) with the message
# "API key is invalid" in the newest: both are understood.
API_KEY_ERRORS = ("missing_api_key", "invalid_api_key", "restricted_api_key", "suspended_api_key")
SENDER_ERROR = "sender_refused"  # ours: a domain that is not verified, or no address at all
_WRONG_URL_ERRORS = {"not_found", "method_not_allowed"}  # RESEND_API_URL
_PERMANENT_ERRORS = {
    "validation_error",
    "missing_required_field",
    "missing_required_fields",
    "invalid_to",
    "invalid_to_address",
    "invalid_parameter",
    "invalid_attachment",
}
_FIELD_IN_MESSAGE = re.compile(
    r"\b(to|cc|bcc|from|subject|html|text)\b[`'\"]? (?:field|address)", re.I
)
_ERROR_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_ID = re.compile(r"[!-~]{1,200}")
_MAX_REJECTED = 200


class Mailer:
    """Resend with one key."""

    def __init__(
        self, api_key: str, api_url: str, *, per_second: float = send_rate.REQUESTS_PER_S
    ) -> None:
        self.per_second = per_second
        self._rejected_reply_to: set[str] = set()  # addresses that are no Reply-To to Resend
        headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "User-Agent": "alfa-beauty-api",  # without one Resend refuses
        }
        self._rest = HttpClient(api_url, headers, connect_s=TIMEOUT_S)

    def close(self) -> None:
        self._rest.close()

    def send(self, letter: Email, idempotency_key: str, *, timeout_s: float = TIMEOUT_S) -> str:
        """Hand one mail over; the provider's id. A repeat within 24 h delivers nothing more.

        A Reply-To that is refused costs nobody the mail: it is sent again without, and says so.
        Raises MailTaken (it has other bytes under this key), MailRefused (as it stands, never)
        or MailDelayed (not now, or not known).
        """
        address = letter.reply_to
        if address is None:
            return self._send(letter, idempotency_key, timeout_s)
        if address not in self._rejected_reply_to:
            try:
                return self._send(letter, idempotency_key, timeout_s)
            except PermanentMailError as refusal:
                if refusal.field not in (None, "reply_to"):
                    raise
        self._rejected_reply_to.discard(address)
        # A key of its own: these are other bytes.
        other = emails.without_reply_to(letter)
        try:
            return self._send(other, f"{idempotency_key}/no-reply-to", timeout_s)
        except TransientMailError:
            if len(self._rejected_reply_to) < _MAX_REJECTED:
                self._rejected_reply_to.add(address)  # so that the next try costs one request
            raise

    def _send(self, letter: Email, idempotency_key: str, timeout_s: float) -> str:
        message: dict[str, object] = {
            "from": _with_punycode_domain(letter.sender),
            "to": [_with_punycode_domain(address) for address in letter.recipients],
            "subject": letter.subject,
            "text": letter.body_text,
            "html": letter.body_html,
        }
        if letter.reply_to is not None:
            message["reply_to"] = _with_punycode_domain(letter.reply_to)
        key = {"Idempotency-Key": idempotency_key}
        try:
            answer = self._rest.post(
                "/emails", json.dumps(message).encode(), key, within_s=timeout_s
            )
        except RequestFailed:
            raise TransientMailError("no_answer", uncertain=True) from None
        told = _json_object(answer)
        if answer.status == 200 and _ID.fullmatch(str(told.get("id") or "")):
            return str(told["id"])
        raise _to_error(answer, told)

    def api_key_error(self, *, timeout_s: float = TIMEOUT_S) -> str | None:
        """Why Resend refuses this key for every mail, by Resend's name for it; None if it does not.

        Sends nothing. Raises MailDelayed where that cannot be told.
        """
        try:
            answer = self._rest.get("/domains", within_s=timeout_s)
        except RequestFailed:
            raise TransientMailError("no_answer", uncertain=False) from None
        told = _json_object(answer)
        kind, words = str(told.get("name", "")), str(told.get("message", ""))
        if answer.status == 200 or kind == "restricted_api_key":
            return None  # the latter: a key that may send, and nothing else
        if answer.status in (401, 403) or words.lower().startswith("api key is invalid"):
            return kind or f"status_{answer.status}"
        raise TransientMailError(kind or f"status_{answer.status}", uncertain=False)


def _with_punycode_domain(mailbox: str) -> str:
    """A mailbox with its domain in punycode, which is how Resend takes it."""
    before, at, domain = mailbox.rpartition("@")
    if domain.isascii():
        return mailbox
    import idna  # for few

    name, closing = domain.removesuffix(">"), ">" if domain.endswith(">") else ""
    try:
        return f"{before}{at}{idna.encode(name, uts46=True).decode()}{closing}"
    except idna.IDNAError:
        return mailbox  # Resend says what it thinks of it


def _json_object(answer: HttpResponse) -> dict[str, Any]:
    """Empty where it is no JSON object: whatever stands in between may answer in its place."""
    try:
        told = answer.json()
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _to_error(
    answer: HttpResponse, told: dict[str, Any]
) -> IdempotencyConflict | PermanentMailError | TransientMailError:
    kind, message, status = str(told.get("name")), str(told.get("message")), answer.status
    if not _ERROR_NAME.fullmatch(kind) or kind == "None":
        kind = f"status_{status}"
    if kind == "invalid_idempotent_request":
        return IdempotencyConflict()
    if kind in QUOTA_PAUSE_S:
        return TransientMailError(kind, uncertain=False, retry_after_s=QUOTA_PAUSE_S[kind])
    if status == 429 or kind == "rate_limit_exceeded":
        return TransientMailError(kind, uncertain=False, retry_after_s=_retry_after_s(answer))
    if kind in API_KEY_ERRORS or (status in (400, 401, 403) and "api key" in message.lower()):
        kind = kind if kind in API_KEY_ERRORS else "invalid_api_key"
        return TransientMailError(kind, uncertain=False, retry_after_s=API_KEY_PAUSE_S)
    if kind in _WRONG_URL_ERRORS:
        return TransientMailError(kind, uncertain=False, retry_after_s=API_KEY_PAUSE_S)
    field = _rejected_field(kind, message)
    if field == "from" or status in (401, 403):
        # Mails of another sender may leave meanwhile.
        return TransientMailError(
            SENDER_ERROR, uncertain=False, retry_after_s=SENDER_PAUSE_S, for_all=False
        )
    if kind in _PERMANENT_ERRORS:
        return PermanentMailError(kind, field)
    # The rest was not taken where it is our fault, and may have been where it is not.
    clear = 400 <= status < 500 and status not in (408, 409)
    return TransientMailError(kind, uncertain=not clear)


def _rejected_field(kind: str, message: str) -> str | None:
    """The field that a refusal names."""
    if kind.startswith("invalid_from"):
        return "from"
    if kind.startswith("invalid_to"):
        return "to"
    if "replyto" in message.lower().replace("_", "").replace("-", "").replace(" ", ""):
        return "reply_to"
    found = _FIELD_IN_MESSAGE.search(message)
    return None if found is None else found[1].lower()


def _retry_after_s(answer: HttpResponse) -> float:
    """Seconds to wait, as a number or a moment (RFC 9110), else as the limit's reset."""
    given = answer.headers.get("retry-after", "")
    try:
        seconds = float(given or answer.headers.get("ratelimit-reset", ""))
    except ValueError:
        seconds = _seconds_until(given, answer.headers.get("date", ""))
    return min(max(1.0, seconds), MAX_PAUSE_S)  # of NaN, max takes its first


def _seconds_until(moment: str, now: str) -> float:
    from email.utils import parsedate_to_datetime  # 36 ms, for the form that Resend does not use

    try:
        return (parsedate_to_datetime(moment) - parsedate_to_datetime(now)).total_seconds()
    except ValueError:
        return 1.0
