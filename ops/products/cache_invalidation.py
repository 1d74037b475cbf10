"""Invalidates cached product answers: in Redis by a new version, in Vercel's CDN by a tag.

Vercel: `POST /v1/edge-cache/invalidate-by-tags` as documented (read 2026-11); never tried on a
live project. An instance's own memory expires within seconds.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from lib.problems import CacheDown, NotConfigured
from lib.products import cache
from ops import connections
from ops.settings import OperatorServices

CACHE_TAG = "products"
TIMEOUT_S = 10
NO_TOKEN = "not purged: VERCEL_API_TOKEN is not set; cached copies expire within a minute"  # noqa: S105 - words


class InvalidationResult(NamedTuple):
    ok: bool
    message: str


def invalidate_all(services: OperatorServices) -> dict[str, InvalidationResult]:
    """The result by cache."""
    return {"Redis": _invalidate_redis(services), "CDN": _invalidate_cdn(services)}


def _invalidate_redis(services: OperatorServices) -> InvalidationResult:
    try:
        cache.invalidate(services.cache.pipeline)
    except NotConfigured as error:
        return InvalidationResult(False, f"NOT purged: {error}")
    except CacheDown as error:
        return InvalidationResult(
            False, f"NOT purged: {connections.explain(error)}; copies expire within a minute"
        )
    return InvalidationResult(True, "purged: the next answer is read anew")


def _invalidate_cdn(services: OperatorServices) -> InvalidationResult:
    settings = services.settings
    if not settings.vercel_api_token:
        return InvalidationResult(
            True, "not purged: VERCEL_API_TOKEN is not set; cached copies expire within a minute"
        )
    parameters = {"projectIdOrName": settings.vercel_project_id, "teamId": settings.vercel_team_id}
    query = urllib.parse.urlencode({name: value for name, value in parameters.items() if value})
    request = urllib.request.Request(  # noqa: S310 - a setting's http(s) address
        f"{settings.vercel_api_url}/v1/edge-cache/invalidate-by-tags?{query}",
        data=json.dumps({"tags": [CACHE_TAG]}).encode(),
        headers={
            "Authorization": f"Bearer {settings.vercel_api_token}",
            "Content-Type": "application/json",
        },
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
            return InvalidationResult(True, "purged")
    except urllib.error.HTTPError as error:
        error.close()
        return InvalidationResult(
            False, f"NOT purged: Vercel cannot be used: {connections.explain_status(error.code)}"
        )
    except (urllib.error.URLError, OSError) as error:
        reason = connections.explain_reason(error)
        return InvalidationResult(
            False, f"NOT purged: Vercel cannot be used: {reason}; copies expire within a minute"
        )
