"""Which facts break which rule: the handbook's thresholds, and ours, as a table.

Sev1 notifies at once, Sev2 waits for the next working morning. Rates of requests are judged in
traffic.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lib.incidents import traffic
from lib.incidents.model import Finding
from lib.incidents.traffic import SLOW_REQUEST_MS as SLOW_REQUEST_MS
from lib.incidents.traffic import MinuteCounts as MinuteCounts
from lib.incidents.traffic import Traffic

TRAFFIC_WINDOW = traffic.WINDOW
CURRENT_WINDOW = timedelta(minutes=2)  # the minute that runs, and the one before
MAX_MAIL_AGE, MAX_QUEUE_AGE = timedelta(minutes=10), timedelta(minutes=15)
CRITICAL_QUEUE_AGE = timedelta(hours=24)  # half the journal's life
MAX_BACKUP_AGE, CRITICAL_BACKUP_AGE = timedelta(hours=26), timedelta(hours=48)
MAX_DRILL_AGE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the monitor found. None where it could not be read, or nothing is wrong.

    traffic: service -> minute -> counts, over TRAFFIC_WINDOW. store_fault, outbox_fault,
    products_fault: see statement_check. unreadable: tables the monitor itself may not read.
    mail_fault, slack_fault: why a vendor refuses us. canary_effect: what became of the synthetic
    lead just sent.
    """

    now: datetime
    maintenance: bool = False
    maintenance_fault: str | None = None
    traffic: Traffic = field(default_factory=dict)
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
        """Of the channels that reach sales and whoever is on call."""
        faults = (self.mail_fault, self.slack_fault, self.slack_missing, self.sentry_missing)
        return tuple(fault for fault in faults if fault)


type Check = Callable[[Facts], str | None]
"""What is wrong, as a sentence with its numbers; None when nothing is."""


