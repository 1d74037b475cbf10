"""Resend, by its SDK: one request a mail, with a deadline; each refusal is permanent, transient or
unknown.

Resend down delays a mail and loses none: the outbox holds it. A fault of ours (the key, the sender,
the plan's quota) never counts against a mail.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from json import dumps
from typing import Any, NamedTuple, Protocol, cast

import resend
from resend.exceptions import NoContentError, ResendError

from lib.http_client import Client
from lib.problems import IdempotencyConflict, PermanentMailError, TransientMailError

TIMEOUT_S = 5.0  # for the connection, and again for the response
MAX_PAUSE_S = 3600.0
# How long to wait before one mail tries again for all, while the fault is ours.
API_KEY_PAUSE_S, SENDER_PAUSE_S = 60.0, 900.0
QUOTA_PAUSE_S = {"daily_quota_exceeded": 900.0, "monthly_quota_exceeded": 3600.0}

# Resend's error names (resend.com/docs/api-reference/errors, read 2026-11-28). An unknown key is
# `invalid_api_key` (403) in one edition, `validation_error` (401, or 400) with the message
# "API key is invalid" in the newest: both are understood.
API_KEY_ERRORS = ("missing_api_key", "invalid_api_key", "restricted_api_key", "suspended_api_key")
SENDER_ERROR = "sender_refused"  # our name: the domain is not verified, or it is no address
_WRONG_URL_ERRORS = ("not_found", "method_not_allowed")  # RESEND_API_URL
_PERMANENT_ERRORS = ("validation_error", "missing_required_field", "missing_required_fields",
                     "invalid_to", "invalid_to_address", "invalid_parameter",
                     "invalid_attachment")  # fmt: skip
_FIELD_IN_MESSAGE = re.compile(
    r"\b(to|cc|bcc|from|subject|html|text)\b[`'\"]? (?:field|address)", re.I
)
_ERROR_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_ID = re.compile(r"[!-~]{1,200}")
_MAX_REJECTED = 200


class Email(Protocol):
    @property
    def sender(self) -> str: ...
    @property
    def recipients(self) -> tuple[str, ...]: ...
    @property
    def reply_to(self) -> str | None: ...
    @property
    def subject(self) -> str: ...
    @property
    def body_text(self) -> str: ...
    @property
    def body_html(self) -> str: ...
    def without_reply_to(self) -> "Email": ...


class Mailer:
    """Resend with one key. Callers keep its rate limit (lib/leads/send_rate.py)."""

    def __init__(self, api_key: str, api_url: str) -> None:
        self._rejected_reply_to: set[str] = set()
        self.api_url = api_url
        self.client = Client(
            connect_s=TIMEOUT_S,
            response_s=TIMEOUT_S,
            headers={"Authorization": f"Bearer {api_key}"},
        )

    def close(self) -> None:
        self.client.close()

    def send(self, email: Email, idempotency_key: str, *, timeout_s: float = TIMEOUT_S) -> str:
        """Send one mail; the provider's id. A repeat within 24 h delivers nothing more.

        With a rejected Reply-To it is sent without, under a key of its own: the bytes differ.
        Raises IdempotencyConflict (other bytes under this key), PermanentMailError, or
        TransientMailError (not now, or unknown).
        """
        address = email.reply_to
        if address is None:
            return self._send(email, idempotency_key, timeout_s)
        if address not in self._rejected_reply_to:
            try:
                return self._send(email, idempotency_key, timeout_s)
            except PermanentMailError as error:
                if error.field not in (None, "reply_to"):
                    raise
        self._rejected_reply_to.discard(address)
        try:
            return self._send(email.without_reply_to(), f"{idempotency_key}/no-reply-to", timeout_s)
        except TransientMailError:
            if len(self._rejected_reply_to) < _MAX_REJECTED:
                self._rejected_reply_to.add(address)  # so that the next attempt is one request
            raise

    def _send(self, email: Email, idempotency_key: str, timeout_s: float) -> str:
        message: dict[str, object] = {
            "from": _with_punycode_domain(email.sender),
            "to": [_with_punycode_domain(address) for address in email.recipients],
            "subject": email.subject,
            "text": email.body_text,
            "html": email.body_html,
        }
        if email.reply_to is not None:
            message["reply_to"] = _with_punycode_domain(email.reply_to)
        options: resend.Emails.SendOptions = {"idempotency_key": idempotency_key}
        try:
            with _calling(self, timeout_s):
                response = resend.Emails.send(cast("resend.Emails.SendParams", message), options)
            mail_id = response["id"]
        except ResendError as error:
            raise _to_error(_Refusal.of(error)) from None
        except _NONSENSE:
            raise TransientMailError("nonsense", may_be_sent=True) from None
        if not isinstance(mail_id, str) or not _ID.fullmatch(mail_id):
            raise TransientMailError("nonsense", may_be_sent=True)
        return mail_id

    def api_key_error(self, *, timeout_s: float = TIMEOUT_S) -> str | None:
        """Resend's name for why it refuses this key; None if it does not. Sends no mail.

        Raises TransientMailError where Resend does not say.
        """
        try:
            with _calling(self, timeout_s):
                resend.Domains.list()
        except ResendError as error:
            refusal = _Refusal.of(error)
        except _NONSENSE:
            raise TransientMailError("nonsense", may_be_sent=False) from None
        else:
            return None
        if refusal.name == "restricted_api_key":
            return None  # a key that may send, and nothing else
        if refusal.status in (401, 403) or refusal.message.lower().startswith("api key is invalid"):
            return refusal.name
        raise TransientMailError(refusal.name, may_be_sent=False)


class _HttpClient(resend.HTTPClient):
    """The SDK's HTTP for the whole process: it calls by the client of the Mailer that is calling.

    The SDK has one key and one address for a process; they are not used.
    """

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        json: dict[str, object] | list[object] | None = None,
        files: dict[str, Any] | None = None,
        data: dict[str, str] | None = None,
    ) -> tuple[bytes, int, Mapping[str, str]]:
        mailer, timeout_s = _current.get()
        response = mailer.client.request(
            method,
            mailer.api_url + url.removeprefix(resend.api_url),
            # As requests, the SDK's own library, writes it: Resend knows a repeated mail by this.
            content=dumps(json) if json else None,
            headers={
                "Content-Type": "application/json",
                **{name: text for name, text in headers.items() if name != "Authorization"},
            },
            response_s=timeout_s,
        )
        return response.content, response.status_code, response.headers


resend.default_http_client = _HttpClient()
_current: ContextVar[tuple[Mailer, float]] = ContextVar("_current")


@contextmanager
def _calling(mailer: Mailer, timeout_s: float) -> Iterator[None]:
    token = _current.set((mailer, timeout_s))
    try:
        yield
    finally:
        _current.reset(token)


# What the SDK raises, and what we do, for JSON that is no answer of Resend's.
_NONSENSE = (AttributeError, LookupError, NoContentError, RecursionError, TypeError, ValueError)


class _Refusal(NamedTuple):
    """name: Resend's; "no_answer"; or the status where nobody gave one."""

    status: int
    name: str
    message: str
    headers: Mapping[str, str] = {}

    @classmethod
    def of(cls, error: ResendError) -> "_Refusal":
        """The class of the error says less: it goes by status and name, and is often the base."""
        status = error.code if isinstance(error.code, int) else 500
        name = error.error_type
        if name == "HttpClientError":
            return cls(status, "no_answer", "")
        # The SDK's own names, where a proxy between answers in Resend's place.
        is_invented = name == "InternalServerError" or (
            name == "application_error" and status != 500
        )
        if is_invented or not isinstance(name, str) or not _ERROR_NAME.fullmatch(name):
            name = f"status_{status}"
        return cls(status, name, str(error.message), error.headers)


