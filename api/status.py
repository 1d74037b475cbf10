"""GET, HEAD /api/status: each service's SLA figures, incidents and maintenance.

200 always and within a second, whatever is down, cached 15 s, in Statuspage's shape: per service
its SLA, p95, share inside the SLA, error rate and n over 1 h, 24 h and 30 d ("insufficient data"
under 20 requests), and 90 days. `data.source` says where it comes from: `watch` (what the monitor
published), `database`, `copy` (an outdated publication) or `none`; `data.as_of` how old it is.
"""

from lib import deadlines, maintenance
from lib.app import Context, Response, json_response, wsgi_app
from lib.incidents import redis_store
from lib.monitoring import status_page
from lib.monitoring.status_page import StatusData
from lib.problems import CacheDown, DatabaseDown, NotConfigured

CACHE_CONTROL = "public, s-maxage=15"
REDIS_TIMEOUT_S, DATABASE_TIMEOUT_S = 0.25, 0.45  # until each answers at all


def get(context: Context) -> Response:
    now = context.now
    data = _read_published(context)
    if data is None or now - data.checked_at > status_page.MAX_AGE:
        data = _load_from_database(context) or (data and data.as_copy())
    data = data or status_page.no_data(now)
    context.add_log_fields(decision=data.source)
    site_url = context.services.settings.site_url
    document = status_page.render(data, site_url, context.cached_maintenance, now)
    response = json_response(document)
    response.headers["Cache-Control"] = CACHE_CONTROL
    response.headers["Access-Control-Allow-Origin"] = "*"
    context.after_response(context.services.probe_open_breakers)
    return response


def _read_published(context: Context) -> StatusData | None:
    """What the monitor published, with the open incidents; refreshes the maintenance window."""
    commands = (
        ("GET", status_page.KEY), ("HGETALL", redis_store.KEY), ("GET", maintenance.KEY)
    )  # fmt: skip
    try:
        cache = context.services.cache
        text, incidents, window = deadlines.call_with_deadline(
            lambda: cache.pipeline(*commands), REDIS_TIMEOUT_S
        )
    except (CacheDown, NotConfigured, TimeoutError):
        return None
    context.update_maintenance(window)
    data = status_page.parse(text)
    documents = redis_store.parse_all(incidents)
    return data and data.with_incidents([document.incident for document in documents])


def _load_from_database(context: Context) -> StatusData | None:
    try:
        database = context.services.database
        deadlines.require_database_answer(database.run, DATABASE_TIMEOUT_S)
        return status_page.load(database.run, context.now, "database")
    except (DatabaseDown, NotConfigured) as error:
        context.record_outage("database", error)
    except database.all_errors as error:
        context.add_log_fields(refused=type(error).__name__)
        context.record_outage("database", error)
    return None


app = wsgi_app("status", GET=get)
