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
from lib.app import Call, Response
from lib.maintenance import Switch
from lib.monitoring import deployments
from lib.problems import CacheDown, DatabaseDown, NotConfigured
from lib.products import catalogue, snapshot
from lib.products import query as product_query
from lib.products.cache import Reach, Served, Shelf
from lib.products.catalogue import Answer, Found, Published
from lib.products.query import Query

SHARED = "public, s-maxage=60, stale-while-revalidate=300"
TAG = "products"
DATABASE_BUDGET_S = 1.5
REDIS_WAIT_S, MAINTENANCE_WAIT_S = 0.3, 0.2

shelf = Shelf()
first_run = deployments.FirstRun()


def get(call: Call) -> Response:
    # Not werkzeug's reading: it passes over bytes that are no UTF-8.
    asked = call.request.query_string.decode("utf-8", "replace")
    pairs = parse_qsl(asked, keep_blank_values=True)
    locale = dict(pairs).get("locale", "")
    if locale in lib_app.LOCALES:
        call.locale = locale
    first_run.ask(call)
    query = product_query.read(pairs, call.locale)
    reach = _reach(call)
    served = shelf.serve(query, reach)
    call.note(decision=served.source, age_s=_age_s(call, served))
    if served.early:
        call.later(lambda: shelf.refresh(query, reach))
    if served.source not in ("memory", "redis"):
        call.later(lambda: _probe(call))
    return _respond(call, query, served)


def _respond(call: Call, query: Query, served: Served) -> Response:
    entry = served.entry
    response = Response(entry.body, content_type="application/json; charset=utf-8")
    response.set_etag(entry.etag)
    timings = (f"{rung};dur={took_ms}" for rung, took_ms in served.timings_ms.items())
    response.headers.update(
        {
            "Cache-Control": SHARED,
            "CDN-Cache-Control": SHARED,
            "Vercel-CDN-Cache-Control": SHARED,
            "Vercel-Cache-Tag": TAG,
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


def _age_s(call: Call, served: Served) -> int:
    return max(0, int(call.now.timestamp() - served.entry.made_at))


def _reach(call: Call) -> Reach:
    def redis(*commands: tuple[str | int, ...]) -> list[object]:
        try:
            cache = call.services.cache
        except NotConfigured as fault:
            call.note(not_configured=fault.name)
            raise CacheDown from fault
        try:
            return deadlines.within(lambda: cache.run_all(*commands), REDIS_WAIT_S)
        except TimeoutError as fault:
            raise CacheDown from fault

    def postgres(
        query: Query, known: Published | None, hear: Callable[[Found], None]
    ) -> Answer | None:
        window = _maintenance(call)
        if window is not None and not window.reads:
            raise DatabaseDown
        try:
            database = call.services.database
        except NotConfigured as fault:
            call.note(not_configured=fault.name)
            call.met_outage("database", fault)
            raise DatabaseDown from fault
        try:
            found = catalogue.find(
                lambda work: database.run(work, budget_s=DATABASE_BUDGET_S), query, known
            )
        except DatabaseDown as fault:
            call.met_outage("database", fault)
            raise
        except database.faults as fault:
            # A table or a right that is missing: as good as no database.
            call.note(refused=type(fault).__name__)
            call.met_outage("database", fault)
            raise DatabaseDown from fault
        if found.changed_at is None:
            return None
        hear(found)
        return catalogue.answer(query, found, found.changed_at)

    return Reach(redis, postgres, _from_snapshot)


def _maintenance(call: Call) -> Switch | None:
    try:
        return deadlines.within(lambda: call.maintenance, MAINTENANCE_WAIT_S)
    except TimeoutError:
        return call.known_maintenance


def _from_snapshot(query: Query, published: frozenset[str] | None) -> Answer:
    shipped = snapshot.load()
    return catalogue.answer(query, shipped.find(query, published), shipped.made_at)


def _probe(call: Call) -> None:
    try:
        call.services.probe()
    except NotConfigured:
        return


app = lib_app.wsgi("products", GET=get)
