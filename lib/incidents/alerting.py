"""Raise alerts: findings become incidents, incidents become Slack messages, whatever is down.

Used by the monitor, and by a request that met an outage or lost a lead and cannot wait for the
monitor. What Slack does not take goes to Sentry and the log.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from lib import log
from lib.incidents import fallback, rules
from lib.incidents.fallback import NoStore
from lib.incidents.model import Finding, Incident, IncidentError
from lib.incidents.notifier import NotifyStats
from lib.incidents.postgres_store import PostgresStore
from lib.incidents.redis_store import RedisStore
from lib.incidents.store import IncidentStore
from lib.interfaces import Context, Services, StoreCheck
from lib.problems import CacheDown, DatabaseDown, MessageNotFound, NotConfigured, SlackError

ALERT_COOLDOWN_S = 30.0  # between two alerts of an instance for the same reason
UNDELIVERED_COOLDOWN_S = 600.0  # between two reports that Slack takes none

_last_raised_at: dict[str, float] = {}
_lock = threading.Lock()


def raise_alert_after_response(context: Context, rule: str, **facts: object) -> None:
    """A Sev1: an incident, Slack, the log and Sentry. facts: ids and numbers, for the sentence."""
    description = ", ".join(f"{key} {value}" for key, value in facts.items())
    effects = {"lead_not_kept": "refused", "lead_not_stored_nor_queued": "mailed"}

    def alert() -> None:
        log.write("alarm", "error", name=rule, severity="sev1", id=context.request_id, **facts)
        now = datetime.now(UTC)
        raise_alert(context.services, rule, description, now, effects.get(rule, ""))

    def report() -> None:
        if context.services.reporter is not None:
            context.services.reporter.alert(rule, request_id=context.request_id)

    context.after_response(alert)
    context.after_response(report)


def raise_alert(
    services: Services, rule: str, description: str, now: datetime, lead_effect: str = ""
) -> None:
    """The incident of a rule that a request found broken, and Slack, at once."""
    if _not_throttled(f"raise {rule}", ALERT_COOLDOWN_S):
        finding = rules.make_finding(rules.BY_NAME[rule], description, now, effect=lead_effect)
        _record_and_notify(services, [finding], now)


def confirm_outage(context: Context, status: int, find_store_fault: StoreCheck) -> str | None:
    """After a response whose request met an outage: check again, and alert if it is confirmed.

    The result, for the log; None within ALERT_COOLDOWN_S of the last check.
    """
    key = f"outage {' '.join(sorted(context.outages))}"
    if not _not_throttled(key, ALERT_COOLDOWN_S):
        return None
    now = datetime.now(UTC)
    findings = []
    if context.maintenance is None:
        findings = _check_outages(context, status, now, find_store_fault)
    if not findings:
        _last_raised_at.pop(key, None)  # the next request that meets one checks again
        return "not confirmed"
    broken = [finding.rule for finding in findings]
    log.write("outage", "error", id=context.request_id, rules=broken)
    _record_and_notify(context.services, findings, now)
    return "confirmed"


def _check_outages(
    context: Context, status: int, now: datetime, find_store_fault: StoreCheck
) -> list[Finding]:
    """What is still broken of what the request met."""
    services, endpoint = context.services, context.name
    response = f"a request to /api/{endpoint} was answered {status}"
    effect = ""
    if endpoint == "leads" and status >= 500:
        effect = "refused"
    elif endpoint == "leads" and status == 202:
        effect = "mailed" if "queue" in context.outages else "queued"
    faults = []
    if "database" in context.outages:
        faults.append((*_check_database(services, now, find_store_fault), effect))
    if "queue" in context.outages:
        faults.append(("redis_down", _check_redis(services), ""))
    return [
        rules.make_finding(rules.BY_NAME[rule], f"{fault}; {response}", now, effect=effect)
        for rule, fault, effect in faults
        if fault is not None
    ]


def _check_database(
    services: Services, now: datetime, find_store_fault: StoreCheck
) -> tuple[str, str | None]:
    """Whether Postgres answers, and whether it would take a lead: rule and fault."""
    try:
        services.database.ping()
        return "store_refused", find_store_fault(services.database.run, now)
    except (DatabaseDown, NotConfigured) as error:
        return "database_down", describe_fault(error, "Postgres")


def _check_redis(services: Services) -> str | None:
    try:
        services.cache.ping()
    except (CacheDown, NotConfigured) as error:
        return describe_fault(error, "Redis")
    return None


def describe_fault(error: Exception, name: str) -> str:
    """Of an outage, or of a missing table or right."""
    cause = type(error.__cause__).__name__ if error.__cause__ else ""
    return str(error) or f"{name} does not answer{cause and f' ({cause})'}"


def _record_and_notify(services: Services, findings: Sequence[Finding], now: datetime) -> None:
    _, stats = record_findings(services, findings, now, "request")
    report_undelivered(services, stats)
    report_undelivered(services, notify(services, now))


def record_findings(
    services: Services, findings: Sequence[Finding], now: datetime, actor: str
) -> tuple[str, NotifyStats]:
    """Open or merge their incidents. Where (postgres, redis, slack, nowhere), and what was sent."""
    if not findings:
        return "nowhere", NotifyStats()

    def record(store: IncidentStore) -> tuple[str, NotifyStats]:
        # An alert does not wait for the circuit breaker to close.
        if isinstance(store, PostgresStore) and services.database.breaker.is_open:
            services.database.ping()
        if isinstance(store, RedisStore) and services.cache.breaker.is_open:
            services.cache.ping()
        store.record_findings(findings, actor)
        return store.name.lower(), store.stats

    try:
        return fallback.use_first_available(services, now, record)
    except NoStore as error:
        urgent = tuple(finding.rule for finding in findings if finding.severity == "sev1")
        return "nowhere", NotifyStats(delayed=1, reason=str(error), undelivered_rules=urgent)


def notify(services: Services, now: datetime) -> NotifyStats:
    """Bring Slack up to date; without Slack nothing is sent and nothing forgotten."""

    def send(store: IncidentStore) -> NotifyStats:
        store.notify(channel, services.links)
        if isinstance(store, PostgresStore):
            with suppress(CacheDown, NotConfigured):
                fallback.in_redis(services, now).sync(store.list_open())
        return store.stats

    try:
        channel = services.slack
        return fallback.use_first_available(services, now, send)
    except (NoStore, NotConfigured) as error:
        stats = NotifyStats()
        waiting = [
            each for each in list_open(services, now) if each.notified_version < each.version
        ]
        if any(incident.severity == "sev1" for incident in waiting):
            stats.add_refusal(str(error), waiting)
        return stats


def list_open(services: Services, now: datetime) -> list[Incident]:
    """Empty where no store can be read."""
    with suppress(NoStore):
        return fallback.use_first_available(services, now, lambda store: store.list_open())
    return []


def import_slack_acknowledgements(services: Services, now: datetime) -> None:
    """Whoever replied or reacted to a Sev1's message has acknowledged it."""
    with suppress(SlackError, NotConfigured):
        channel = services.slack
        for incident in list_open(services, now) if channel.can_update else ():
            is_waiting = incident.severity == "sev1" and incident.acknowledged_at is None
            if is_waiting and incident.slack_ts:
                with suppress(MessageNotFound, IncidentError, NoStore):
                    person, _ = channel.read_thread(incident.message_ref)
                    if person is not None:
                        _acknowledge(services, incident.id, f"slack:{person}", now)


def _acknowledge(services: Services, incident_id: str, who: str, now: datetime) -> None:
    fallback.use_first_available(services, now, lambda store: store.acknowledge(incident_id, who))


def report_undelivered(services: Services, stats: NotifyStats) -> None:
    """A Sev1 that Slack did not take goes to the log and Sentry."""
    undelivered = stats.undelivered_rules
    key = f"undelivered {undelivered}"
    if not undelivered or not _not_throttled(key, UNDELIVERED_COOLDOWN_S):
        return
    log.write("alert_undelivered", "error", rules=list(undelivered), reason=stats.reason)
    with suppress(NotConfigured):
        if services.reporter is not None:
            for rule in undelivered:
                services.reporter.alert(rule, request_id="-")


def _not_throttled(key: str, cooldown_s: float) -> bool:
    with _lock:
        if time.monotonic() < _last_raised_at.get(key, float("-inf")) + cooldown_s:
            return False
        _last_raised_at[key] = time.monotonic()
        return True
