"""GET, HEAD /api/status: how each service does, for anybody, in Statuspage's shape.

200 always, within a second though nothing answers, cached a quarter of a minute: per service its
SLA, p95, share inside the SLA, error rate and n over 1 h, 24 h and 30 d ("insufficient data" under
20 requests), 90 days; incidents; maintenance. Served when the database is down: `data.source` says
from where, and how old it is.
"""

from typing import Any

from lib import app as lib_app
from lib import deadlines, maintenance
from lib.app import Call, Response
from lib.incidents import redis_store
from lib.monitoring import status_page
from lib.problems import CacheDown, DatabaseDown, NotConfigured

CACHED = "public, s-maxage=15"
REDIS_WAIT_S, DATABASE_WAIT_S = 0.25, 0.45  # for the first word of each


def get(call: Call) -> Response:
    found = _left_by_the_watch(call)
    if found is None or status_page.age(found, call.now) > status_page.FRESH:
        found = _from_database(call) or _as_copy(found)
    if found is None:
        found = status_page.with_nothing_known(
            call.services.site_url, call.known_maintenance, call.now
        )
    call.note(decision=found["data"]["source"])
    response = lib_app.reply(status_page.with_maintenance(found, call.known_maintenance, call.now))
    response.headers["Cache-Control"] = CACHED
    response.headers["Access-Control-Allow-Origin"] = "*"
    call.later(call.services.probe)
    return response


def _left_by_the_watch(call: Call) -> dict[str, Any] | None:
    """The document in Redis; and on the way what it says of maintenance."""
    commands = (
        ("GET", status_page.KEY), ("HGETALL", redis_store.KEY), ("GET", maintenance.KEY)
    )  # fmt: skip
    try:
        cache = call.services.cache
        text, held, window = deadlines.within(lambda: cache.run_all(*commands), REDIS_WAIT_S)
    except (CacheDown, NotConfigured, TimeoutError):
        return None
    lib_app.board.remember(window)
    return status_page.with_incidents(
        status_page.published(text),
        [one.incident for one in redis_store.parsed(held)],
        call.known_maintenance,
        call.now,
    )


def _from_database(call: Call) -> dict[str, Any] | None:
    try:
        database = call.services.database
        deadlines.require_answer(database.run, DATABASE_WAIT_S)
        known = status_page.gather(database.run, call.now)
    except (DatabaseDown, NotConfigured) as fault:
        call.met_outage("database", fault)
        return None
    except database.faults as fault:
        call.note(refused=type(fault).__name__)
        call.met_outage("database", fault)
        return None
    site = call.services.site_url
    return status_page.document(known, site, call.known_maintenance, call.now, "database")


def _as_copy(found: dict[str, Any] | None) -> dict[str, Any] | None:
    return found and {**found, "data": {**found["data"], "source": "copy"}}


app = lib_app.wsgi("status", GET=get)
