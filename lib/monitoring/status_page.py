"""The status page: each service's SLA figures, incidents and maintenance, in Statuspage's shape.

The monitor publishes StatusData to Redis every minute; /api/status adds the incidents and the
maintenance window of this moment and renders it. The rule a newcomer would break: the public reads
it, so it holds no hosts, no ids of visitors and no operator's sentence.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from lib.incidents import messages, model
from lib.incidents.model import LEAD_EFFECTS, Incident
from lib.incidents.postgres_store import PostgresStore
from lib.interfaces import RedisExecute, RunQuery
from lib.jakarta import WIB
from lib.maintenance import MaintenanceWindow
from lib.monitoring import rollup, service_levels
from lib.monitoring.service_levels import SERVICES

if TYPE_CHECKING:
    from psycopg import Connection

KEY = "status"
TTL_S = 7 * 86400
MAX_AGE = timedelta(minutes=3)
INCIDENT_HISTORY = timedelta(days=14)

SELECT_EVENTS = """
select incident_id, at, kind from incident_events where incident_id = any(%(ids)s::text[])
order by incident_id, seq
"""


AFFECTED_BY_MAINTENANCE = ("leads", "products")
INDICATORS = {
    "none": "All systems operational",
    "minor": "Some things are slower or less certain than usual",
    "major": "Some things do not work",
    "critical": "Much does not work",
    "maintenance": "Maintenance under way: forms are taken and answered later",
}
UNKNOWN_DESCRIPTION = "We cannot say just now how things are, and some things do not work"
# What happens to a form sent now, by an incident's lead effect.
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
    """An incident, and the time and kind of its timeline's events, oldest first."""

    incident: Incident
    events: Sequence[tuple[datetime, str]]


@dataclass(frozen=True, slots=True)
class StatusData:
    """What the page is rendered from.

    source: watch, database, copy or none. checked_at: when the incidents were read; as_of: the
    same of the figures, None when there are none. figures: service -> its windows and days, as
    rendered. incidents: those visitors notice, newest first.
    """

    source: str
    checked_at: datetime
    as_of: datetime | None
    figures: Mapping[str, Mapping[str, Any]]
    incidents: Sequence[IncidentView] = ()

    @property
    def open_incidents(self) -> list[Incident]:
        return [view.incident for view in self.incidents if view.incident.is_open]

    def as_copy(self, checked_at: datetime | None = None) -> Self:
        return replace(self, source="copy", checked_at=checked_at or self.checked_at)

    def with_incidents(self, incidents: Sequence[Incident]) -> Self:
        """Adds incidents opened since, and newer versions of its own."""
        views = {view.incident.id: view for view in self.incidents}
        for incident in incidents:
            before = views.get(incident.id)
            if not incident.services or (before and before.incident.version >= incident.version):
                continue
            events = before.events if before else [(incident.detected_at, "detected")]
            views[incident.id] = IncidentView(incident, events)
        newest_first = sorted(views.values(), key=lambda v: v.incident.started_at, reverse=True)
        return replace(self, incidents=newest_first)


# ---------------------------------------------------------------- loading and publishing


def load(run: RunQuery, now: datetime, source: str) -> StatusData:
    """Everything, from Postgres. Raises DatabaseDown."""

    def query(connection: "Connection[Any]") -> tuple[Any, Any]:
        since = (now - timedelta(days=service_levels.HISTORY_DAYS)).astimezone(WIB).date()
        days = connection.execute(rollup.SELECT_DAYS, {"since": since}).fetchall()
        return rollup.load_windows(connection, now), days

    aggregates, day_rows = run(query)
    days = {(day, service): (n, errors, within) for day, service, n, errors, within in day_rows}
    store = PostgresStore(run, now, deployment="")
    incidents = [each for each in store.list_recent(now - INCIDENT_HISTORY) if each.services]
    ids = [incident.id for incident in incidents]
    rows = run(lambda c: c.execute(SELECT_EVENTS, {"ids": ids}).fetchall())
    views = [
        IncidentView(incident, [(at, kind) for key, at, kind in rows if key == incident.id])
        for incident in incidents
    ]
    return StatusData(source, now, now, service_levels.figures(aggregates, days, now), views)


def no_data(now: datetime) -> StatusData:
    """What is known when neither Postgres nor Redis answers: the services and their SLAs."""
    return StatusData("none", now, None, service_levels.figures({}, {}, now))


def publish(execute: RedisExecute, data: StatusData) -> None:
    """Keep it in Redis for every request. Raises CacheDown."""
    views = [{"incident": v.incident.to_row(), "events": v.events} for v in data.incidents]
    document = asdict(data) | {"incidents": views}
    text = json.dumps(document, ensure_ascii=False, default=datetime.isoformat)
    execute("SET", KEY, text, "EX", TTL_S)


