"""A post-mortem: its figures, from the incident's timeline and the counters, and its Markdown."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lib.incidents.model import Incident
from lib.incidents.postgres_store import PostgresStore
from lib.leads import queue
from lib.problems import CacheDown, NotConfigured
from lib.services import Services
from ops import command

TODO = "TODO"
MARGIN = timedelta(minutes=1)

SELECT_RCA = "select rca from incidents where id = %(id)s"
COUNT_REQUESTS = """
select service, coalesce(sum(n), 0), coalesce(sum(n) filter (where class = 'error'), 0),
  coalesce(sum(n) filter (where class = 'queued'), 0)
from metric_minutes where minute between %(since)s and %(until)s group by service order by service
"""
COUNT_LEADS = """
select count(*), count(*) filter (where arrival <> 'direct')
from leads where created_at between %(since)s and %(until)s and not canary
"""
SELECT_STORED_IDS = "select id::text from leads where id = any(%(ids)s::uuid[])"


TEMPLATE = """\
# Post-mortem {id}: {title}

{severity}, {state}. Blameless: about causes, not people.

| fact | figure |
| --- | --- |
| Began | {started_at} |
| Detected | {detected_at}, after {time_to_detect} |
| Acknowledged | {acknowledged_at} |
| Contained | {contained_at} |
| Recovered | {resolved_at}, after {time_to_recover} |
| Deployment | {deployment} |
| Leads accepted | {accepted} |
| Leads stored by now | {stored} |
| Of them recovered from queue or mail | {recovered} |
| Leads still queued | {queued} |
| Leads lost | {lost} |
| Submissions refused with an error | {refused} |
{requests}
## What was seen

{descriptions}

## Impact

{impact}

## Root cause

{cause}

## Actions

| what | owner | due |
| --- | --- | --- |
{actions}

## Lessons

- Went well: TODO
- Went badly: TODO
- Where we were lucky: TODO

## Timeline

