"""Cloudflare Turnstile: whether the page's challenge was solved by a person. Optional.

Turnstile down never refuses a lead: it goes to review, as one whose challenge failed does.
"""

import httpx

from lib.problems import ChallengeDown

CONNECT_S, ANSWER_S = 0.3, 0.6


class Turnstile:
    """One site's secret. url: the address of siteverify."""

    def __init__(self, secret: str, url: str) -> None:
        self._secret = secret
        self._url = url

    def passed(self, token: str, address: str | None, attempt: str) -> bool:
        """Whether the token is good. A token is good once; repeats of one `attempt` (a UUID) count
        as that once. Raises ChallengeDown."""
        form = {"secret": self._secret, "response": token, "idempotency_key": attempt}
        if address is not None:
            form["remoteip"] = address
        try:
            answer = httpx.post(
                self._url, data=form, timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S)
            )
            return answer.json()["success"] is True
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as fault:
            raise ChallengeDown from fault