def parse(text: object) -> StatusData | None:
    """What was published; None when there is nothing, or another version's format."""
    if not isinstance(text, str):
        return None
    try:
        document = json.loads(text)
        incidents = [
            IncidentView(
                model.from_document(view["incident"]),
                [(datetime.fromisoformat(at), kind) for at, kind in view["events"]],
            )
            for view in document["incidents"]
        ]
        as_of = document["as_of"]
        return StatusData(
            document["source"],
            datetime.fromisoformat(document["checked_at"]),
            as_of and datetime.fromisoformat(as_of),
            {service.id: document["figures"][service.id] for service in SERVICES},
            incidents,
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


# ---------------------------------------------------------------- rendering


def render(
    data: StatusData, site_url: str, window: MaintenanceWindow | None, now: datetime
) -> dict[str, Any]:
    """The JSON document of /api/status."""
    components = [
        {
            "id": service.id,
            "name": service.name,
            "description": service.path,
            "status": _component_status(service.id, data, window),
            "sla_ms": service.sla_ms,
            **data.figures[service.id],
        }
        for service in SERVICES
    ]
    maintenances = [
        {
            "id": "maintenance",
            "name": "Maintenance",
            "status": "in_progress",
            "impact": "maintenance",
            "scheduled_for": _format_time(opened.since or now),
            "scheduled_until": opened.until and _format_time(opened.until),
            "mode": opened.mode,
        }
        for opened in ([window] if window else [])
    ]
    return {
        "page": {
            "name": "Alfa Beauty",
            "url": site_url,
            "time_zone": "Asia/Jakarta",
            "updated_at": _format_time(data.checked_at),
        },
        "status": _overall_status(components, data, window),
        "components": components,
        "incidents": [_render_incident(view) for view in data.incidents],
        "scheduled_maintenances": maintenances,
        "data": {"source": data.source, "as_of": data.as_of and _format_time(data.as_of)},
    }


def _component_status(service: str, data: StatusData, window: MaintenanceWindow | None) -> str:
    incidents = [each for each in data.open_incidents if service in each.services]
    if any(incident.severity == "sev1" for incident in incidents):
        return "major_outage" if any(map(_is_total_outage, incidents)) else "partial_outage"
    if service in AFFECTED_BY_MAINTENANCE and data.source == "none":
        return "partial_outage"
    if service in AFFECTED_BY_MAINTENANCE and window is not None:
        return "under_maintenance"
    breached = data.figures[service]["windows"]["1h"]["verdict"] == "breached"
    return "degraded_performance" if incidents or breached else "operational"


def _is_total_outage(incident: Incident) -> bool:
    """Whether visitors get nothing: by what happens to leads now, where that is known."""
    if incident.lead_effect:
        return incident.lead_effect == "refused"
    rules = {"health_failing", "leads_failing", "lead_not_kept", "most_requests_failing"}
    return bool(rules & {*incident.rules})


def _overall_status(
    components: Sequence[Mapping[str, Any]], data: StatusData, window: MaintenanceWindow | None
) -> dict[str, str]:
    """Indicator, and a description that says what happens to a form sent now."""
    indicator = _indicator({component["status"] for component in components}, data, window)
    if data.source == "none":
        return {"indicator": indicator, "description": UNKNOWN_DESCRIPTION}
    effects = {each.lead_effect for each in data.open_incidents if "leads" in each.services}
    worst = max(effects & {*FORM_EFFECTS}, key=LEAD_EFFECTS.index, default="")
    description = INDICATORS[indicator]
    if worst and indicator in ("major", "critical"):
        description = f"{description}: {FORM_EFFECTS[worst]}"
    return {"indicator": indicator, "description": description}


def _indicator(statuses: set[str], data: StatusData, window: MaintenanceWindow | None) -> str:
    if "major_outage" in statuses:
        return "critical"
    if "partial_outage" in statuses:
        return "major"
    if window is not None:
        return "maintenance"
    return "minor" if data.open_incidents or "degraded_performance" in statuses else "none"


def _render_incident(view: IncidentView) -> dict[str, Any]:
    incident = view.incident
    updates = [
        {"status": _UPDATES[kind][0], "body": _UPDATES[kind][1], "created_at": _format_time(at)}
        for at, kind in reversed(view.events)
        if kind in _UPDATES
    ]
    return {
        "id": incident.id,
        "name": messages.title_with_effect(incident),
        "status": _PUBLIC_STATES[incident.state],
        "impact": "critical" if incident.severity == "sev1" else "minor",
        "started_at": _format_time(incident.started_at),
        "created_at": _format_time(incident.detected_at),
        "resolved_at": incident.resolved_at and _format_time(incident.resolved_at),
        "components": list(incident.services),
        "incident_updates": updates,
    }


def _format_time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