| at | what | who | |
| --- | --- | --- | --- |
{timeline}
"""


@dataclass(frozen=True, slots=True)
class LeadCounts:
    """Of the incident's time. accepted: by the journal; None where it has expired (48 h).

    stored: in Postgres by now; recovered: of those, from the queue or a mail; queued: still
    waiting; lost: accepted, and nowhere; refused: answered 5xx, never accepted.
    """

    accepted: int | None
    stored: int
    recovered: int
    queued: int
    lost: int
    refused: int


@dataclass(frozen=True, slots=True)
class PostmortemData:
    """requests: service, requests, failed, queued. timeline: see IncidentStore.list_events."""

    incident: Incident
    timeline: Sequence[tuple[Any, ...]]
    rca: dict[str, Any]
    requests: Sequence[tuple[str, int, int, int]]
    leads: LeadCounts


def load(services: Services, text: str) -> PostmortemData:
    """text: id, number, or `last`. Raises IncidentError, DatabaseDown."""
    run = services.database.run
    store = PostgresStore(run, datetime.now(UTC), "")
    incident = store.find(text)
    until = (incident.resolved_at or datetime.now(UTC)) + MARGIN
    values = {"since": incident.started_at - MARGIN, "until": until}
    [(rca,)] = run(lambda c: c.execute(SELECT_RCA, {"id": incident.id}).fetchall())
    requests = [tuple(row) for row in run(lambda c: c.execute(COUNT_REQUESTS, values).fetchall())]
    events = store.list_events(incident)
    leads = _count_leads(services, values, requests)
    return PostmortemData(incident, events, rca or {}, requests, leads)


def _count_leads(
    services: Services, values: dict[str, datetime], requests: Sequence[tuple[Any, ...]]
) -> LeadCounts:
    run = services.database.run
    stored, recovered = run(lambda c: c.execute(COUNT_LEADS, values).fetchone()) or (0, 0)
    refused = sum(failed for service, _, failed, _ in requests if service == "leads")
    span = (values["since"].timestamp(), values["until"].timestamp())
    try:
        accepted, queued, dead = services.cache.pipeline(
            ("ZRANGE", queue.ACCEPTED, *span, "BYSCORE"),
            ("HKEYS", queue.QUEUE),
            ("HKEYS", queue.DEAD_LETTERS),
        )
    except (CacheDown, NotConfigured):
        return LeadCounts(None, stored, recovered, 0, 0, refused)
    rows = run(lambda c: c.execute(SELECT_STORED_IDS, {"ids": list(accepted)}).fetchall())
    waiting = {*accepted} & {*queued, *dead}
    lost = {*accepted} - {lead_id for (lead_id,) in rows} - waiting
    is_expired = datetime.now(UTC) - values["since"] > timedelta(seconds=queue.JOURNAL_TTL_S)
    accepted_count = None if is_expired else len(accepted)
    return LeadCounts(accepted_count, stored, recovered, len(waiting), len(lost), refused)


def as_dict(data: PostmortemData) -> dict[str, Any]:
    """The figures, for a register. Seconds; None for what has not happened."""
    incident, leads = data.incident, data.leads
    return {
        "incident_id": incident.id,
        "severity": incident.severity,
        "title": incident.title,
        "state": incident.state,
        "started_at": incident.started_at,
        "detected_at": incident.detected_at,
        "acknowledged_at": incident.acknowledged_at,
        "contained_at": incident.contained_at,
        "resolved_at": incident.resolved_at,
        "time_to_detect_s": _seconds(incident.started_at, incident.detected_at),
        "time_to_acknowledge_s": _seconds(incident.detected_at, incident.acknowledged_at),
        "time_to_recover_s": _seconds(incident.started_at, incident.resolved_at),
        "leads_accepted": leads.accepted,
        "leads_stored": leads.stored,
        "leads_recovered": leads.recovered,
        "leads_queued": leads.queued,
        "leads_lost": leads.lost,
        "submissions_refused": leads.refused,
        "requests": {service: n for service, n, _, _ in data.requests},
        "requests_failed": {service: failed for service, _, failed, _ in data.requests},
        "deployment_id": incident.deployment,
        "rca": data.rca,
    }


def render(data: PostmortemData) -> str:
    """Markdown. What no counter knows is marked TODO."""
    incident, figures, rca, leads = data.incident, as_dict(data), data.rca, data.leads
    actions = rca.get("actions") or [{"what": TODO, "owner": TODO, "due": TODO}]
    return TEMPLATE.format(
        id=incident.id,
        title=incident.title,
        severity=incident.severity.upper(),
        state=incident.state,
        started_at=command.format_time(incident.started_at, seconds=True),
        detected_at=command.format_time(incident.detected_at, seconds=True),
        time_to_detect=_format_duration(figures["time_to_detect_s"]),
        acknowledged_at=command.format_time(incident.acknowledged_at, seconds=True),
        contained_at=command.format_time(incident.contained_at, seconds=True),
        resolved_at=command.format_time(incident.resolved_at, seconds=True),
        time_to_recover=_format_duration(figures["time_to_recover_s"]),
        deployment=incident.deployment,
        accepted="no longer known (48 h)" if leads.accepted is None else leads.accepted,
        stored=leads.stored,
        recovered=leads.recovered,
        queued=leads.queued,
        lost=leads.lost,
        refused=leads.refused,
        requests="".join(
            f"| Requests to {service} | {n}, {failed} failed, {queued} queued |\n"
            for service, n, failed, queued in data.requests
        ),
        descriptions="\n".join(f"- `{rule}`: {d}" for rule, d in incident.descriptions.items()),
        impact=rca.get("impact") or TODO,
        cause=rca.get("cause") or TODO,
        actions="\n".join(
            f"| {a.get('what')} | {a.get('owner')} | {a.get('due')} |" for a in actions
        ),
        timeline="\n".join(_timeline_row(event) for event in data.timeline),
    )


def _timeline_row(event: tuple[Any, ...]) -> str:
    _, at, kind, actor, facts, note = event
    text = note if note is not None else json.dumps(facts, ensure_ascii=False)
    cell = text.replace("|", "\\|").replace("\n", " ")
    return f"| {command.format_time(at, seconds=True)} | {kind} | {actor} | {cell} |"


def _seconds(since: datetime, until: datetime | None) -> int | None:
    return None if until is None else int((until - since).total_seconds())


def _format_duration(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest:02d} s"
