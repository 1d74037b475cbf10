"""Deep health: checks every dependency in parallel, within one second.

Postgres is healthy only if it would store a lead (see statement_check); that it answers is not
enough. The rule a newcomer would break: a result contains no secret.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

from lib.interfaces import Services
from lib.leads import reconciliation
from lib.monitoring import backups, server_errors, statement_check
from lib.monitoring.backups import BackupStatus
from lib.problems import CacheDown, DatabaseDown, NotConfigured, SlackError, TransientMailError

DEADLINE_S = 1.0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """status: healthy, degraded or unhealthy. services: an outcome each, and its milliseconds."""

    status: str
    services: dict[str, object]
    reconciliation: dict[str, object] | None


def check_all(services: Services, now: datetime) -> HealthReport:
    """What answers within DEADLINE_S; "silent" for what does not."""
    # Every client is loaded before the deadline starts: a cold start is no dependency's fault.
    for name in ("database", "cache", "cipher", "mailer", "slack"):
        with suppress(NotConfigured):  # its check reports it
            getattr(services, name)
    checks = {
        "database": _Check(partial(_database, services, now)),
        "outbox": _Check(partial(_statements, services, "outbox_refused", now), "ready"),
        "products": _Check(partial(_statements, services, "products_refused", now), "ready"),
        "redis": _Check(lambda: services.cache.ping()),  # noqa: PLW0108 - may be unconfigured
        "encryption_key": _Check(lambda: services.cipher and None, "configured"),
        "mail": _Check(lambda: _refused(services.mailer.api_key_error(timeout_s=DEADLINE_S))),
        "slack": _Check(lambda: _refused(services.slack.bot_error())),
        "sentry": _Check(lambda: services.sentry_dsn and None, "configured"),
    }
    ledger = _Check(
        lambda: reconciliation.reconcile(services.cache.pipeline, services.database.run, now)
    )
    ages = _Check(lambda: backups.load_status(services.database.run, now))
    deadline = time.monotonic() + DEADLINE_S
    for check in (*checks.values(), ledger, ages):
        check.thread.join(max(0.0, deadline - time.monotonic()))
    outcomes: dict[str, object] = {}
    for name, check in checks.items():
        outcomes |= {name: check.outcome, f"{name}_ms": check.took_ms}
    figures = ledger.result if isinstance(ledger.result, reconciliation.Reconciliation) else None
    backup = ages.result if isinstance(ages.result, BackupStatus) else None
    outcomes |= backup.labels if backup else dict.fromkeys(backups.LABELS, ages.outcome)
    healthy = all(check.outcome == check.expected for check in checks.values())
    healthy &= figures is not None and figures.balanced and backup is not None and backup.is_fresh
    status = "healthy" if healthy else "degraded"
    if checks["database"].outcome != "connected":
        status = "unhealthy"
    return HealthReport(status, outcomes, None if figures is None else asdict(figures))


def _database(services: Services, now: datetime) -> str | None:
    services.database.ping(budget_s=DEADLINE_S)  # although the circuit breaker is open
    return _statements(services, "store_refused", now)


def _statements(services: Services, rule: str, now: datetime) -> str | None:
    fault = statement_check.find_fault(services.database.run, rule, now)
    return fault and f"{statement_check.CHECKS[rule].consequence}: {fault}"


def _refused(error: str | None) -> str | None:
    return error and f"refused: {error}"


class _Check:
    """One check in a thread of its own, which may outlive the response.

    check: returns a fault in words, or what was read; None when all is well. outcome: `expected`
    when all is well.
    """

    def __init__(self, check: Callable[[], Any], expected: str = "connected") -> None:
        self.expected = expected
        self.outcome = "silent"
        self.took_ms: float | None = None
        self.result: Any = None
        self._check = check
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            self.result = self._check()
            outcome = self.result if isinstance(self.result, str) else self.expected
        except NotConfigured as error:
            outcome = f"unconfigured: {error}"
        except (CacheDown, DatabaseDown, SlackError, TransientMailError):
            outcome = "disconnected"
        except server_errors.server_errors() as error:
            outcome = f"refused: {server_errors.describe_error(error)}"
        self.took_ms = round((time.perf_counter() - started) * 1000, 1)
        self.outcome = outcome
