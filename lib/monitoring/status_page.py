"""The service catalogue, and how it does: what /api/status says, in Statuspage's shape.

The watch writes the document to Redis every minute; a request only reads it. Without the watch it
is made from Postgres, without Postgres an older copy serves, and with nothing at all it still says
what is promised. It tells the public: no hosts, no ids of visitors, no sentence of an operator.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lib import metrics
from lib.incidents import messages, store
from lib.incidents.model import LEAD_EFFECTS, WIB, Incident
from lib.maintenance import MaintenanceWindow
from lib.monitoring import rollup
from lib.monitoring.rollup import Aggregate

if TYPE_CHECKING:
    from psycopg import Connection

KEY = "status"
TTL_S = 7 * 86400
MAX_AGE = timedelta(minutes=3)
MIN_REQUESTS = 20  # requests; fewer say nothing about a p95
SLA_SHARE = 0.95
HISTORY_DAYS = 90
INCIDENT_HISTORY = timedelta(days=14)
WINDOWS = ("1h", "24h", "30d")


@dataclass(frozen=True, slots=True)
class Service:
    """A row of the handbook's catalogue. sla_ms: what p95 stays under; None: nobody waits."""

    id: str
    name: str
    path: str
    sla_ms: int | None
    depends_on: tuple[str, ...]


SERVICES = (
    Service("leads", "Lead capture", "/api/leads", 1000, ("Supabase", "Resend")),
    Service("products", "Product list", "/api/products", 500, ("Supabase", "Redis (cache)")),
    Service("health", "Health check", "/api/health", 200, ()),
    Service("rum", "Analytics", "/api/rum", None, ("Vercel Analytics",)),
)

AFFECTED_BY_MAINTENANCE = ("leads", "products")  # what maintenance changes for visitors

SLA_BUCKETS = {
    one.id: metrics.BUCKET_EDGES_MS.index(one.sla_ms) for one in SERVICES if one.sla_ms is not None
}
"""Service -> the last bucket inside its SLA."""

INDICATORS = {
    "none": "All systems operational",
    "minor": "Some things are slower or less certain than usual",
    "major": "Some things do not work",
    "critical": "Much does not work",
    "maintenance": "Maintenance under way: forms are taken and answered later",
}
UNKNOWN_DESCRIPTION = "We cannot say just now how things are, and some things do not work"
# What happens to a form that is sent now, where an incident tells.
FORM_EFFECTS = {
    "queued": "forms are taken and answered later",
    "mailed": "forms are taken and answered later",
    "refused": "forms cannot be taken just now",
}
_PUBLIC_STATES = {
    "detect": "investigating",
    "classify": "investigating",
    "contain": "identified",
    "resolve": "resolved",
    "review": "resolved",
    "closed": "postmortem",
}
_UPDATES = {
    "detected": ("investigating", "We noticed that something is wrong."),
    "acknowledged": ("investigating", "Somebody is working on it."),
    "contain": ("identified", "The effect is contained."),
    "maintenance": ("identified", "Maintenance mode was switched."),
    "rollback": ("identified", "An earlier version was put back."),
    "restore": ("identified", "Data is being restored."),
    "recovered": ("resolved", "It works again."),
    "resolve": ("resolved", "It works again."),
    "closed": ("postmortem", "The cause is known and its repair is planned."),
}


@dataclass(frozen=True, slots=True)
class IncidentView:
    """An incident and its timeline's kinds with their moments."""

    incident: Incident
    events: tuple[tuple[datetime, str], ...]


@dataclass(frozen=True, slots=True)
class StatusData:
    """What a document is made of."""

    windows: Mapping[tuple[str, str], Aggregate]
    days: Mapping[tuple[date, str], tuple[int, int, int]]
    incidents: Sequence[IncidentView]


NO_DATA = StatusData({}, {}, ())


def load(run: Callable[..., Any], now: datetime) -> StatusData:
    """All of it out of Postgres. Raises DatabaseDown."""

    def look(connection: "Connection[Any]") -> tuple[Any, Any]:
        since = (now - timedelta(days=HISTORY_DAYS)).astimezone(WIB).date()
        rows = connection.execute(rollup.SELECT_DAYS, {"since": since}).fetchall()
        return rollup.load_windows(connection, now), {
            (day, service): (n, errors, within) for day, service, n, errors, within in rows
        }

    sums, days = run(look)
    told = []
    for incident in store.list_recent(run, now - INCIDENT_HISTORY):
        if not incident.services:
            continue  # nothing that visitors notice
        events = store.list_events(run, incident.id)
        told.append(IncidentView(incident, tuple((at, kind) for _, at, kind, *_ in events)))
    return StatusData(sums, days, told)


