"""The worker: drains the queue into Postgres, completes the journal, sends e-mails that are due.

The cron runs it; an accepted lead runs it shortly after its answer, so that a plan with a slow cron
still delivers. Any number may run at once, and be killed anywhere.
"""

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

from lib.interfaces import Services, StoreCheck
from lib.leads import outbox
from lib.leads import queue as lead_queue
from lib.leads.lead import Recipients
from lib.problems import CacheDown, DatabaseDown, NotConfigured

MIN_INTERVAL_S = 20.0
AFTER_RESPONSE_BUDGET_S = 4.0


class WorkerReport(NamedTuple):
    """queue: None while Redis is down; cache_error says why.

    errors: of steps that failed for another reason than an outage; the other steps were done.
    """

    queue: lead_queue.DrainStats | None
    journaled: int
    mails: outbox.DeliveryStats
    cache_error: str | None = None
    errors: dict[str, Exception] = {}

    def as_dict(self) -> dict[str, object]:
        queue = self.queue and {
            "stored": self.queue.stored,
            "dead": self.queue.dead,
            "left": self.queue.left,
            **({"fault": self.queue.database_error} if self.queue.database_error else {}),
        }
        failed = {"failed": sorted(self.errors)} if self.errors else {}
        return {"queue": queue, "journaled": self.journaled, **self.mails.as_dict(), **failed}


def process_pending(
    services: Services, recipients: Recipients, clock: Callable[[], datetime], *, queue_s: float,
    mails_s: float, find_store_fault: StoreCheck,
) -> WorkerReport:  # fmt: skip
    """Runs at most queue_s and mails_s seconds. Raises DatabaseDown, NotConfigured.

    find_store_fault: called after a refused lead; it says whether Postgres would refuse any.
    """
    errors: dict[str, Exception] = {}

    def attempt[R](step: str, work: Callable[[], R], fallback: R) -> R:
        """Unless it is an outage, one step's error must not prevent the next."""
        try:
            return work()
        except (CacheDown, DatabaseDown, NotConfigured):
            raise
        except Exception as error:  # noqa: BLE001 - reported in `errors`
            errors[step] = error
            return fallback

    queue, journaled, cache_error = None, 0, None
    drain = partial(lead_queue.drain, services, recipients, clock, budget_s=queue_s,
                    find_store_fault=find_store_fault)  # fmt: skip
    try:
        queue = attempt("queue", drain, None)
        journaled = attempt("journal", lambda: lead_queue.backfill_journal(services), 0)
    except (CacheDown, NotConfigured) as down:
        cache_error = str(down) or "redis is down"
    delivery = outbox.Delivery(services.database.run, outbox.get_transport(services), clock)
    mails = attempt("mails", lambda: delivery.send_due(mails_s), delivery.stats)
    if mails.error is not None:
        errors["mails"] = mails.error
    return WorkerReport(queue, journaled, mails, cache_error, errors)


class Throttle:
    """At most one run every MIN_INTERVAL_S seconds on one instance."""

    def __init__(self) -> None:
        self._allowed_at = 0.0

    def allow(self) -> bool:
        now = time.monotonic()
        if now < self._allowed_at:
            return False
        self._allowed_at = now + MIN_INTERVAL_S
        return True
