"""A redeployment: production's build once more with today's variables, until the site serves it."""

import time
from collections.abc import Callable

import httpx

from ops.progress import WaitMessage
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel

POLL_S = 0.5
FAILED_STATES = ("ERROR", "CANCELED", "DELETED", "BLOCKED")
CONSECUTIVE_ANSWERS = 3  # the edge moves one place after the other


def redeploy(
    vercel: Vercel, site_url: str, mark: str, report: Callable[[str], None], timeout_s: float
) -> str:
    """The id of the deployment that serves from now on. Raises ApiError.

    mark: finds the build again, should this be interrupted and run once more.
    """
    started = time.monotonic()
    deadline = started + timeout_s
    serving, _ = vercel.production()
    deployment_id = vercel.redeploy(vercel.deployment(serving), mark).id
    reported = ""
    while (deployment := vercel.deployment(deployment_id)).state != "READY":
        if deployment.state in FAILED_STATES:
            words = f"{deployment_id} is {deployment.state}: see its log at Vercel"
            raise ApiError(0, "build", words)
        if deployment.state != reported:
            reported = deployment.state
            report(f"{deployment_id} is {reported}")
        _sleep_until(deadline, f"{deployment_id} is still {deployment.state}")
    report(f"{deployment_id} is built ({time.monotonic() - started:.1f} s)")
    if deployment.is_staged:  # after a rollback Vercel builds, and does not serve
        vercel.promote(deployment_id)
    in_a_row = 0
    while in_a_row < rollback.CONSECUTIVE_ANSWERS:
        answers = rollback.serving_deployment(site_url)
        in_a_row = in_a_row + 1 if answers == deployment_id else 0
        if not in_a_row:
            _sleep_until(deadline, f"{deployment_id} is built, but {answers} answers")
    report(f"{deployment_id} serves ({time.monotonic() - started:.1f} s)")
    return deployment_id


def _sleep_until(deadline: float, state: str) -> None:
    if time.monotonic() > deadline:
        raise ApiError(0, "timeout", f"{state}; what was done stays, run this again")
    time.sleep(POLL_S)
