"""Sentry's envelope endpoint (read 2026-11): a sink, and a page of what arrived."""

import gzip
import json
import threading
import time
import zlib
from collections import deque
from typing import Any

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages
from dev.vendors.fake_vendor import Pause

MAX_ENVELOPES = 1000


class Sentry:
    """Takes envelopes of any project whose public key is `public_key`."""

    name = "Sentry"

    def __init__(self, public_key: str) -> None:
        self._public_key = public_key
        self._lock = threading.Lock()
        self._envelopes: deque[tuple[float, dict[str, Any]]] = deque(maxlen=MAX_ENVELOPES)

    def respond(self, request: Request, pause: Pause) -> Response:
        response = self._take(request)
        pause()
        return response

    def failure(self, request: Request, status: int) -> Response:
        return as_json({"detail": "Internal Error", "causes": []}, status)

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        response = as_json({"detail": "rate limit"}, 429, retry_after=str(retry_after_s))
        response.headers["X-Sentry-Rate-Limits"] = f"{retry_after_s}::organization"
        return response

    def describe(self, request: Request) -> Any:
        try:
            return parse_envelope(_decompress(request))
        except (ValueError, EOFError, OSError, zlib.error) as fault:
            return {"unreadable": str(fault)}

    def forget(self) -> None:
        with self._lock:
            self._envelopes.clear()

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        with self._lock:
            envelopes = list(reversed(self._envelopes))
        articles = [_article(at, item) for at, envelope in envelopes for item in envelope["items"]]
        return pages.page("Sentry", f"{len(articles)} items, newest first.", articles)

    def _take(self, request: Request) -> Response:
        parts = request.path.strip("/").split("/")
        if len(parts) != 3 or parts[0] != "api" or parts[2] != "envelope":
            return as_json({"detail": "The requested resource does not exist"}, 404)
        if self._public_key not in request.headers.get("X-Sentry-Auth", "") + request.target:
            return as_json({"detail": "missing or unknown sentry_key"}, 403)
        envelope = self.describe(request)
        if "items" not in envelope:
            return as_json({"detail": "invalid event envelope", "causes": [str(envelope)]}, 400)
        with self._lock:
            self._envelopes.append((time.time(), envelope))
        return as_json({"id": envelope["header"].get("event_id")})


def parse_envelope(body: bytes) -> dict[str, Any]:
    """{"header": …, "items": [{"header": …, "payload": JSON or text}]}; ValueError if malformed."""
    line, _, rest = body.partition(b"\n")
    envelope: dict[str, Any] = {"header": json.loads(line), "items": []}
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        if "length" in header:
            payload, rest = rest[: header["length"]], rest[header["length"] :].lstrip(b"\n")
        else:
            payload, _, rest = rest.partition(b"\n")
        envelope["items"].append({"header": header, "payload": _payload(payload)})
    return envelope


def _payload(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return payload.decode(errors="replace")


def _decompress(request: Request) -> bytes:
    encoding = request.headers.get("Content-Encoding", "").lower()
    if encoding == "gzip":
        return gzip.decompress(request.body)
    if encoding == "deflate":
        return zlib.decompress(request.body)
    return request.body


def _article(at: float, item: dict[str, Any]) -> str:
    payload = item["payload"] if isinstance(item["payload"], dict) else {}
    facts = [
        ("at", pages.format_time(at)),
        ("type", str(item["header"].get("type"))),
        ("level", str(payload.get("level", ""))),
        ("release", str(payload.get("release", ""))),
        ("environment", str(payload.get("environment", ""))),
    ]
    payload_json = json.dumps(item["payload"], indent=2, ensure_ascii=False)
    return pages.article(_title(item, payload), facts, pages.text_part("Payload", payload_json))


def _title(item: dict[str, Any], payload: dict[str, Any]) -> str:
    for error in (payload.get("exception") or {}).get("values") or []:
        return f"{error.get('type')}: {error.get('value')}"
    message = payload.get("message") or (payload.get("logentry") or {}).get("message")
    return str(message or payload.get("transaction") or item["header"].get("type"))