def _with_punycode_domain(mailbox: str) -> str:
    """The form in which Resend takes an internationalized domain."""
    local_part, at, domain = mailbox.rpartition("@")
    if domain.isascii():
        return mailbox
    import idna  # rarely needed

    name, bracket = domain.removesuffix(">"), ">" if domain.endswith(">") else ""
    try:
        return f"{local_part}{at}{idna.encode(name, uts46=True).decode()}{bracket}"
    except idna.IDNAError:
        return mailbox  # for Resend to refuse


def _to_error(
    refusal: _Refusal,
) -> IdempotencyConflict | PermanentMailError | TransientMailError:
    status, name, message, _ = refusal
    if name == "invalid_idempotent_request":
        return IdempotencyConflict()
    if name not in API_KEY_ERRORS and status in (400, 401, 403) and "api key" in message.lower():
        name = "invalid_api_key"
    if (pause_s := _pause_for_all_s(refusal, name)) is not None:
        return TransientMailError(name, may_be_sent=False, retry_after_s=pause_s)
    field = _rejected_field(name, message)
    if field == "from" or status in (401, 403):  # mails of another sender may leave meanwhile
        return TransientMailError(
            SENDER_ERROR, may_be_sent=False, retry_after_s=SENDER_PAUSE_S, pauses_all=False
        )
    if name in _PERMANENT_ERRORS:
        return PermanentMailError(name, field)
    # A 4xx was not sent; a 5xx, a timeout or a conflict may have been.
    return TransientMailError(name, may_be_sent=status >= 500 or status < 400
                              or status in (408, 409))  # fmt: skip


def _pause_for_all_s(refusal: _Refusal, name: str) -> float | None:
    """How long no mail can be sent; None where the error is of this mail alone."""
    if name in QUOTA_PAUSE_S:
        return QUOTA_PAUSE_S[name]
    if refusal.status == 429 or name == "rate_limit_exceeded":
        return _retry_after_s(refusal.headers)
    return API_KEY_PAUSE_S if name in (*API_KEY_ERRORS, *_WRONG_URL_ERRORS) else None


def _rejected_field(name: str, message: str) -> str | None:
    """The field named in an error."""
    if name.startswith("invalid_from"):
        return "from"
    if name.startswith("invalid_to"):
        return "to"
    if "replyto" in re.sub(r"[_\- ]", "", message.lower()):
        return "reply_to"
    match = _FIELD_IN_MESSAGE.search(message)
    return None if match is None else match[1].lower()


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Retry-After as seconds or a date (RFC 9110), else the rate limit's reset."""
    retry_after = headers.get("retry-after", "")
    try:
        seconds = float(retry_after or headers.get("ratelimit-reset", ""))
    except ValueError:
        seconds = _seconds_until(retry_after, headers.get("date", ""))
    return min(max(1.0, seconds), MAX_PAUSE_S)  # of NaN, max takes its first


def _seconds_until(moment: str, now: str) -> float:
    from email.utils import parsedate_to_datetime  # 36 ms, for the form that Resend does not use

    try:
        return (parsedate_to_datetime(moment) - parsedate_to_datetime(now)).total_seconds()
    except ValueError:
        return 1.0
