"""GET /api/cron/watch: find out how everything is, and see that somebody knows.

Safe twice at once, late, or cut off: one works, the others answer `busy`. 200 `{"busy": false,
"findings": [rule, …], "written": "postgres"|"redis"|"slack"|"nowhere", "folded": n, "messages": n,
"delayed": n}`, whatever is down; 401 without the cron's token or the watch's own, which whoever
watches from outside may hold.
"""

from contextlib import suppress

from lib import alarm, deployments, endpoint, keys, watch
from lib.endpoint import Call, Response
from lib.problems import DatabaseDown, NotConfigured

EVERY_MINUTES = 1  # vercel.json


def get(call: Call) -> Response:
    if not _is_monitor(call):
        endpoint.refuse_all_but_cron(call)
    call.services.probe(endpoint.PROBE_WAIT_S)
    report = watch.run(call.services, call.maintenance, call.now)
    call.note(**report.facts())
    call.later(call.services.probe)
    call.later(lambda: _say_what_we_are(call))
    if not report.busy:
        call.check_in("watch", every_minutes=EVERY_MINUTES)
    return endpoint.reply(report.facts())


def _say_what_we_are(call: Call) -> None:
    """Which build serves, with which keys: what a rollback and a rotation must know."""
    settings = call.services.settings
    mode = settings.maintenance_mode
    build = deployments.Build(
        settings.vercel_deployment_id,
        settings.vercel_git_commit_sha,
        "" if mode == "off" else mode,
    )
    with suppress(DatabaseDown, NotConfigured):  # the next minute tells
        run = alarm.run_of(call.services)
        deployments.stamp(run, build, call.now)
        pepper = settings.key_fingerprint_pepper
        keys.sight(run, settings.secrets(), pepper, build.deployment, call.now)


def _is_monitor(call: Call) -> bool:
    """Whether it is whoever watches from outside, with the token that opens this alone."""
    try:
        return endpoint.bearer_is(call.request, (call.services.settings.watch_token,))
    except NotConfigured:
        return False


app = endpoint.wsgi("cron/watch", GET=get)
