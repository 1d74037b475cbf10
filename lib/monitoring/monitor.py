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
from typing import Any, Protocol
from uuid import UUID, uuid4

from lib.incidents import alert_mail, alerting, redis_store, rules, slack_store, store
from lib.incidents.alerting import run_of, said
from lib.incidents.model import Finding
from lib.incidents.rules import Facts
from lib.incidents.slack_store import Held
from lib.leads import canary, delivery_status, mailed_leads, reconciliation
from lib.leads.queue import ACCEPTED, DEAD, QUEUE
from lib.maintenance import Switch
from lib.monitoring import backups, deployments, rollup, secrets, statement_check, status_page
from lib.privacy import requests, retention
from lib.problems import AlertDelayed, CacheDown, DatabaseDown, MailDelayed, NotConfigured

LEASE_S = 55  # below a minute, above what a watch takes
PROBE_S, CANARY_S = 5.0, 8.0
PATIENCE_S = 2.5  # for a lock, or a slow trigger: below what a lead waits for Postgres
SEV2_CLOSES_AFTER = timedelta(hours=24)
REQUEST_NEAR = timedelta(hours=12)  # of its 72: time to finish it
CANARY_DUE = "canary:next"
LEASE_KEY = "watch:lease"

GIVE_BACK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
TAKE_LEASE = """
insert into leases as held (job, holder, until) values ('watch', %(holder)s, %(until)s)
on conflict (job) do update set holder = excluded.holder, until = excluded.until
where held.until < %(now)s
returning holder
"""
END_LEASE = "delete from leases where job = 'watch' and holder = %(holder)s"

IN_REVIEW = """
select count(*) filter (where review = 'flood'), count(*) filter (where review <> 'flood')
from leads where review <> 'dismissed'
"""
LAST_RUN = "select finished_at from job_runs where job = 'watch'"
RAN = """
insert into job_runs as held (job, first_run_at, finished_at, facts)
values ('watch', %(now)s, %(now)s, %(facts)s::jsonb)
on conflict (job) do update set finished_at = excluded.finished_at, facts = excluded.facts
"""


class Means(alerting.Means, Protocol):
    @property
    def reporter(self) -> Any: ...
    @property
    def alert_addresses(self) -> tuple[str, tuple[str, ...]]: ...
    @property
    def mailer(self) -> Any: ...
    @property
    def slack(self) -> Any: ...
    @property
    def sentry_dsn(self) -> str: ...
    @property
    def erasure_keys(self) -> tuple[bytes, ...]: ...
    @property
    def site_url(self) -> str: ...
    @property
    def canary_secret(self) -> str: ...
    @property
    def canary_every_s(self) -> int: ...
    @property
    def maintenance_fault(self) -> str | None: ...
    @property
    def retention_days(self) -> int: ...


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

    def facts(self) -> dict[str, object]:
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


def run(means: Means, switch: Switch | None, now: datetime) -> Report:
    """One watch. Raises nothing that a dependency's outage could cause."""
    holder = uuid4().hex
    if not _lease(means, holder, now):
        return Report(busy=True)
    try:
        _take_over(means, now)
        facts, folded = look(means, switch, now)
        found = rules.evaluate(facts)
        written, heard = alerting.enter(means, found, now, "watch")
        with suppress(DatabaseDown, NotConfigured):
            store.quiet(run_of(means), {one.area for one in found}, now)
            store.close_old(run_of(means), now, SEV2_CLOSES_AFTER)
        alerting.hear(means, now)
        tally = alerting.tell(means, now)
        for one in (heard, tally):
            alerting.unheard(means, one)
        _tell_elsewhere(means, facts, found, now)
        messages = sum(one.posted + one.updated for one in (heard, tally))
        report = Report(False, tuple(found), written, folded, messages,
                        heard.delayed + tally.delayed, heard.reason or tally.reason,
                        facts.channels)  # fmt: skip
        _finish(means, switch, report, now)
        return report
    finally:
        _give_back(means, holder)


def _tell_elsewhere(means: Means, facts: Facts, found: list[Finding], now: datetime) -> None:
    """While Slack cannot be told: by mail to operators, and that it cannot to Sentry. Hourly."""
    broken = [one for one in found if one.area == "alerting"]
    if facts.slack_fault is None and not facts.slack_missing:
        return
    urgent = [one for one in found if one.severity == "sev1" or one in broken]
    alert_mail.tell(means, urgent, now)
    for one in broken:
        due = True
        with suppress(CacheDown, NotConfigured):
            due = means.cache.run("SET", f"alert:sentry:{one.rule}", "1", "NX", "EX", 3600)
        with suppress(NotConfigured):
            if due and means.reporter is not None:
                means.reporter.alert(one.rule, request_id="-")


