"""Cloudflare Turnstile, optional: whether the form's challenge was solved by a person.

Turnstile down never rejects a lead nor makes it spam: a person reviews it.
"""

from lib.http_client import Client, RequestFailed
from lib.problems import TurnstileDown

CONNECT_TIMEOUT_S, RESPONSE_TIMEOUT_S = 0.3, 0.6

# Error codes about the visitor's token; every other one is about us, of Cloudflare, or of a
# token that was good and too old (developers.cloudflare.com/turnstile, read 2026-11).
_TOKEN_ERRORS = {"invalid-input-response", "missing-input-response"}


class Turnstile:
    """One site's secret. url: the address of siteverify."""

    def __init__(self, secret: str, url: str) -> None:
        self._secret = secret
        self._url = url
        self._client = Client(connect_s=CONNECT_TIMEOUT_S, response_s=RESPONSE_TIMEOUT_S)

    def close(self) -> None:
        self._client.close()

    def verify(self, token: str, address: str | None, attempt: str) -> bool:
        """Whether the token is good. A token is good once; repeats of one `attempt` (a UUID) count
        as that once. Raises TurnstileDown where nothing can be said of the visitor."""
        form = {"secret": self._secret, "response": token, "idempotency_key": attempt}
        if address is not None:
            form["remoteip"] = address
        try:
            answer = self._client.post(self._url, data=form).json()
            if answer["success"] is True:
                return True
            if not _TOKEN_ERRORS.issuperset(answer["error-codes"]):
                raise TurnstileDown
        except (*RequestFailed, LookupError, TypeError, ValueError, RecursionError) as error:
            raise TurnstileDown from error
        return False
