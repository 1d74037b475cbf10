"""Resend's API as documented (read 2026-11): sending with idempotency keys, and a mailbox page."""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages
from dev.vendors.fake_vendor import Pause
from dev.vendors.resend_keys import ApiKeys

KEY_LIFETIME_S = 24 * 3600
KEY_MAX_CHARS = 256
MAX_RECIPIENTS = 50

_ADDRESS = r"[^\s<>@,;\"]+@[^\s<>@,;\".]+(?:\.[^\s<>@,;\".]+)+"
_MAILBOX = re.compile(rf"^(?:{_ADDRESS}|[^<>\r\n]*<{_ADDRESS}>)$")


@dataclass(slots=True)
class _Sent:
    """One idempotency key: its body, and the id once known."""

    body: bytes
    at: float
    id: str | None = None


@dataclass(slots=True)
class Mail:
    id: str
    at: float
    fields: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


class Resend:
    """Accepts mail whose bearer key is `api_key`, or one made since; keeps it in memory."""

    name = "Resend"

    def __init__(
        self, api_key: str, clock: Callable[[], float] = time.time, admin_key: str = ""
    ) -> None:
        self.api_keys = ApiKeys(api_key, admin_key)
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, _Sent] = {}
        self._mails: dict[str, Mail] = {}

    def respond(self, request: Request, pause: Pause) -> Response:
        refusal = self._unauthorized(request)
        if refusal is None and request.path == "/emails" and request.method == "POST":
            return self._send(request, pause)
        pause()
        if refusal is not None:
            return refusal
        if (answer := self.api_keys.respond(request)) is not None:
            return answer
        if request.path == "/domains" and request.method == "GET":
            return as_json({"object": "list", "has_more": False, "data": []})
        if request.path == "/emails" and request.method == "GET":
            data = [_mail_to_json(mail) for mail in self.mails()]
            return as_json({"object": "list", "has_more": False, "data": data})
        mail = self._mails.get(request.path.removeprefix("/emails/"))
        if request.method == "GET" and mail is not None:
            return as_json(_mail_to_json(mail))
        if request.path.startswith("/emails"):
            return problem(404, "not_found", "Email not found")
        return problem(404, "not_found", "The requested endpoint does not exist")

    def mails(self) -> list[Mail]:
        """Delivered mail, newest first."""
        with self._lock:
            return list(reversed(self._mails.values()))

    def failure(self, request: Request, status: int) -> Response:
        names = {403: "invalid_api_key", 422: "validation_error", 503: "service_unavailable"}
        name = names.get(status, "application_error")
        return problem(status, name, "An unexpected error occurred.")

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        text = "Too many requests. You can only make 2 requests per second."
        response = problem(429, "rate_limit_exceeded", text)
        response.headers["retry-after"] = str(retry_after_s)
        response.headers["ratelimit-limit"] = "2"
        response.headers["ratelimit-remaining"] = "0"
        response.headers["ratelimit-reset"] = str(retry_after_s)
        return response

    def describe(self, request: Request) -> Any:
        return request.parsed_body()

    def forget(self) -> None:
        self.api_keys.forget()
        with self._lock:
            self._keys.clear()
            self._mails.clear()

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        mails = self.mails()
        lead = f"{len(mails)} captured, newest first. Nothing left this machine."
        return pages.page("Mail", lead, (_article(mail) for mail in mails))

    def _unauthorized(self, request: Request) -> Response | None:
        authorization = request.headers.get("Authorization", "")
        if not authorization.lower().startswith("bearer ") or not authorization[7:].strip():
            return problem(401, "missing_api_key", "Missing API key in the authorization header.")
        permission = self.api_keys.permission(authorization[7:].strip())
        if permission is None:
            return problem(403, "invalid_api_key", "API key is invalid")
        if permission == "sending_access" and (request.method, request.path) != ("POST", "/emails"):
            text = "This API key is restricted to only send emails"
            return problem(401, "restricted_api_key", text)
        return None

    def _send(self, request: Request, pause: Pause) -> Response:
        key = request.headers.get("Idempotency-Key")
        if key is not None and not 1 <= len(key) <= KEY_MAX_CHARS:
            text = "The idempotency key must be between 1 and 256 characters long."
            pause()
            return problem(400, "invalid_idempotency_key", text)
        refusal = self._claim(key, request.body) or _invalid(request)
        if refusal is not None:
            pause()
            if refusal.status not in (200, 409):
                self._release(key)
            return refusal
        mail = Mail(str(uuid.uuid4()), self._clock(), request.json(), dict(request.headers))
        with self._lock:
            self._mails[mail.id] = mail
        # Until the answer is out, the key counts as in progress.
        pause()
        with self._lock:
            if key is not None and key in self._keys:
                self._keys[key].id = mail.id
        return as_json({"id": mail.id})

    def _claim(self, key: str | None, body: bytes) -> Response | None:
        """Take the key for this body; the answer when it is taken already."""
        if key is None:
            return None
        with self._lock:
            known = self._keys.get(key)
            if known is None or self._clock() - known.at >= KEY_LIFETIME_S:
                self._keys[key] = _Sent(_canonical(body), self._clock())
                return None
            if known.body != _canonical(body):
                text = "Same idempotency key used with a different request payload."
                return problem(409, "invalid_idempotent_request", text)
            if known.id is None:
                text = "Same idempotency key used while original request is still in progress."
                return problem(409, "concurrent_idempotent_requests", text)
            response = as_json({"id": known.id})
            response.outcome = "replayed"
            return response

    def _release(self, key: str | None) -> None:
        with self._lock:
            if key is not None:
                self._keys.pop(key, None)


