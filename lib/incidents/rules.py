"""When somebody is to be told: the handbook's thresholds, and ours, as a table.

Sev1 wakes, Sev2 waits for the next working morning. A share of requests counts only where there
are enough of them, for half an hour and still in its last ten minutes: one visitor who tries again
and again makes a bad ten minutes out of one error (its tests simulate 30 quiet days).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lib.incidents.model import Finding
from lib.vitals.quantile_sketch import Z_95

TRAFFIC_WINDOW, RECENT_WINDOW = timedelta(minutes=30), timedelta(minutes=10)
MAX_GAP = timedelta(minutes=5)
CURRENT_WINDOW = timedelta(minutes=2)  # the minute that runs, and the one before
SLOW_REQUEST_MS = 5000  # handbook: API over 5 s latency
MAX_ERROR_RATE, MAX_SLOW_RATE = 0.05, 0.05  # handbook: error rate over 5 %; p95 is the 95th of 100
MIN_REQUESTS, MIN_BAD_REQUESTS, MIN_RECENT_BAD = 20, 5, 2
MAJORITY, MAJORITY_MIN_REQUESTS, MAJORITY_MIN_ERRORS = 0.5, 20, 10
MIN_FAILED_LEADS = 3
MAX_MAIL_AGE, MAX_QUEUE_AGE, CRITICAL_QUEUE_AGE = (
    timedelta(minutes=10),
    timedelta(minutes=15),
    timedelta(hours=24),  # half the journal's life
)
MAX_BACKUP_AGE, CRITICAL_BACKUP_AGE = timedelta(hours=26), timedelta(hours=48)
MAX_DRILL_AGE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class MinuteCounts:
    """What one service answered in one minute. queued: taken, not stored yet."""

    requests: int
    errors: int
    slow: int
    queued: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the watch found out. None where it could not be, or there is nothing to say.

    traffic: service -> minute -> what was answered, over the last WINDOW. store_fault and its like:
    what statement_check.py says. blind: what of Postgres the watch itself may not look at.
    mail_fault, slack_fault: why a vendor takes nothing from us. mailed: leads that exist only in a
    mail. canary_effect: what became of the synthetic lead just sent.
    """

    now: datetime
    maintenance: bool = False
    maintenance_fault: str | None = None
    traffic: Mapping[str, Mapping[datetime, MinuteCounts]] = field(default_factory=dict)
    health_fault: str | None = None
    status_fault: str | None = None
    canary_fault: str | None = None
    canary_effect: str = ""
    database_fault: str | None = None
    store_fault: str | None = None
    outbox_fault: str | None = None
    products_fault: str | None = None
    unreadable: tuple[str, ...] = ()
    mail_fault: str | None = None
    slack_fault: str | None = None
    slack_missing: str | None = None
    sentry_missing: str | None = None
    redis_fault: str | None = None
    leads_in_review: int = 0
    leads_in_flood: int = 0
    dead_letters: int = 0
    stopped_mails: int = 0
    mail_stop_reason: str | None = None
    unsent_expired_leads: tuple[str, ...] = ()
    queue_dead_letters: int = 0
    missing_leads: int = 0
    leads_only_in_mail: tuple[str, ...] = ()
    queued_leads: int = 0
    oldest_mail_age: timedelta | None = None
    oldest_queued_age: timedelta | None = None
    backup_age: timedelta | None = None
    drill_age: timedelta | None = None
    overdue_keys: tuple[str, ...] = ()
    overdue_requests: tuple[str, ...] = ()
    stale_data: tuple[str, ...] = ()

    @property
    def channel_faults(self) -> tuple[str, ...]:
        """What is wrong with the ways by which sales and whoever is on call are told."""
        faults = (self.mail_fault, self.slack_fault, self.slack_missing, self.sentry_missing)
        return tuple(fault for fault in faults if fault)


type Check = Callable[[Facts], str | None]
"""What is wrong, as a sentence with its numbers; None when nothing is."""


@dataclass(frozen=True, slots=True)
class Rule:
    """services: what visitors notice. always: even in maintenance, which mutes the rest.

    lasting: False for what happens and is over, known from requests and not from the watch.
    """

    name: str
    severity: str
    area: str
    title: str
    check: Check
    services: tuple[str, ...] = ()
    during_maintenance: bool = False
    is_state: bool = True


def evaluate(facts: Facts) -> list[Finding]:
    """Every rule that is broken, worst first; the same facts always give the same."""
    found = []
    for rule in RULES:
        if facts.maintenance and not rule.during_maintenance:
            continue
        if (what := rule.check(facts)) is not None:
            happens = (
                current_lead_effect(facts)
                if rule.area == "service" and rule.severity == "sev1"
                else ""
            )
            found.append(make_finding(rule, what, _started_at(rule, facts), effect=happens))
    return sorted(found, key=lambda one: one.severity)


