"""UptimeRobot's API v3: monitors and who is told.

As its OpenAPI document has it (uptimerobot/uptimerobot-cli, release 0.3.0 of 2026-07, read
2026-11-24) and as its own Terraform provider uses it; never tried on a live account.

The rule a newcomer would break: what may have been done is not sent again. Only a 429 is, which
says that nothing was done; after anything else, list the monitors and see.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

TIMEOUT_S = 10
PAGE_SIZE = 200  # the most that is given at once
MAX_PAGES = 50
RATE_WINDOW_S = 60.0  # of the rate limit
MAX_MESSAGE_CHARS = 300

type Fields = dict[str, Any]


class ApiError(Exception):
    """The text says what was asked and what came of it. It may have been done all the same."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the address it was given for, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """url: with its version, as https://api.uptimerobot.com/v3.

    patience_s: the most that all waiting for the rate limit (free plan: 10 requests a minute)
    may take together.
    """

    def __init__(self, url: str, key: str, patience_s: float) -> None:
        self._url = url
        self._key = key
        self._patience_s = patience_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def list_monitors(self) -> list[Fields]:
        """Every monitor of the account, whoever made it."""
        found: list[Fields] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            asked = {"limit": PAGE_SIZE} | ({"cursor": cursor} if cursor else {})
            page = self._request("GET", f"/monitors?{urlencode(asked)}")
            try:
                found += page["data"]
                links = parse_qs(urlsplit(page["nextLink"] or "").query).get("cursor", [None])
            except (KeyError, TypeError, AttributeError) as fault:
                raise ApiError("GET /monitors: answered something else than monitors") from fault
            if links[0] is None or links[0] == cursor:
                return found
            cursor = links[0]
        raise ApiError(f"GET /monitors: more than {MAX_PAGES} pages")

    def list_contact_ids(self) -> list[int]:
        """Ids of those whom this account can tell."""
        found = self._request("GET", "/user/alert-contacts")
        return [contact["id"] for contact in found]

    def create(self, fields: Fields) -> None:
        self._request("POST", "/monitors", fields)

    def update(self, monitor_id: int, fields: Fields) -> None:
        self._request("PATCH", f"/monitors/{monitor_id}", fields)

    def start(self, monitor_id: int) -> None:
        self._request("POST", f"/monitors/{monitor_id}/start", {})

    def delete(self, monitor_id: int) -> None:
        self._request("DELETE", f"/monitors/{monitor_id}")

    def _request(self, method: str, path: str, body: Fields | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - a setting's http(s) address
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Accept": "application/json",
                "Authorization": f"Bearer {self._key}",
                **({} if body is None else {"Content-Type": "application/json"}),
            },
            method=method,
        )
        what = f"{method} {path.partition('?')[0]}"
        while True:
            try:
                with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                    text = answer.read()
                return json.loads(text) if text.strip() else None
            except urllib.error.HTTPError as fault:
                with fault:
                    if fault.code == 429:
                        self._wait_for_rate_limit(what, fault.headers.get("Retry-After"))
                        continue
                    raise ApiError(f"{what}: {fault.code}, {_error_message(fault, body)}") from None
            except TimeoutError:
                raise ApiError(f"{what}: no answer within {TIMEOUT_S} s") from None
            except (urllib.error.URLError, http.client.HTTPException, OSError) as fault:
                slow = isinstance(getattr(fault, "reason", None), TimeoutError)
                told = f"no answer within {TIMEOUT_S} s" if slow else "cannot be reached"
                raise ApiError(f"{what}: {told}") from None
            except ValueError:
                raise ApiError(f"{what}: its answer is no JSON") from None

    def _wait_for_rate_limit(self, what: str, retry_after: str | None) -> None:
        wait_s = RATE_WINDOW_S  # where it says nothing that can be used
        if retry_after and retry_after.isdecimal():
            wait_s = max(float(retry_after), 0.1)
        if wait_s > self._patience_s:
            raise ApiError(f"{what}: 429, too many requests; try again in {wait_s:.0f} s")
        self._patience_s -= wait_s
        time.sleep(wait_s)


def _error_message(fault: urllib.error.HTTPError, body: Fields | None) -> str:
    """What the API says was wrong, without the headers' values that it was sent."""
    try:
        told = json.load(fault)
        words = told.get("message") or told.get("error") or fault.reason
    except (ValueError, AttributeError, OSError):
        words = fault.reason
    text = "; ".join(map(str, words)) if isinstance(words, list) else str(words)
    for secret in _header_values(body):
        text = text.replace(secret, "…")
    return text[:MAX_MESSAGE_CHARS]


def _header_values(body: Fields | None) -> Iterator[str]:
    for value in ((body or {}).get("customHttpHeaders") or {}).values():
        yield str(value)
        yield str(value).rpartition(" ")[2]
