"""GET /api/cron/prune: end data past its retention, finish erasures, copy tombstones to Redis.

Once a day. Safe twice at once, late or interrupted: the next run goes on. 200
`{"ended": {class: rows}, "in_redis": n, "late": [class], "unheard": [id], "erasures": {…},
"tombstones": n}`: `late` are the classes that hold a row which should have ended a day ago,
`unheard` the leads (20 at most) that are kept past their time because sales were never told of
them; `in_redis` and `tombstones` are null with Redis down. In maintenance everything waits,
`{"maintenance": "<mode>"}`. 401 without the cron token; 503 without Postgres.
"""

from lib.app import Context, Response, json_response, wsgi_app
from lib.authorization import require_cron_token
from lib.leads import tombstones
from lib.privacy import erasure, retention
from lib.problems import CacheDown, NotConfigured

EVERY_MINUTES = 24 * 60  # vercel.json
BUDGET_S = 35.0  # of the function's 60


def get(context: Context) -> Response:
    require_cron_token(context)
    context.check_in("prune", every_minutes=EVERY_MINUTES)
    if context.maintenance is not None:
        context.add_log_fields(decision="maintenance")
        return json_response({"maintenance": context.maintenance.mode})
    context.after_response(context.services.probe_open_breakers)
    run = context.services.database.run
    rules = retention.rules(context.services.settings.leads_retention_days)
    facts: dict[str, object] = {
        "erasures": erasure.run_pending_or_log(context),
        **_prune_redis(context),
    }
    facts["ended"] = retention.prune(run, rules, context.now, budget_s=BUDGET_S)
    facts["late"] = [age.name for age in retention.overdue(run, rules, context.now)]
    facts["unheard"] = retention.unnotified_leads(run, rules, context.now)
    context.add_log_fields(**facts)
    return json_response(facts)


def _prune_redis(context: Context) -> dict[str, int | None]:
    """With Redis down, rows in Postgres end all the same."""
    try:
        execute = context.services.cache.execute
        erased_at = tombstones.load_all(context.services.database.run)
        return {
            "in_redis": retention.prune_redis(execute, context.now),
            "tombstones": tombstones.copy_to_redis(execute, erased_at),
        }
    except (CacheDown, NotConfigured) as error:
        context.add_log_fields(cache_fault=str(error) or "redis is down")
        return {"in_redis": None, "tombstones": None}


app = wsgi_app("cron/prune", GET=get)