def make_finding(rule: Rule, what: str, since: datetime, *, effect: str = "") -> Finding:
    """effect: see lib/incidents/model.py."""
    return Finding(
        rule.name, rule.area, rule.severity, rule.title, what, since, rule.services, rule.is_state,
        effect,
    )  # fmt: skip


def _started_at(rule: Rule, facts: Facts) -> datetime:
    """When it began: the first bad minute of the run that lasts until now; else now.

    A run ends where STRETCH passed without anything bad: an error of a quarter of an hour ago
    began nothing. A minute counts from its end, so that nothing begins before its first bad fact.
    """
    measured = TRAFFIC_RULES.get(rule.name)
    if measured is None:
        return facts.now
    length, services, bad = measured
    minutes = sorted(
        minute
        for service, seen in facts.traffic.items()
        for minute, count in seen.items()
        if (not services or service in services) and bad(count) and minute >= facts.now - length
    )
    since = minutes[-1] if minutes else facts.now
    for minute in reversed(minutes):
        if since - minute > MAX_GAP:
            break
        since = minute
    return min(since + timedelta(seconds=59), facts.now)


def current_lead_effect(facts: Facts) -> str:
    """What happens to a lead that is sent now, by the answers of the last two minutes, else by
    what became of the synthetic lead; "" where nothing tells.

    While Postgres is down what was stored was stored before.
    """
    since = facts.now - CURRENT_WINDOW
    lately = _total(seen for at, seen in facts.traffic.get("leads", {}).items() if at > since)
    down = facts.database_fault is not None
    faulty = down or facts.store_fault is not None
    answers = lately.errors + lately.queued if faulty else lately.requests
    if lately.errors and lately.errors >= answers * MAJORITY:
        return "refused"
    if lately.queued:
        # What counts the answers is what keeps the queue: without it a 202 is a mail.
        return "queued" if facts.redis_fault is None else "mailed"
    if lately.requests > lately.errors and not down:
        return "stored"
    return facts.canary_effect


# ---------------------------------------------------------------- over the traffic


def _total(minutes: Iterable[MinuteCounts]) -> MinuteCounts:
    total = list(minutes)
    return MinuteCounts(
        sum(one.requests for one in total),
        sum(one.errors for one in total),
        sum(one.slow for one in total),
        sum(one.queued for one in total),
    )


def _traffic_within(facts: Facts, service: str, length: timedelta = TRAFFIC_WINDOW) -> MinuteCounts:
    since = facts.now - length
    return _total(seen for at, seen in facts.traffic.get(service, {}).items() if at >= since)


def _most_requests_failing(facts: Facts) -> str | None:
    """Over five minutes and all services: an outage is soon over the half."""
    seen = _total(
        _traffic_within(facts, service, timedelta(minutes=5)) for service in facts.traffic
    )
    if (
        seen.requests >= MAJORITY_MIN_REQUESTS
        and seen.errors >= MAJORITY_MIN_ERRORS
        and seen.errors / seen.requests >= MAJORITY
    ):
        return f"{seen.errors} of {seen.requests} requests failed in 5 minutes"
    return None


def _leads_failing(facts: Facts) -> str | None:
    seen = _traffic_within(facts, "leads", RECENT_WINDOW)
    if seen.errors >= MIN_FAILED_LEADS and seen.errors / seen.requests >= MAJORITY:
        return f"{seen.errors} of {seen.requests} lead submissions failed in 10 minutes"
    return None


def _error_rate(facts: Facts) -> str | None:
    return _services_over(facts, lambda seen: seen.errors, MAX_ERROR_RATE, "failed")


def _slow_rate(facts: Facts) -> str | None:
    return _services_over(facts, lambda seen: seen.slow, MAX_SLOW_RATE, "took over 5 s")


def _services_over(
    facts: Facts, bad: Callable[[MinuteCounts], int], share: float, what: str
) -> str | None:
    said = []
    for service in sorted(facts.traffic):
        seen, lately = (
            _traffic_within(facts, service),
            _traffic_within(facts, service, RECENT_WINDOW),
        )
        enough = (
            seen.requests >= MIN_REQUESTS
            and bad(seen) >= MIN_BAD_REQUESTS
            and bad(lately) >= MIN_RECENT_BAD
        )
        still = bad(lately) > share * lately.requests
        if enough and still and wilson_lower_bound(bad(seen), seen.requests) > share:
            said.append(f"{service}: {bad(seen)} of {seen.requests} requests {what} in 30 minutes")
    return "; ".join(said) or None


