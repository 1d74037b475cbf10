"""GET, HEAD /api/health: the process answers. It touches nothing and imports no vendor.

200 `{"status":"ok","timestamp":"…"}`; with `Accept: application/health+json`
`{"status":"pass","releaseId":"…"}`. The first 15 bytes never change: monitors match them.

`?deep=true` with `Authorization: Bearer $HEALTH_CHECK_TOKEN` asks every dependency, all at once,
a second each: 200 `{"status":"healthy"|"degraded","services":{…},"ledger":{…}}`, 503 "unhealthy"
when the database is gone; 403 forbidden when no token is configured, 401 unauthorized when it is
wrong.
"""

from datetime import datetime

from lib import endpoint
from lib.endpoint import Call, Response
from lib.problems import Forbidden, NotConfigured, Unauthorized
from lib.settings import Settings

HEALTH_JSON = "application/health+json"


def get(call: Call) -> Response:
    if call.request.args.get("deep") == "true":
        return _deep(call)
    timestamp = _shown(call.now)
    if HEALTH_JSON in call.request.headers.get("Accept", ""):
        release = Settings().vercel_git_commit_sha
        body = {"status": "pass", "releaseId": release, "timestamp": timestamp}
        return endpoint.reply(body, content_type=HEALTH_JSON)
    return endpoint.reply({"status": "ok", "timestamp": timestamp})


def _deep(call: Call) -> Response:
    try:
        token = call.services.settings.health_check_token
    except NotConfigured:
        raise Forbidden from None
    if not endpoint.bearer_is(call.request, (token,)):
        raise Unauthorized
    from lib import checkup  # only here: the public answer stays light

    found = checkup.look(call.services, call.now)
    body = {
        "status": found.status,
        "services": found.services,
        "ledger": found.ledger,
        "timestamp": _shown(call.now),
        "version": Settings().vercel_git_commit_sha,
    }
    call.note(decision=found.status)
    return endpoint.reply(body, 503 if found.status == "unhealthy" else 200)


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


app = endpoint.wsgi("health", GET=get)