@dataclass(frozen=True, slots=True)
class Rule:
    """services: what visitors notice. during_maintenance: else maintenance mutes it.

    is_state: False for an event, which requests raise and the monitor does not.
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
    """A finding for every broken rule, worst first."""
    findings = []
    for rule in RULES:
        description = (
            rule.check(facts) if rule.during_maintenance or not facts.maintenance else None
        )
        if description is None:
            continue
        started_at = traffic.started_at(rule.name, facts.traffic, facts.now)
        touches_leads = rule.area == "service" and rule.severity == "sev1"
        effect = current_lead_effect(facts) if touches_leads else ""
        findings.append(make_finding(rule, description, started_at, effect=effect))
    return sorted(findings, key=lambda finding: finding.severity)


def make_finding(
    rule: Rule, description: str, started_at: datetime, *, effect: str = ""
) -> Finding:
    """effect: one of model.LEAD_EFFECTS."""
    return Finding(
        rule.name, rule.area, rule.severity, rule.title, description, started_at, rule.services,
        rule.is_state, effect,
    )  # fmt: skip


def current_lead_effect(facts: Facts) -> str:
    """What happens to a lead that is sent now, by the answers of CURRENT_WINDOW, else by the
    synthetic lead; "" where neither tells.

    While Postgres is down, or would refuse a lead, a stored one is from before: the synthetic lead
    tells.
    """
    leads = facts.traffic.get("leads", {})
    since = facts.now - CURRENT_WINDOW
    lately = traffic.total(counts for at, counts in leads.items() if at > since)
    is_faulty = facts.database_fault is not None or facts.store_fault is not None
    answers = lately.errors + lately.queued if is_faulty else lately.requests
    if lately.errors and lately.errors >= answers * traffic.MAJORITY:
        return "refused"
    if lately.queued:
        # Redis counts the answers, and keeps the queue: without it a 202 is a mail.
        return "queued" if facts.redis_fault is None else "mailed"
    if lately.requests > lately.errors and not is_faulty:
        return "stored"
    return facts.canary_effect


# ---------------------------------------------------------------- checks


def format_age(age: timedelta) -> str:
    seconds = age.total_seconds()
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.0f} hours"


def _older_than(age: timedelta | None, max_age: timedelta, subject: str) -> str | None:
    return f"{subject} {format_age(age)} old" if age is not None and age > max_age else None


def _waiting(age: timedelta | None, max_age: timedelta, subject: str) -> str | None:
    return f"{subject} for {format_age(age)}" if age is not None and age > max_age else None


QUEUED_LEAD = "a lead has been waiting in the queue"


def _queue_old(facts: Facts) -> str | None:
    if facts.database_fault is not None:
        return None  # the reason, and known
    return _waiting(facts.oldest_queued_age, MAX_QUEUE_AGE, QUEUED_LEAD)


def _mail_stopped(facts: Facts) -> str | None:
    if facts.mail_stop_reason is None:
        return None
    age = facts.oldest_mail_age
    oldest = "" if age is None else f", the oldest for {format_age(age)}"
    waiting = _count(facts.stopped_mails, "mail waits", "mails wait") or "no mail waits"
    return f"Resend: {facts.mail_stop_reason}; {waiting}{oldest}"


def _database_down(facts: Facts) -> str | None:
    if facts.database_fault is None or not facts.queued_leads:
        return facts.database_fault
    waiting = _count(facts.queued_leads, "lead waits", "leads wait")
    return f"{facts.database_fault}; {waiting} in the queue"


def _count(n: int, singular: str, plural: str) -> str | None:
    return f"{n} {singular if n == 1 else plural}" if n else None


def _list(names: tuple[str, ...], words: str) -> str | None:
    return f"{words}: {', '.join(names[:10])}" if names else None


def _known_from_request(_facts: Facts) -> str | None:
    return None


RULES: tuple[Rule, ...] = (
    # Sev1: global outage, the lead form broken, a lead in danger.
    Rule("health_failing", "sev1", "service", "The API does not answer",
         lambda f: f.health_fault, ("leads", "products", "health")),
    Rule("database_down", "sev1", "service", "Postgres is down",
         _database_down, ("leads", "products")),
    Rule("store_refused", "sev1", "service", "Postgres would refuse a lead",
         lambda f: f.store_fault, ("leads",)),
    Rule("canary_failing", "sev1", "service", "A lead does not get through",
         lambda f: f.canary_fault, ("leads",)),
    Rule("most_requests_failing", "sev1", "service", "Most requests fail",
         lambda f: traffic.most_requests_failing(f.traffic, f.now), ("leads", "products")),
    Rule("leads_failing", "sev1", "service", "The lead form is broken",
         lambda f: traffic.leads_failing(f.traffic, f.now), ("leads",)),
    Rule("status_failing", "sev1", "service", "The status address does not answer",
         lambda f: f.status_fault),
    Rule("lead_not_kept", "sev1", "service", "A lead was not stored anywhere", _known_from_request,
         ("leads",), during_maintenance=True, is_state=False),
    Rule("lead_not_stored_nor_queued", "sev1", "service", "A lead is in a mail alone",
         _known_from_request, ("leads",), during_maintenance=True, is_state=False),
    Rule("ledger_gap", "sev1", "service", "An accepted lead is nowhere",
         lambda f: _count(f.missing_leads, "accepted lead is neither stored nor queued",
                          "accepted leads are neither stored nor queued"),
         ("leads",)),
    Rule("leads_in_flood", "sev1", "review", "Leads of a flood wait for review",
         lambda f: _count(
             f.leads_in_flood, "lead came above the ceiling, and sales were not mailed",
             "leads came above the ceiling, and sales were not mailed"),
         ("leads",), during_maintenance=True),
    Rule("leads_only_in_mail", "sev1", "mailed_leads", "Leads exist only in a mail",
         lambda f: _list(f.leads_only_in_mail, "to be imported or dismissed"),
         during_maintenance=True),
    Rule("outbox_refused", "sev1", "mail", "No mail can be sent: sales are not notified",
         lambda f: f.outbox_fault),
    Rule("mail_refused", "sev1", "mail", "Mail is refused: sales are not notified",
         lambda f: f.mail_fault, during_maintenance=True),
    Rule("slack_refused", "sev1", "alerting", "Slack refuses our alerts",
         lambda f: f.slack_fault, during_maintenance=True),
    Rule("dead_letters", "sev1", "mail", "Mails were given up",
         lambda f: _count(f.dead_letters, "mail was given up", "mails were given up"), ("leads",),
         during_maintenance=True),
    Rule("mail_stopped", "sev1", "mail", "Sales are not notified: Resend takes no mail",
         _mail_stopped, ("leads",), during_maintenance=True),
    Rule("lead_unheard", "sev1", "mail", "Sales were not notified of a lead past its retention",
         lambda f: _list(f.unsent_expired_leads, "kept although past retention")),
    Rule("leads_set_aside", "sev1", "queue", "A queued lead cannot be stored",
         lambda f: _count(f.queue_dead_letters, "queued lead cannot be stored",
                          "queued leads cannot be stored"),
         ("leads",), during_maintenance=True),
    Rule("queue_very_old", "sev1", "queue", "Queued leads wait too long",
         lambda f: _waiting(f.oldest_queued_age, CRITICAL_QUEUE_AGE, QUEUED_LEAD), ("leads",),
         during_maintenance=True),
    Rule("backup_very_old", "sev1", "backup", "There is no backup of the last two days",
         lambda f: _older_than(f.backup_age, CRITICAL_BACKUP_AGE, "the newest good backup is"),
         during_maintenance=True),
    Rule("key_leaked", "sev1", "keys", "A key has leaked", _known_from_request,
         during_maintenance=True, is_state=False),
    Rule("maintenance_misspelt", "sev1", "maintenance", "Production is not in maintenance",
         lambda f: f.maintenance_fault, during_maintenance=True),
    # Sev2: worse than promised, or soon to be.
    Rule("leads_in_review", "sev2", "review", "Leads wait for review",
         lambda f: _count(f.leads_in_review, "lead waits in `ops review list`",
                          "leads wait in `ops review list`"),
         during_maintenance=True),
    Rule("errors_over_5_percent", "sev2", "service", "Too many requests fail",
         lambda f: traffic.too_many_errors(f.traffic, f.now)),
    Rule("slow_over_5_seconds", "sev2", "service", "Requests are too slow",
         lambda f: traffic.too_many_slow(f.traffic, f.now)),
    Rule("products_refused", "sev2", "products", "Postgres would show no product",
         lambda f: f.products_fault, ("products",)),
    Rule("watch_blind", "sev2", "watch", "The watch cannot look at everything",
         lambda f: "; ".join(f.unreadable) or None, during_maintenance=True),
    Rule("alerting_not_configured", "sev2", "alerting", "Slack or Sentry is not configured",
         lambda f: "; ".join(filter(None, (f.slack_missing, f.sentry_missing))) or None,
         during_maintenance=True),
    Rule("redis_down", "sev2", "redis", "Redis is down: no limits, no queue to fall back on",
         lambda f: f.redis_fault),
    Rule("mail_delayed", "sev2", "mail", "Mails are delayed",
         lambda f: _waiting(f.oldest_mail_age, MAX_MAIL_AGE, "a mail has been waiting"),
         ("leads",)),
    Rule("queue_old", "sev2", "queue", "Queued leads wait", _queue_old, ("leads",)),
    Rule("backup_old", "sev2", "backup", "The newest backup is over a day old",
         lambda f: _older_than(f.backup_age, MAX_BACKUP_AGE, "the newest good backup is"),
         during_maintenance=True),
    Rule("drill_old", "sev2", "drill", "No recent restore drill",
         lambda f: _older_than(f.drill_age, MAX_DRILL_AGE, "the last good restore drill is"),
         during_maintenance=True),
    Rule("key_old", "sev2", "keys", "A key is due for rotation",
         lambda f: _list(f.overdue_keys, "keys past their age"), during_maintenance=True),
    Rule("request_overdue", "sev2", "privacy", "A person's request is about to be late",
         lambda f: _list(f.overdue_requests, "requests near their 72 hours"),
         during_maintenance=True),
    Rule("retention_late", "sev2", "privacy", "Data is kept longer than promised",
         lambda f: _list(f.stale_data, "past their retention"), during_maintenance=True),
)  # fmt: skip

BY_NAME = {rule.name: rule for rule in RULES}
