"""GET /api/cron/deliver: store the leads that wait in Redis, then send the mails that wait.

Safe twice at once, late, or cut off. 200 `{"queue": {"stored": n, "dead": n, "left": n},
"journaled": n, "sent": n, "delayed": n, "dead": n}`; 401 without the cron token; 503 while the
database is down. With Redis down `queue` is null, and the mails go out all the same.
"""

from datetime import UTC, datetime

from werkzeug.wrappers import Response

from lib import backlog, endpoint, leads, outbox
from lib.endpoint import Call
from lib.problems import CacheDown, NotConfigured, Unauthorized

# Of the function's 60 s: the last lead and the last mail of a run may take 5 more each.
QUEUE_BUDGET_S = 20.0
MAIL_BUDGET_S = 25.0


def get(call: Call) -> Response:
    settings = call.services.settings
    if not endpoint.bearer_is(call.request, (settings.cron_secret, settings.cron_secret_previous)):
        raise Unauthorized
    call.later(call.services.probe)
    queue = _drain(call)
    mails = outbox.deliver(
        call.services.database.run, call.services.mailer.send, _clock, MAIL_BUDGET_S
    )
    found = {**queue, "sent": mails.sent, "delayed": mails.delayed, "dead": mails.dead}
    call.note(**found)
    return endpoint.reply(found)


def _drain(call: Call) -> dict[str, object]:
    services, settings = call.services, call.services.settings
    desk = leads.Desk(settings.mail_from, settings.mail_sales_to)
    try:
        tally = backlog.drain(
            services.cache.run,
            services.database.run,
            services.vault,
            desk,
            _clock,
            budget_s=QUEUE_BUDGET_S,
            poison=services.database.poison,
        )
        journaled = backlog.catch_up(services.cache.run_all, services.database.run, services.vault)
    except (CacheDown, NotConfigured) as fault:
        call.note(cache=type(fault).__name__)
        return {"queue": None, "journaled": 0}
    if tally.dead:
        call.alarm("leads_set_aside", count=tally.dead)
    counts = {"stored": tally.stored, "dead": tally.dead, "left": tally.left}
    return {"queue": counts, "journaled": journaled}


def _clock() -> datetime:
    return datetime.now(UTC)


app = endpoint.wsgi("cron/deliver", GET=get)
