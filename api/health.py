"""GET, HEAD /api/health: the process answers. It touches nothing and imports no vendor.

200 `{"status":"ok","timestamp":"…"}`; with `Accept: application/health+json`
`{"status":"pass","releaseId":"<commit>","serviceId":"<deployment>"}`. The first 15 bytes of the
former never change: monitors match them. In maintenance mode "ok" is "maintenance" (and "pass" is
"warn"), still with 200; an instance learns of the switch after an answer, so the first one asked
may be late by that one.

`?deep=true` (or `1`) with `Authorization: Bearer $HEALTH_CHECK_TOKEN` asks every dependency, all
at once, a second each: 200 `{"status":"healthy"|"degraded","services":{…},"ledger":{…}}`, 503
"unhealthy" when the database is gone or would refuse a lead (a renamed column, a right, a
constraint, read-only: `services.database` names it); 403 forbidden when no token is configured,
401 unauthorized when it is wrong.
"""

from datetime import datetime

from lib import query_parameters
from lib.app import Context, Response, json_response, wsgi_app
from lib.authorization import has_bearer_token
from lib.problems import Forbidden, NotConfigured, Unauthorized
from lib.settings import Settings

HEALTH_JSON = "application/health+json"


def get(context: Context) -> Response:
    if query_parameters.parse_flag(context.request.args.get("deep", "")):
        return _deep_check(context)
    window = context.cached_maintenance
    timestamp = _format_time(context.now)
    if HEALTH_JSON in context.request.headers.get("Accept", ""):
        settings = Settings()
        body: dict[str, object] = {
            "status": "warn" if window else "pass",
            "releaseId": settings.vercel_git_commit_sha,
            "serviceId": settings.vercel_deployment_id,
            "timestamp": timestamp,
        }
        if settings.maintenance_mode_error is not None:
            body |= {"status": "warn", "notes": [settings.maintenance_mode_error]}
        if window is not None:
            body["notes"] = [f"maintenance: {window.mode}"]
            set_by = "variable" if window.until is None else "switch"
            until = window.until and _format_time(window.until)
            body["maintenance"] = {"mode": window.mode, "set_by": set_by, "until": until}
        return json_response(body, content_type=HEALTH_JSON)
    return json_response({"status": "maintenance" if window else "ok", "timestamp": timestamp})


def _deep_check(context: Context) -> Response:
    settings = context.services.settings
    try:
        tokens = (settings.health_check_token, settings.health_check_token_previous)
    except NotConfigured:
        raise Forbidden from None
    if not has_bearer_token(context.request, tokens):
        raise Unauthorized
    from lib.monitoring import health  # only here: the shallow answer stays light

    report = health.check_all(context.services, context.now)
    body = {
        "status": report.status,
        "services": report.services,
        "ledger": report.reconciliation,
        "timestamp": _format_time(context.now),
        "version": Settings().vercel_git_commit_sha,
    }
    context.add_log_fields(decision=report.status)
    return json_response(body, 503 if report.status == "unhealthy" else 200)


def _format_time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


app = wsgi_app("health", GET=get)
