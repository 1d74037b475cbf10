"""GET /api/cron/prune: end data past its retention, finish erasures, copy tombstones to Redis.

Once a day. Safe twice at once, late or interrupted: the next run goes on. 200
`{"ended": {class: rows}, "in_redis": n, "late": [class], "unheard": [id], "erasures": {…},
"tombstones": n}`: `late` are the classes that hold a row which should have ended a day ago,
`unheard` the leads (20 at most) that are kept past their time because sales were never told of
them; `in_redis` and `tombstones` are null with Redis down. In maintenance everything waits,
`{"maintenance": "<mode>"}`. 401 without the cron token; 503 without Postgres.
"""

from lib import app as lib_app
from lib import log
from lib.app import Context, Response
from lib.leads import tombstones
from lib.privacy import erasure, retention
from lib.problems import CacheDown, NotConfigured

EVERY_MINUTES = 24 * 60  # vercel.json
BUDGET_S = 35.0  # of the function's 60


def get(call: Context) -> Response:
    lib_app.require_cron_token(call)
    call.check_in("prune", every_minutes=EVERY_MINUTES)
    if call.maintenance is not None:
        call.add_log_fields(decision="maintenance")
        return lib_app.json_response({"maintenance": call.maintenance.mode})
    call.after_response(call.services.probe_open_breakers)
    run = call.services.database.run
    rules = retention.rules(call.services.settings.leads_retention_days)
    facts: dict[str, object] = {"erasures": _run_pending_erasures(call), **_prune_redis(call)}
    facts["ended"] = retention.prune(run, rules, call.now, budget_s=BUDGET_S)
    facts["late"] = [age.name for age in retention.overdue(run, rules, call.now)]
    facts["unheard"] = retention.unnotified_leads(run, rules, call.now)
    call.add_log_fields(**facts)
    return lib_app.json_response(facts)


def _run_pending_erasures(call: Context) -> dict[str, int] | None:
    try:
        return erasure.run_pending(call.services, call.now)
    except NotConfigured as fault:
        log.not_configured(fault, call.request_id)
        return None


def _prune_redis(call: Context) -> dict[str, int | None]:
    """With Redis down, rows in Postgres end all the same."""
    try:
        execute = call.services.cache.execute
        erased_at = tombstones.load_all(call.services.database.run)
        return {
            "in_redis": retention.prune_redis(execute, call.now),
            "tombstones": tombstones.copy_to_redis(execute, erased_at),
        }
    except (CacheDown, NotConfigured) as fault:
        call.add_log_fields(cache_fault=str(fault) or "redis is down")
        return {"in_redis": None, "tombstones": None}


app = lib_app.wsgi_app("cron/prune", GET=get)
