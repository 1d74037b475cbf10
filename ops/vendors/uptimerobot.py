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
PAGE = 200  # the most that is given at once
PAGES = 50
WINDOW_S = 60.0  # of the rate limit
MESSAGE_CHARS = 300

type Fields = dict[str, Any]


class Failed(Exception):
    """The text says what was asked and what came of it. It may have been done all the same."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the address it was given for, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Api:
    """url: with its version, as https://api.uptimerobot.com/v3.

    patience_s: the most that all waiting for the rate limit (free plan: 10 requests a minute)
    may take together.
    """

    def __init__(self, url: str, key: str, patience_s: float) -> None:
        self._url = url
        self._key = key
        self._patience_s = patience_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def monitors(self) -> list[Fields]:
        """Every monitor of the account, whoever made it."""
        found: list[Fields] = []
        cursor: str | None = None
        for _ in range(PAGES):
            asked = {"limit": PAGE} | ({"cursor": cursor} if cursor else {})
            page = self._ask("GET", f"/monitors?{urlencode(asked)}")
            try:
                found += page["data"]
                links = parse_qs(urlsplit(page["nextLink"] or "").query).get("cursor", [None])
            except (KeyError, TypeError, AttributeError) as fault:
                raise Failed("GET /monitors: answered something else than monitors") from fault
            if links[0] is None or links[0] == cursor:
                return found
            cursor = links[0]
        raise Failed(f"GET /monitors: more than {PAGES} pages")

    def contacts(self) -> list[int]:
        """Ids of those whom this account can tell."""
        found = self._ask("GET", "/user/alert-contacts")
        return [contact["id"] for contact in found]

    def create(self, fields: Fields) -> None:
        self._ask("POST", "/monitors", fields)

    def change(self, monitor_id: int, fields: Fields) -> None:
        self._ask("PATCH", f"/monitors/{monitor_id}", fields)

    def start(self, monitor_id: int) -> None:
        self._ask("POST", f"/monitors/{monitor_id}/start", {})

    def remove(self, monitor_id: int) -> None:
        self._ask("DELETE", f"/monitors/{monitor_id}")

    def _ask(self, method: str, path: str, body: Fields | None = None) -> Any:
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
                        self._wait(what, fault.headers.get("Retry-After"))
                        continue
                    raise Failed(f"{what}: {fault.code}, {_message(fault, body)}") from None
            except TimeoutError:
                raise Failed(f"{what}: no answer within {TIMEOUT_S} s") from None
            except (urllib.error.URLError, http.client.HTTPException, OSError) as fault:
                slow = isinstance(getattr(fault, "reason", None), TimeoutError)
                told = f"no answer within {TIMEOUT_S} s" if slow else "cannot be reached"
                raise Failed(f"{what}: {told}") from None
            except ValueError:
                raise Failed(f"{what}: its answer is no JSON") from None

    def _wait(self, what: str, retry_after: str | None) -> None:
        wait_s = WINDOW_S  # where it says nothing that can be used
        if retry_after and retry_after.isdecimal():
            wait_s = max(float(retry_after), 0.1)
        if wait_s > self._patience_s:
            raise Failed(f"{what}: 429, too many requests; try again in {wait_s:.0f} s")
        self._patience_s -= wait_s
        time.sleep(wait_s)


def _message(fault: urllib.error.HTTPError, body: Fields | None) -> str:
    """What the API says was wrong, without the headers' values that it was sent."""
    try:
        told = json.load(fault)
        words = told.get("message") or told.get("error") or fault.reason
    except (ValueError, AttributeError, OSError):
        words = fault.reason
    text = "; ".join(map(str, words)) if isinstance(words, list) else str(words)
    for secret in _secrets(body):
        text = text.replace(secret, "…")
    return text[:MESSAGE_CHARS]


def _secrets(body: Fields | None) -> Iterator[str]:
    for value in ((body or {}).get("customHttpHeaders") or {}).values():
        yield str(value)
        yield str(value).rpartition(" ")[2]
