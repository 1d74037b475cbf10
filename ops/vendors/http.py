"""JSON over HTTP to a vendor's management API: a deadline, and errors in words.

The rule a newcomer would break: only what may happen twice goes through `request_with_retries`.
No value that was sent is ever part of an error's text.
"""

import time
from collections.abc import Mapping
from typing import Any

import httpx

from ops import connections
from ops.command import Failed

TIMEOUT_S = 10.0
ATTEMPTS = 3
TRANSIENT_STATUSES = (0, 429, 500, 502, 503, 504)


class ApiError(Failed):
    """The vendor refused, or did not answer; the text is for a person. http_status 0: no answer."""

    def __init__(self, http_status: int, code: str, words: str) -> None:
        super().__init__(words)
        self.http_status, self.code = http_status, code


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
        """The JSON of the answer. Raises ApiError."""
        try:
            response = self._http.request(method, path, params=dict(query or {}), json=body)
        except httpx.TransportError as error:
            words = f"{self._vendor} cannot be used: {connections.explain_reason(error)}"
            raise ApiError(0, "no_answer", words) from error
        if response.is_success:
            return response.json() if response.content else {}
        code, message = _parse_error(response)
        words = f"{self._vendor} refused with {response.status_code} {code}: {message}"
        meaning = self._meanings.get(response.status_code)
        if meaning is None and response.status_code in (401, 403):
            meaning = connections.explain_status(response.status_code)
        if meaning:
            words += f" ({meaning})"
        raise ApiError(response.status_code, code, words)

    def request_with_retries(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        """For what may be done twice: short outages and rate limits are waited out."""
        for attempt in range(1, ATTEMPTS):
            try:
                return self.request(method, path, query, body)
            except ApiError as error:
                if error.http_status not in TRANSIENT_STATUSES:
                    raise
                time.sleep(0.2 * attempt)
        return self.request(method, path, query, body)


def _parse_error(response: httpx.Response) -> tuple[str, str]:
    """(code, message), in any of the shapes our vendors use."""
    try:
        body = response.json()
    except ValueError:
        return "-", "no reason given"
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        code = error.get("code") or error.get("name") or "-"
        return str(code), str(error.get("message") or "no reason given")
    return "-", str(error)
