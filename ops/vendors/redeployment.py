"""Build what serves once more, with the variables of now, and wait until the site answers as it."""

import time
from collections.abc import Callable

import httpx

from ops.progress import Waiting
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel

POLL_S = 0.5
FAILED_STATES = ("ERROR", "CANCELED", "DELETED", "BLOCKED")
CONSECUTIVE_ANSWERS = 3  # the edge moves one place after the other


def redeploy(
    vercel: Vercel, site: str, mark: str, report: Callable[[str], None], timeout_s: float
) -> str:
    """The deployment that serves from now on. Raises ApiError, in words.

    mark: by which a build that was begun is found again, should this be cut off and run again.
    """
    started = time.monotonic()
    serving, _ = vercel.production()
    deployment = vercel.redeploy(vercel.deployment(serving), mark)
    report(f"{deployment.id} is {deployment.state}")
    end = started + timeout_s
    wait_until_built(vercel, deployment.id, end)
    report(f"{deployment.id} is built ({time.monotonic() - started:.1f} s)")
    wait_until_serving(site, deployment.id, end)
    report(f"{deployment.id} serves ({time.monotonic() - started:.1f} s)")
    return deployment.id


def wait_until_built(vercel: Vercel, deployment_id: str, end: float) -> None:
    """Until it may serve. Raises ApiError with code `build` when the build failed."""

    def pending() -> str:
        deployment = vercel.deployment(deployment_id)
        if deployment.state in FAILED_STATES:
            words = f"{deployment_id} is {deployment.state}: see its log at Vercel, run this again"
            raise ApiError(0, "build", words)
        if deployment.state != "READY":
            return f"{deployment_id} is still {deployment.state}"
        if deployment.is_staged:  # after a rollback Vercel builds, and does not serve
            vercel.promote(deployment_id)
        return ""

    wait_for(pending, end)


def wait_until_serving(site: str, deployment_id: str, end: float) -> None:
    """Until the site itself answers as that deployment."""

    def pending() -> str:
        for _ in range(CONSECUTIVE_ANSWERS):
            if (answering := serving_deployment(site)) != deployment_id:
                return f"{deployment_id} is built, but {answering} answers"
        return ""

    wait_for(pending, end)


def wait_for(pending: Callable[[], str], end: float) -> None:
    """Poll until nothing is pending any more. pending: what is waited for, "" when nothing is.

    Raises ApiError after `end` (time.monotonic).
    """
    with Waiting("Vercel") as waiting:
        while words := pending():
            waiting.update(words)
            if time.monotonic() > end:
                raise ApiError(0, "timeout", f"{words}; what was done stays, run this again")
            time.sleep(POLL_S)


def serving_deployment(site: str) -> str:
    """The deployment that answers at the site's health check, or what happened instead."""
    headers = {"Accept": "application/health+json", "Cache-Control": "no-cache"}
    try:
        answer = httpx.get(f"{site}/api/health", headers=headers, timeout=5, trust_env=False)
        return str(answer.json()["serviceId"])
    except (httpx.TransportError, ValueError, LookupError, TypeError):
        return "no deployment"
