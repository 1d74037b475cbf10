"""GET /api/cron/watch: find out how everything is, and see that somebody knows.

Safe twice at once, late, or cut off: one works, the others answer `busy`. 200 `{"busy": false,
"findings": [rule, …], "faults": [a channel's, …], "written": "postgres"|"redis"|"slack"|"nowhere",
"folded": n, "messages": n, "delayed": n, "undelivered": reason|null}`, whatever is down; 401
without the cron's token or the watch's own, which whoever watches from outside may hold.
"""

from contextlib import suppress

from lib import app as lib_app
from lib.app import Context, Response
from lib.incidents import alerting
from lib.monitoring import deployments, monitor, secrets
from lib.problems import DatabaseDown, NotConfigured

EVERY_MINUTES = 1  # vercel.json


def get(call: Context) -> Response:
    if not _has_monitor_token(call):
        lib_app.require_cron_token(call)
    call.services.probe_open_breakers(lib_app.PROBE_WAIT_S)
    report = monitor.run(call.services, call.maintenance, call.now)
    call.add_log_fields(**report.as_dict())
    call.after_response(call.services.probe_open_breakers)
    call.after_response(lambda: _record_build_and_secrets(call))
    if not report.busy:
        call.check_in("watch", every_minutes=EVERY_MINUTES)
    return lib_app.json_response(report.as_dict())


def _record_build_and_secrets(call: Context) -> None:
    """Which build serves, with which keys: what a rollback and a rotation must know."""
    settings = call.services.settings
    build = deployments.build_from(settings)
    with suppress(DatabaseDown, NotConfigured):  # the next minute tells
        run = alerting.with_unavailable_errors(call.services)
        deployments.record_build(run, build, call.now)
        pepper = settings.key_fingerprint_pepper
        secrets.record_usage(run, settings.secrets_by_name(), pepper, build.deployment, call.now)


def _has_monitor_token(call: Context) -> bool:
    """Whether it is whoever watches from outside, with the token that opens this alone."""
    try:
        return lib_app.has_bearer_token(call.request, (call.services.settings.watch_token,))
    except NotConfigured:
        return False


app = lib_app.wsgi_app("cron/watch", GET=get)
