"""GET /api/cron/watch: find out how everything is, and see that somebody knows.

Safe twice at once, late, or cut off: one works, the others answer `busy`. 200 `{"busy": false,
"findings": [rule, …], "faults": [a channel's, …], "written": "postgres"|"redis"|"slack"|"nowhere",
"folded": n, "messages": n, "delayed": n, "undelivered": reason|null}`, whatever is down; 401
without the cron's token or the watch's own, which whoever watches from outside may hold.
"""

from contextlib import suppress

from lib import app as lib_app
from lib.app import Call, Response
from lib.incidents import alerting
from lib.monitoring import deployments, monitor, secrets
from lib.problems import DatabaseDown, NotConfigured

EVERY_MINUTES = 1  # vercel.json


def get(call: Call) -> Response:
    if not _is_monitor(call):
        lib_app.refuse_all_but_cron(call)
    call.services.probe(lib_app.PROBE_WAIT_S)
    report = monitor.run(call.services, call.maintenance, call.now)
    call.note(**report.facts())
    call.later(call.services.probe)
    call.later(lambda: _say_what_we_are(call))
    if not report.busy:
        call.check_in("watch", every_minutes=EVERY_MINUTES)
    return lib_app.reply(report.facts())


def _say_what_we_are(call: Call) -> None:
    """Which build serves, with which keys: what a rollback and a rotation must know."""
    settings = call.services.settings
    build = deployments.build_of(settings)
    with suppress(DatabaseDown, NotConfigured):  # the next minute tells
        run = alerting.run_of(call.services)
        deployments.stamp(run, build, call.now)
        pepper = settings.key_fingerprint_pepper
        secrets.sight(run, settings.secrets(), pepper, build.deployment, call.now)


def _is_monitor(call: Call) -> bool:
    """Whether it is whoever watches from outside, with the token that opens this alone."""
    try:
        return lib_app.bearer_is(call.request, (call.services.settings.watch_token,))
    except NotConfigured:
        return False


app = lib_app.wsgi("cron/watch", GET=get)
