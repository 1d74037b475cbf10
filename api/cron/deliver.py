"""GET /api/cron/deliver: send the mails that wait. Safe twice at once, late, or cut off.

200 `{"sent": n, "delayed": n, "dead": n}`; 401 without the cron token; 503 while the database
is down.
"""

from datetime import UTC, datetime

from werkzeug.wrappers import Response

from lib import endpoint, outbox
from lib.endpoint import Call
from lib.problems import Unauthorized

BUDGET_S = 20.0  # of the function's 30: the last mail of a run may take 5 more


def get(call: Call) -> Response:
    settings = call.services.settings
    if not endpoint.bearer_is(call.request, (settings.cron_secret, settings.cron_secret_previous)):
        raise Unauthorized
    tally = outbox.deliver(
        call.services.database.run,
        call.services.mailer.send,
        lambda: datetime.now(UTC),
        BUDGET_S,
    )
    found = {"sent": tally.sent, "delayed": tally.delayed, "dead": tally.dead}
    call.note(**found)
    return endpoint.reply(found)


app = endpoint.wsgi("cron/deliver", GET=get)
