"""One round of finishing what waits: queued leads into Postgres, then mails on their way.

The cron makes rounds; an accepted lead makes a short one after its answer, so that no plan's
slow cron is the only engine. Any number of rounds may be made at once, and cut off anywhere.
"""

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

from lib.interfaces import Services
from lib.leads import outbox
from lib.leads import queue as lead_queue
from lib.leads.lead import Recipients
from lib.problems import CacheDown, DatabaseDown, NotConfigured

MIN_INTERVAL_S = 20.0
AFTER_RESPONSE_BUDGET_S = 4.0


class WorkerReport(NamedTuple):
    """What a round did. queue is None where Redis was down; cache_fault says how.

    faults: what failed for another reason than an outage, by step; the other steps were done.
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
        mails = {"sent": self.mails.sent, "delayed": self.mails.delayed, "dead": self.mails.dead,
                 "refused": self.mails.refused}  # fmt: skip
        facts: dict[str, object] = {"queue": queue, "journaled": self.journaled, **mails}
        if self.errors:
            facts["failed"] = sorted(self.errors)
        return facts


def process_pending(
    means: Services,
    desk: Recipients,
    clock: Callable[[], datetime],
    *,
    queue_s: float,
    mails_s: float,
) -> WorkerReport:
    """One round of at most queue_s and mails_s seconds. Raises DatabaseDown, NotConfigured."""
    faults: dict[str, Exception] = {}

    def attempt[R](step: str, work: Callable[[], R], otherwise: R) -> R:
        """A step whose failure, but for an outage, keeps no other step from being done."""
        try:
            return work()
        except (CacheDown, DatabaseDown, NotConfigured):
            raise
        except Exception as fault:  # noqa: BLE001 - told in `faults`
            faults[step] = fault
            return otherwise

    queue, journaled, cache_fault = None, 0, None
    run = means.database.run
    try:
        queue = attempt("queue", lambda: _drain_queue(means, desk, clock, queue_s), None)
        journaled = attempt(
            "journal",
            lambda: lead_queue.backfill_journal(means.cache.pipeline, run, means.cipher),
            0,
        )
    except (CacheDown, NotConfigured) as down:
        cache_fault = str(down) or "redis is down"
    mails = attempt(
        "mails",
        lambda: outbox.send_due(run, outbox.get_transport(means), clock, mails_s),
        outbox.DeliveryStats(),
    )
    if mails.error is not None:
        faults["mails"] = mails.error
    return WorkerReport(queue, journaled, mails, cache_fault, faults)


def _drain_queue(
    means: Services, desk: Recipients, clock: Callable[[], datetime], budget_s: float
) -> lead_queue.DrainStats:
    run = means.database.run

    def store_fault() -> str | None:
        from lib.monitoring import (
            statement_check,  # what a round that stores everything never needs
        )

        return statement_check.store_fault(partial(run, even_if_open=True), clock())

    return lead_queue.drain(
        means.cache.execute,
        run,
        means.cipher,
        desk,
        clock,
        budget_s=budget_s,
        store_fault=store_fault,
        erasure_keys=means.erasure_keys,
    )


class Throttle:
    """An instance's own pace: at most one short round every NUDGE_EVERY_S seconds."""

    def __init__(self) -> None:
        self._allowed_at = 0.0

    def allow(self) -> bool:
        now = time.monotonic()
        if now < self._allowed_at:
            return False
        self._allowed_at = now + MIN_INTERVAL_S
        return True
