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
from lib.incidents.messages import Channel, Links, Posted, Tally
from lib.incidents.model import Finding, Incident
from lib.problems import AlertDelayed, AlertGone, CacheDown, DatabaseDown, NotConfigured

SAME_FOR_S = 30.0  # an instance enters the same alarm no oftener
UNHEARD_FOR_S = 600.0  # and says no oftener that Slack takes none

_entered: dict[str, float] = {}
_lock = threading.Lock()


class Means(Protocol):
    """Any of them may raise NotConfigured."""

    @property
    def database(self) -> Any: ...
    @property
    def cache(self) -> Any: ...
    @property
    def slack(self) -> Channel: ...
    @property
    def links(self) -> Links: ...
    @property
    def deployment(self) -> str: ...
    @property
    def reporter(self) -> Any: ...


def run_of(means: Means) -> Callable[..., Any]:
    """How Postgres is asked: whatever it refuses is an outage too, for alerts must go on."""
    run: Callable[..., Any] = means.database.run_or_down
    return run


class Call(Protocol):
    """What lib/app.py gives a function for one request."""

    @property
    def services(self) -> Any: ...
    @property
    def request_id(self) -> str: ...
    @property
    def outages(self) -> Mapping[str, BaseException]: ...
    @property
    def maintenance(self) -> object | None: ...
    def later(self, work: Callable[[], None]) -> None: ...


def sound(call: Call, name: str, **facts: object) -> None:
    """Wake somebody (Sev1), after the answer: an incident, Slack, the log and Sentry.

    name: a rule of lib/incidents/rules.py. facts: ids and numbers, which its sentence is made of.
    """
    what = ", ".join(f"{key} {value}" for key, value in facts.items())
    effect = {"lead_not_kept": "refused", "lead_not_stored_nor_queued": "mailed"}.get(name, "")

    def now() -> None:
        log.write("alarm", "error", name=name, severity="sev1", id=call.request_id, **facts)
        ring(call.services, name, what, datetime.now(UTC), effect)

    def report() -> None:
        reporter = call.services.reporter
        if reporter is not None:
            reporter.alert(name, request_id=call.request_id)

    call.later(now)
    call.later(report)


def met(call: Call, service: str, status: int) -> str | None:
    """After an answer whose request met an outage: look again, and alert at once if it is one.

    What was found, for the log. An outage costs an instance one second look in SAME_FOR_S.
    """
    what = f"met {' '.join(sorted(call.outages))}"
    if not _due(what, SAME_FOR_S):
        return None
    now = datetime.now(UTC)
    found = [] if call.maintenance is not None else _looked_again(call, service, status, now)
    if not found:
        _entered.pop(what, None)  # the next request that meets one looks again
        return "not confirmed"
    log.write("outage", "error", id=call.request_id, rules=[one.rule for one in found])
    _alert(call.services, found, now, "request")
    return "confirmed"


def _looked_again(call: Call, service: str, status: int, now: datetime) -> list[Finding]:
    effect = ""
    if service == "leads" and status >= 500:
        effect = "refused"
    elif service == "leads" and status == 202:
        effect = "mailed" if "queue" in call.outages else "queued"
    answered = f"a request to /api/{service} was answered {status}"
    found = []
    if "database" in call.outages:
        rule, fault = _database_fault(call.services, now)
        if fault is not None:
            what = f"{fault}; {answered}"
            found.append(rules.finding(rules.BY_NAME[rule], what, now, effect=effect))
    if "queue" in call.outages:
        try:
            call.services.cache.ping()
        except (CacheDown, NotConfigured) as fault:
            what = f"{said(fault, 'Redis')}; {answered}"
            found.append(rules.finding(rules.BY_NAME["redis_down"], what, now))
    return found


def _database_fault(means: Means, now: datetime) -> tuple[str, str | None]:
    """A second look at Postgres, and at whether it would take a lead: rule and fault."""
    from lib.monitoring import statement_check  # what a request that met no outage never needs

    try:
        means.database.ping()
        return "store_refused", statement_check.store_fault(means.database.run, now)
    except (DatabaseDown, NotConfigured) as fault:
        return "database_down", said(fault, "Postgres")


def said(fault: Exception, name: str) -> str:
    """Of an outage, or of a refusal: a table or a right that is missing."""
    cause = type(fault.__cause__).__name__ if fault.__cause__ else ""
    return str(fault) or f"{name} does not answer{cause and f' ({cause})'}"


def ring(means: Means, name: str, what: str, now: datetime, effect: str = "") -> None:
    """A rule of rules.py that a request found broken: its incident, and Slack, at once."""
    if not _due(f"ring {name}", SAME_FOR_S):
        return
    _alert(means, [rules.finding(rules.BY_NAME[name], what, now, effect=effect)], now, "request")