def wilson_lower_bound(k: int, n: int) -> float:
    """The least share that k of n, being a sample, still makes likely: Wilson's lower bound, 95 %.

    6 of 100 may be chance where 5 % are meant; 60 of 1000 too; 11 of 100 are not.
    """
    p, zz = k / n, Z_95 * Z_95
    spread = Z_95 * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return (p + zz / (2 * n) - spread) / (1 + zz / n)


# ---------------------------------------------------------------- over ages and counts


def _older_than(age: timedelta | None, bound: timedelta, what: str) -> str | None:
    return f"{what} {format_age(age)} old" if age is not None and age > bound else None


def format_age(length: timedelta) -> str:
    seconds = length.total_seconds()
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.0f} hours"


def _queue_age(facts: Facts, bound: timedelta) -> str | None:
    waits = facts.oldest_queued_age
    if waits is None or waits <= bound:
        return None
    if facts.database_fault is not None and bound == MAX_QUEUE_AGE:
        return None  # that is why, and known
    return f"a lead has been waiting in the queue for {format_age(waits)}"


def _mail_age(facts: Facts) -> str | None:
    waits = facts.oldest_mail_age
    if waits is None or waits <= MAX_MAIL_AGE:
        return None
    return f"a mail has been waiting for {format_age(waits)}"


def _mail_stop(facts: Facts) -> str | None:
    if facts.mail_stop_reason is None:
        return None
    waits = (
        ""
        if facts.oldest_mail_age is None
        else f", the oldest for {format_age(facts.oldest_mail_age)}"
    )
    return f"Resend: {facts.mail_stop_reason}; {facts.stopped_mails} mails wait{waits}"


def _count_sentence(n: int, what: str) -> str | None:
    return f"{n} {what}" if n else None


def _names_sentence(names: tuple[str, ...], what: str) -> str | None:
    return f"{what}: {', '.join(names[:10])}" if names else None


def _with_queue_length(facts: Facts, fault: str | None) -> str | None:
    if fault is None:
        return None
    return f"{fault}; {facts.queued_leads} leads wait in the queue" if facts.queued_leads else fault


def _event_only(_facts: Facts) -> str | None:
    return None


type CountBad = Callable[[MinuteCounts], int]
# Rules over the traffic: how far back they look, at which services (none: all), for what.
TRAFFIC_RULES: Mapping[str, tuple[timedelta, tuple[str, ...], CountBad]] = {
    "most_requests_failing": (timedelta(minutes=5), (), lambda seen: seen.errors),
    "leads_failing": (RECENT_WINDOW, ("leads",), lambda seen: seen.errors),
    "errors_over_5_percent": (TRAFFIC_WINDOW, (), lambda seen: seen.errors),
    "slow_over_5_seconds": (TRAFFIC_WINDOW, (), lambda seen: seen.slow),
}

