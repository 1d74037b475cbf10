"""Facts for the alert rules: read from Postgres, Redis and the site itself.

Each group of facts is read by a function of its own, so that one table without rights hides
nothing else. The rule a newcomer would break: an unreachable store is a fact, never an exception.
"""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from lib.incidents import rules
from lib.incidents.alerting import describe_fault
from lib.incidents.rules import Facts
from lib.interfaces import Services
from lib.leads import delivery_status, mailed_leads, reconciliation
from lib.leads.queue import ACCEPTED, DEAD_LETTERS, QUEUE
from lib.maintenance import MaintenanceWindow
from lib.monitoring import backups, probes, rollup, secrets, server_errors, statement_check
from lib.privacy import requests, retention
from lib.problems import CacheDown, DatabaseDown, NotConfigured

STATEMENT_TIMEOUT_S = 2.5  # for a lock or a slow trigger: below what a lead waits for Postgres
REQUEST_DUE_WITHIN = timedelta(hours=12)  # of its 72: time to finish it

COUNT_LEADS_IN_REVIEW = """
select count(*) filter (where review = 'flood'), count(*) filter (where review <> 'flood')
from leads where review <> 'dismissed'
"""


def collect_facts(services: Services, window: MaintenanceWindow | None, now: datetime) -> Facts:
    """Everything the rules judge. Raises nothing that a dependency's outage could cause."""
    facts = Facts(
        now=now,
        maintenance=window is not None,
        maintenance_fault=services.settings.maintenance_mode_error,
    )
    facts = replace(facts, **_database_facts(services, now))
    facts = replace(facts, **_redis_facts(services, now))
    if facts.database_fault is None and facts.redis_fault is None:
        with suppress(CacheDown, DatabaseDown):  # the next run reports it
            result = reconciliation.reconcile(
                services.cache.pipeline, services.database.run_or_down, now
            )
            facts = replace(facts, missing_leads=len(result.missing))
    facts = replace(facts, **probes.probe_site(services, facts, now))
    return _with_mailed_leads(services, facts)


# ---------------------------------------------------------------- Postgres


def _database_facts(services: Services, now: datetime) -> dict[str, Any]:
    try:
        services.database.ping()  # on a new connection, although the circuit breaker is open
        faults = statement_check.find_faults(
            services.database.run, now, timeout_s=STATEMENT_TIMEOUT_S
        )
    except (DatabaseDown, NotConfigured) as error:
        return {"database_fault": _describe(error)}
    values: dict[str, Any] = {
        "store_fault": faults.get("store_refused"),
        "outbox_fault": faults.get("outbox_refused"),
        "products_fault": faults.get("products_refused"),
    }
    unreadable = []
    for read in (_emails, _review, _backups, _privacy_requests, _retention, _secrets):
        try:
            values |= read(services, now)
        except DatabaseDown as error:
            unreadable.append(_describe(error))
    return values | {"unreadable": tuple(dict.fromkeys(unreadable))}


def _describe(error: Exception) -> str:
    """An outage in words; or an error the server raised: a missing table or right."""
    if server_errors.is_server_error(error.__cause__):
        return server_errors.describe_error(error.__cause__)
    return describe_fault(error, "Postgres")


def _emails(services: Services, now: datetime) -> dict[str, Any]:
    status = delivery_status.load(services.database.run_or_down, now)
    waiting_since = status.waiting_since
    return {
        "dead_letters": status.dead,
        "oldest_mail_age": None if waiting_since is None else now - waiting_since,
        "stopped_mails": status.blocked,
        "mail_stop_reason": status.blocked_by,
    }


def _review(services: Services, _now: datetime) -> dict[str, Any]:
    flood, others = services.database.run_or_down(
        lambda connection: connection.execute(COUNT_LEADS_IN_REVIEW).fetchall()[0]
    )
    return {"leads_in_flood": flood, "leads_in_review": others}


def _backups(services: Services, now: datetime) -> dict[str, Any]:
    status = backups.load_status(services.database.run_or_down, now)
    return {"backup_age": status.backup_age, "drill_age": status.drill_age}


def _privacy_requests(services: Services, now: datetime) -> dict[str, Any]:
    due = requests.list_due(services.database.run_or_down, now, REQUEST_DUE_WITHIN)
    return {"overdue_requests": tuple(request.receipt for request in due)}


def _retention(services: Services, now: datetime) -> dict[str, Any]:
    run = services.database.run_or_down
    classes = retention.rules(services.settings.leads_retention_days)
    return {
        "unsent_expired_leads": tuple(retention.unnotified_leads(run, classes, now)),
        "stale_data": tuple(age.name for age in retention.overdue(run, classes, now)),
    }


def _secrets(services: Services, now: datetime) -> dict[str, Any]:
    return {"overdue_keys": secrets.list_overdue(services.database.run_or_down, now)}


# ---------------------------------------------------------------- Redis


def _redis_facts(services: Services, now: datetime) -> dict[str, Any]:
    """The queue, and the requests of the last minutes."""
    try:
        queued_ids, dead = services.cache.pipeline(("HKEYS", QUEUE), ("HLEN", DEAD_LETTERS))
        oldest_age = None
        if queued_ids:
            scores = services.cache.execute("ZMSCORE", ACCEPTED, *queued_ids)
            accepted_at = [float(score) for score in scores if score is not None]
            if accepted_at:
                oldest_age = now - datetime.fromtimestamp(min(accepted_at), UTC)
        traffic = rollup.recent_traffic(services.cache.pipeline, now, rules.TRAFFIC_WINDOW)
    except (CacheDown, NotConfigured) as error:
        return {"redis_fault": describe_fault(error, "Redis")}
    return {
        "queue_dead_letters": int(dead),
        "oldest_queued_age": oldest_age,
        "queued_leads": len(queued_ids),
        "traffic": traffic,
    }


# ---------------------------------------------------------------- either


def _with_mailed_leads(services: Services, facts: Facts) -> Facts:
    """Adds the leads that exist only in a mail, as either store has registered them."""
    leads: dict[str, mailed_leads.MailedLead] = {}
    unreadable = facts.unreadable
    with suppress(CacheDown, NotConfigured):
        leads |= {
            lead.lead_id: lead for lead in mailed_leads.list_in_redis(services.cache.pipeline)
        }
    try:
        # A refused write opens the circuit breaker; reading may still work.
        run = partial(services.database.run_or_down, even_if_open=True)
        leads |= {lead.lead_id: lead for lead in mailed_leads.list_open(run)}
    except (DatabaseDown, NotConfigured) as error:
        if facts.database_fault is None:
            unreadable = tuple(dict.fromkeys([*unreadable, _describe(error)]))
    references = mailed_leads.format_references(list(leads.values()))
    return replace(facts, leads_only_in_mail=references, unreadable=unreadable)
