"""Findings into incidents, and incidents into Slack, whatever is down.

Postgres keeps the record; without it Redis does; without both Slack itself is asked whether it
was told already. Used by the watch, and by a request that met a Sev1 fact and waits for no watch.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from lib import alerts, incident_spool, incident_store, log, rules
from lib.alerts import Channel, Links, Tally
from lib.incidents import Finding
from lib.problems import AlertDelayed, CacheDown, DatabaseDown, NotConfigured

SAME_FOR_S = 30.0  # an instance enters the same alarm no oftener
SAID_FOR_S = 600.0  # and says it no oftener where nothing can be written down
SAID_LATELY = timedelta(hours=2)

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


def run_of(means: Means) -> Callable[..., Any]:
    """`Database.run`, where whatever Postgres refuses is an outage too: alerts must go on."""
    database = means.database

    def run(work: Callable[..., Any], **bounds: float) -> Any:
        try:
            return database.run(work, **bounds)
        except database.faults as fault:
            raise DatabaseDown from fault

    return run


class Call(Protocol):
    """What lib/endpoint.py gives a function for one request."""

    @property
    def services(self) -> Any: ...
    @property
    def request_id(self) -> str: ...
    def later(self, work: Callable[[], None]) -> None: ...


def sound(call: Call, name: str, **facts: object) -> None:
    """Wake somebody (Sev1), after the answer: an incident, Slack, the log and Sentry.

    name: a rule of lib/rules.py. facts: ids and numbers, which its sentence is made of.
    """
    what = ", ".join(f"{key} {value}" for key, value in facts.items())

    def now() -> None:
        log.write("alarm", "error", name=name, severity="sev1", id=call.request_id, **facts)
        ring(call.services, name, what, datetime.now(UTC))

    def report() -> None:
        reporter = call.services.reporter
        if reporter is not None:
            reporter.alert(name, request_id=call.request_id)

    call.later(now)
    call.later(report)


def ring(means: Means, name: str, what: str, now: datetime) -> None:
    """A rule of lib/rules.py that a request found broken: its incident, and Slack, at once."""
    if not _due(f"ring {name}", SAME_FOR_S):
        return
    found = [rules.finding(rules.BY_NAME[name], what, now)]
    enter(means, found, now, "request")
    tell(means, now)


def enter(means: Means, found: Sequence[Finding], now: datetime, actor: str) -> str:
    """Open or join the incidents of what was found; where it is written: postgres, redis, slack."""
    if not found:
        return "nowhere"
    with suppress(DatabaseDown, NotConfigured):
        incident_store.found(run_of(means), found, now, means.deployment, actor)
        return "postgres"
    with suppress(CacheDown, NotConfigured):
        incident_spool.found(means.cache.run, found, now, means.deployment, actor)
        return "redis"
    for one in found:
        if one.severity == "sev1":
            _say(means, one, now)
    return "slack"


def tell(means: Means, now: datetime) -> Tally:
    """Bring Slack up to what is due. No Slack configured: nothing is told, nothing forgotten."""
    try:
        channel = means.slack
    except NotConfigured:
        return Tally()
    with suppress(DatabaseDown, NotConfigured):
        tally = alerts.tell(incident_store.Store(run_of(means)), channel, means.links, now)
        with suppress(CacheDown, NotConfigured):
            open_ones = incident_store.open_ones(run_of(means))
            incident_spool.mirror(means.cache.run, open_ones)
        return tally
    with suppress(CacheDown, NotConfigured):
        return alerts.tell(incident_spool.Store(means.cache.run), channel, means.links, now)
    return Tally()


def _say(means: Means, finding: Finding, now: datetime) -> None:
    """Straight to Slack, once: it remembers what nobody else can."""
    if not _due(f"say {finding.area}", SAID_FOR_S):
        return
    with suppress(AlertDelayed, NotConfigured):
        there = means.slack.find("unrecorded", finding.area)
        if there is not None and float(there.ts) > (now - SAID_LATELY).timestamp():
            return
        words = f"{finding.title}: {finding.what}"
        means.slack.post(alerts.unrecorded(words, finding.area, now, means.links))


def _due(what: str, every_s: float) -> bool:
    with _lock:
        if time.monotonic() < _entered.get(what, float("-inf")) + every_s:
            return False
        _entered[what] = time.monotonic()
        return True
