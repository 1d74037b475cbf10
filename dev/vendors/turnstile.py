"""Cloudflare Turnstile's siteverify as documented (read 2026-11).

Tokens that begin with `good` pass, once each; a repeat passes with the same `idempotency_key`.
"""

import threading
from typing import Any
from urllib.parse import parse_qs

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages
from dev.vendors.fake_vendor import Pause

PATH = "/turnstile/v0/siteverify"


class Turnstile:
    name = "Turnstile"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[str, str] = {}

    def respond(self, request: Request, pause: Pause) -> Response:
        response = self._verify(self.describe(request))
        pause()
        return response

    def failure(self, request: Request, status: int) -> Response:
        return as_json({"success": False, "error-codes": ["internal-error"]}, status)

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        return as_json({"error": "rate limited"}, 429, retry_after=str(retry_after_s))

    def describe(self, request: Request) -> Any:
        kind = request.headers.get("Content-Type", "")
        if not kind.startswith("application/x-www-form-urlencoded"):
            return request.parsed_body()
        pairs = parse_qs(request.body.decode(errors="replace"))
        return {name: values[-1] for name, values in pairs.items()}

    def forget(self) -> None:
        with self._lock:
            self._used.clear()

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        return pages.page("Turnstile", f"{len(self._used)} tokens used.", ())

    def _verify(self, form: Any) -> Response:
        fields = form if isinstance(form, dict) else {}
        token, attempt = str(fields.get("response", "")), str(fields.get("idempotency_key", ""))
        if not fields.get("secret"):
            return _refused("missing-input-secret")
        if not token:
            return _refused("missing-input-response")
        if not token.startswith("good"):
            return _refused("invalid-input-response")
        with self._lock:
            if self._used.setdefault(token, attempt) != attempt or not attempt:
                return _refused("timeout-or-duplicate")
        return as_json({"success": True, "error-codes": [], "hostname": "localhost"})


def _refused(code: str) -> Response:
    return as_json({"success": False, "error-codes": [code]})
