"""One round of finishing what waits: queued leads into Postgres, then mails on their way.

The cron makes rounds; an accepted lead makes a short one after its answer, so that no plan's
slow cron is the only engine. Any number of rounds may be made at once, and cut off anywhere.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from lib import backlog, outbox
from lib.intake import Means
from lib.leads import Desk
from lib.problems import CacheDown, NotConfigured

NUDGE_EVERY_S = 20.0
NUDGE_BUDGET_S = 4.0


class Found(NamedTuple):
    """What a round did. queue is None where Redis was down; cache_fault says how."""

    queue: backlog.Tally | None
    journaled: int
    mails: outbox.Tally
    cache_fault: str | None = None

    def facts(self) -> dict[str, object]:
        queue = self.queue and {
            "stored": self.queue.stored,
            "dead": self.queue.dead,
            "left": self.queue.left,
        }
        mails = {"sent": self.mails.sent, "delayed": self.mails.delayed, "dead": self.mails.dead}
        return {"queue": queue, "journaled": self.journaled, **mails}


def make(
    means: Means, desk: Desk, clock: Callable[[], datetime], *, queue_s: float, mails_s: float
) -> Found:
    """One round of at most queue_s and mails_s seconds. Raises DatabaseDown, NotConfigured."""
    queue, journaled, fault = None, 0, None
    run = means.database.run
    try:
        queue = backlog.drain(
            means.cache.run,
            run,
            means.vault,
            desk,
            clock,
            budget_s=queue_s,
            poison=means.database.poison,
            erasure_keys=means.erasure_keys,
        )
        journaled = backlog.catch_up(means.cache.run_all, run, means.vault)
    except (CacheDown, NotConfigured) as down:
        fault = str(down) or "redis is down"
    return Found(queue, journaled, outbox.deliver(run, means.mailer.send, clock, mails_s), fault)


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
