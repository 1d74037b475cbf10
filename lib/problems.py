"""Every expected failure: its HTTP status, its stable code, its title in both languages.

Raise one anywhere; `lib.app` alone renders it. Codes are a promise to callers and never change;
titles may. Nothing a caller reads is made from an exception's text.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

Details = dict[str, list[str]]
"""Errors by field, in the caller's language; `_` holds those of the whole body."""


class Problem(Exception):
    """A request we refuse, or cannot serve now. Subclasses say which."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[Mapping[str, str]]

    def __init__(
        self, details: Details | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(self.code)
        self.details = details
        self.headers = dict(headers or {})


class InvalidJson(Problem):
    status = 400
    code = "invalid_json"
    title = {"id": "Isi permintaan bukan JSON yang sah.", "en": "The body is not valid JSON."}


class Invalid(Problem):
    status = 400
    code = "validation_error"
    title = {
        "id": "Ada isian yang perlu diperbaiki.",
        "en": "Some fields need to be corrected.",
    }


class Unauthorized(Problem):
    status = 401
    code = "unauthorized"
    title = {"id": "Token tidak ada atau salah.", "en": "The token is missing or wrong."}

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": "Bearer"})


class Forbidden(Problem):
    status = 403
    code = "forbidden"
    title = {"id": "Tidak diizinkan.", "en": "Not allowed."}


class OriginNotAllowed(Problem):
    status = 403
    code = "origin_not_allowed"
    title = {
        "id": "Formulir ini tidak dapat dikirim dari situs lain.",
        "en": "This form cannot be sent from another site.",
    }


class NotFound(Problem):
    status = 404
    code = "not_found"
    title = {"id": "Tidak ditemukan.", "en": "Not found."}


class MethodNotAllowed(Problem):
    status = 405
    code = "method_not_allowed"
    title = {"id": "Metode tidak didukung.", "en": "This method is not supported here."}


class TooLarge(Problem):
    status = 413
    code = "payload_too_large"
    title = {
        "id": "Isi permintaan lebih dari 100 KiB.",
        "en": "The body is larger than 100 KiB.",
    }


class UnsupportedType(Problem):
    status = 415
    code = "content_type_must_be_application_json"
    title = {
        "id": "Kirim sebagai application/json atau sebagai formulir.",
        "en": "Send application/json or a form.",
    }


class IdempotencyKeyReused(Problem):
    status = 422
    code = "idempotency_key_reused"
    title = {
        "id": "Idempotency-Key ini sudah dipakai untuk isi yang lain.",
        "en": "This Idempotency-Key was used with another body.",
    }


class RateLimited(Problem):
    status = 429
    code = "rate_limited"
    title = {
        "id": "Terlalu banyak kiriman. Coba lagi sebentar lagi.",
        "en": "Too many submissions. Try again shortly.",
    }

    def __init__(self, *, limit: int, remaining: int, wait_s: int, reset_at_s: int) -> None:
        super().__init__(
            headers={
                "Retry-After": str(wait_s),
                "X-RateLimit-Limit": str(limit),
                "X-RateLimit-Remaining": str(remaining),
                "X-RateLimit-Reset": str(reset_at_s),
            }
        )


class Internal(Problem):
    status = 500
    code = "internal_error"
    title = {"id": "Terjadi kesalahan di pihak kami.", "en": "Something went wrong on our side."}


class NotPersisted(Problem):
    """No store took the lead: the caller must send it again. failures: a StoreFailure each."""

    status = 503
    code = "persistence_failed"
    title = {
        "id": "Data Anda belum tersimpan. Silakan kirim lagi sebentar lagi.",
        "en": "Your details are not stored yet. Please send them again shortly.",
    }

    def __init__(self, *, failures: tuple[Any, ...] = (), retry_after_s: int = 30) -> None:
        super().__init__(headers={"Retry-After": str(retry_after_s)})
        self.failures = failures


class Unavailable(Problem):
    status = 503
    code = "temporarily_unavailable"
    title = {
        "id": "Layanan sedang tidak tersedia. Coba lagi sebentar lagi.",
        "en": "The service is unavailable just now. Try again shortly.",
    }

    def __init__(self, retry_after_s: int = 30) -> None:
        super().__init__(headers={"Retry-After": str(retry_after_s)})


class ServiceNotConfigured(Problem):
    status = 503
    code = "service_not_configured"
    title = {"id": "Layanan ini belum diatur.", "en": "This service is not configured."}


class NotConfigured(Exception):
    """A variable of the environment is missing or unusable. For the log, never for a caller."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable} {reason}")
        self.variable = variable
        self.reason = reason


class DatabaseDown(Exception):
    """Postgres refused, broke off, or stayed silent past the budget. What it did is unknown."""


class CacheDown(Exception):
    """Redis refused, stayed silent past its deadline, or its response cannot be parsed."""


class TurnstileDown(Exception):
    """Turnstile could not say whether the challenge was solved."""


class DecryptionError(Exception):
    """An encrypted text was made with a key we do not have, or was changed."""


class IntakeClosed(Exception):
    """In maintenance, Postgres takes no lead of a visitor."""


class ErasedSubject(Exception):
    """This copy was taken before its person was erased, and must not come back."""


class IdempotencyConflict(Exception):
    """The mail service has taken this mail before, as other bytes under the same key."""


class PermanentMailError(Exception):
    """The mail service will never take this mail as it stands. field: the one it named, if any."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


class TransientMailError(Exception):
    """The mail service did not take this mail now.

    may_be_sent: no response, or one that does not say. retry_after_s: the fault is not the mail's,
    no attempt is counted, and it is due again after so long. pauses_all: as is every other mail.
    """

    def __init__(
        self,
        reason: str,
        *,
        may_be_sent: bool,
        retry_after_s: float | None = None,
        pauses_all: bool = True,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_be_sent = may_be_sent
        self.retry_after_s = retry_after_s
        self.pauses_all = retry_after_s is not None and pauses_all


class SlackError(Exception):
    """Slack did not take a message now. permanent: nor will it, until somebody changes something.

    retry_after_s: it asked us to wait.
    """

    def __init__(
        self, reason: str, *, permanent: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.retry_after_s = retry_after_s


class MessageNotFound(Exception):
    """The message to update is not there any more."""
