"""The canary: a synthetic lead posted to /api/leads, looked for in Postgres, and removed."""

import json
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from lib.http_client import Client, RequestFailed
from lib.incidents import rules
from lib.incidents.rules import Facts
from lib.interfaces import Services
from lib.leads import canary
from lib.monitoring import deployments
from lib.problems import CacheDown, DatabaseDown, NotConfigured

TIMEOUT_S = 8.0
THROTTLE_KEY = "canary:next:{deployment}"


def send_if_due(services: Services, facts: Facts, now: datetime) -> tuple[str | None, str]:
    """The fault, and the lead's effect (one of model.LEAD_EFFECTS); (None, "") when none was sent.

    Due every `canary_every_s`, at once for a new deployment, again after a failure, and while only
    a canary can tell what happens to leads.
    """
    if facts.maintenance:
        return None, ""
    try:
        secret = services.settings.canary_secret
    except NotConfigured:
        return None, ""
    key = throttle_key(services.deployment)
    with suppress(CacheDown, NotConfigured):
        due = services.cache.execute("SET", key, "1", "NX", "EX", services.canary_every_s)
        effect_unknown = _is_store_faulty(facts) and not rules.current_lead_effect(facts)
        if not due and not effect_unknown:
            return None, ""
    fault, effect = _send(services, facts, secret, now)
    with suppress(DatabaseDown, NotConfigured):
        run = services.database.run_or_down
        deployments.record_canary(run, services.deployment, fault is None, now)
    if fault is not None:
        with suppress(CacheDown, NotConfigured):
            services.cache.execute("DEL", key)
    return fault, effect


def throttle_key(deployment: str) -> str:
    return THROTTLE_KEY.format(deployment=deployment)


def _is_store_faulty(facts: Facts) -> bool:
    return facts.database_fault is not None or facts.store_fault is not None


def _send(services: Services, facts: Facts, secret: str, now: datetime) -> tuple[str | None, str]:
    payload = {**canary.payload(now), "email": ""}  # one mail to a test mailbox is enough
    body = json.dumps(payload).encode()
    headers = {"Content-Type": "application/json", canary.HEADER: canary.sign(secret, body, now)}
    url = f"{services.settings.site_url}/api/leads"
    try:
        with Client(connect_s=TIMEOUT_S, response_s=TIMEOUT_S) as client:
            response = client.post(url, content=body, headers=headers)
        if not response.is_success:
            # A 4xx is about this lead's fields or signature; no visitor's lead is like it.
            effect = "refused" if response.status_code >= 500 else ""
            return f"a synthetic lead was answered {response.status_code}", effect
        answer = response.json()
        lead_id = UUID(answer["id"])
    except (*RequestFailed, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"a synthetic lead was not answered ({type(error).__name__})", "refused"
    queued = bool(answer.get("queued"))
    effect = "stored"
    if queued:
        effect = "queued" if facts.redis_fault is None else "mailed"
    return _find_and_remove(services, facts, lead_id, queued=queued), effect


def _find_and_remove(
    services: Services, facts: Facts, lead_id: UUID, *, queued: bool
) -> str | None:
    """Why the accepted lead is not where it should be. One stored later goes with old ones."""
    with suppress(CacheDown, DatabaseDown, NotConfigured):
        run = services.database.run_or_down
        stored = _is_store_faulty(facts) or canary.find(run, lead_id).stored
        canary.remove(run, services.cache.pipeline, lead_id)
        if not stored and queued:
            return "a synthetic lead was queued although Postgres answers"
        if not stored:
            return "a synthetic lead was accepted and not stored"
    return None
