"""GET /api/cron/watch: one run of the monitor.

Safe twice at once, late, or cut off: one runs, the others answer `busy`. 200 `{"busy": false,
"findings": [rule, …], "faults": [of a channel, …], "written": "postgres"|"redis"|"slack"|"nowhere",
"folded": n, "messages": n, "delayed": n, "undelivered": reason|null}`, whatever is down; 401
without CRON_SECRET or WATCH_TOKEN, which an external monitor may hold.
"""

from contextlib import suppress

from lib.app import Context, Response, json_response, wsgi_app
from lib.authorization import PROBE_WAIT_S, has_bearer_token, require_cron_token
from lib.monitoring import deployments, monitor, secrets
from lib.problems import DatabaseDown, NotConfigured

EVERY_MINUTES = 1  # vercel.json


def get(context: Context) -> Response:
    if not _has_monitor_token(context):
        require_cron_token(context)
    services = context.services
    services.probe_open_breakers(PROBE_WAIT_S)
    report = monitor.run(services, context.maintenance, context.now)
    context.add_log_fields(**report.as_dict())
    context.after_response(services.probe_open_breakers)
    context.after_response(lambda: _record_build_and_secrets(context))
    if not report.busy:
        context.check_in("watch", every_minutes=EVERY_MINUTES)
    return json_response(report.as_dict())


def _has_monitor_token(context: Context) -> bool:
    try:
        token = context.services.settings.watch_token
    except NotConfigured:
        return False
    return has_bearer_token(context.request, (token,))


def _record_build_and_secrets(context: Context) -> None:
    """Which build serves, with which secrets: a rollback and a rotation need it."""
    settings, now = context.services.settings, context.now
    build = deployments.build_from(settings)
    with suppress(DatabaseDown, NotConfigured):  # the next minute records it
        run = context.services.database.run_or_down
        deployments.record_build(run, build, now)
        pepper = settings.key_fingerprint_pepper
        secrets.record_usage(run, settings.environ, pepper, build.deployment, now)


app = wsgi_app("cron/watch", GET=get)
