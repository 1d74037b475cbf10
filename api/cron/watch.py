"""GET /api/cron/watch: find out how everything is, and see that somebody knows.

Safe twice at once, late, or cut off: one works, the others answer `busy`. 200 `{"busy": false,
"findings": [rule, …], "written": "postgres"|"redis"|"slack"|"nowhere", "folded": n, "messages": n,
"delayed": n}`, whatever is down; 401 without the cron's token or the watch's own, which whoever
watches from outside may hold.
"""

from werkzeug.wrappers import Response

from lib import endpoint, watch
from lib.endpoint import Call
from lib.problems import NotConfigured

EVERY_MINUTES = 1  # vercel.json


def get(call: Call) -> Response:
    if not _is_monitor(call):
        endpoint.refuse_all_but_cron(call)
    report = watch.run(call.services, call.maintenance, call.now)
    call.note(**report.facts())
    call.later(call.services.probe)
    if not report.busy:
        call.check_in("watch", every_minutes=EVERY_MINUTES)
    return endpoint.reply(report.facts())


def _is_monitor(call: Call) -> bool:
    """Whether it is whoever watches from outside, with the token that opens this alone."""
    try:
        return endpoint.bearer_is(call.request, (call.services.settings.watch_token,))
    except NotConfigured:
        return False


app = endpoint.wsgi("cron/watch", GET=get)
