"""One round of finishing what waits: queued leads into Postgres, then mails on their way.

The cron makes rounds; an accepted lead makes a short one after its answer, so that no plan's
slow cron is the only engine. Any number of rounds may be made at once, and cut off anywhere.
"""

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

from lib.leads import outbox
from lib.leads import queue as lead_queue
from lib.leads.repository import Desk
from lib.leads.service import Means
from lib.problems import CacheDown, DatabaseDown, NotConfigured

NUDGE_EVERY_S = 20.0
NUDGE_BUDGET_S = 4.0


class Found(NamedTuple):
    """What a round did. queue is None where Redis was down; cache_fault says how.

    faults: what failed for another reason than an outage, by step; the other steps were done.
    """

    queue: lead_queue.Tally | None
    journaled: int
    mails: outbox.Tally
    cache_fault: str | None = None
    faults: dict[str, Exception] = {}

    def facts(self) -> dict[str, object]:
        queue = self.queue and {
            "stored": self.queue.stored,
            "dead": self.queue.dead,
            "left": self.queue.left,
            **({"fault": self.queue.fault} if self.queue.fault else {}),
        }
        mails = {"sent": self.mails.sent, "delayed": self.mails.delayed, "dead": self.mails.dead,
                 "refused": self.mails.refused}  # fmt: skip
        facts: dict[str, object] = {"queue": queue, "journaled": self.journaled, **mails}
        if self.faults:
            facts["failed"] = sorted(self.faults)
        return facts


def make(
    means: Means, desk: Desk, clock: Callable[[], datetime], *, queue_s: float, mails_s: float
) -> Found:
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
        queue = attempt("queue", lambda: _drain(means, desk, clock, queue_s), None)
        journaled = attempt(
            "journal", lambda: lead_queue.catch_up(means.cache.run_all, run, means.vault), 0
        )
    except (CacheDown, NotConfigured) as down:
        cache_fault = str(down) or "redis is down"
    mails = attempt(
        "mails",
        lambda: outbox.deliver(run, outbox.way_of(means), clock, mails_s),
        outbox.Tally(),
    )
    if mails.fault is not None:
        faults["mails"] = mails.fault
    return Found(queue, journaled, mails, cache_fault, faults)


def _drain(
    means: Means, desk: Desk, clock: Callable[[], datetime], budget_s: float
) -> lead_queue.Tally:
    run = means.database.run

    def store_fault() -> str | None:
        from lib.monitoring import (
            statement_check,  # what a round that stores everything never needs
        )

        return statement_check.store_fault(partial(run, even_if_open=True), clock())

    return lead_queue.drain(
        means.cache.run,
        run,
        means.vault,
        desk,
        clock,
        budget_s=budget_s,
        store_fault=store_fault,
        erasure_keys=means.erasure_keys,
    )


class Nudge:
    """An instance's own pace: at most one short round every NUDGE_EVERY_S seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + NUDGE_EVERY_S
        return True
