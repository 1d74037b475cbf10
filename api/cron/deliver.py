"""GET /api/cron/deliver: store the leads that wait in Redis, then send the e-mails that are due.

Safe twice at once, late, or cut off. 200 `{"queue": {"stored": n, "dead": n, "left": n},
"journaled": n, "sent": n, "delayed": n, "dead": n, "refused": n}` (`refused`: acknowledgements
to an address that the mail service does not take); 500 with the same and `"failed": [step]` when
a step failed, with `fault` in `queue` when the database would refuse any lead; 401 without the
cron token; 503 while the database is down. With Redis down `queue` is null, and the e-mails are
sent all the same. In maintenance everything waits: 200 `{"maintenance": "<mode>"}`.
"""

from lib.app import Context, Response, find_store_fault, json_response, utc_now, wsgi_app
from lib.authorization import require_cron_token
from lib.incidents import alerting
from lib.leads import worker
from lib.leads.lead import Recipients
from lib.privacy import erasure
from lib.problems import DatabaseDown
from lib.vitals import rollup

EVERY_MINUTES = 1  # vercel.json
# Of the function's 60 s: the last lead and the last e-mail of a run may take 5 more each.
QUEUE_BUDGET_S = 20.0
EMAIL_BUDGET_S = 25.0


def get(context: Context) -> Response:
    require_cron_token(context)
    context.check_in("deliver", every_minutes=EVERY_MINUTES)
    if context.maintenance is not None:
        context.add_log_fields(decision="maintenance")
        return json_response({"maintenance": context.maintenance.mode})
    settings = context.services.settings
    context.after_response(context.services.probe_open_breakers)
    # Before the queue is drained: rows deleted by hand in SQL get their tombstones.
    erasures = context.attempt(
        lambda: erasure.run_pending_or_log(context), None, unless=(DatabaseDown,)
    )
    context.add_log_fields(erasures=erasures)
    report = worker.process_pending(
        context.services,
        Recipients(settings.mail_from, settings.mail_sales_to),
        utc_now,
        queue_s=QUEUE_BUDGET_S,
        mails_s=EMAIL_BUDGET_S,
        find_store_fault=find_store_fault,
    )
    context.add_log_fields(**report.as_dict(), cache_error=report.cache_error)
    for error in report.errors.values():
        context.report(error)
    if report.queue is not None and report.queue.dead:
        alerting.raise_alert_after_response(context, "leads_set_aside", count=report.queue.dead)
    if report.mails.dead:
        alerting.raise_alert_after_response(context, "dead_letters", count=report.mails.dead)
    # While no browser reports, nothing else rolls up the last counts.
    context.after_response(
        lambda: context.add_log_fields(vitals=rollup.roll_up(context.services, utc_now()))
    )
    refused = report.queue is not None and report.queue.database_error is not None
    return json_response(report.as_dict(), 500 if report.errors or refused else 200)


app = wsgi_app("cron/deliver", GET=get)
