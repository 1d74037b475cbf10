"""JSON over HTTP to a vendor's management interface: a deadline, and refusals in words.

The rule a newcomer would break: `send` asks once; only what may happen twice goes by `repeat`.
No value that was sent is ever part of a refusal's text.
"""

import time
from collections.abc import Mapping
from typing import Any

import httpx

TIMEOUT_S = 10.0
ATTEMPTS = 3
TRANSIENT_STATUSES = (0, 429, 500, 502, 503, 504)


class ApiError(Exception):
    """The vendor said no, or nothing: its text is for a person. status 0: no answer."""

    def __init__(self, status: int, code: str, words: str) -> None:
        super().__init__(words)
        self.status, self.code = status, code


class JsonApi:
    """One vendor at one address. meanings: what a status says there, for a person."""

    def __init__(
        self,
        vendor: str,
        base_url: str,
        *,
        token: str = "",
        basic: tuple[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        meanings: Mapping[int, str] | None = None,
    ) -> None:
        self._vendor = vendor
        self._meanings = meanings or {}
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            auth=basic,
            params=dict(query or {}),
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def close(self) -> None:
        self._http.close()

    def request(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        """What it answers, as JSON. Raises Refused."""
        try:
            answer = self._http.request(method, path, params=dict(query or {}), json=body)
        except httpx.TransportError as fault:
            words = f"{self._vendor} does not answer ({type(fault).__name__})"
            raise ApiError(0, "no_answer", words) from fault
        if answer.is_success:
            return answer.json() if answer.content else {}
        code, message = _parse_error(answer)
        words = f"{self._vendor} refused with {answer.status_code} {code}: {message}"
        if meaning := self._meanings.get(answer.status_code):
            words += f" ({meaning})"
        raise ApiError(answer.status_code, code, words)

    def request_with_retries(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        """The same for what may be done twice: short outages and rate limits are waited out."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return self.request(method, path, query, body)
            except ApiError as refused:
                if not left or refused.status not in TRANSIENT_STATUSES:
                    raise
                time.sleep(0.2 * (ATTEMPTS - left))
        raise AssertionError("unreachable")


def _parse_error(answer: httpx.Response) -> tuple[str, str]:
    """(code, message), in any of the shapes our vendors use."""
    try:
        body = answer.json()
    except ValueError:
        return "-", "no reason given"
    told = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(told, dict):
        code = told.get("code") or told.get("name") or "-"
        return str(code), str(told.get("message") or "no reason given")
    return "-", str(told)
