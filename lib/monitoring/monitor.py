"""The watch: finds out how everything is, once a minute, and sees that somebody knows.

1. Nobody else is at it (a lease), 2. take over what happened while Postgres was away, 3. take the
minutes' counts over, 4. ask, 5. apply the rules, 6. tell, 7. leave the status page's document.
Every step may be done twice, or be the last one: the next watch goes on from the facts.
"""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

from lib.incidents import alert_mail, alerting, redis_store, rules, slack_store, store
from lib.incidents.alerting import describe_fault, with_unavailable_errors
from lib.incidents.model import Finding
from lib.incidents.rules import Facts
from lib.incidents.slack_store import SlackIncident
from lib.interfaces import Services
from lib.leads import canary, delivery_status, mailed_leads, reconciliation
from lib.leads.queue import ACCEPTED, DEAD_LETTERS, QUEUE
from lib.maintenance import MaintenanceWindow
from lib.monitoring import backups, deployments, rollup, secrets, statement_check, status_page
from lib.privacy import requests, retention
from lib.problems import CacheDown, DatabaseDown, NotConfigured, SlackError, TransientMailError

LEASE_S = 55  # below a minute, above what a watch takes
PROBE_TIMEOUT_S, CANARY_TIMEOUT_S = 5.0, 8.0
STATEMENT_TIMEOUT_S = 2.5  # for a lock, or a slow trigger: below what a lead waits for Postgres
SEV2_CLOSES_AFTER = timedelta(hours=24)
REQUEST_DUE_WITHIN = timedelta(hours=12)  # of its 72: time to finish it
CANARY_THROTTLE_KEY = "canary:next"
LEASE_KEY = "watch:lease"

RELEASE_REDIS_LEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
ACQUIRE_LEASE = """
insert into leases as held (job, holder, until) values ('watch', %(holder)s, %(until)s)
on conflict (job) do update set holder = excluded.holder, until = excluded.until
where held.until < %(now)s
returning holder
"""
RELEASE_LEASE = "delete from leases where job = 'watch' and holder = %(holder)s"

COUNT_LEADS_IN_REVIEW = """
select count(*) filter (where review = 'flood'), count(*) filter (where review <> 'flood')
from leads where review <> 'dismissed'
"""
SELECT_LAST_RUN = "select finished_at from job_runs where job = 'watch'"
RECORD_RUN = """
insert into job_runs as held (job, first_run_at, finished_at, facts)
values ('watch', %(now)s, %(now)s, %(facts)s::jsonb)
on conflict (job) do update set finished_at = excluded.finished_at, facts = excluded.facts
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What a watch did. busy: another was at it, and it did nothing. faults: of the channels by
    which anybody is told. undelivered: why Slack did not take an alert."""

    busy: bool = False
    findings: tuple[Finding, ...] = ()
    written: str = "nowhere"
    folded: int | None = None
    messages: int = 0
    delayed: int = 0
    undelivered: str | None = None
    faults: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {
            "busy": self.busy,
            "findings": [one.rule for one in self.findings],
            "faults": self.faults,
            "written": self.written,
            "folded": self.folded,
            "messages": self.messages,
            "delayed": self.delayed,
            "undelivered": self.undelivered,
        }


def run(means: Services, switch: MaintenanceWindow | None, now: datetime) -> Report:
    """One watch. Raises nothing that a dependency's outage could cause."""
    holder = uuid4().hex
    if not _acquire_lease(means, holder, now):
        return Report(busy=True)
    try:
        _import_fallback_records(means, now)
        facts, folded = collect_facts(means, switch, now)
        found = rules.evaluate(facts)
        written, heard = alerting.record_findings(means, found, now, "watch")
        with suppress(DatabaseDown, NotConfigured):
            store.record_clean_check(
                with_unavailable_errors(means), {one.area for one in found}, now
            )
            store.close_old_sev2(with_unavailable_errors(means), now, SEV2_CLOSES_AFTER)
        alerting.import_slack_acknowledgements(means, now)
        tally = alerting.notify(means, now)
        for one in (heard, tally):
            alerting.report_undelivered(means, one)
        _notify_without_slack(means, facts, found, now)
        messages = sum(one.posted + one.updated for one in (heard, tally))
        report = Report(False, tuple(found), written, folded, messages,
                        heard.delayed + tally.delayed, heard.reason or tally.reason,
                        facts.channel_faults)  # fmt: skip
        _record_run_and_publish(means, switch, report, now)
        return report
    finally:
        _release_lease(means, holder)


