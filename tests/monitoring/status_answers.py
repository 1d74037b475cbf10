"""Answers of /api/status as the document has them, for the page's tests.

Everything is counted from `now`, so that ages and the last 14 days mean what they say.
"""

import copy
import random
from datetime import UTC, datetime, timedelta
from typing import Any

type Answer = dict[str, Any]

SERVICES = {
    "leads": ("Lead capture", "/api/leads", 1000),
    "products": ("Products", "/api/products", 500),
    "health": ("Health check", "/api/health", 200),
    "rum": ("Vitals", "/api/rum", None),
}


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def window(n: int, p95_ms: int | None, within: float | None, errors: float | None) -> Answer:
    verdict = "insufficient data"
    if n >= 20:
        met = (within is None or within >= 0.95) and (errors or 0) <= 0.05
        verdict = "met" if met else "breached"
    return {
        "n": n,
        "p95_ms": p95_ms,
        "p95_between_ms": None if p95_ms is None else [int(p95_ms * 0.9), int(p95_ms * 1.08)],
        "within_sla": within,
        "verdict": verdict,
        "error_rate": errors,
    }


def day(name: str, n: int, within: float | None, errors: float | None) -> Answer:
    return {"day": name, "n": n, "within_sla": within, "error_rate": errors}


def days(now: datetime, sla_ms: int | None, seed: int) -> list[Answer]:
    """90 of them: unknown at first, some with few requests, one that missed, one bad."""
    chance = random.Random(seed)
    history = []
    for ago in range(89, -1, -1):
        name = (now + timedelta(hours=7) - timedelta(days=ago)).date().isoformat()
        within = None if sla_ms is None else round(chance.uniform(0.985, 1), 5)
        if ago > 70:
            history.append(day(name, 0, None, None))
        elif ago in (64, 33):
            history.append(day(name, 7, None if sla_ms is None else 0.857, 0.0))
        elif ago == 21 + seed:
            history.append(day(name, 812, None if sla_ms is None else 0.9126, 0.062))
        elif ago == 9 and seed == 0:
            history.append(day(name, 640, 0.31, 0.58))
        else:
            history.append(
                day(name, chance.randint(400, 2000), within, chance.choice((0.0, 0.0004)))
            )
    return history


def component(now: datetime, key: str, seed: int) -> Answer:
    name, path, sla_ms = SERVICES[key]
    p95 = None if sla_ms is None else sla_ms // 5
    within = None if sla_ms is None else 0.99996
    return {
        "id": key,
        "name": name,
        "description": path,
        "status": "operational",
        "sla_ms": sla_ms,
        "windows": {
            "1h": window(12, p95, within, 0.0),
            "24h": window(1290, p95, within, 0.0),
            "30d": window(38_120, p95 and p95 * 6, within and 0.9712, 0.00041),
        },
        "days": days(now, sla_ms, seed),
    }


def good_day(now: datetime | None = None) -> Answer:
    now = now or datetime.now(UTC)
    past = now - timedelta(days=9, hours=2)
    return {
        "page": {
            "name": "Alfa Beauty",
            "url": "https://alfabeauty.co.id",
            "time_zone": "Asia/Jakarta",
            "updated_at": iso(now),
        },
        "status": {"indicator": "none", "description": "All systems operational"},
        "components": [component(now, key, seed) for seed, key in enumerate(SERVICES)],
        "incidents": [
            incident(
                "INC-20261115-0305-database", "Leads were queued for a while", "critical", past,
                ("investigating", "A lead could not be stored; it was queued."),
                ("monitoring", "The database answers again; queued leads are being stored."),
                ("resolved", "Every queued lead is stored. 14 were queued, none lost."),
                components=["leads"], resolved=past + timedelta(minutes=84),
            )
        ],
        "scheduled_maintenances": [],
        "data": {"source": "watch", "as_of": iso(now - timedelta(seconds=40))},
    }  # fmt: skip


def incident(
    key: str,
    name: str,
    impact: str,
    started: datetime,
    *updates: tuple[str, str],
    components: list[str],
    resolved: datetime | None = None,
) -> Answer:
    return {
        "id": key,
        "name": name,
        "status": updates[-1][0],
        "impact": impact,
        "started_at": iso(started),
        "created_at": iso(started + timedelta(minutes=2)),
        "resolved_at": None if resolved is None else iso(resolved),
        "components": components,
        "incident_updates": [
            {
                "status": status,
                "body": body,
                "created_at": iso(started + timedelta(minutes=2 + 9 * n)),
            }
            for n, (status, body) in enumerate(updates)
        ],
    }


def outage(now: datetime | None = None) -> Answer:
    now = now or datetime.now(UTC)
    answer = good_day(now)
    answer["status"] = {"indicator": "critical", "description": "Major outage"}
    leads, products = answer["components"][0], answer["components"][1]
    leads["status"], products["status"] = "major_outage", "degraded_performance"
    leads["windows"]["1h"] = window(140, 5400, 0.42, 0.61)
    products["windows"]["1h"] = window(310, 1240, 0.9214, 0.0032)
    answer["incidents"].insert(
        0,
        incident(
            "INC-20261124-0305-service", "Most requests to /api/leads fail", "critical",
            now - timedelta(minutes=17),
            ("investigating", "61 % of 140 requests failed in the last hour (error_rate)."),
            ("identified", "The database refuses connections. Leads are queued and answered 202."),
            components=["leads", "products"],
        ),
    )  # fmt: skip
    return answer


def under_maintenance(now: datetime | None = None, mode: str = "intake") -> Answer:
    now = now or datetime.now(UTC)
    answer = good_day(now)
    answer["status"] = {"indicator": "maintenance", "description": "Maintenance under way"}
    for component in answer["components"][:2]:
        component["status"] = "under_maintenance"
    answer["scheduled_maintenances"] = [
        {
            "id": "maintenance",
            "name": "Maintenance",
            "status": "in_progress",
            "impact": "maintenance",
            "scheduled_for": iso(now - timedelta(minutes=6)),
            "scheduled_until": iso(now + timedelta(minutes=24)),
            "mode": mode,
        }
    ]
    return answer


def without_data(now: datetime | None = None) -> Answer:
    """A new site, or Redis and Postgres both gone and no copy."""
    answer = copy.deepcopy(good_day(now))
    answer["incidents"] = []
    answer["data"] = {"source": "none", "as_of": None}
    for component in answer["components"]:
        component["windows"] = {name: window(0, None, None, None) for name in ("1h", "24h", "30d")}
        component["days"] = [day(old_day["day"], 0, None, None) for old_day in component["days"]]
    return answer


ANSWERS = {
    "good day": good_day,
    "outage": outage,
    "maintenance": under_maintenance,
    "without data": without_data,
}
