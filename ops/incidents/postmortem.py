"""A post-mortem's facts, from the incident's timeline and the counters; and its Markdown."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lib.incidents import alerting, messages, store
from lib.incidents.model import WIB, Incident
from lib.leads import queue
from lib.problems import CacheDown, DatabaseDown, NotConfigured, SlackError
from lib.services import Services

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
INSERT_DRILL = """
insert into drills (kind, at, verdict, facts) values ('alert', %(at)s, %(verdict)s, %(facts)s)
"""


@dataclass(frozen=True, slots=True)
class LeadCounts:
    """Of the incident's time. accepted: told so, as Redis counted; None where that is forgotten
    (48 h). stored: in Postgres by now; recovered: of those, what came by the queue or a mail;
    queued: still waiting; lost: accepted, and nowhere; refused: answered 5xx, never accepted."""

    accepted: int | None
    stored: int
    recovered: int
    queued: int
    lost: int
    refused: int


@dataclass(frozen=True, slots=True)
class PostmortemData:
    incident: Incident
    timeline: Sequence[tuple[Any, ...]]
    rca: dict[str, Any]
    requests: Sequence[tuple[str, int, int, int]]
    leads: LeadCounts


def load(services: Services, text: str) -> PostmortemData:
    """Everything known of one incident. Raises Refused, DatabaseDown."""
    run = services.database.run
    incident = store.find(run, text)
    until = (incident.resolved_at or datetime.now(UTC)) + MARGIN
    values = {"since": incident.started_at - MARGIN, "until": until}
    rca = run(lambda c: (c.execute(SELECT_RCA, {"id": incident.id}).fetchone() or [None])[0]) or {}
    requests = [tuple(row) for row in run(lambda c: c.execute(COUNT_REQUESTS, values).fetchall())]
    lines = store.list_events(run, incident.id)
    return PostmortemData(incident, lines, rca, requests, _count_leads(services, values, requests))


def _count_leads(
    services: Services, values: dict[str, datetime], requests: Sequence[tuple[Any, ...]]
) -> LeadCounts:
    run = services.database.run
    stored, recovered = run(lambda c: c.execute(COUNT_LEADS, values).fetchone()) or (0, 0)
    refused = sum(errors for service, _, errors, _ in requests if service == "leads")
    span = (values["since"].timestamp(), values["until"].timestamp())
    try:
        accepted, queued, aside = services.cache.pipeline(
            ("ZRANGE", queue.ACCEPTED, *span, "BYSCORE"),
            ("HKEYS", queue.QUEUE),
            ("HKEYS", queue.DEAD_LETTERS),
        )
    except (CacheDown, NotConfigured):
        return LeadCounts(None, stored, recovered, 0, 0, refused)
    kept = {
        row[0]
        for row in run(lambda c: c.execute(SELECT_STORED_IDS, {"ids": list(accepted)}).fetchall())
    }
    waiting = {*accepted} & {*queued, *aside}
    lost = {*accepted} - kept - waiting
    forgotten = datetime.now(UTC) - values["since"] > timedelta(seconds=queue.JOURNAL_TTL_S)
    return LeadCounts(
        None if forgotten else len(accepted), stored, recovered, len(waiting), len(lost), refused
    )


def as_dict(found: PostmortemData) -> dict[str, Any]:
    """The figures, for a register. Seconds; None for what has not happened."""
    one = found.incident
    return {
        "incident_id": one.id,
        "severity": one.severity,
        "title": one.title,
        "state": one.state,
        "started_at": one.started_at,
        "detected_at": one.detected_at,
        "acknowledged_at": one.acknowledged_at,
        "contained_at": one.contained_at,
        "resolved_at": one.resolved_at,
        "time_to_detect_s": _seconds(one.started_at, one.detected_at),
        "time_to_acknowledge_s": _seconds(one.detected_at, one.acknowledged_at),
        "time_to_recover_s": _seconds(one.started_at, one.resolved_at),
        "leads_accepted": found.leads.accepted,
        "leads_stored": found.leads.stored,
        "leads_recovered": found.leads.recovered,
        "leads_queued": found.leads.queued,
        "leads_lost": found.leads.lost,
        "submissions_refused": found.leads.refused,
        "requests": {service: n for service, n, _, _ in found.requests},
        "requests_failed": {service: errors for service, _, errors, _ in found.requests},
        "deployment_id": one.deployment,
        "rca": found.rca,
    }


def _seconds(since: datetime, until: datetime | None) -> int | None:
    return None if until is None else int((until - since).total_seconds())


def render(found: PostmortemData) -> str:
    """Markdown. What no counter knows is marked TODO."""
    one, figures, rca, leads = found.incident, as_dict(found), found.rca, found.leads
    recovered_after = _format_duration(figures["time_to_recover_s"])
    lines = [
        f"# Post-mortem {one.id}: {one.title}",
        "",
        f"{one.severity.upper()}, {one.state}. Times are WIB. Blameless: about causes, not people.",
        "",
        "| fact | figure |",
        "| --- | --- |",
        f"| Began | {_format_time(one.started_at)} |",
        f"| Detected | {_format_time(one.detected_at)},"
        f" after {_format_duration(figures['time_to_detect_s'])} |",
        f"| Acknowledged | {_format_time(one.acknowledged_at)} |",
        f"| Contained | {_format_time(one.contained_at)} |",
        f"| Recovered | {_format_time(one.resolved_at)}, after {recovered_after} |",
        f"| Deployment | {one.deployment} |",
        f"| Leads accepted | {_format_count(leads.accepted)} |",
        f"| Leads stored by now | {leads.stored} |",
        f"| Of them recovered from queue or mail | {leads.recovered} |",
        f"| Leads still queued | {leads.queued} |",
        f"| Leads lost | {leads.lost} |",
        f"| Submissions refused with an error | {leads.refused} |",
    ]
    lines += [
        f"| Requests to {service} | {n}, {errors} failed, {queued} queued |"
        for service, n, errors, queued in found.requests
    ]
    lines += ["", "## What was seen", ""]
    lines += [f"- `{rule}`: {what}" for rule, what in one.descriptions.items()]
    lines += ["", "## Impact", "", str(rca.get("impact") or TODO)]
    lines += ["", "## Root cause", "", str(rca.get("cause") or TODO)]
    lines += ["", "## Actions", "", "| what | owner | due |", "| --- | --- | --- |"]
    actions = rca.get("actions") or [{"what": TODO, "owner": TODO, "due": TODO}]
    lines += [f"| {a.get('what')} | {a.get('owner')} | {a.get('due')} |" for a in actions]
    lines += ["", "## Lessons", "", f"- Went well: {TODO}", f"- Went badly: {TODO}"]
    lines += [f"- Where we were lucky: {TODO}", "", "## Timeline", ""]
    lines += ["| at | what | who | |", "| --- | --- | --- | --- |"]
    for _, at, kind, actor, what, note in found.timeline:
        told = note if note is not None else json.dumps(what, ensure_ascii=False)
        lines.append(f"| {_format_time(at)} | {kind} | {actor} | {_escape_cell(told)} |")
    return "\n".join(lines) + "\n"


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _format_time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(WIB):%Y-%m-%d %H:%M:%S}"


def _format_duration(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest:02d} s"


def _format_count(count: int | None) -> str:
    return "no longer known (48 h)" if count is None else str(count)


# ---------------------------------------------------------------- the drill of the alert itself


def run_alert_drill(services: Services, *, dry_run: bool) -> int:
    """Say in Slack that this is a drill, take it back, and write down how long it took."""
    now = datetime.now(UTC)
    message = messages.Message(
        "DRILL: a test alert, nothing is wrong",
        (
            {
                "type": "section",
                "text": {"type": "mrkdwn", "text": "*DRILL*: nothing is wrong. Who reads this "
                         "would have read an alert."},
            },
        ),
        {"drill": f"{now:%Y%m%d%H%M%S}"},
    )  # fmt: skip
    if dry_run:
        print(f"would post: {message.text}")
        return 0
    started = time.monotonic()
    fault = _send_drill(services, message)
    verdict = "FAIL" if fault else "PASS"
    facts: dict[str, object] = {"reason": fault} if fault else {}
    facts["seconds"] = round(time.monotonic() - started, 2)
    print(f"{verdict} {fault or 'Slack took it'} ({facts['seconds']} s)")
    values = {"at": now, "verdict": verdict, "facts": json.dumps(facts)}
    try:
        alerting.with_unavailable_errors(services)(lambda c: c.execute(INSERT_DRILL, values))
    except (DatabaseDown, NotConfigured):
        print("not written down: Postgres cannot be asked", file=sys.stderr)
    return 0 if verdict == "PASS" else 1


def _send_drill(services: Services, message: messages.Message) -> str | None:
    """Why an alert would not have come as it should; None when it would.

    A bot that is refused is a fault although the webhook takes its word: alerts are then neither
    edited, nor found again, nor acknowledged in Slack.
    """
    try:
        channel = services.slack
        posted = channel.post(message)
        if not channel.can_update:
            return None
        if not posted.ts:
            return f"Slack refuses the bot ({channel.last_bot_error}); the webhook took it"
        channel.post(message, thread=posted.ts)
        [mark] = message.metadata
        if not channel.list_with_metadata(mark):
            return "Slack took it, and it is not in the channel"
    except NotConfigured as fault:
        return f"no channel: {fault}"
    except SlackError as fault:
        return f"Slack did not take it: {fault.reason}"
    return None
