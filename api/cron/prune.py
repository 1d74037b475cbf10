"""GET /api/cron/prune: end what was kept long enough; finish erasures; publish their tombstones.

Once a day. Safe twice at once, late, or cut off: what is left is the next run's. 200
`{"ended": {class: rows}, "in_redis": n, "late": [class], "unheard": [id], "erasures": {…},
"tombstones": n}`, where `late` names the classes that still hold something that should have ended a
day ago, `unheard` the leads (20 at most) that are kept past their time because sales never heard of
them, and `in_redis` and `tombstones` are null with Redis down; in maintenance everything waits,
`{"maintenance": "<mode>"}`; 401 without the cron token; 503 without Postgres.
"""

from lib import app as lib_app
from lib import log
from lib.app import Call, Response
from lib.privacy import erasure, replay, retention
from lib.problems import CacheDown, NotConfigured

EVERY_MINUTES = 24 * 60  # vercel.json
BUDGET_S = 35.0  # of the function's 60


def get(call: Call) -> Response:
    lib_app.refuse_all_but_cron(call)
    call.check_in("prune", every_minutes=EVERY_MINUTES)
    if call.maintenance is not None:
        call.note(decision="maintenance")
        return lib_app.reply({"maintenance": call.maintenance.mode})
    call.later(call.services.probe)
    run = call.services.database.run
    rules = retention.rules(call.services.settings.leads_retention_days)
    facts: dict[str, object] = {"erasures": _finish_erasures(call), **_in_redis(call)}
    facts["ended"] = retention.prune(run, rules, call.now, budget_s=BUDGET_S)
    facts["late"] = [age.name for age in retention.waiting(run, rules, call.now)]
    facts["unheard"] = retention.unheard(run, rules, call.now)
    call.note(**facts)
    return lib_app.reply(facts)


def _finish_erasures(call: Call) -> dict[str, int] | None:
    try:
        return erasure.finish(call.services, call.now)
    except NotConfigured as fault:
        log.not_configured(fault, call.request_id)
        return None


def _in_redis(call: Call) -> dict[str, int | None]:
    """Redis down is no reason to keep rows: the next run comes to it."""
    try:
        ended = retention.prune_redis(call.services.cache.run, call.now)
        return {"in_redis": ended, "tombstones": replay.publish(call.services)}
    except (CacheDown, NotConfigured) as fault:
        call.note(cache_fault=str(fault) or "redis is down")
        return {"in_redis": None, "tombstones": None}


app = lib_app.wsgi("cron/prune", GET=get)
