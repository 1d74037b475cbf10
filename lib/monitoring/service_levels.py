"""Service levels: the handbook's services, their SLAs, and the figures that show them kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from lib import metrics
from lib.jakarta import WIB
from lib.monitoring.rollup import Aggregate

MIN_REQUESTS = 20  # fewer say nothing about a p95
SLA_SHARE = 0.95
HISTORY_DAYS = 90
WINDOWS = ("1h", "24h", "30d")


@dataclass(frozen=True, slots=True)
class Service:
    """A row of the handbook's catalogue. sla_ms: the bound of p95; None: nobody waits for it."""

    id: str
    name: str
    path: str
    sla_ms: int | None


SERVICES = (
    Service("leads", "Lead capture", "/api/leads", 1000),
    Service("products", "Product list", "/api/products", 500),
    Service("health", "Health check", "/api/health", 200),
    Service("rum", "Analytics", "/api/rum", None),
)

SLA_BUCKETS = {
    service.id: metrics.BUCKET_EDGES_MS.index(service.sla_ms)
    for service in SERVICES
    if service.sla_ms is not None
}
"""Service -> the last bucket inside its SLA."""


def figures(
    aggregates: Mapping[tuple[str, str], Aggregate],
    days: Mapping[tuple[date, str], tuple[int, int, int]],
    now: datetime,
) -> dict[str, dict[str, Any]]:
    """Service -> its windows and days, as the status page shows them.

    aggregates: by (window, service). days: (requests, errors, within the SLA) by (day, service).
    """
    return {
        service.id: {
            "windows": {
                name: _window_stats(service, aggregates.get((name, service.id))) for name in WINDOWS
            },
            "days": _day_history(service.id, days, now),
        }
        for service in SERVICES
    }


def _window_stats(service: Service, aggregate: Aggregate | None) -> dict[str, Any]:
    n = 0 if aggregate is None else aggregate.requests
    if aggregate is None or n < MIN_REQUESTS:
        return {"n": n, "p95_ms": None, "p95_between_ms": None, "within_sla": None,
                "verdict": "insufficient data", "error_rate": None}  # fmt: skip
    p95, low, high = metrics.quantile(aggregate.histogram, SLA_SHARE) or (0.0, 0, 0)
    if service.sla_ms is None:
        within = n - aggregate.errors
    else:
        within = metrics.count_within(aggregate.success_histogram, service.sla_ms)
    return {
        "n": n,
        "p95_ms": round(p95),
        "p95_between_ms": [low, high],
        "within_sla": round(within / n, 4),
        # Whole numbers: no rounding decides it.
        "verdict": "met" if within * 100 >= n * round(SLA_SHARE * 100) else "breached",
        "error_rate": round(aggregate.errors / n, 4),
    }


def _day_history(
    service: str, days: Mapping[tuple[date, str], tuple[int, int, int]], now: datetime
) -> list[dict[str, Any]]:
    today = now.astimezone(WIB).date()
    history = []
    for days_ago in reversed(range(HISTORY_DAYS)):
        day = today - timedelta(days=days_ago)
        n, errors, within = days.get((day, service), (0, 0, 0))
        history.append(
            {
                "day": day.isoformat(),
                "n": n,
                "within_sla": round(within / n, 4) if n else None,
                "error_rate": round(errors / n, 4) if n else None,
            }
        )
    return history
