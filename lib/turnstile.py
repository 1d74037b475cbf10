"""Cloudflare Turnstile: whether the page's challenge was solved by a person. Optional.

Turnstile down never refuses a lead: it goes to review, as one whose challenge failed does.
"""

from urllib.parse import urlencode

from lib.problems import ChallengeDown
from lib.rest import Rest, Unreached

CONNECT_S, ANSWER_S = 0.3, 0.6


class Turnstile:
    """One site's secret. url: the address of siteverify."""

    def __init__(self, secret: str, url: str) -> None:
        self._secret = secret
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        self._rest = Rest(url, headers, connect_s=CONNECT_S)

    def close(self) -> None:
        self._rest.close()

    def passed(self, token: str, address: str | None, attempt: str) -> bool:
        """Whether the token is good. A token is good once; repeats of one `attempt` (a UUID) count
        as that once. Raises ChallengeDown."""
        form = {"secret": self._secret, "response": token, "idempotency_key": attempt}
        if address is not None:
            form["remoteip"] = address
        try:
            answer = self._rest.post("", urlencode(form).encode(), within_s=ANSWER_S)
            return answer.json()["success"] is True
        except (Unreached, LookupError, TypeError, ValueError, RecursionError) as fault:
            raise ChallengeDown from fault
