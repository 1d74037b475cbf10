"""UptimeRobot's API v3: monitors and alert contacts.

As its OpenAPI document has it (uptimerobot/uptimerobot-cli, release 0.3.0 of 2026-07, read
2026-11-24) and as its own Terraform provider uses it; never tried on a live account.

The rule a newcomer would break: a request that may have been carried out is not sent again. Only
a 429 is, which says that nothing was done; after anything else, list the monitors and see.
"""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from ops import connections
from ops.progress import Waiting

TIMEOUT_S = 10
PAGE_SIZE = 200  # the most that is given at once
MAX_PAGES = 50
RATE_WINDOW_S = 60.0
MAX_MESSAGE_CHARS = 300

type Fields = dict[str, Any]


class ApiError(Exception):
    """The text says what was requested and what came of it. It may have been carried out."""


class Client:
    """url: with its version, as https://api.uptimerobot.com/v3.

    max_wait_s: the most that all waiting for the rate limit (free plan: 10 requests a minute) may
    take together.
    """

    def __init__(self, url: str, key: str, max_wait_s: float) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._wait_left_s = max_wait_s

    def list_monitors(self) -> list[Fields]:
        """Every monitor of the account, whoever made it."""
        monitors: list[Fields] = []
        query: Fields = {"limit": PAGE_SIZE}
        for _ in range(MAX_PAGES):
            page = self._request("GET", "/monitors", query)
            try:
                monitors += page["data"]
                next_link = urlsplit(page["nextLink"] or "").query
            except (KeyError, TypeError, AttributeError) as error:
                raise ApiError("GET /monitors: answered something else than monitors") from error
            [cursor] = parse_qs(next_link).get("cursor", [None])
            if cursor is None or cursor == query.get("cursor"):
                return monitors
            query["cursor"] = cursor
        raise ApiError(f"GET /monitors: more than {MAX_PAGES} pages")

    def list_contact_ids(self) -> list[int]:
        return [contact["id"] for contact in self._request("GET", "/user/alert-contacts")]

    def create(self, fields: Fields) -> None:
        self._request("POST", "/monitors", body=fields)

    def update(self, monitor_id: int, fields: Fields) -> None:
        self._request("PATCH", f"/monitors/{monitor_id}", body=fields)

    def start(self, monitor_id: int) -> None:
        self._request("POST", f"/monitors/{monitor_id}/start", body={})

    def delete(self, monitor_id: int) -> None:
        self._request("DELETE", f"/monitors/{monitor_id}")

    def _request(
        self, method: str, path: str, query: Fields | None = None, body: Fields | None = None
    ) -> Any:
        what = f"{method} {path}"
        while True:
            try:
                # It follows no redirect: the key goes to the address it was given for.
                response = httpx.request(
                    method,
                    self._url + path,
                    params=query,
                    json=body,
                    headers=self._headers,
                    timeout=TIMEOUT_S,
                    trust_env=False,
                )
            except httpx.TransportError as error:
                reason = connections.explain_reason(error)
                raise ApiError(f"{what}: UptimeRobot cannot be used: {reason}") from None
            if response.status_code != 429:
                break
            self._wait_for_rate_limit(what, response.headers.get("Retry-After", ""))
        if not response.is_success:
            message = _error_message(response, body)
            raise ApiError(f"{what}: {response.status_code}, {message}")
        try:
            return response.json() if response.content.strip() else None
        except ValueError:
            raise ApiError(f"{what}: its answer is no JSON") from None

    def _wait_for_rate_limit(self, what: str, retry_after: str) -> None:
        wait_s = max(float(retry_after), 0.1) if retry_after.isdecimal() else RATE_WINDOW_S
        if wait_s > self._wait_left_s:
            raise ApiError(f"{what}: 429, too many requests; try again in {wait_s:.0f} s")
        self._wait_left_s -= wait_s
        end = time.monotonic() + wait_s
        with Waiting("UptimeRobot's rate limit", wait_s) as waiting:
            while (left_s := end - time.monotonic()) > 0:
                waiting.update(f"{left_s:.0f} s are left")
                time.sleep(min(left_s, 1.0))


def _error_message(response: httpx.Response, body: Fields | None) -> str:
    """What the API says was wrong, without the header values that it was sent."""
    try:
        answer = response.json()
        message = answer.get("message") or answer.get("error") or response.reason_phrase
    except (ValueError, AttributeError):
        message = response.reason_phrase
    text = "; ".join(map(str, message)) if isinstance(message, list) else str(message)
    for secret in _header_values(body):
        text = text.replace(secret, "…")
    return text[:MAX_MESSAGE_CHARS]


def _header_values(body: Fields | None) -> Iterator[str]:
    for value in ((body or {}).get("customHttpHeaders") or {}).values():
        yield str(value)
        yield str(value).rpartition(" ")[2]
