"""Asking every dependency how it is: all at once, a second each, in words without secrets.

Postgres is asked whether it would take a lead, not whether it answers: see statement_check.py.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from lib.leads import reconciliation, service
from lib.monitoring import backups, statement_check
from lib.problems import AlertDelayed, CacheDown, DatabaseDown, MailDelayed, NotConfigured

DEADLINE_S = 1.0


class Channel(Protocol):
    def refusal(self) -> str | None: ...


class Mailer(service.Mailer, Protocol):
    def refusal(self, *, timeout_s: float = ...) -> str | None: ...


class Means(service.Means, Protocol):
    """Any of them may raise NotConfigured."""

    @property
    def mailer(self) -> Mailer: ...
    @property
    def slack(self) -> Channel: ...
    @property
    def sentry_dsn(self) -> str: ...


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
        "database": _Asked(lambda: _database(means, now)),
        "outbox": _Asked(lambda: _outbox(means, now), "ready"),
        "products": _Asked(lambda: _products(means), "ready"),
        "redis": _Asked(lambda: means.cache.ping()),  # noqa: PLW0108 - it may have no address
        "encryption_key": _Asked(lambda: means.vault and None, "configured"),
        "mail": _Asked(lambda: _mail(means)),
        "slack": _Asked(lambda: _slack(means)),
        "sentry": _Asked(lambda: means.sentry_dsn and None, "configured"),
    }
    read = _Asked(lambda: reconciliation.read(means.cache.run_all, means.database.run, now))
    aged = _Asked(lambda: backups.standing(means.database.run, now))
    end = time.monotonic() + DEADLINE_S
    for one in (*asked.values(), read, aged):
        one.thread.join(max(0.0, end - time.monotonic()))
    services: dict[str, object] = {}
    for name, one in asked.items():
        services[name] = one.word
        services[f"{name}_ms"] = one.took_ms
    ages = aged.result if isinstance(aged.result, backups.Standing) else None
    services |= ages.words if ages else {"backup": aged.word, "restore_drill": aged.word}
    book = read.result if isinstance(read.result, reconciliation.Ledger) else None
    well = all(one.word == one.good for one in asked.values()) and (
        book is not None and book.balanced and ages is not None and ages.fresh
    )
    status = "healthy" if well else "degraded"
    if asked["database"].word != "connected":
        status = "unhealthy"
    return Found(status, services, None if book is None else asdict(book))


# ---------------------------------------------------------------- the questions


def _database(means: Means, now: datetime) -> str | None:
    means.database.ping(budget_s=DEADLINE_S)  # on a new connection, whatever is remembered
    fault = statement_check.store_fault(means.database.run, now)
    return fault and f"would refuse a lead: {fault}"


def _outbox(means: Means, now: datetime) -> str | None:
    fault = statement_check.outbox_fault(means.database.run, now)
    return fault and f"would send no mail: {fault}"


def _products(means: Means) -> str | None:
    fault = statement_check.products_fault(means.database.run)
    return fault and f"would show no product: {fault}"


def _mail(means: Means) -> str | None:
    fault = means.mailer.refusal(timeout_s=DEADLINE_S)
    return fault and f"refused: {fault}"


def _slack(means: Means) -> str | None:
    fault = means.slack.refusal()
    return fault and f"refused: {fault}"


class _Asked:
    """One question on its way in a thread of its own, which may outlive the answer.

    ask: a fault in words, or what was read; None is well.
    """

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
            word = self.result if isinstance(self.result, str) else self.good
        except NotConfigured as fault:
            word = f"unconfigured: {fault}"
        except (AlertDelayed, CacheDown, DatabaseDown, MailDelayed):
            word = "disconnected"
        except statement_check.refusals() as fault:
            word = f"refused: {statement_check.sentence(fault)}"
        self.took_ms = round((time.perf_counter() - started) * 1000, 1)
        self.word = word


def _build(means: Means) -> None:
    """Load every adapter before the clock starts: a cold start is no dependency's fault."""
    for name in ("database", "cache", "vault", "mailer", "slack"):
        with suppress(NotConfigured):  # said when it is asked
            getattr(means, name)