# ---------------------------------------------------------------- alone


def _lease(means: Means, holder: str, now: datetime) -> bool:
    with suppress(CacheDown, NotConfigured):
        return bool(means.cache.run("SET", LEASE_KEY, holder, "NX", "EX", LEASE_S))
    values = {"holder": holder, "now": now, "until": now + timedelta(seconds=LEASE_S)}
    with suppress(DatabaseDown, NotConfigured):
        return bool(run_of(means)(lambda c: c.execute(TAKE_LEASE, values).fetchone()))
    return True  # nobody can say; twice is better than never


def _give_back(means: Means, holder: str) -> None:
    with suppress(CacheDown, NotConfigured):
        means.cache.run("EVAL", GIVE_BACK, 1, LEASE_KEY, holder)
    with suppress(DatabaseDown, NotConfigured):
        run_of(means)(lambda c: c.execute(END_LEASE, {"holder": holder}))


# ---------------------------------------------------------------- after Postgres was away


def _take_over(means: Means, now: datetime) -> None:
    """Enter in Postgres what was written to Redis, or only said in Slack, while it was away."""
    with suppress(DatabaseDown, CacheDown, NotConfigured):
        for one in redis_store.read(means.cache.run):
            if one.stored and not one.events:
                continue
            enter = partial(
                store.take_over,
                incident=one.incident,
                events=one.events,
                now=now,
                stored=one.stored,
            )
            run_of(means)(enter)
            redis_store.swap(means.cache.run, one.incident.area, one, None)
    with suppress(NotConfigured, AlertDelayed):
        keep = partial(_keep, means, now)
        slack_store.hand_over(means.slack, means.links, now, keep)
    with suppress(DatabaseDown, CacheDown, NotConfigured):
        mailed_leads.take_over(means, now)
    with suppress(DatabaseDown, NotConfigured):
        canary.remove_old(run_of(means), now)


def _keep(means: Means, now: datetime, held: Held) -> str | None:
    """Where an incident that Slack alone held stands from now on."""
    events = slack_store.events(means.slack, held)
    with suppress(DatabaseDown, NotConfigured):
        enter = partial(store.take_over, incident=held.incident, events=events, now=now,
                        stored=False, actor="slack")  # fmt: skip
        return run_of(means)(enter) or f"{held.incident.id} (over)"
    with suppress(CacheDown, NotConfigured):
        return redis_store.take_over(means.cache.run, held.incident, events)
    return None


# ---------------------------------------------------------------- asking


def look(means: Means, switch: Switch | None, now: datetime) -> tuple[Facts, int | None]:
    """Everything the rules ask for, and how many counts were taken over."""
    known = Facts(
        now=now, maintenance=switch is not None, maintenance_fault=means.maintenance_fault
    )
    facts = _with_database(means, known, now)
    folded = None
    database_fault, redis_fault = facts.database_fault, None
    with suppress(CacheDown, DatabaseDown, NotConfigured):  # which, the other steps tell
        folded = _fold(means, now)
    try:
        facts = _with_queue(means, facts, now)
    except (CacheDown, NotConfigured) as fault:
        redis_fault = said(fault, "Redis")
    if database_fault is None and redis_fault is None:
        with suppress(CacheDown, DatabaseDown):  # the next minute tells
            book = reconciliation.read(means.cache.run_all, run_of(means), now)
            facts = replace(facts, missing=len(book.missing))
    facts = replace(facts, redis_fault=redis_fault, traffic=_traffic(means, now))
    return _with_mailed(means, _with_probes(means, facts, now)), folded


def _with_database(means: Means, facts: Facts, now: datetime) -> Facts:
    """Whether it would take a lead; then everything that is read there, each by itself: one table
    that is closed to us hides nothing else."""
    try:
        means.database.ping()  # on a new connection, whatever is remembered
        found = statement_check.every_fault(means.database.run, now, patience_s=PATIENCE_S)
    except (DatabaseDown, NotConfigured) as fault:
        return replace(facts, database_fault=_said(fault, "Postgres"))
    facts = replace(
        facts,
        store_fault=found.get("store_refused"),
        outbox_fault=found.get("outbox_refused"),
        products_fault=found.get("products_refused"),
    )
    blind = []
    for look_at in (
        _with_mails,
        _with_review,
        _with_ages,
        _with_requests,
        _with_stale_data,
        _with_keys,
    ):
        try:
            facts = look_at(means, facts, now)
        except DatabaseDown as fault:
            blind.append(_said(fault, "Postgres"))
    return replace(facts, blind=tuple(dict.fromkeys(blind)))


