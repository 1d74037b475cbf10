"""GET, HEAD /api/status: how each service does, for anybody, in Statuspage's shape.

200 always, within a second though nothing answers, cached a quarter of a minute: per service its
SLA, p95, share inside the SLA, error rate and n over 1 h, 24 h and 30 d ("insufficient data" under
20 requests), 90 days; incidents; maintenance. Served when the database is down: `data.source` says
from where, and how old it is.
"""

from typing import Any

from lib import app as lib_app
from lib import deadlines, maintenance
from lib.app import Context, Response
from lib.incidents import redis_store
from lib.monitoring import status_page
from lib.problems import CacheDown, DatabaseDown, NotConfigured

CACHE_CONTROL = "public, s-maxage=15"
REDIS_TIMEOUT_S, DATABASE_TIMEOUT_S = 0.25, 0.45  # for the first word of each


def get(call: Context) -> Response:
    found = _read_published(call)
    if found is None or status_page.age(found, call.now) > status_page.MAX_AGE:
        found = _render_from_database(call) or _as_outdated_copy(found)
    if found is None:
        found = status_page.unknown_status(
            call.services.site_url, call.cached_maintenance, call.now
        )
    call.add_log_fields(decision=found["data"]["source"])
    response = lib_app.json_response(
        status_page.merge_maintenance(found, call.cached_maintenance, call.now)
    )
    response.headers["Cache-Control"] = CACHE_CONTROL
    response.headers["Access-Control-Allow-Origin"] = "*"
    call.after_response(call.services.probe_open_breakers)
    return response


def _read_published(call: Context) -> dict[str, Any] | None:
    """The document in Redis; and on the way what it says of maintenance."""
    commands = (
        ("GET", status_page.KEY), ("HGETALL", redis_store.KEY), ("GET", maintenance.KEY)
    )  # fmt: skip
    try:
        cache = call.services.cache
        text, held, window = deadlines.call_with_deadline(
            lambda: cache.pipeline(*commands), REDIS_TIMEOUT_S
        )
    except (CacheDown, NotConfigured, TimeoutError):
        return None
    call.update_maintenance(window)
    return status_page.merge_new_incidents(
        status_page.parse(text),
        [one.incident for one in redis_store.parse_all(held)],
        call.cached_maintenance,
        call.now,
    )


def _render_from_database(call: Context) -> dict[str, Any] | None:
    try:
        database = call.services.database
        deadlines.require_database_answer(database.run, DATABASE_TIMEOUT_S)
        known = status_page.load(database.run, call.now)
    except (DatabaseDown, NotConfigured) as fault:
        call.record_outage("database", fault)
        return None
    except database.all_errors as fault:
        call.add_log_fields(refused=type(fault).__name__)
        call.record_outage("database", fault)
        return None
    site = call.services.site_url
    return status_page.render(known, site, call.cached_maintenance, call.now, "database")


def _as_outdated_copy(found: dict[str, Any] | None) -> dict[str, Any] | None:
    return found and {**found, "data": {**found["data"], "source": "copy"}}


app = lib_app.wsgi_app("status", GET=get)
