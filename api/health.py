"""GET, HEAD /api/health: the process answers. It touches nothing and imports no vendor.

200 `{"status":"ok","timestamp":"…"}`; with `Accept: application/health+json`
`{"status":"pass","releaseId":"…"}`. The first 15 bytes never change: monitors match them.
"""

from werkzeug.wrappers import Response

from lib import endpoint
from lib.endpoint import Call
from lib.settings import Settings

HEALTH_JSON = "application/health+json"


def get(call: Call) -> Response:
    timestamp = call.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if HEALTH_JSON in call.request.headers.get("Accept", ""):
        release = Settings().vercel_git_commit_sha
        body = {"status": "pass", "releaseId": release, "timestamp": timestamp}
        return endpoint.reply(body, content_type=HEALTH_JSON)
    return endpoint.reply({"status": "ok", "timestamp": timestamp})


app = endpoint.wsgi("health", GET=get)
