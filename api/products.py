"""GET, HEAD /api/products, /api/products/{slug}: the catalogue, from the nearest store.

Without parameters a JSON array of every published product, sorted by name. Filters brand,
category, function, audience repeat (OR within, AND between); q searches; sort=name|-name|newest;
fields; locale=id|en. With limit, cursor, facets or total:
`{"items": […], "next_cursor": …, "total": …, "facets": {…}}`. slug: one object.
200; 304 to a matching ETag; 400 validation_error naming every fault; 404 not_found. Postgres or
Redis down is no error: `X-Data-Source` tells memory, redis, postgres, stale or snapshot.
"""

from email.utils import format_datetime
from urllib.parse import parse_qsl

from lib.app import LOCALES, Context, Response, wsgi_app
from lib.monitoring import deployments
from lib.problems import NotConfigured
from lib.products import query as product_query
from lib.products.cache import CachedAnswer, ProductCache
from lib.products.query import Query
from lib.products.sources import Sources

CACHE_CONTROL = "public, s-maxage=60, stale-while-revalidate=300"
CACHE_TAG = "products"

product_cache = ProductCache()
first_run = deployments.FirstCheck()


def get(context: Context) -> Response:
    # Not werkzeug's parser: it drops bytes that are no UTF-8.
    query_string = context.request.query_string.decode("utf-8", "replace")
    pairs = parse_qsl(query_string, keep_blank_values=True)
    locale = dict(pairs).get("locale", "")
    if locale in LOCALES:
        context.locale = locale
    first_run.check_after_response(context)
    query = product_query.parse(pairs, context.locale)
    sources = Sources(context)
    answer = product_cache.get(query, sources)
    context.add_log_fields(decision=answer.source, age_s=_age_s(context, answer))
    if answer.should_refresh:
        context.after_response(lambda: product_cache.refresh(query, sources))
    if answer.source not in ("memory", "redis"):
        context.after_response(lambda: _probe(context))
    return _to_response(context, query, answer)


def _to_response(context: Context, query: Query, answer: CachedAnswer) -> Response:
    rendered = answer.entry.answer
    response = Response(rendered.body, content_type="application/json; charset=utf-8")
    response.set_etag(rendered.etag)
    timings = (f"{source};dur={took_ms}" for source, took_ms in answer.timings_ms.items())
    response.headers.update(
        {
            "Cache-Control": CACHE_CONTROL,
            "CDN-Cache-Control": CACHE_CONTROL,
            "Vercel-CDN-Cache-Control": CACHE_CONTROL,
            "Vercel-Cache-Tag": CACHE_TAG,
            "Last-Modified": format_datetime(rendered.changed_at, usegmt=True),
            "Age": str(_age_s(context, answer)),
            "X-Data-Source": answer.source,
            "Server-Timing": ", ".join(timings),
            # Public and the same for everybody: any page may read it, and caches keep one copy.
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": "Age, ETag, X-Data-Source, X-Request-Id",
        }
    )
    if query.limit is None and rendered.next_cursor is not None:
        # More products than one response may hold: the rest is linked.
        next_page = f"?limit={product_query.MAX_LIMIT}&cursor={rendered.next_cursor}"
        response.headers["Link"] = f'<{next_page}>; rel="next"'
    response.make_conditional(context.request.environ)
    return response


def _age_s(context: Context, answer: CachedAnswer) -> int:
    return max(0, int(context.now.timestamp() - answer.entry.made_at))


def _probe(context: Context) -> None:
    try:
        context.services.probe_open_breakers()
    except NotConfigured:
        return


app = wsgi_app("products", GET=get)
