"""The part of Vercel's REST API that purges its CDN, as documented (read 2026-11; never compared
with the live one): `POST /v1/edge-cache/invalidate-by-tags?projectIdOrName=…` with
`{"tags": […]}`, 1 to 16 of at most 256 characters.
"""

import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dev import pages
from dev.standin import Pause
from dev.web import Request, Response, as_json

PATH = "/v1/edge-cache/invalidate-by-tags"


class VercelApi:
    name = "Vercel"

    def __init__(self, token: str) -> None:
        self._token = token
        self._lock = threading.Lock()
        self._purged: list[str] = []

    def respond(self, request: Request, pause: Pause) -> Response:
        response = self._purge(request)
        pause()
        return response

    def failure(self, request: Request, status: int) -> Response:
        return _refused("internal_server_error", status)

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        body = {"error": {"code": "rate_limited", "message": "Too many requests"}}
        return as_json(body, 429, retry_after=str(retry_after_s))

    def describe(self, request: Request) -> Any:
        return request.parsed_body()

    def forget(self) -> None:
        with self._lock:
            self._purged.clear()

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        return pages.page("Vercel's API", f"{len(self._purged)} tags purged.", ())

    def _purge(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return _refused("forbidden", 403)
        if request.method != "POST" or request.path != PATH:
            return _refused("not_found", 404)
        body = request.parsed_body()
        tags = body.get("tags") if isinstance(body, dict) else None
        if isinstance(tags, str):
            tags = tags.split(",")
        sound = isinstance(tags, list) and all(
            isinstance(tag, str) and 0 < len(tag) <= 256 for tag in tags
        )
        if not sound or not 1 <= len(tags or ()) <= 16:
            return _refused("bad_request", 400)
        if "projectIdOrName" not in parse_qs(urlsplit(request.target).query):
            return _refused("bad_request", 400)
        with self._lock:
            self._purged += tags or []
        return as_json({}, 200)


def _refused(code: str, status: int) -> Response:
    return as_json({"error": {"code": code, "message": code}}, status)
