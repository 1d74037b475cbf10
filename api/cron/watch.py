"""GET /api/cron/watch: find out how everything is, and see that somebody knows.

Safe twice at once, late, or cut off: one works, the others answer `busy`. 200 `{"busy": false,
"findings": [rule, …], "written": "postgres"|"redis"|"slack"|"nowhere", "folded": n, "messages": n,
"delayed": n}`, whatever is down; 401 without the cron's token or the watch's own, which whoever
watches from outside may hold.
"""

import time
from contextlib import suppress

from werkzeug.wrappers import Response

from lib import deployments, endpoint, keys, watch
from lib.endpoint import Call
from lib.problems import DatabaseDown, Unauthorized

EVERY_MINUTES = 1


def get(call: Call) -> Response:
    settings = call.services.settings
    tokens = (settings.cron_secret, settings.cron_secret_previous, settings.watch_token)
    if not endpoint.bearer_is(call.request, tokens):
        raise Unauthorized
    started = time.monotonic()
    report = watch.run(call.services, call.maintenance, call.now)
    call.note(**report.facts())
    call.later(call.services.probe)
    call.later(lambda: _say_what_we_are(call))
    if not report.busy:
        endpoint.check_in(call, "watch", started, every_minutes=EVERY_MINUTES)
    return endpoint.reply(report.facts())


def _say_what_we_are(call: Call) -> None:
    """Which build serves, with which keys: what a rollback and a rotation must know."""
    settings, run = call.services.settings, call.services.database.run
    mode = settings.maintenance_mode
    build = deployments.Build(
        settings.vercel_deployment_id,
        settings.vercel_git_commit_sha,
        "" if mode == "off" else mode,
    )
    with suppress(DatabaseDown):  # the next minute tells
        deployments.stamp(run, build, call.now)
        pepper = settings.key_fingerprint_pepper
        keys.sight(run, settings.secrets(), pepper, build.deployment, call.now)


app = endpoint.wsgi("cron/watch", GET=get)