def _notify_without_slack(
    means: Services, facts: Facts, found: list[Finding], now: datetime
) -> None:
    """While Slack cannot be told: by mail to operators, and that it cannot to Sentry. Hourly."""
    broken = [one for one in found if one.area == "alerting"]
    if facts.slack_fault is None and not facts.slack_missing:
        return
    urgent = [one for one in found if one.severity == "sev1" or one in broken]
    alert_mail.send_alerts(means, urgent, now)
    for one in broken:
        due = True
        with suppress(CacheDown, NotConfigured):
            due = means.cache.execute("SET", f"alert:sentry:{one.rule}", "1", "NX", "EX", 3600)
        with suppress(NotConfigured):
            if due and means.reporter is not None:
                means.reporter.alert(one.rule, request_id="-")


# ---------------------------------------------------------------- alone


def _acquire_lease(means: Services, holder: str, now: datetime) -> bool:
    with suppress(CacheDown, NotConfigured):
        return bool(means.cache.execute("SET", LEASE_KEY, holder, "NX", "EX", LEASE_S))
    values = {"holder": holder, "now": now, "until": now + timedelta(seconds=LEASE_S)}
    with suppress(DatabaseDown, NotConfigured):
        return bool(
            with_unavailable_errors(means)(lambda c: c.execute(ACQUIRE_LEASE, values).fetchone())
        )
    return True  # nobody can say; twice is better than never


def _release_lease(means: Services, holder: str) -> None:
    with suppress(CacheDown, NotConfigured):
        means.cache.execute("EVAL", RELEASE_REDIS_LEASE, 1, LEASE_KEY, holder)
    with suppress(DatabaseDown, NotConfigured):
        with_unavailable_errors(means)(lambda c: c.execute(RELEASE_LEASE, {"holder": holder}))


# ---------------------------------------------------------------- after Postgres was away


def _import_fallback_records(means: Services, now: datetime) -> None:
    """Enter in Postgres what was written to Redis, or only said in Slack, while it was away."""
    with suppress(DatabaseDown, CacheDown, NotConfigured):
        for one in redis_store.list_open(means.cache.execute):
            if one.in_postgres and not one.pending_events:
                continue
            enter = partial(
                store.import_fallback,
                incident=one.incident,
                events=one.pending_events,
                now=now,
                stored=one.in_postgres,
            )
            with_unavailable_errors(means)(enter)
            redis_store.compare_and_set(means.cache.execute, one.incident.area, one, None)
    with suppress(NotConfigured, SlackError):
        keep = partial(_import_slack_incident, means, now)
        slack_store.transfer(means.slack, means.links, now, keep)
    with suppress(DatabaseDown, CacheDown, NotConfigured):
        mailed_leads.import_from_redis(means, now)
    with suppress(DatabaseDown, NotConfigured):
        canary.remove_old(with_unavailable_errors(means), now)


def _import_slack_incident(means: Services, now: datetime, held: SlackIncident) -> str | None:
    """Where an incident that Slack alone held stands from now on."""
    events = slack_store.events(means.slack, held)
    with suppress(DatabaseDown, NotConfigured):
        enter = partial(store.import_fallback, incident=held.incident, events=events, now=now,
                        stored=False, actor="slack")  # fmt: skip
        return with_unavailable_errors(means)(enter) or f"{held.incident.id} (over)"
    with suppress(CacheDown, NotConfigured):
        return redis_store.insert_from_slack(means.cache.execute, held.incident, events)
    return None


# ---------------------------------------------------------------- asking


