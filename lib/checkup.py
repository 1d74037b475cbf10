"""Asking every dependency how it is: all at once, a second each, in words without secrets."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from lib import ledger, recovery
from lib.intake import Means
from lib.problems import CacheDown, DatabaseDown, NotConfigured

DEADLINE_S = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """status: healthy, degraded or unhealthy. services: a word each, and its milliseconds."""

    status: str
    services: dict[str, object]
    ledger: dict[str, object] | None


def look(means: Means, now: datetime) -> Found:
    """Every answer that came within DEADLINE_S; "silent" for those that did not."""
    _build(means)
    asked = {
        "database": _Asked(lambda: means.database.ping(budget_s=DEADLINE_S)),
        "redis": _Asked(lambda: means.cache.ping()),  # noqa: PLW0108 - it may have no address
        "encryption_key": _Asked(lambda: means.vault, "configured"),
        "mail": _Asked(lambda: means.mailer, "configured"),
        "ledger": _Asked(lambda: ledger.read(means.cache.run_all, means.database.run, now)),
        "recovery": _Asked(lambda: recovery.standing(means.database.run, now)),
    }
    end = time.monotonic() + DEADLINE_S
    for one in asked.values():
        one.thread.join(max(0.0, end - time.monotonic()))
    read, aged = asked.pop("ledger"), asked.pop("recovery")
    services: dict[str, object] = {}
    for name, one in asked.items():
        services[name] = one.word
        services[f"{name}_ms"] = one.took_ms
    ages = aged.result if isinstance(aged.result, recovery.Standing) else None
    services |= ages.words if ages else {"backup": aged.word, "restore_drill": aged.word}
    book = read.result if isinstance(read.result, ledger.Ledger) else None
    well = all(one.word == one.good for one in asked.values()) and (
        book is not None and book.balanced and ages is not None and ages.fresh
    )
    status = "healthy" if well else "degraded"
    if asked["database"].word != "connected":
        status = "unhealthy"
    return Found(status, services, None if book is None else asdict(book))


class _Asked:
    """One question on its way in a thread of its own, which may outlive the answer."""

    def __init__(self, ask: Callable[[], Any], good: str = "connected") -> None:
        self.good = good
        self.word = "silent"
        self.took_ms: float | None = None
        self.result: Any = None
        self._ask = ask
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            self.result = self._ask()
            word = self.good
        except NotConfigured as fault:
            word = f"unconfigured: {fault}"
        except (CacheDown, DatabaseDown):
            word = "disconnected"
        self.took_ms = round((time.perf_counter() - started) * 1000, 1)
        self.word = word


def _build(means: Means) -> None:
    """Load every adapter before the clock starts: a cold start is no dependency's fault."""
    for name in ("database", "cache", "vault", "mailer"):
        with suppress(NotConfigured):  # said when it is asked
            getattr(means, name)