def problem(status: int, name: str, message: str) -> Response:
    return as_json({"statusCode": status, "name": name, "message": message}, status)


def _canonical(body: bytes) -> bytes:
    """The payload without the accidents of its writing."""
    try:
        return json.dumps(json.loads(body), sort_keys=True).encode()
    except (ValueError, RecursionError):
        return body


def _invalid(request: Request) -> Response | None:
    """The refusal of a mail that Resend would not take."""
    fields = request.parsed_body()
    if not isinstance(fields, dict):
        return problem(400, "validation_error", "The request body is not valid JSON.")
    for name in ("from", "to", "subject"):
        if not fields.get(name):
            return problem(422, "missing_required_field", f"Missing `{name}` field.")
    if not any(fields.get(name) for name in ("html", "text", "react", "template")):
        return problem(422, "missing_required_field", "Missing `html` or `text` field.")
    for name in ("from", "to", "cc", "bcc", "reply_to"):
        addresses = fields.get(name) or []
        listed = addresses if isinstance(addresses, list) else [addresses]
        if not all(isinstance(address, str) and _is_mailbox(address) for address in listed):
            text = (
                f"Invalid `{name}` field. The email address needs to follow the "
                "`email@example.com` or `Name <email@example.com>` format."
            )
            return problem(422, "validation_error", text)
    if isinstance(fields["to"], list) and len(fields["to"]) > MAX_RECIPIENTS:
        return problem(422, "validation_error", "The `to` field may hold 50 recipients at most.")
    if not isinstance(fields["subject"], str) or re.search(r"[\r\n]", fields["subject"]):
        return problem(422, "validation_error", "The `\\n` is not allowed in the `subject` field.")
    return None


def _is_mailbox(text: str) -> bool:
    """Names as they like; addresses in ASCII alone, so domains in punycode."""
    return bool(_MAILBOX.match(text)) and text.rpartition("<")[2].isascii()


def _mail_to_json(mail: Mail) -> dict[str, Any]:
    """A mail as `GET /emails/{id}` answers it."""
    written = mail.fields
    return {
        "object": "email",
        "id": mail.id,
        "to": _listed(written.get("to")),
        "from": written.get("from"),
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(mail.at)),
        "subject": written.get("subject"),
        "html": written.get("html"),
        "text": written.get("text"),
        "bcc": _listed(written.get("bcc")),
        "cc": _listed(written.get("cc")),
        "reply_to": _listed(written.get("reply_to")),
        "headers": written.get("headers"),
        "tags": written.get("tags"),
        "last_event": "delivered",
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _article(mail: Mail) -> str:
    written = mail.fields
    names = ("from", "to", "cc", "bcc", "reply_to")
    facts = [(name, ", ".join(map(str, _listed(written.get(name))))) for name in names]
    facts += [("sent", pages.format_time(mail.at)), ("id", mail.id)]
    facts += [(str(name), str(text)) for name, text in (written.get("headers") or {}).items()]
    parts = []
    if written.get("text"):
        parts.append(pages.text_part("Text", str(written["text"]), opened=not written.get("html")))
    if written.get("html"):
        parts.insert(0, pages.html_part("HTML", str(written["html"])))
    sent = "\n".join(f"{name}: {text}" for name, text in mail.headers.items())
    parts.append(pages.text_part("Request headers", sent))
    return pages.article(str(written.get("subject")), facts, *parts)