def collect_facts(
    means: Services, switch: MaintenanceWindow | None, now: datetime
) -> tuple[Facts, int | None]:
    """Everything the rules ask for, and how many counts were taken over."""
    known = Facts(
        now=now, maintenance=switch is not None, maintenance_fault=means.maintenance_mode_error
    )
    facts = _check_database(means, known, now)
    folded = None
    database_fault, redis_fault = facts.database_fault, None
    with suppress(CacheDown, DatabaseDown, NotConfigured):  # which, the other steps tell
        folded = _roll_up(means, now)
    try:
        facts = _check_queue(means, facts, now)
    except (CacheDown, NotConfigured) as fault:
        redis_fault = describe_fault(fault, "Redis")
    if database_fault is None and redis_fault is None:
        with suppress(CacheDown, DatabaseDown):  # the next minute tells
            book = reconciliation.reconcile(
                means.cache.pipeline, with_unavailable_errors(means), now
            )
            facts = replace(facts, missing_leads=len(book.missing))
    facts = replace(facts, redis_fault=redis_fault, traffic=_load_traffic(means, now))
    return _check_mailed_leads(means, _probe_site(means, facts, now)), folded


def _check_database(means: Services, facts: Facts, now: datetime) -> Facts:
    """Whether it would take a lead; then everything that is read there, each by itself: one table
    that is closed to us hides nothing else."""
    try:
        means.database.ping()  # on a new connection, whatever is remembered
        found = statement_check.find_faults(means.database.run, now, patience_s=STATEMENT_TIMEOUT_S)
    except (DatabaseDown, NotConfigured) as fault:
        return replace(facts, database_fault=_describe(fault, "Postgres"))
    facts = replace(
        facts,
        store_fault=found.get("store_refused"),
        outbox_fault=found.get("outbox_refused"),
        products_fault=found.get("products_refused"),
    )
    blind = []
    for look_at in (
        _check_emails,
        _check_review,
        _check_backups,
        _check_privacy_requests,
        _check_retention,
        _check_secrets,
    ):
        try:
            facts = look_at(means, facts, now)
        except DatabaseDown as fault:
            blind.append(_describe(fault, "Postgres"))
    return replace(facts, unreadable=tuple(dict.fromkeys(blind)))


def _describe(fault: Exception, name: str) -> str:
    """Of an outage, or of a refusal: a table or a right that is missing."""
    if statement_check.is_server_error(fault.__cause__):
        return statement_check.describe_error(fault.__cause__)
    return describe_fault(fault, name)


def _roll_up(means: Services, now: datetime) -> int:
    last = with_unavailable_errors(means)(lambda c: c.execute(SELECT_LAST_RUN).fetchone())
    since = last[0] if last else now - rollup.MAX_LOOKBACK
    return rollup.roll_up(
        with_unavailable_errors(means), means.cache.pipeline, since, now, status_page.SLA_BUCKETS
    )


def _check_emails(means: Services, facts: Facts, now: datetime) -> Facts:
    mails = delivery_status.load(with_unavailable_errors(means), now)
    return replace(
        facts,
        dead_letters=mails.dead,
        oldest_mail_age=None if mails.waiting_since is None else facts.now - mails.waiting_since,
        stopped_mails=mails.blocked,
        mail_stop_reason=mails.blocked_by,
    )


def _check_review(means: Services, facts: Facts, _now: datetime) -> Facts:
    of_flood, others = with_unavailable_errors(means)(
        lambda c: c.execute(COUNT_LEADS_IN_REVIEW).fetchone()
    )
    return replace(facts, leads_in_flood=of_flood, leads_in_review=others)


def _check_backups(means: Services, facts: Facts, now: datetime) -> Facts:
    standing = backups.load_status(with_unavailable_errors(means), now)
    return replace(facts, backup_age=standing.backup_age, drill_age=standing.drill_age)


def _check_privacy_requests(means: Services, facts: Facts, now: datetime) -> Facts:
    due = requests.list_due(with_unavailable_errors(means), now, REQUEST_DUE_WITHIN)
    return replace(facts, overdue_requests=tuple(one.receipt for one in due))


def _check_retention(means: Services, facts: Facts, now: datetime) -> Facts:
    classes = retention.rules(means.retention_days)
    late = retention.overdue(with_unavailable_errors(means), classes, now)
    return replace(
        facts,
        unsent_expired_leads=tuple(
            retention.unnotified_leads(with_unavailable_errors(means), classes, now)
        ),
        stale_data=tuple(one.name for one in late),
    )


def _check_secrets(means: Services, facts: Facts, now: datetime) -> Facts:
    return replace(facts, overdue_keys=secrets.list_overdue(with_unavailable_errors(means), now))


