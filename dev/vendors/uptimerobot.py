"""UptimeRobot's API v3, the part about monitors, as its OpenAPI document has it (read 2026-11-24;
never compared with the live one): cursors, the free plan's rate limit, names with HTML's escapes.

`pretend` makes it lie: it answers as if it had done what it was asked, and keeps nothing.
"""

import html
import threading
import time
from collections import deque
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages
from dev.vendors.fake_vendor import Pause

PREFIX = "/v3"
REQUESTS, WINDOW_S = 10, 60.0  # the free plan
PAGE = 50
CONTACTS = (7001, 7002)

_COMMON = {"friendlyName", "type", "url", "interval", "timeout"}
_KEYWORD = {"keywordType", "keywordCaseType", "keywordValue"}
_FIELDS = _COMMON | _KEYWORD | {
    "httpMethodType", "followRedirections", "successHttpResponseCodes", "customHttpHeaders",
    "assignedAlertContacts", "tagNames",
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "httpMethodType": "HEAD",
    "followRedirections": True,
    "successHttpResponseCodes": ["2xx", "3xx"],
    "customHttpHeaders": None,
    "assignedAlertContacts": [],
    "keywordType": None,
    "keywordCaseType": None,
    "keywordValue": None,
    "tags": [],
}


class UptimeRobot:
    name = "UptimeRobot"

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        with self._lock:
            self.pretend = False
            self.requests, self.window_s = REQUESTS, WINDOW_S
            self.monitors: dict[int, dict[str, Any]] = {}
            self._asked: deque[float] = deque()
            self._next_id = 800_000_001

    def respond(self, request: Request, pause: Pause) -> Response:
        with self._lock:
            response = self._answer(request)
        pause()
        return response

    def failure(self, request: Request, status: int) -> Response:
        return _refused(status, "Internal server error")

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        response = _refused(429, "ThrottlerException: Too Many Requests")
        response.headers["Retry-After"] = str(retry_after_s)
        return response

    def describe(self, request: Request) -> Any:
        return request.parsed_body()

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        articles = [
            pages.article(monitor["friendlyName"], [(k, str(v)) for k, v in monitor.items()], "")
            for monitor in self.monitors.values()
        ]
        return pages.page("UptimeRobot", f"{len(articles)} monitors.", articles)

    def add(self, **fields: Any) -> int:
        """A monitor made by hand at UptimeRobot; its id."""
        fields = {"friendlyName": "Somebody's", "type": "HTTP", "url": "https://example.com",
                "interval": 300, "timeout": 30, **fields}  # fmt: skip
        with self._lock:
            return int(self._make(fields)["id"])

    def _answer(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _refused(401, "Unauthorized")
        if (wait_s := self._over_the_limit()) > 0:
            return self.rate_limited(request, int(wait_s) + 1)
        parts = request.path.removeprefix(PREFIX).strip("/").split("/")
        if parts == ["user", "alert-contacts"] and request.method == "GET":
            return as_json([{"id": number, "status": "Active"} for number in CONTACTS])
        if parts == ["monitors"]:
            if request.method == "GET":
                return self._list(request)
            if request.method == "POST":
                return self._create(request.parsed_body())
        if len(parts) in (2, 3) and parts[0] == "monitors" and parts[1].isdigit():
            return self._monitor(request, int(parts[1]), parts[2:])
        return _refused(404, f"Cannot {request.method} {request.path}")

    def _over_the_limit(self) -> float:
        """Seconds until another request is let in."""
        now = time.monotonic()
        while self._asked and self._asked[0] <= now - self.window_s:
            self._asked.popleft()
        if len(self._asked) >= self.requests:
            return self._asked[0] + self.window_s - now
        self._asked.append(now)
        return 0

    def _list(self, request: Request) -> Response:
        query = parse_qs(urlsplit(request.target).query)
        limit = int(query.get("limit", [str(PAGE)])[0])
        after = int(query.get("cursor", ["0"])[0])
        if not 1 <= limit <= 200:
            return _refused(400, ["limit must not be greater than 200"])
        rest = sorted(number for number in self.monitors if number > after)
        page_ids, more = rest[:limit], len(rest) > limit
        link = f"https://api.uptimerobot.com/v3/monitors?cursor={page_ids[-1]}" if more else None
        return as_json(
            {"data": [self._monitor_to_json(number) for number in page_ids], "nextLink": link}
        )

    def _create(self, body: Any) -> Response:
        fields = body if isinstance(body, dict) else {}
        needed = _COMMON | (_KEYWORD if fields.get("type") == "KEYWORD" else set())
        faults = [f"{name} should not be empty" for name in sorted(needed - set(fields))]
        faults += _faults(fields)
        if fields.get("keywordCaseType", "CaseSensitive") not in (
            "CaseSensitive",
            "CaseInsensitive",
        ):
            faults.append("keywordCaseType must be one of CaseSensitive, CaseInsensitive")
        if faults:
            return _refused(400, faults)
        if "keywordCaseType" in fields:
            fields["keywordCaseType"] = int(fields["keywordCaseType"] != "CaseSensitive")
        if self.pretend:
            return as_json({**_DEFAULTS, **fields, "id": self._next_id, "status": "STARTED"}, 201)
        return as_json(self._monitor_to_json(self._make(fields)["id"]), 201)

    def _make(self, fields: dict[str, Any]) -> dict[str, Any]:
        monitor = {**_DEFAULTS, "status": "UP", **fields, "id": self._next_id}
        monitor["tags"] = [{"id": 1, "name": name} for name in monitor.pop("tagNames", [])]
        self.monitors[self._next_id] = monitor
        self._next_id += 1
        return monitor

    def _monitor(self, request: Request, number: int, verb: list[str]) -> Response:
        if number not in self.monitors:
            return _refused(404, "Monitor not found")
        monitor = dict(self.monitors[number]) if self.pretend else self.monitors[number]
        if request.method == "DELETE" and not verb:
            if not self.pretend:
                del self.monitors[number]
            return Response(200)
        if request.method == "POST" and verb in (["start"], ["pause"]):
            monitor["status"] = "STARTED" if verb == ["start"] else "PAUSED"
            return as_json(monitor, 201)
        if request.method == "PATCH" and not verb:
            fields = request.parsed_body()
            faults = _faults(fields) if isinstance(fields, dict) else ["no object"]
            if fields.get("keywordCaseType", 0) not in (0, 1):
                faults.append("keywordCaseType must be one of 0, 1")
            if faults:
                return _refused(400, faults)
            monitor |= fields
        elif request.method != "GET" or verb:
            return _refused(404, f"Cannot {request.method} {request.path}")
        return as_json(monitor if self.pretend else self._monitor_to_json(number))

    def _monitor_to_json(self, number: int) -> dict[str, Any]:
        """As it is read: texts with HTML's escapes, headers in small letters and with one more."""
        monitor = dict(self.monitors[number])
        for name in ("friendlyName", "url", "keywordValue"):
            if monitor[name] is not None:
                monitor[name] = html.escape(monitor[name])
        if monitor["customHttpHeaders"]:
            custom = {name.lower(): text for name, text in monitor["customHttpHeaders"].items()}
            monitor["customHttpHeaders"] = {"content-type": "application/json", **custom}
        return monitor


def _faults(fields: dict[str, Any]) -> list[str]:
    faults = [f"property {name} should not exist" for name in sorted(set(fields) - _FIELDS)]
    if not 30 <= fields.get("interval", 30) <= 2_678_400:
        faults.append("interval must not be less than 30")
    if not 0 <= fields.get("timeout", 0) <= 60:
        faults.append("timeout must not be greater than 60")
    if len(fields.get("friendlyName", "")) > 250:
        faults.append("friendlyName must be shorter than or equal to 250 characters")
    headers = fields.get("customHttpHeaders") or {}
    wrong = [f"{name}: {text}" for name, text in headers.items() if not text.isprintable()]
    return faults + [f"customHttpHeaders is not valid, {line}" for line in wrong]


def _refused(status: int, message: str | list[str]) -> Response:
    return as_json({"message": message, "statusCode": status}, status)