RULES: tuple[Rule, ...] = (
    # Sev1: global outage, the lead form broken, a lead in danger.
    Rule("health_failing", "sev1", "service", "The API does not answer",
         lambda f: f.health_fault, ("leads", "products", "health")),
    Rule("database_down", "sev1", "service", "Postgres is down",
         lambda f: _with_queue_length(f, f.database_fault), ("leads", "products")),
    Rule("store_refused", "sev1", "service", "Postgres would refuse a lead",
         lambda f: f.store_fault, ("leads",)),
    Rule("canary_failing", "sev1", "service", "A lead does not get through",
         lambda f: f.canary_fault, ("leads",)),
    Rule("most_requests_failing", "sev1", "service", "Most requests fail", _most_requests_failing,
         ("leads", "products")),
    Rule("leads_failing", "sev1", "service", "The lead form is broken", _leads_failing, ("leads",)),
    Rule("status_failing", "sev1", "service", "The status address does not answer",
         lambda f: f.status_fault),
    Rule("lead_not_kept", "sev1", "service", "A lead was kept nowhere", _event_only,
         ("leads",), during_maintenance=True, is_state=False),
    Rule("lead_not_stored_nor_queued", "sev1", "service", "A lead is in a mail alone",
         _event_only, ("leads",), during_maintenance=True, is_state=False),
    Rule("ledger_gap", "sev1", "service", "An accepted lead is nowhere",
         lambda f: _count_sentence(f.missing_leads, "accepted leads are neither stored nor queued"),
         ("leads",)),
    Rule("leads_in_flood", "sev1", "review", "Leads of a flood wait for a person's look",
         lambda f: _count_sentence(
             f.leads_in_flood, "leads came above the ceiling, and sales were not mailed"),
         ("leads",), during_maintenance=True),
    Rule("leads_only_in_mail", "sev1", "mailed_leads", "Leads exist only in a mail",
         lambda f: _names_sentence(f.leads_only_in_mail, "to be imported or dismissed"),
         during_maintenance=True),
    Rule("outbox_refused", "sev1", "mail", "No mail can be sent: sales hear of no lead",
         lambda f: f.outbox_fault),
    Rule("mail_refused", "sev1", "mail", "Mail is refused: sales hear of no lead",
         lambda f: f.mail_fault, during_maintenance=True),
    Rule("slack_refused", "sev1", "alerting", "Slack refuses our alerts",
         lambda f: f.slack_fault, during_maintenance=True),
    Rule("dead_letters", "sev1", "mail", "Mails were given up",
         lambda f: _count_sentence(f.dead_letters, "mails were given up"), ("leads",),
         during_maintenance=True),
    Rule("mail_stopped", "sev1", "mail", "Sales hear of no lead: Resend takes no mail",
         _mail_stop, ("leads",), during_maintenance=True),
    Rule("lead_unheard", "sev1", "mail", "Sales never heard of a lead that is past its retention",
         lambda f: _names_sentence(f.unsent_expired_leads, "kept although past their time")),
    Rule("leads_set_aside", "sev1", "queue", "A queued lead cannot be stored",
         lambda f: _count_sentence(f.queue_dead_letters, "queued leads cannot be stored"),
         ("leads",), during_maintenance=True),
    Rule("queue_very_old", "sev1", "queue", "Queued leads wait too long",
         lambda f: _queue_age(f, CRITICAL_QUEUE_AGE), ("leads",), during_maintenance=True),
    Rule("backup_very_old", "sev1", "backup", "There is no backup of the last two days",
         lambda f: _older_than(f.backup_age, CRITICAL_BACKUP_AGE, "the newest good backup is"),
         during_maintenance=True),
    Rule("key_leaked", "sev1", "keys", "A key has leaked", _event_only, during_maintenance=True,
         is_state=False),
    Rule("maintenance_misspelt", "sev1", "maintenance", "Production is not in maintenance",
         lambda f: f.maintenance_fault, during_maintenance=True),
    # Sev2: worse than promised, or soon to be.
    Rule("leads_in_review", "sev2", "review", "Leads wait for a person's look",
         lambda f: _count_sentence(f.leads_in_review, "leads wait in `ops review list`"),
         during_maintenance=True),
    Rule("errors_over_5_percent", "sev2", "service", "Too many requests fail", _error_rate),
    Rule("slow_over_5_seconds", "sev2", "service", "Requests are too slow", _slow_rate),
    Rule("products_refused", "sev2", "products", "Postgres would show no product",
         lambda f: f.products_fault, ("products",)),
    Rule("watch_blind", "sev2", "watch", "The watch cannot look at everything",
         lambda f: "; ".join(f.unreadable) or None, during_maintenance=True),
    Rule("alerting_not_configured", "sev2", "alerting", "Slack or Sentry is not configured",
         lambda f: "; ".join(filter(None, (f.slack_missing, f.sentry_missing))) or None,
         during_maintenance=True),
    Rule("redis_down", "sev2", "redis", "Redis is down: no limits, no queue to fall back on",
         lambda f: f.redis_fault),
    Rule("mail_delayed", "sev2", "mail", "Mails are delayed", _mail_age, ("leads",)),
    Rule("queue_old", "sev2", "queue", "Queued leads wait",
         lambda f: _queue_age(f, MAX_QUEUE_AGE), ("leads",)),
    Rule("backup_old", "sev2", "backup", "The newest backup is over a day old",
         lambda f: _older_than(f.backup_age, MAX_BACKUP_AGE, "the newest good backup is"),
         during_maintenance=True),
    Rule("drill_old", "sev2", "drill", "Nobody has shown lately that a restore works",
         lambda f: _older_than(f.drill_age, MAX_DRILL_AGE, "the last good restore drill is"),
         during_maintenance=True),
    Rule("key_old", "sev2", "keys", "A key is due for rotation",
         lambda f: _names_sentence(f.overdue_keys, "keys past their age"), during_maintenance=True),
    Rule("request_overdue", "sev2", "privacy", "A person's request is about to be late",
         lambda f: _names_sentence(f.overdue_requests, "requests near their 72 hours"),
         during_maintenance=True),
    Rule("retention_late", "sev2", "privacy", "Data is kept longer than promised",
         lambda f: _names_sentence(f.stale_data, "past their retention"), during_maintenance=True),
)  # fmt: skip

BY_NAME = {rule.name: rule for rule in RULES}