def _check_mailed_leads(means: Services, facts: Facts) -> Facts:
    """The leads that exist only in a mail, as far as either store has them registered."""
    found: dict[str, mailed_leads.MailedLead] = {}
    with suppress(CacheDown, NotConfigured):
        found |= {one.lead_id: one for one in mailed_leads.list_in_redis(means.cache.pipeline)}
    blind = facts.unreadable
    try:
        # Even after a write was refused, which opens the circuit breaker.
        run = partial(with_unavailable_errors(means), even_if_open=True)
        found |= {one.lead_id: one for one in mailed_leads.list_open(run)}
    except (DatabaseDown, NotConfigured) as fault:
        if facts.database_fault is None:
            blind = tuple(dict.fromkeys([*blind, _describe(fault, "Postgres")]))
    return replace(
        facts,
        leads_only_in_mail=mailed_leads.format_references(list(found.values())),
        unreadable=blind,
    )


def _check_queue(means: Services, facts: Facts, now: datetime) -> Facts:
    queued, aside = means.cache.pipeline(("HKEYS", QUEUE), ("HLEN", DEAD_LETTERS))
    waits = None
    if queued:
        scores = means.cache.execute("ZMSCORE", ACCEPTED, *queued)
        known = [float(score) for score in scores if score is not None]
        if known:
            waits = now - datetime.fromtimestamp(min(known), UTC)
    return replace(
        facts, queue_dead_letters=int(aside), oldest_queued_age=waits, queued_leads=len(queued)
    )


def _load_traffic(means: Services, now: datetime) -> dict[str, dict[datetime, rules.MinuteCounts]]:
    with suppress(CacheDown, NotConfigured):
        return rollup.recent_from_redis(means.cache.pipeline, now, rules.TRAFFIC_WINDOW)
    with suppress(DatabaseDown, NotConfigured):
        return rollup.recent_from_postgres(
            with_unavailable_errors(means), now, rules.TRAFFIC_WINDOW
        )
    return {}


def _probe_site(means: Services, facts: Facts, now: datetime) -> Facts:
    """The site as its callers meet it, all at once."""
    with ThreadPoolExecutor(5) as pool:
        mail, slack = pool.submit(_email_fault, means), pool.submit(_slack_faults, means, now)
        health = pool.submit(url_fault, f"{means.site_url}/api/health", b'{"status":"')
        page = pool.submit(url_fault, f"{means.site_url}/api/status", b'{"page":')
        lead = pool.submit(_canary_when_due, means, facts, now)
    slack_fault, slack_missing = slack.result()
    canary_fault, canary_effect = lead.result()
    return replace(
        facts,
        health_fault=health.result(),
        status_fault=page.result(),
        canary_fault=canary_fault,
        canary_effect=canary_effect,
        mail_fault=mail.result(),
        slack_fault=slack_fault,
        slack_missing=slack_missing,
        sentry_missing=_sentry_fault(means),
    )


def _email_fault(means: Services) -> str | None:
    """Why no mail at all is taken: no key, or one that is refused."""
    try:
        refusal = means.mailer.api_key_error(timeout_s=PROBE_TIMEOUT_S)
    except NotConfigured as fault:
        return str(fault)
    except TransientMailError:
        return None  # mails that wait tell
    return refusal and f"Resend refuses the key: {refusal}"


def _slack_faults(means: Services, now: datetime) -> tuple[str | None, str | None]:
    """Why no alert is taken, and what is not configured. What only Slack knows of leads in a mail
    is entered on the way."""
    refusal = None
    try:
        refusal = means.slack.bot_error()
        with suppress(DatabaseDown):
            mailed_leads.import_from_slack(means, now)
    except NotConfigured as fault:
        return None, str(fault)
    except SlackError:
        pass  # silent: alerts that wait tell
    return refusal and f"Slack refuses our bot: {refusal}", None


def _sentry_fault(means: Services) -> str | None:
    try:
        return means.sentry_dsn and None
    except NotConfigured as fault:
        return str(fault)


def url_fault(url: str, beginning: bytes) -> str | None:
    """What is wrong with an address; None when it answers 200 and begins so. Asked twice."""
    said = None
    for _ in range(2):
        try:
            with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S) as answer:  # noqa: S310
                if answer.read(64).startswith(beginning):
                    return None
                said = f"{_path(url)} answers something else"
        except urllib.error.HTTPError as fault:
            fault.close()
            said = f"{_path(url)} answers {fault.code}"
        except OSError as fault:
            said = f"{_path(url)} cannot be reached ({type(fault).__name__})"
        time.sleep(0.5)
    return said


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


