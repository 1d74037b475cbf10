"""GET /api/cron/deliver: store the leads that wait in Redis, then send the mails that wait.

Safe twice at once, late, or cut off. 200 `{"queue": {"stored": n, "dead": n, "left": n},
"journaled": n, "sent": n, "delayed": n, "dead": n, "refused": n}` (`refused`: acknowledgements
to an address that the mail service does not take); 500 with the same and `"failed": [step]` when
a step failed, with `fault` in `queue` when the database would refuse any lead; 401 without the
cron token; 503 while the database is down. With Redis down `queue` is null, and the mails go out
all the same. In maintenance everything waits: 200 `{"maintenance": "<mode>"}`.
"""

from datetime import UTC, datetime

from lib import app as lib_app
from lib import log
from lib.app import Context, Response
from lib.incidents import alerting
from lib.leads import worker
from lib.leads.lead import Recipients
from lib.privacy import erasure
from lib.problems import DatabaseDown, NotConfigured
from lib.vitals import rollup

EVERY_MINUTES = 1  # vercel.json
# Of the function's 60 s: the last lead and the last mail of a run may take 5 more each.
QUEUE_BUDGET_S = 20.0
EMAIL_BUDGET_S = 25.0


def get(call: Context) -> Response:
    lib_app.require_cron_token(call)
    call.check_in("deliver", every_minutes=EVERY_MINUTES)
    if call.maintenance is not None:
        call.add_log_fields(decision="maintenance")
        return lib_app.json_response({"maintenance": call.maintenance.mode})
    settings = call.services.settings
    call.after_response(call.services.probe_open_breakers)
    call.attempt(lambda: _run_pending_erasures(call), None, unless=(DatabaseDown,))
    desk = Recipients(settings.mail_from, settings.mail_sales_to)
    found = worker.process_pending(
        call.services, desk, _utc_now, queue_s=QUEUE_BUDGET_S, mails_s=EMAIL_BUDGET_S
    )
    call.add_log_fields(**found.as_dict(), cache_fault=found.cache_error)
    for fault in found.errors.values():
        call.report(fault)
    if found.queue is not None and found.queue.dead:
        alerting.raise_alert_after_response(call, "leads_set_aside", count=found.queue.dead)
    if found.mails.dead:
        alerting.raise_alert_after_response(call, "dead_letters", count=found.mails.dead)
    call.after_response(lambda: _roll_up_vitals(call))
    refused = found.queue is not None and found.queue.database_error is not None
    return lib_app.json_response(found.as_dict(), 500 if found.errors or refused else 200)


def _run_pending_erasures(call: Context) -> None:
    """Before the queue is drained: who was deleted by hand in SQL gets their tombstone."""
    try:
        call.add_log_fields(erasures=erasure.run_pending(call.services, call.now))
    except NotConfigured as fault:
        log.not_configured(fault, call.request_id)


def _roll_up_vitals(call: Context) -> None:
    """Where no browser reports, nobody else takes the last counts over. Down: the next round."""
    call.add_log_fields(vitals=rollup.roll_up(call.services, _utc_now()))


def _utc_now() -> datetime:
    return datetime.now(UTC)


app = lib_app.wsgi_app("cron/deliver", GET=get)
