"""The monitor: once a minute it collects facts, applies the alert rules and notifies.

run: lease, import of what was recorded while Postgres was down, facts, rules, incidents,
notifications, rollup of the request counts, status page. The rule a newcomer would break: every
step may run twice or be the last one, and the next run continues from the facts.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from lib.incidents import alert_mail, alerting, fallback, rules
from lib.incidents.model import Finding
from lib.incidents.rules import Facts
from lib.interfaces import Services
from lib.leads import canary, mailed_leads
from lib.maintenance import MaintenanceWindow
from lib.monitoring import rollup, service_levels, status_page
from lib.monitoring.facts import collect_facts
from lib.problems import CacheDown, DatabaseDown, NotConfigured

LEASE_S = 55  # below a minute, above what a run takes
SEV2_CLOSES_AFTER = timedelta(hours=24)
SENTRY_COOLDOWN_S = 3600

ACQUIRE_LEASE = """
insert into leases as existing (job, holder, until) values ('watch', %(holder)s, %(until)s)
on conflict (job) do update set holder = excluded.holder, until = excluded.until
where existing.until < %(now)s
returning holder
"""
RELEASE_LEASE = "delete from leases where job = 'watch' and holder = %(holder)s"

SELECT_LAST_RUN = "select finished_at from job_runs where job = 'watch'"
RECORD_RUN = """
insert into job_runs as existing (job, first_run_at, finished_at, facts)
values ('watch', %(now)s, %(now)s, %(facts)s::jsonb)
on conflict (job) do update set finished_at = excluded.finished_at, facts = excluded.facts
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What one run did. busy: another run holds the lease. written: the incident store used.

    folded: request counts rolled up. faults: of the notification channels. undelivered: why Slack
    refused an alert.
    """

    busy: bool = False
    findings: tuple[Finding, ...] = ()
    faults: tuple[str, ...] = ()
    written: str = "nowhere"
    folded: int | None = None
    messages: int = 0
    delayed: int = 0
    undelivered: str | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"findings": [finding.rule for finding in self.findings]}


def run(services: Services, window: MaintenanceWindow | None, now: datetime) -> Report:
    """One run. Raises nothing that a dependency's outage could cause."""
    holder = uuid4().hex
    if not _acquire_lease(services, holder, now):
        return Report(busy=True)
    try:
        _import_fallback_records(services, now)
        facts = collect_facts(services, window, now)
        report = _alert(services, facts, now)
        _record_run_and_publish(services, report, now)
        return report
    finally:
        with suppress(DatabaseDown, NotConfigured):
            services.database.run_or_down(lambda c: c.execute(RELEASE_LEASE, {"holder": holder}))


def _alert(services: Services, facts: Facts, now: datetime) -> Report:
    """Apply the rules, record incidents, notify; then roll up the request counts."""
    findings = rules.evaluate(facts)
    written, recorded = alerting.record_findings(services, findings, now, "watch")
    with suppress(DatabaseDown, NotConfigured):
        postgres = fallback.in_postgres(services, now)
        postgres.record_clean_check({finding.area for finding in findings})
        postgres.close_old_sev2(SEV2_CLOSES_AFTER)
    alerting.import_slack_acknowledgements(services, now)
    notified = alerting.notify(services, now)
    for stats in (recorded, notified):
        alerting.report_undelivered(services, stats)
    _notify_without_slack(services, facts, findings, now)
    return Report(
        findings=tuple(findings),
        faults=facts.channel_faults,
        written=written,
        folded=_roll_up(services, now),
        messages=sum(stats.posted + stats.updated for stats in (recorded, notified)),
        delayed=recorded.delayed + notified.delayed,
        undelivered=recorded.reason or notified.reason,
    )


def _notify_without_slack(
    services: Services, facts: Facts, findings: list[Finding], now: datetime
) -> None:
    """While Slack takes no alert: e-mail the operators and report it to Sentry, hourly."""
    if facts.slack_fault is None and not facts.slack_missing:
        return
    channel_findings = [finding for finding in findings if finding.area == "alerting"]
    urgent = [f for f in findings if f.severity == "sev1" or f in channel_findings]
    alert_mail.send_alerts(services, urgent, now)
    for finding in channel_findings:
        due = True
        with suppress(CacheDown, NotConfigured):
            key = f"alert:sentry:{finding.rule}"
            due = services.cache.execute("SET", key, "1", "NX", "EX", SENTRY_COOLDOWN_S)
        with suppress(NotConfigured):
            if due and services.reporter is not None:
                services.reporter.alert(finding.rule, request_id="-")


# ---------------------------------------------------------------- lease


def _acquire_lease(services: Services, holder: str, now: datetime) -> bool:
    """Without Postgres there is none: two runs at once are better than no run."""
    values = {"holder": holder, "now": now, "until": now + timedelta(seconds=LEASE_S)}
    with suppress(DatabaseDown, NotConfigured):
        run_query = services.database.run_or_down
        return bool(run_query(lambda c: c.execute(ACQUIRE_LEASE, values).fetchone()))
    return True


# ---------------------------------------------------------------- after an outage of Postgres


def _import_fallback_records(services: Services, now: datetime) -> None:
    """Import into Postgres what Redis or Slack recorded while it was down."""
    fallback.import_incidents(services, now)
    with suppress(DatabaseDown, CacheDown, NotConfigured):
        mailed_leads.import_from_redis(services, now)
    with suppress(DatabaseDown, NotConfigured):
        canary.remove_old(services.database.run_or_down, now)


# ---------------------------------------------------------------- rollup and status page


def _roll_up(services: Services, now: datetime) -> int | None:
    """Counts rolled up since the last run; None while a store is down."""
    with suppress(CacheDown, DatabaseDown, NotConfigured):
        run_query = services.database.run_or_down
        row = run_query(lambda c: c.execute(SELECT_LAST_RUN).fetchone())
        since = row[0] if row else now - rollup.MAX_LOOKBACK
        sla_buckets = service_levels.SLA_BUCKETS
        return rollup.roll_up(run_query, services.cache.pipeline, since, now, sla_buckets)
    return None


def _record_run_and_publish(services: Services, report: Report, now: datetime) -> None:
    """Record the run and publish the status page's data: while Postgres is down, the last data
    with the incidents that Redis has."""
    with suppress(CacheDown, NotConfigured):
        try:
            run_query = services.database.run_or_down
            values = {"now": now, "facts": json.dumps(report.as_dict())}
            run_query(lambda c: c.execute(RECORD_RUN, values))
            data = status_page.load(run_query, now, "watch")
        except (DatabaseDown, NotConfigured):
            published = status_page.parse(services.cache.execute("GET", status_page.KEY))
            incidents = fallback.in_redis(services, now).list_open()
            data = (published or status_page.no_data(now)).as_copy(now).with_incidents(incidents)
        status_page.publish(services.cache.execute, data)