def render(
    known: StatusData, site_url: str, switch: MaintenanceWindow | None, now: datetime, source: str
) -> dict[str, Any]:
    """What callers read. source: watch, database, copy or none."""
    open_ones = [one.incident for one in known.incidents if one.incident.is_open]
    components = [_render_component(service, known, open_ones, switch, now) for service in SERVICES]
    indicator = _indicator(components, open_ones, switch)
    return {
        "page": {
            "name": "Alfa Beauty",
            "url": site_url,
            "time_zone": "Asia/Jakarta",
            "updated_at": _format_time(now),
        },
        "status": _overall_status(indicator, open_ones),
        "components": components,
        "incidents": [_render_incident(one) for one in known.incidents],
        "scheduled_maintenances": [] if switch is None else [_render_maintenance(switch, now)],
        "data": {"source": source, "as_of": None if source == "none" else _format_time(now)},
    }


def publish(command: Callable[..., Any], made: Mapping[str, Any]) -> None:
    """Leave it for every request. Raises CacheDown."""
    command("SET", KEY, json.dumps(made, ensure_ascii=False), "EX", TTL_S)


def parse(text: object) -> dict[str, Any] | None:
    """The document left in Redis; None when there is none, or it is none of ours."""
    if not isinstance(text, str):
        return None
    try:
        made: dict[str, Any] = json.loads(text)
        datetime.fromisoformat(made["page"]["updated_at"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return made


def age(made: Mapping[str, Any], now: datetime) -> timedelta:
    """Since a watch last looked; its figures may be older, see data.as_of."""
    return now - datetime.fromisoformat(made["page"]["updated_at"])


def merge_current(
    made: dict[str, Any],
    open_ones: Sequence[Incident],
    switch: MaintenanceWindow | None,
    now: datetime,
) -> dict[str, Any]:
    """An older document with the incidents of now: its figures keep their age."""
    hour = {one["id"]: one["windows"]["1h"] for one in made["components"]}
    states = {
        s.id: _component_status(s, open_ones, switch, hour[s.id]) for s in SERVICES if s.id in hour
    }
    components = [
        {**one, "status": states.get(one["id"], one["status"])} for one in made["components"]
    ]
    seen = [one for one in open_ones if one.services]
    shown = [_render_incident(IncidentView(one, ((one.detected_at, "detected"),))) for one in seen]
    ids = {one["id"] for one in shown}
    indicator = _indicator(components, open_ones, switch)
    return {
        **made,
        "page": {**made["page"], "updated_at": _format_time(now)},
        "status": _overall_status(indicator, open_ones),
        "components": components,
        "incidents": [*shown, *(one for one in made["incidents"] if one["id"] not in ids)],
        "scheduled_maintenances": [] if switch is None else [_render_maintenance(switch, now)],
        "data": {**made["data"], "source": "copy"},
    }


def merge_new_incidents(
    made: dict[str, Any] | None,
    open_ones: Sequence[Incident],
    switch: MaintenanceWindow | None,
    now: datetime,
) -> dict[str, Any] | None:
    """The watch's document with what opened or changed since: a request may have rung."""
    if made is None:
        return None
    states = {one["id"]: (one["status"], one["name"]) for one in made["incidents"]}
    news = [
        one
        for one in open_ones
        if one.services
        and states.get(one.id) != (_PUBLIC_STATES[one.state], messages.title_with_effect(one))
    ]
    if not news:
        return made
    return {
        **merge_current(made, open_ones, switch, now),
        "page": made["page"],
        "data": made["data"],
    }


def unknown_status(
    site_url: str, switch: MaintenanceWindow | None, now: datetime
) -> dict[str, Any]:
    """What is promised, where neither Postgres nor Redis can be asked how it is kept."""
    made = render(NO_DATA, site_url, switch, now, "none")
    for one in made["components"]:
        if one["id"] in AFFECTED_BY_MAINTENANCE:
            one["status"] = "partial_outage"
    made["status"] = {"indicator": "major", "description": UNKNOWN_DESCRIPTION}
    return made


def merge_maintenance(
    made: dict[str, Any], switch: MaintenanceWindow | None, now: datetime
) -> dict[str, Any]:
    """The document with what is known of maintenance this very moment."""
    windows = [] if switch is None else [_render_maintenance(switch, now)]
    if bool(windows) == bool(made["scheduled_maintenances"]):
        return made
    # The watch's next document says it by itself; until then no service changes but for this.
    was, now_is = (
        ("operational", "under_maintenance") if windows else ("under_maintenance", "operational")
    )
    components = [
        {**one, "status": now_is}
        if one["status"] == was and one["id"] in AFFECTED_BY_MAINTENANCE
        else one
        for one in made["components"]
    ]
    changed = {**made, "scheduled_maintenances": windows, "components": components}
    if switch is not None and made["status"]["indicator"] in ("none", "minor"):
        changed["status"] = {"indicator": "maintenance", "description": INDICATORS["maintenance"]}
    elif made["status"]["indicator"] == "maintenance":
        changed["status"] = {"indicator": "none", "description": INDICATORS["none"]}
    return changed


# ---------------------------------------------------------------- its parts


def _render_component(
    service: Service,
    known: StatusData,
    open_ones: Sequence[Incident],
    switch: MaintenanceWindow | None,
    now: datetime,
) -> dict[str, Any]:
    windows = {
        name: _window_stats(service, known.windows.get((name, service.id))) for name in WINDOWS
    }
    return {
        "id": service.id,
        "name": service.name,
        "description": service.path,
        "status": _component_status(service, open_ones, switch, windows["1h"]),
        "sla_ms": service.sla_ms,
        "windows": windows,
        "days": _day_history(service.id, known.days, now),
    }


def _window_stats(service: Service, found: Aggregate | None) -> dict[str, Any]:
    n = 0 if found is None else found.requests
    if found is None or n < MIN_REQUESTS:
        return {"n": n, "p95_ms": None, "p95_between_ms": None, "within_sla": None,
                "verdict": "insufficient data", "error_rate": None}  # fmt: skip
    value, low, high = metrics.quantile(found.histogram, SLA_SHARE) or (0.0, 0, 0)
    if service.sla_ms is None:
        within = n - found.errors
    else:
        within = metrics.count_within(found.success_histogram, service.sla_ms)
    return {
        "n": n,
        "p95_ms": round(value),
        "p95_between_ms": [low, high],
        "within_sla": round(within / n, 4),
        # Whole numbers: no rounding decides it.
        "verdict": "met" if within * 100 >= n * round(SLA_SHARE * 100) else "breached",
        "error_rate": round(found.errors / n, 4),
    }


def _component_status(
    service: Service,
    open_ones: Sequence[Incident],
    switch: MaintenanceWindow | None,
    last_hour: Mapping[str, Any],
) -> str:
    hit = [one for one in open_ones if service.id in one.services]
    if any(one.severity == "sev1" for one in hit):
        return "major_outage" if any(map(_is_total_outage, hit)) else "partial_outage"
    if switch is not None and service.id in AFFECTED_BY_MAINTENANCE:
        return "under_maintenance"
    return "degraded_performance" if hit or last_hour["verdict"] == "breached" else "operational"


def _is_total_outage(incident: Incident) -> bool:
    """Whether visitors get nothing: by what happens to leads now, where that is known."""
    if incident.lead_effect:
        return incident.lead_effect == "refused"
    lost = {"health_failing", "leads_failing", "lead_not_kept", "most_requests_failing"}
    return bool(lost & {*incident.rules})


def _overall_status(indicator: str, open_ones: Sequence[Incident]) -> dict[str, str]:
    """Statuspage's status, with what happens to a form that is sent now."""
    effects = {one.lead_effect for one in open_ones if "leads" in one.services}
    worst = max(effects & {*FORM_EFFECTS}, key=LEAD_EFFECTS.index, default="")
    words = INDICATORS[indicator]
    if worst and indicator in ("major", "critical"):
        words = f"{words}: {FORM_EFFECTS[worst]}"
    return {"indicator": indicator, "description": words}


def _indicator(
    components: Sequence[Mapping[str, Any]],
    open_ones: Sequence[Incident],
    switch: MaintenanceWindow | None,
) -> str:
    states = {one["status"] for one in components}
    if "major_outage" in states:
        return "critical"
    if "partial_outage" in states:
        return "major"
    if switch is not None:
        return "maintenance"
    visible = any(one.services for one in open_ones)
    return "minor" if visible or "degraded_performance" in states else "none"


def _day_history(
    service: str, days: Mapping[tuple[date, str], tuple[int, int, int]], now: datetime
) -> list[dict[str, Any]]:
    today = now.astimezone(WIB).date()
    shown = []
    for back in reversed(range(HISTORY_DAYS)):
        day = today - timedelta(days=back)
        n, errors, within = days.get((day, service), (0, 0, 0))
        shown.append(
            {
                "day": day.isoformat(),
                "n": n,
                "within_sla": round(within / n, 4) if n else None,
                "error_rate": round(errors / n, 4) if n else None,
            }
        )
    return shown


def _render_incident(told: IncidentView) -> dict[str, Any]:
    one = told.incident
    updates = [
        {"status": _UPDATES[kind][0], "body": _UPDATES[kind][1], "created_at": _format_time(at)}
        for at, kind in reversed(told.events)
        if kind in _UPDATES
    ]
    impact = {"sev1": "critical" if one.services else "major", "sev2": "minor"}[one.severity]
    return {
        "id": one.id,
        "name": messages.title_with_effect(one),
        "status": _PUBLIC_STATES[one.state],
        "impact": impact,
        "started_at": _format_time(one.started_at),
        "created_at": _format_time(one.detected_at),
        "resolved_at": one.resolved_at and _format_time(one.resolved_at),
        "components": list(one.services),
        "incident_updates": updates,
    }


def _render_maintenance(switch: MaintenanceWindow, now: datetime) -> dict[str, Any]:
    return {
        "id": "maintenance",
        "name": "Maintenance",
        "status": "in_progress",
        "impact": "maintenance",
        "scheduled_for": _format_time(switch.since or now),
        "scheduled_until": switch.until and _format_time(switch.until),
        "mode": switch.mode,
    }


def _format_time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
