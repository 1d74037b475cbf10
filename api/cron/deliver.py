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
from lib.app import Call, Response
from lib.incidents import alerting
from lib.leads import repository, worker
from lib.privacy import erasure
from lib.problems import DatabaseDown, NotConfigured
from lib.vitals import rollup

EVERY_MINUTES = 1  # vercel.json
# Of the function's 60 s: the last lead and the last mail of a run may take 5 more each.
QUEUE_BUDGET_S = 20.0
MAIL_BUDGET_S = 25.0


def get(call: Call) -> Response:
    lib_app.refuse_all_but_cron(call)
    call.check_in("deliver", every_minutes=EVERY_MINUTES)
    if call.maintenance is not None:
        call.note(decision="maintenance")
        return lib_app.reply({"maintenance": call.maintenance.mode})
    settings = call.services.settings
    call.later(call.services.probe)
    call.attempt(lambda: _finish_erasures(call), None, unless=(DatabaseDown,))
    desk = repository.Desk(settings.mail_from, settings.mail_sales_to)
    found = worker.make(call.services, desk, _clock, queue_s=QUEUE_BUDGET_S, mails_s=MAIL_BUDGET_S)
    call.note(**found.facts(), cache_fault=found.cache_fault)
    for fault in found.faults.values():
        call.report(fault)
    if found.queue is not None and found.queue.dead:
        alerting.sound(call, "leads_set_aside", count=found.queue.dead)
    if found.mails.dead:
        alerting.sound(call, "dead_letters", count=found.mails.dead)
    call.later(lambda: _fold_vitals(call))
    refused = found.queue is not None and found.queue.fault is not None
    return lib_app.reply(found.facts(), 500 if found.faults or refused else 200)


def _finish_erasures(call: Call) -> None:
    """Before the queue is drained: who was deleted by hand in SQL gets their tombstone."""
    try:
        call.note(erasures=erasure.finish(call.services, call.now))
    except NotConfigured as fault:
        log.not_configured(fault, call.request_id)


def _fold_vitals(call: Call) -> None:
    """Where no browser reports, nobody else takes the last counts over. Down: the next round."""
    folded = rollup.fold(call.services, _clock())
    call.note(vitals=folded and folded.counts)


def _clock() -> datetime:
    return datetime.now(UTC)


app = lib_app.wsgi("cron/deliver", GET=get)
