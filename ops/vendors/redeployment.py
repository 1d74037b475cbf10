"""Build what serves once more, with the variables of now, and wait until the site answers as it."""

import time
from collections.abc import Callable

from ops.incidents import rollback
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel

POLL_S = 0.5
FAILED_STATES = ("ERROR", "CANCELED", "DELETED", "BLOCKED")


def redeploy(
    vercel: Vercel, site: str, mark: str, say: Callable[[str], None], timeout_s: float
) -> str:
    """The deployment that serves from now on. Raises Refused, in words.

    mark: by which a build that was begun is found again, should this be cut off and run again.
    """
    started = time.monotonic()
    end = started + timeout_s
    serving, _ = vercel.production()
    made = vercel.redeploy(vercel.deployment(serving), mark)
    seen = ""
    while (state := vercel.deployment(made.id)).state != "READY":
        if state.state in FAILED_STATES:
            raise ApiError(0, "build", f"{made.id} is {state.state}: see its log at Vercel")
        if state.state != seen:
            seen = state.state
            say(f"{made.id} is {seen}")
        _sleep_until(end, f"{made.id} is still {state.state}")
    say(f"{made.id} is built ({time.monotonic() - started:.1f} s)")
    if state.is_staged:  # after a rollback Vercel builds, and does not serve
        vercel.promote(made.id)
    in_a_row = 0
    while in_a_row < rollback.CONSECUTIVE_ANSWERS:
        answers = rollback.serving_deployment(site)
        in_a_row = in_a_row + 1 if answers == made.id else 0
        if answers != made.id:
            _sleep_until(end, f"{made.id} is built, but {answers} answers")
    say(f"{made.id} serves ({time.monotonic() - started:.1f} s)")
    return made.id


def _sleep_until(end: float, words: str) -> None:
    if time.monotonic() > end:
        raise ApiError(0, "timeout", f"{words}; what was done stays, run this again")
    time.sleep(POLL_S)
