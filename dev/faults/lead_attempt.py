"""A lead as an oracle sends it, and the answers it got."""

from dataclasses import dataclass, field
from typing import Any

import httpx

SERVER_ERRORS = (
    "internal_error", "persistence_failed", "service_not_configured", "temporarily_unavailable",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller got; status 0 and the exception's name in `error` when nothing came.

    sent_at: by time.monotonic. needless: refused by us, although a place that takes a lead was
    whole all the time.
    """

    status: int
    id: str | None
    ref: str | None
    seconds: float
    error: str | None = None
    queued: bool = False
    avoidable: bool = False
    sent_at: float = 0.0

    @classmethod
    def from_response(cls, response: httpx.Response, seconds: float) -> "Answer":
        try:
            body = response.json()
        except ValueError:
            body = {}
        fields = body if isinstance(body, dict) else {}
        error = fields.get("error") or response.headers.get("x-vercel-error")
        return cls(
            response.status_code,
            fields.get("id"),
            fields.get("ref"),
            seconds,
            error,
            fields.get("queued") is True,
        )

    @property
    def is_server_error(self) -> bool:
        """A 5xx that the function itself answered; not the platform's, of one that was killed."""
        return self.status >= 500 and self.error in SERVER_ERRORS

    @property
    def accepted(self) -> bool:
        return self.status in (200, 202)

    @property
    def is_retryable(self) -> bool:
        """Silence, a fault of ours, or another try under way: the same key may be sent again."""
        return self.status in (0, 409) or self.status >= 500


@dataclass(slots=True)
class LeadAttempt:
    """One lead of one person: mark and phone are nobody else's."""

    marker: str
    phone: str
    with_email: bool
    key: str | None
    answers: list[Answer] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return any(answer.accepted for answer in self.answers)

    @property
    def email(self) -> str:
        return f"{self.marker}@example.com"

    def body(self) -> dict[str, Any]:
        return {
            "business_name": f"Salon {self.marker}",
            "contact_name": f"Ani {self.marker}",
            "phone_whatsapp": f"0{self.phone}",
            "city": "Medan",
            "salon_type": "SALON",
            "consent": True,
            "message": f"Pesan {self.marker}",
            **({"email": self.email} if self.with_email else {}),
        }