def _said(fault: Exception, name: str) -> str:
    """Of an outage, or of a refusal: a table or a right that is missing."""
    if statement_check.is_refusal(fault.__cause__):
        return statement_check.sentence(fault.__cause__)
    return said(fault, name)


def _fold(means: Means, now: datetime) -> int:
    last = run_of(means)(lambda c: c.execute(LAST_RUN).fetchone())
    since = last[0] if last else now - rollup.FURTHEST
    return rollup.fold(run_of(means), means.cache.run_all, since, now, status_page.PROMISED)


def _with_mails(means: Means, facts: Facts, now: datetime) -> Facts:
    mails = delivery_status.read(run_of(means), now)
    return replace(
        facts,
        dead_letters=mails.dead,
        mail_waits=None if mails.waiting_since is None else facts.now - mails.waiting_since,
        mail_stopped=mails.stopped,
        mail_stopped_by=mails.stopped_by,
    )


def _with_review(means: Means, facts: Facts, _now: datetime) -> Facts:
    of_flood, others = run_of(means)(lambda c: c.execute(IN_REVIEW).fetchone())
    return replace(facts, in_flood=of_flood, in_review=others)


def _with_ages(means: Means, facts: Facts, now: datetime) -> Facts:
    standing = backups.standing(run_of(means), now)
    return replace(facts, backup_age=standing.backup_age, drill_age=standing.drill_age)


def _with_requests(means: Means, facts: Facts, now: datetime) -> Facts:
    due = requests.overdue(run_of(means), now, REQUEST_NEAR)
    return replace(facts, overdue_requests=tuple(one.receipt for one in due))


def _with_stale_data(means: Means, facts: Facts, now: datetime) -> Facts:
    classes = retention.rules(means.retention_days)
    late = retention.waiting(run_of(means), classes, now)
    return replace(
        facts,
        unheard=tuple(retention.unheard(run_of(means), classes, now)),
        stale_data=tuple(one.name for one in late),
    )


def _with_keys(means: Means, facts: Facts, now: datetime) -> Facts:
    return replace(facts, overdue_keys=secrets.overdue(run_of(means), now))


def _with_mailed(means: Means, facts: Facts) -> Facts:
    """The leads that exist only in a mail, as far as either store has them registered."""
    found: dict[str, mailed_leads.Entry] = {}
    with suppress(CacheDown, NotConfigured):
        found |= {one.lead_id: one for one in mailed_leads.waiting(means.cache.run_all)}
    blind = facts.blind
    try:
        # Even after a write was refused, which opens the circuit breaker.
        run = partial(run_of(means), even_if_open=True)
        found |= {one.lead_id: one for one in mailed_leads.open_ones(run)}
    except (DatabaseDown, NotConfigured) as fault:
        if facts.database_fault is None:
            blind = tuple(dict.fromkeys([*blind, _said(fault, "Postgres")]))
    return replace(facts, mailed=mailed_leads.named(list(found.values())), blind=blind)


def _with_queue(means: Means, facts: Facts, now: datetime) -> Facts:
    queued, aside = means.cache.run_all(("HKEYS", QUEUE), ("HLEN", DEAD))
    waits = None
    if queued:
        scores = means.cache.run("ZMSCORE", ACCEPTED, *queued)
        known = [float(score) for score in scores if score is not None]
        if known:
            waits = now - datetime.fromtimestamp(min(known), UTC)
    return replace(facts, set_aside=int(aside), queue_waits=waits, queued=len(queued))


def _traffic(means: Means, now: datetime) -> dict[str, dict[datetime, rules.Minute]]:
    with suppress(CacheDown, NotConfigured):
        return rollup.recent(means.cache.run_all, now, rules.WINDOW)
    with suppress(DatabaseDown, NotConfigured):
        return rollup.recent_kept(run_of(means), now, rules.WINDOW)
    return {}


