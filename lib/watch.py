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
from typing import Protocol
from uuid import UUID, uuid4

from lib import (
    alarm,
    canary,
    deployments,
    erasure_register,
    incident_slack,
    incident_spool,
    incident_store,
    keys,
    ledger,
    mail_status,
    metric_fold,
    recovery,
    retention,
    rules,
    status,
)
from lib.alarm import run_of, said
from lib.backlog import ACCEPTED, DEAD, QUEUE
from lib.incident_slack import Held
from lib.incidents import Finding
from lib.mail_status import MailStatus
from lib.maintenance import Switch
from lib.problems import AlertDelayed, CacheDown, DatabaseDown, NotConfigured
from lib.rules import Facts

LEASE_S = 55  # below a minute, above what a watch takes
PROBE_S, CANARY_S = 5.0, 8.0
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

LAST_RUN = "select finished_at from job_runs where job = 'watch'"
RAN = """
insert into job_runs as held (job, first_run_at, finished_at, facts)
values ('watch', %(now)s, %(now)s, %(facts)s::jsonb)
on conflict (job) do update set finished_at = excluded.finished_at, facts = excluded.facts
"""


class Means(alarm.Means, Protocol):
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
    """What a watch did. busy: another was at it, and it did nothing. undelivered: why Slack did
    not take an alert."""

    busy: bool = False
    findings: tuple[Finding, ...] = ()
    written: str = "nowhere"
    folded: int | None = None
    messages: int = 0
    delayed: int = 0
    undelivered: str | None = None

    def facts(self) -> dict[str, object]:
        return {
            "busy": self.busy,
            "findings": [one.rule for one in self.findings],
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
        written, heard = alarm.enter(means, found, now, "watch")
        with suppress(DatabaseDown, NotConfigured):
            incident_store.quiet(run_of(means), {one.area for one in found}, now)
            incident_store.close_old(run_of(means), now, SEV2_CLOSES_AFTER)
        alarm.hear(means, now)
        tally = alarm.tell(means, now)
        for one in (heard, tally):
            alarm.unheard(means, one)
        messages = sum(one.posted + one.updated for one in (heard, tally))
        report = Report(False, tuple(found), written, folded, messages,
                        heard.delayed + tally.delayed, heard.reason or tally.reason)  # fmt: skip
        _finish(means, switch, report, now)
        return report
    finally:
        _give_back(means, holder)


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
        for one in incident_spool.read(means.cache.run):
            if one.stored and not one.events:
                continue
            enter = partial(
                incident_store.take_over,
                incident=one.incident,
                events=one.events,
                now=now,
                stored=one.stored,
            )
            run_of(means)(enter)
            incident_spool.swap(means.cache.run, one.incident.area, one, None)
    with suppress(NotConfigured, AlertDelayed):
        keep = partial(_keep, means, now)
        incident_slack.hand_over(means.slack, means.links, now, keep)


def _keep(means: Means, now: datetime, held: Held) -> str | None:
    """Where an incident that Slack alone held stands from now on."""
    events = incident_slack.events(means.slack, held)
    with suppress(DatabaseDown, NotConfigured):
        enter = partial(incident_store.take_over, incident=held.incident, events=events, now=now,
                        stored=False, actor="slack")  # fmt: skip
        return run_of(means)(enter) or f"{held.incident.id} (over)"
    with suppress(CacheDown, NotConfigured):
        return incident_spool.take_over(means.cache.run, held.incident, events)
    return None


# ---------------------------------------------------------------- asking


def look(means: Means, switch: Switch | None, now: datetime) -> tuple[Facts, int | None]:
    """Everything the rules ask for, and how many counts were taken over."""
    facts = Facts(
        now=now, maintenance=switch is not None, maintenance_fault=means.maintenance_fault
    )
    folded = None
    database_fault = redis_fault = None
    with suppress(CacheDown, DatabaseDown, NotConfigured):  # which, the next steps tell
        folded = _fold(means, now)
    try:
        mails = mail_status.read(run_of(means), now)
        facts = _with_ages(facts, mails, recovery.standing(run_of(means), now))
        facts = _with_promises(means, facts, now)
        facts = replace(facts, overdue_keys=keys.overdue(run_of(means), now))
    except (DatabaseDown, NotConfigured) as fault:
        database_fault = said(fault, "Postgres")
    facts = replace(facts, refused=database_fault is not None and _answers(means))
    try:
        facts = _with_queue(means, facts, now)
    except (CacheDown, NotConfigured) as fault:
        redis_fault = said(fault, "Redis")
    if database_fault is None and redis_fault is None:
        with suppress(CacheDown, DatabaseDown):  # the next minute tells
            book = ledger.read(means.cache.run_all, run_of(means), now)
            facts = replace(facts, missing=len(book.missing))
    facts = replace(facts, database_fault=database_fault, redis_fault=redis_fault)
    facts = replace(facts, traffic=_traffic(means, now))
    return _with_probes(means, facts, now), folded


def _answers(means: Means) -> bool:
    with suppress(DatabaseDown, NotConfigured):
        means.database.ping()
        return True
    return False


def _fold(means: Means, now: datetime) -> int:
    last = run_of(means)(lambda c: c.execute(LAST_RUN).fetchone())
    since = last[0] if last else now - metric_fold.FURTHEST
    return metric_fold.fold(run_of(means), means.cache.run_all, since, now, status.PROMISED)


def _with_ages(facts: Facts, mails: MailStatus, standing: recovery.Standing) -> Facts:
    return replace(
        facts,
        dead_letters=mails.dead,
        mail_waits=None if mails.waiting_since is None else facts.now - mails.waiting_since,
        mail_stopped=mails.stopped,
        mail_stopped_by=mails.stopped_by,
        backup_age=standing.backup_age,
        drill_age=standing.drill_age,
    )


def _with_promises(means: Means, facts: Facts, now: datetime) -> Facts:
    """What is owed to persons: requests near their end, and data that should be gone."""
    due = erasure_register.overdue(run_of(means), now, REQUEST_NEAR)
    classes = retention.rules(means.retention_days)
    late = retention.waiting(run_of(means), classes, now)
    return replace(
        facts,
        unheard=tuple(retention.unheard(run_of(means), classes, now)),
        overdue_requests=tuple(one.receipt for one in due),
        stale_data=tuple(one.name for one in late),
    )


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
        return metric_fold.recent(means.cache.run_all, now, rules.WINDOW)
    with suppress(DatabaseDown, NotConfigured):
        return metric_fold.recent_kept(run_of(means), now, rules.WINDOW)
    return {}


def _with_probes(means: Means, facts: Facts, now: datetime) -> Facts:
    """The site as its callers meet it, all at once."""
    with ThreadPoolExecutor(3) as pool:
        health = pool.submit(probe, f"{means.site_url}/api/health", b'{"status":"')
        page = pool.submit(probe, f"{means.site_url}/api/status", b'{"page":')
        lead = pool.submit(_canary, means, facts, now)
    canary_fault, canary_effect = lead.result()
    return replace(
        facts,
        health_fault=health.result(),
        status_fault=page.result(),
        canary_fault=canary_fault,
        canary_effect=canary_effect,
    )


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
        nobody_tells = facts.database_fault is not None and not rules.effect(facts)
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
    if facts.database_fault is not None:
        return None, effect  # it is queued, as it should be
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
            burn = run_of(means)(partial(metric_fold.burn_rates, now=now))
            values = {"now": now, "facts": json.dumps({**report.facts(), "burn": burn})}
            run_of(means)(lambda c: c.execute(RAN, values))
            known = status.gather(run_of(means), now)
            made = status.document(known, means.site_url, switch, now, "watch")
        except (DatabaseDown, NotConfigured):
            before = status.published(means.cache.run("GET", status.KEY))
            if before is None:
                before = status.with_nothing_known(means.site_url, switch, now)
            open_ones = [one.incident for one in incident_spool.read(means.cache.run)]
            made = status.amended(before, open_ones, switch, now)
        status.publish(means.cache.run, made)
