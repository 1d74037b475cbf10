"""Findings into incidents, and incidents into Slack, whatever is down.

Postgres keeps the record; without it Redis does; without both Slack itself. What Slack does not
take is said by what is left: Sentry and the log. Used by the watch, and by a request that met a
Sev1 fact and waits for no watch.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from lib import log
from lib.incidents import messages, redis_store, rules, slack_store
from lib.incidents import store as incident_store
from lib.incidents.messages import MessageRef, NotifyStats
from lib.incidents.model import Finding, Incident
from lib.interfaces import Services
from lib.problems import CacheDown, DatabaseDown, MessageNotFound, NotConfigured, SlackError

ALERT_COOLDOWN_S = 30.0  # an instance enters the same alarm no oftener
UNDELIVERED_COOLDOWN_S = 600.0  # and says no oftener that Slack takes none

_last_raised_at: dict[str, float] = {}
_lock = threading.Lock()


def with_unavailable_errors(means: Services) -> Callable[..., Any]:
    """How Postgres is asked: whatever it refuses is an outage too, for alerts must go on."""
    run: Callable[..., Any] = means.database.run_or_down
    return run


class Context(Protocol):
    """What lib/app.py gives a function for one request."""

    @property
    def services(self) -> Any: ...
    @property
    def request_id(self) -> str: ...
    @property
    def outages(self) -> Mapping[str, BaseException]: ...
    @property
    def maintenance(self) -> object | None: ...
    def after_response(self, work: Callable[[], None]) -> None: ...


def raise_alert_after_response(call: Context, name: str, **facts: object) -> None:
    """Wake somebody (Sev1), after the answer: an incident, Slack, the log and Sentry.

    name: a rule of lib/incidents/rules.py. facts: ids and numbers, which its sentence is made of.
    """
    what = ", ".join(f"{key} {value}" for key, value in facts.items())
    effect = {"lead_not_kept": "refused", "lead_not_stored_nor_queued": "mailed"}.get(name, "")

    def now() -> None:
        log.write("alarm", "error", name=name, severity="sev1", id=call.request_id, **facts)
        raise_alert(call.services, name, what, datetime.now(UTC), effect)

    def report() -> None:
        reporter = call.services.reporter
        if reporter is not None:
            reporter.alert(name, request_id=call.request_id)

    call.after_response(now)
    call.after_response(report)


def confirm_outage(call: Context, service: str, status: int) -> str | None:
    """After an answer whose request met an outage: look again, and alert at once if it is one.

    What was found, for the log. An outage costs an instance one second look in SAME_FOR_S.
    """
    what = f"met {' '.join(sorted(call.outages))}"
    if not _not_throttled(what, ALERT_COOLDOWN_S):
        return None
    now = datetime.now(UTC)
    found = [] if call.maintenance is not None else _check_outages(call, service, status, now)
    if not found:
        _last_raised_at.pop(what, None)  # the next request that meets one looks again
        return "not confirmed"
    log.write("outage", "error", id=call.request_id, rules=[one.rule for one in found])
    _record_and_notify(call.services, found, now, "request")
    return "confirmed"


def _check_outages(call: Context, service: str, status: int, now: datetime) -> list[Finding]:
    effect = ""
    if service == "leads" and status >= 500:
        effect = "refused"
    elif service == "leads" and status == 202:
        effect = "mailed" if "queue" in call.outages else "queued"
    answered = f"a request to /api/{service} was answered {status}"
    found = []
    if "database" in call.outages:
        rule, fault = _check_database(call.services, now)
        if fault is not None:
            what = f"{fault}; {answered}"
            found.append(rules.make_finding(rules.BY_NAME[rule], what, now, effect=effect))
    if "queue" in call.outages:
        try:
            call.services.cache.ping()
        except (CacheDown, NotConfigured) as fault:
            what = f"{describe_fault(fault, 'Redis')}; {answered}"
            found.append(rules.make_finding(rules.BY_NAME["redis_down"], what, now))
    return found


def _check_database(means: Services, now: datetime) -> tuple[str, str | None]:
    """A second look at Postgres, and at whether it would take a lead: rule and fault."""
    from lib.monitoring import statement_check  # what a request that met no outage never needs

    try:
        means.database.ping()
        return "store_refused", statement_check.store_fault(means.database.run, now)
    except (DatabaseDown, NotConfigured) as fault:
        return "database_down", describe_fault(fault, "Postgres")


def describe_fault(fault: Exception, name: str) -> str:
    """Of an outage, or of a refusal: a table or a right that is missing."""
    cause = type(fault.__cause__).__name__ if fault.__cause__ else ""
    return str(fault) or f"{name} does not answer{cause and f' ({cause})'}"


def raise_alert(means: Services, name: str, what: str, now: datetime, effect: str = "") -> None:
    """A rule of rules.py that a request found broken: its incident, and Slack, at once."""
    if not _not_throttled(f"ring {name}", ALERT_COOLDOWN_S):
        return
    _record_and_notify(
        means, [rules.make_finding(rules.BY_NAME[name], what, now, effect=effect)], now, "request"
    )


def _record_and_notify(
    means: Services, found: Sequence[Finding], now: datetime, actor: str
) -> None:
    _, tally = record_findings(means, found, now, actor)
    report_undelivered(means, tally)
    report_undelivered(means, notify(means, now))


def record_findings(
    means: Services, found: Sequence[Finding], now: datetime, actor: str
) -> tuple[str, NotifyStats]:
    """Open or join the incidents of what was found; where it is written (postgres, redis, slack),
    and what Slack was told by that."""
    if not found:
        return "nowhere", NotifyStats()
    with suppress(DatabaseDown, NotConfigured):
        _insist(
            means.database,
            lambda: incident_store.record_findings(
                with_unavailable_errors(means), found, now, means.deployment, actor
            ),
        )
        return "postgres", NotifyStats()
    with suppress(CacheDown, NotConfigured):
        _insist(
            means.cache,
            lambda: redis_store.record_findings(
                means.cache.execute, found, now, means.deployment, actor
            ),
        )
        return "redis", NotifyStats()
    try:
        channel = means.slack
    except NotConfigured as fault:
        tally = NotifyStats()
        tally.add_refusal(str(fault), ())
        tally.undelivered_rules = tuple(one.rule for one in found if one.severity == "sev1")
        return "nowhere", tally
    hurried = actor == "request"
    return "slack", slack_store.record_findings(
        channel, found, now, means.deployment, means.links, hurried=hurried
    )


def _insist(store: Any, work: Callable[[], Any]) -> None:
    """Do it; where an open circuit breaker stands in the way, ask the server itself first."""
    if store.breaker.is_open:
        store.ping()
    work()


def notify(means: Services, now: datetime) -> NotifyStats:
    """Bring Slack up to what is due. No Slack configured: nothing is told, nothing forgotten."""
    try:
        channel = means.slack
    except NotConfigured as fault:
        return _undelivered_stats(means, str(fault))
    with suppress(DatabaseDown, NotConfigured):
        tally = messages.notify_due(
            incident_store.NotificationStore(with_unavailable_errors(means)),
            channel,
            means.links,
            now,
        )
        with suppress(CacheDown, NotConfigured):
            open_ones = incident_store.list_open(with_unavailable_errors(means))
            redis_store.sync(means.cache.execute, open_ones)
        return tally
    with suppress(CacheDown, NotConfigured):
        return messages.notify_due(
            redis_store.NotificationStore(means.cache.execute), channel, means.links, now
        )
    return slack_store.remind_unacknowledged(channel, means.links, now)


def _undelivered_stats(means: Services, reason: str) -> NotifyStats:
    tally = NotifyStats()
    waiting = [one for one in list_open(means) if one.told < one.version]
    if any(one.severity == "sev1" for one in waiting):
        tally.add_refusal(reason, waiting)
    return tally


def list_open(means: Services) -> list[Incident]:
    """The open incidents as Postgres or Redis has them; none where neither answers."""
    with suppress(DatabaseDown, NotConfigured):
        return incident_store.list_open(with_unavailable_errors(means))
    with suppress(CacheDown, NotConfigured):
        return [one.incident for one in redis_store.list_open(means.cache.execute)]
    return []


def import_slack_acknowledgements(means: Services, now: datetime) -> None:
    """Whoever replied or reacted to a Sev1's message in Slack has acknowledged it."""
    with suppress(SlackError, NotConfigured):
        channel = means.slack
        for one in list_open(means):
            waits = one.severity == "sev1" and one.acknowledged_at is None
            if not (waits and one.slack_ts and channel.can_update):
                continue
            with suppress(MessageNotFound):
                person = channel.read_thread(
                    MessageRef(one.slack_channel or "", one.slack_ts)
                ).first_responder
                if person is not None:
                    _acknowledge(means, one.id, f"slack:{person}", now)


def _acknowledge(means: Services, incident_id: str, who: str, now: datetime) -> None:
    with suppress(DatabaseDown, NotConfigured):
        incident_store.acknowledge(with_unavailable_errors(means), incident_id, who, now)
        return
    with suppress(CacheDown, NotConfigured):
        redis_store.acknowledge(means.cache.execute, incident_id, who, now)


def report_undelivered(means: Services, tally: NotifyStats) -> None:
    """A Sev1 that Slack did not take is said by what is left: the log and Sentry."""
    if not tally.undelivered_rules or not _not_throttled(
        f"unheard {tally.undelivered_rules}", UNDELIVERED_COOLDOWN_S
    ):
        return
    log.write(
        "alert_undelivered", "error", rules=list(tally.undelivered_rules), reason=tally.reason
    )
    with suppress(NotConfigured):
        if means.reporter is not None:
            for rule in tally.undelivered_rules:
                means.reporter.alert(rule, request_id="-")


def _not_throttled(what: str, every_s: float) -> bool:
    with _lock:
        if time.monotonic() < _last_raised_at.get(what, float("-inf")) + every_s:
            return False
        _last_raised_at[what] = time.monotonic()
        return True
