"""Asking every dependency how it is: all at once, a second each, in words without secrets.

Postgres is asked whether it would take a lead, not whether it answers: see statement_check.py.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from lib.interfaces import Services
from lib.leads import reconciliation
from lib.monitoring import backups, statement_check
from lib.problems import CacheDown, DatabaseDown, NotConfigured, SlackError, TransientMailError

DEADLINE_S = 1.0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """status: healthy, degraded or unhealthy. services: a word each, and its milliseconds."""

    status: str
    services: dict[str, object]
    reconciliation: dict[str, object] | None


def check_all(means: Services, now: datetime) -> HealthReport:
    """Every answer that came within DEADLINE_S; "silent" for those that did not."""
    _load_clients(means)
    asked = {
        "database": _Check(lambda: _database(means, now)),
        "outbox": _Check(lambda: _outbox(means, now), "ready"),
        "products": _Check(lambda: _products(means), "ready"),
        "redis": _Check(lambda: means.cache.ping()),  # noqa: PLW0108 - it may have no address
        "encryption_key": _Check(lambda: means.cipher and None, "configured"),
        "mail": _Check(lambda: _email(means)),
        "slack": _Check(lambda: _slack(means)),
        "sentry": _Check(lambda: means.sentry_dsn and None, "configured"),
    }
    read = _Check(lambda: reconciliation.reconcile(means.cache.pipeline, means.database.run, now))
    aged = _Check(lambda: backups.load_status(means.database.run, now))
    end = time.monotonic() + DEADLINE_S
    for one in (*asked.values(), read, aged):
        one.thread.join(max(0.0, end - time.monotonic()))
    services: dict[str, object] = {}
    for name, one in asked.items():
        services[name] = one.outcome
        services[f"{name}_ms"] = one.took_ms
    ages = aged.result if isinstance(aged.result, backups.BackupStatus) else None
    services |= ages.labels if ages else {"backup": aged.outcome, "restore_drill": aged.outcome}
    book = read.result if isinstance(read.result, reconciliation.Reconciliation) else None
    well = all(one.outcome == one.expected for one in asked.values()) and (
        book is not None and book.balanced and ages is not None and ages.is_fresh
    )
    status = "healthy" if well else "degraded"
    if asked["database"].outcome != "connected":
        status = "unhealthy"
    return HealthReport(status, services, None if book is None else asdict(book))


# ---------------------------------------------------------------- the questions


def _database(means: Services, now: datetime) -> str | None:
    means.database.ping(budget_s=DEADLINE_S)  # on a new connection, whatever is remembered
    fault = statement_check.store_fault(means.database.run, now)
    return fault and f"would refuse a lead: {fault}"


def _outbox(means: Services, now: datetime) -> str | None:
    fault = statement_check.outbox_fault(means.database.run, now)
    return fault and f"would send no mail: {fault}"


def _products(means: Services) -> str | None:
    fault = statement_check.products_fault(means.database.run)
    return fault and f"would show no product: {fault}"


def _email(means: Services) -> str | None:
    fault = means.mailer.api_key_error(timeout_s=DEADLINE_S)
    return fault and f"refused: {fault}"


def _slack(means: Services) -> str | None:
    fault = means.slack.bot_error()
    return fault and f"refused: {fault}"


class _Check:
    """One question on its way in a thread of its own, which may outlive the answer.

    ask: a fault in words, or what was read; None is well.
    """

    def __init__(self, ask: Callable[[], Any], good: str = "connected") -> None:
        self.expected = good
        self.outcome = "silent"
        self.took_ms: float | None = None
        self.result: Any = None
        self._ask = ask
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            self.result = self._ask()
            word = self.result if isinstance(self.result, str) else self.expected
        except NotConfigured as fault:
            word = f"unconfigured: {fault}"
        except (SlackError, CacheDown, DatabaseDown, TransientMailError):
            word = "disconnected"
        except statement_check.server_errors() as fault:
            word = f"refused: {statement_check.describe_error(fault)}"
        self.took_ms = round((time.perf_counter() - started) * 1000, 1)
        self.outcome = word


def _load_clients(means: Services) -> None:
    """Load every adapter before the clock starts: a cold start is no dependency's fault."""
    for name in ("database", "cache", "cipher", "mailer", "slack"):
        with suppress(NotConfigured):  # said when it is asked
            getattr(means, name)