def _alert(means: Means, found: Sequence[Finding], now: datetime, actor: str) -> None:
    _, tally = enter(means, found, now, actor)
    unheard(means, tally)
    unheard(means, tell(means, now))


def enter(means: Means, found: Sequence[Finding], now: datetime, actor: str) -> tuple[str, Tally]:
    """Open or join the incidents of what was found; where it is written (postgres, redis, slack),
    and what Slack was told by that."""
    if not found:
        return "nowhere", Tally()
    with suppress(DatabaseDown, NotConfigured):
        _insist(
            means.database,
            lambda: incident_store.found(run_of(means), found, now, means.deployment, actor),
        )
        return "postgres", Tally()
    with suppress(CacheDown, NotConfigured):
        _insist(
            means.cache,
            lambda: redis_store.found(means.cache.run, found, now, means.deployment, actor),
        )
        return "redis", Tally()
    try:
        channel = means.slack
    except NotConfigured as fault:
        tally = Tally()
        tally.refused(str(fault), ())
        tally.unheard = tuple(one.rule for one in found if one.severity == "sev1")
        return "nowhere", tally
    hurried = actor == "request"
    return "slack", slack_store.found(
        channel, found, now, means.deployment, means.links, hurried=hurried
    )


def _insist(store: Any, work: Callable[[], Any]) -> None:
    """Do it; where an open circuit breaker stands in the way, ask the server itself first."""
    if store.breaker.open:
        store.ping()
    work()


def tell(means: Means, now: datetime) -> Tally:
    """Bring Slack up to what is due. No Slack configured: nothing is told, nothing forgotten."""
    try:
        channel = means.slack
    except NotConfigured as fault:
        return _untold(means, str(fault))
    with suppress(DatabaseDown, NotConfigured):
        tally = messages.tell(incident_store.Store(run_of(means)), channel, means.links, now)
        with suppress(CacheDown, NotConfigured):
            open_ones = incident_store.open_ones(run_of(means))
            redis_store.mirror(means.cache.run, open_ones)
        return tally
    with suppress(CacheDown, NotConfigured):
        return messages.tell(redis_store.Store(means.cache.run), channel, means.links, now)
    return slack_store.remind(channel, means.links, now)


def _untold(means: Means, reason: str) -> Tally:
    tally = Tally()
    waiting = [one for one in open_ones(means) if one.told < one.version]
    if any(one.severity == "sev1" for one in waiting):
        tally.refused(reason, waiting)
    return tally


def open_ones(means: Means) -> list[Incident]:
    """The open incidents as Postgres or Redis has them; none where neither answers."""
    with suppress(DatabaseDown, NotConfigured):
        return incident_store.open_ones(run_of(means))
    with suppress(CacheDown, NotConfigured):
        return [one.incident for one in redis_store.read(means.cache.run)]
    return []


def hear(means: Means, now: datetime) -> None:
    """Whoever replied or reacted to a Sev1's message in Slack has acknowledged it."""
    with suppress(AlertDelayed, NotConfigured):
        channel = means.slack
        for one in open_ones(means):
            waits = one.severity == "sev1" and one.acknowledged_at is None
            if not (waits and one.slack_ts and channel.edits):
                continue
            with suppress(AlertGone):
                person = channel.thread(Posted(one.slack_channel or "", one.slack_ts)).person
                if person is not None:
                    _acknowledge(means, one.id, f"slack:{person}", now)


def _acknowledge(means: Means, incident_id: str, who: str, now: datetime) -> None:
    with suppress(DatabaseDown, NotConfigured):
        incident_store.acknowledge(run_of(means), incident_id, who, now)
        return
    with suppress(CacheDown, NotConfigured):
        redis_store.acknowledge(means.cache.run, incident_id, who, now)


def unheard(means: Means, tally: Tally) -> None:
    """A Sev1 that Slack did not take is said by what is left: the log and Sentry."""
    if not tally.unheard or not _due(f"unheard {tally.unheard}", UNHEARD_FOR_S):
        return
    log.write("alert_undelivered", "error", rules=list(tally.unheard), reason=tally.reason)
    with suppress(NotConfigured):
        if means.reporter is not None:
            for rule in tally.unheard:
                means.reporter.alert(rule, request_id="-")


def _due(what: str, every_s: float) -> bool:
    with _lock:
        if time.monotonic() < _entered.get(what, float("-inf")) + every_s:
            return False
        _entered[what] = time.monotonic()
        return True
