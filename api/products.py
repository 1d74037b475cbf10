"""GET, HEAD /api/products, /api/products/{slug}: the catalogue, from the nearest source.

Without parameters a JSON array of every published product, sorted by name. Filters brand,
category, function, audience repeat (OR within, AND between); q searches; sort=name|-name|newest;
fields; locale=id|en. With limit, cursor, facets or total:
`{"items": […], "next_cursor": …, "total": …, "facets": {…}}`. slug: one object.
200; 304 to a matching ETag; 400 validation_error naming every fault; 404 not_found. Postgres or
Redis down is no error: `X-Data-Source` tells memory, redis, postgres, stale or snapshot.
"""

from collections.abc import Callable
from email.utils import format_datetime
from urllib.parse import parse_qsl

from lib import app as lib_app
from lib import deadlines
from lib.app import Context, Response
from lib.maintenance import MaintenanceWindow
from lib.monitoring import deployments
from lib.problems import CacheDown, DatabaseDown, NotConfigured
from lib.products import catalogue, snapshot
from lib.products import query as product_query
from lib.products.cache import CachedAnswer, ProductCache, Sources
from lib.products.catalogue import PublishedSlugs, QueryResult, RenderedAnswer
from lib.products.query import Query

CACHE_CONTROL = "public, s-maxage=60, stale-while-revalidate=300"
CACHE_TAG = "products"
DATABASE_BUDGET_S = 1.5
REDIS_TIMEOUT_S, MAINTENANCE_TIMEOUT_S = 0.3, 0.2

product_cache = ProductCache()
first_run = deployments.FirstCheck()


def get(call: Context) -> Response:
    # Not werkzeug's reading: it passes over bytes that are no UTF-8.
    asked = call.request.query_string.decode("utf-8", "replace")
    pairs = parse_qsl(asked, keep_blank_values=True)
    locale = dict(pairs).get("locale", "")
    if locale in lib_app.LOCALES:
        call.locale = locale
    first_run.check_after_response(call)
    query = product_query.parse(pairs, call.locale)
    reach = _sources(call)
    served = product_cache.get(query, reach)
    call.add_log_fields(decision=served.source, age_s=_age_s(call, served))
    if served.should_refresh:
        call.after_response(lambda: product_cache.refresh(query, reach))
    if served.source not in ("memory", "redis"):
        call.after_response(lambda: _probe(call))
    return _respond(call, query, served)


def _respond(call: Context, query: Query, served: CachedAnswer) -> Response:
    entry = served.entry
    response = Response(entry.body, content_type="application/json; charset=utf-8")
    response.set_etag(entry.etag)
    timings = (f"{rung};dur={took_ms}" for rung, took_ms in served.timings_ms.items())
    response.headers.update(
        {
            "Cache-Control": CACHE_CONTROL,
            "CDN-Cache-Control": CACHE_CONTROL,
            "Vercel-CDN-Cache-Control": CACHE_CONTROL,
            "Vercel-Cache-Tag": CACHE_TAG,
            "Last-Modified": format_datetime(entry.changed_at, usegmt=True),
            "Age": str(_age_s(call, served)),
            "X-Data-Source": served.source,
            "Server-Timing": ", ".join(timings),
            # Public and the same for everybody: any page may read it, and caches keep one copy.
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": "Age, ETag, X-Data-Source, X-Request-Id",
        }
    )
    if query.limit is None and entry.next_cursor is not None:
        # More than one answer may hold: nothing is cut silently.
        leads_on = f"?limit={product_query.MAX_LIMIT}&cursor={entry.next_cursor}"
        response.headers["Link"] = f'<{leads_on}>; rel="next"'
    response.make_conditional(call.request.environ)
    return response


def _age_s(call: Context, served: CachedAnswer) -> int:
    return max(0, int(call.now.timestamp() - served.entry.made_at))


def _sources(call: Context) -> Sources:
    def redis(*commands: tuple[str | int, ...]) -> list[object]:
        try:
            cache = call.services.cache
        except NotConfigured as fault:
            call.add_log_fields(not_configured=fault.variable)
            raise CacheDown from fault
        try:
            return deadlines.call_with_deadline(lambda: cache.pipeline(*commands), REDIS_TIMEOUT_S)
        except TimeoutError as fault:
            raise CacheDown from fault

    def postgres(
        query: Query, known: PublishedSlugs | None, hear: Callable[[QueryResult], None]
    ) -> RenderedAnswer | None:
        window = _maintenance(call)
        if window is not None and not window.allows_reads:
            raise DatabaseDown
        try:
            database = call.services.database
        except NotConfigured as fault:
            call.add_log_fields(not_configured=fault.variable)
            call.record_outage("database", fault)
            raise DatabaseDown from fault
        try:
            found = catalogue.find(
                lambda work: database.run(work, budget_s=DATABASE_BUDGET_S), query, known
            )
        except DatabaseDown as fault:
            call.record_outage("database", fault)
            raise
        except database.all_errors as fault:
            # A table or a right that is missing: as good as no database.
            call.add_log_fields(refused=type(fault).__name__)
            call.record_outage("database", fault)
            raise DatabaseDown from fault
        if found.changed_at is None:
            return None
        hear(found)
        return catalogue.render(query, found, found.changed_at)

    return Sources(redis, postgres, _from_snapshot)


def _maintenance(call: Context) -> MaintenanceWindow | None:
    try:
        return deadlines.call_with_deadline(lambda: call.maintenance, MAINTENANCE_TIMEOUT_S)
    except TimeoutError:
        return call.cached_maintenance


def _from_snapshot(query: Query, published: frozenset[str] | None) -> RenderedAnswer:
    shipped = snapshot.load()
    return catalogue.render(query, shipped.find(query, published), shipped.made_at)


def _probe(call: Context) -> None:
    try:
        call.services.probe_open_breakers()
    except NotConfigured:
        return


app = lib_app.wsgi_app("products", GET=get)