# ---------------------------------------------------------------- the synthetic lead


def _canary_when_due(means: Services, facts: Facts, now: datetime) -> tuple[str | None, str]:
    """Now and then, and after a failure every time: whether a lead gets through, and what became
    of it (one of incidents.EFFECTS)."""
    if facts.maintenance:
        return None, ""
    try:
        secret = means.canary_secret
    except NotConfigured:
        return None, ""
    with suppress(CacheDown, NotConfigured):
        due = means.cache.execute("SET", CANARY_THROTTLE_KEY, "1", "NX", "EX", means.canary_every_s)
        faulty = facts.database_fault is not None or facts.store_fault is not None
        nobody_tells = faulty and not rules.current_lead_effect(facts)
        if not due and not nobody_tells:
            return None, ""
    fault, effect = _send_canary(means, facts, secret, now)
    with suppress(DatabaseDown, NotConfigured):
        deployments.record_canary(
            with_unavailable_errors(means), means.deployment, fault is None, now
        )
    if fault is not None:
        with suppress(CacheDown, NotConfigured):
            means.cache.execute("DEL", CANARY_THROTTLE_KEY)
    return fault, effect


def _send_canary(
    means: Services, facts: Facts, secret: str, now: datetime
) -> tuple[str | None, str]:
    form = {**canary.payload(now), "email": ""}  # one mail to a test mailbox is enough
    body = json.dumps(form).encode()
    request = urllib.request.Request(  # noqa: S310 - our own site
        f"{means.site_url}/api/leads",
        data=body,
        headers={
            "Content-Type": "application/json",
            canary.HEADER: canary.sign(secret, body, now),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=CANARY_TIMEOUT_S) as answer:  # noqa: S310
            taken = json.load(answer)
            lead_id = UUID(taken["id"])
    except urllib.error.HTTPError as fault:
        fault.close()
        # Below 500 it was refused for what it was, and no visitor's is like it.
        effect = "refused" if fault.code >= 500 else ""
        return f"a synthetic lead was answered {fault.code}", effect
    except (OSError, ValueError, LookupError, TypeError) as fault:
        return f"a synthetic lead was not answered ({type(fault).__name__})", "refused"
    effect = "stored"
    if taken.get("queued"):
        effect = "queued" if facts.redis_fault is None else "mailed"
    if facts.database_fault is not None or facts.store_fault is not None:
        # It is queued, as it should be. Drained meanwhile, it goes with REMOVE_OLD.
        with suppress(CacheDown, DatabaseDown, NotConfigured):
            canary.remove(with_unavailable_errors(means), means.cache.pipeline, lead_id)
        return None, effect
    with suppress(CacheDown, DatabaseDown, NotConfigured):
        stored = canary.find(with_unavailable_errors(means), lead_id).stored
        canary.remove(with_unavailable_errors(means), means.cache.pipeline, lead_id)
        if not stored and not taken.get("queued"):
            return "a synthetic lead was accepted and not stored", effect
        if not stored:
            return "a synthetic lead was queued although Postgres answers", effect
    return None, effect


# ---------------------------------------------------------------- leaving word


def _record_run_and_publish(
    means: Services, switch: MaintenanceWindow | None, report: Report, now: datetime
) -> None:
    """Note the run, and leave the status page's document: without Postgres, the last one with the
    incidents of now."""
    with suppress(CacheDown, NotConfigured):
        try:
            burn = with_unavailable_errors(means)(partial(rollup.burn_rates, now=now))
            values = {"now": now, "facts": json.dumps({**report.as_dict(), "burn": burn})}
            with_unavailable_errors(means)(lambda c: c.execute(RECORD_RUN, values))
            known = status_page.load(with_unavailable_errors(means), now)
            made = status_page.render(known, means.site_url, switch, now, "watch")
        except (DatabaseDown, NotConfigured):
            before = status_page.parse(means.cache.execute("GET", status_page.KEY))
            if before is None:
                before = status_page.unknown_status(means.site_url, switch, now)
            open_ones = [one.incident for one in redis_store.list_open(means.cache.execute)]
            made = status_page.merge_current(before, open_ones, switch, now)
        status_page.publish(means.cache.execute, made)