def _with_probes(means: Means, facts: Facts, now: datetime) -> Facts:
    """The site as its callers meet it, all at once."""
    with ThreadPoolExecutor(5) as pool:
        mail, slack = pool.submit(_mail, means), pool.submit(_slack, means, now)
        health = pool.submit(probe, f"{means.site_url}/api/health", b'{"status":"')
        page = pool.submit(probe, f"{means.site_url}/api/status", b'{"page":')
        lead = pool.submit(_canary, means, facts, now)
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
        sentry_missing=_sentry(means),
    )


def _mail(means: Means) -> str | None:
    """Why no mail at all is taken: no key, or one that is refused."""
    try:
        refusal = means.mailer.refusal(timeout_s=PROBE_S)
    except NotConfigured as fault:
        return str(fault)
    except MailDelayed:
        return None  # mails that wait tell
    return refusal and f"Resend refuses the key: {refusal}"


def _slack(means: Means, now: datetime) -> tuple[str | None, str | None]:
    """Why no alert is taken, and what is not configured. What only Slack knows of leads in a mail
    is entered on the way."""
    refusal = None
    try:
        refusal = means.slack.refusal()
        with suppress(DatabaseDown):
            mailed_leads.take_over_carried(means, now)
    except NotConfigured as fault:
        return None, str(fault)
    except AlertDelayed:
        pass  # silent: alerts that wait tell
    return refusal and f"Slack refuses our bot: {refusal}", None


def _sentry(means: Means) -> str | None:
    try:
        return means.sentry_dsn and None
    except NotConfigured as fault:
        return str(fault)


def probe(url: str, beginning: bytes) -> str | None:
    """What is wrong with an address; None when it answers 200 and begins so. Asked twice."""
    said = None
    for _ in range(2):
        try:
            with urllib.request.urlopen(url, timeout=PROBE_S) as answer:  # noqa: S310
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


def _canary(means: Means, facts: Facts, now: datetime) -> tuple[str | None, str]:
    """Now and then, and after a failure every time: whether a lead gets through, and what became
    of it (one of incidents.EFFECTS)."""
    if facts.maintenance:
        return None, ""
    try:
        secret = means.canary_secret
    except NotConfigured:
        return None, ""
    with suppress(CacheDown, NotConfigured):
        due = means.cache.run("SET", CANARY_DUE, "1", "NX", "EX", means.canary_every_s)
        faulty = facts.database_fault is not None or facts.store_fault is not None
        nobody_tells = faulty and not rules.effect(facts)
        if not due and not nobody_tells:
            return None, ""
    fault, effect = _send_canary(means, facts, secret, now)
    with suppress(DatabaseDown, NotConfigured):
        deployments.canary_ended(run_of(means), means.deployment, fault is None, now)
    if fault is not None:
        with suppress(CacheDown, NotConfigured):
            means.cache.run("DEL", CANARY_DUE)
    return fault, effect


def _send_canary(means: Means, facts: Facts, secret: str, now: datetime) -> tuple[str | None, str]:
    form = {**canary.form(now), "email": ""}  # one mail to a test mailbox is enough
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
        with urllib.request.urlopen(request, timeout=CANARY_S) as answer:  # noqa: S310
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
            canary.remove(run_of(means), means.cache.run_all, lead_id)
        return None, effect
    with suppress(CacheDown, DatabaseDown, NotConfigured):
        stored = canary.look(run_of(means), lead_id).stored
        canary.remove(run_of(means), means.cache.run_all, lead_id)
        if not stored and not taken.get("queued"):
            return "a synthetic lead was accepted and not stored", effect
        if not stored:
            return "a synthetic lead was queued although Postgres answers", effect
    return None, effect


# ---------------------------------------------------------------- leaving word


def _finish(means: Means, switch: Switch | None, report: Report, now: datetime) -> None:
    """Note the run, and leave the status page's document: without Postgres, the last one with the
    incidents of now."""
    with suppress(CacheDown, NotConfigured):
        try:
            burn = run_of(means)(partial(rollup.burn_rates, now=now))
            values = {"now": now, "facts": json.dumps({**report.facts(), "burn": burn})}
            run_of(means)(lambda c: c.execute(RAN, values))
            known = status_page.gather(run_of(means), now)
            made = status_page.document(known, means.site_url, switch, now, "watch")
        except (DatabaseDown, NotConfigured):
            before = status_page.published(means.cache.run("GET", status_page.KEY))
            if before is None:
                before = status_page.with_nothing_known(means.site_url, switch, now)
            open_ones = [one.incident for one in redis_store.read(means.cache.run)]
            made = status_page.amended(before, open_ones, switch, now)
        status_page.publish(means.cache.run, made)
