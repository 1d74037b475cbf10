"""POST /api/rum: a browser's vitals, or a drain of Vercel's. GET, HEAD /api/rum: read them.

POST: 204 at once whatever comes; reading and counting come after the response. Bad items are
dropped and counted in the log line, and all are lost while Redis is down. At most 64 KiB and 50
items, application/json or text/plain. With `x-vercel-signature` the body is a drain's (JSON array
or NDJSON): 403 forbidden when the signature is not RUM_DRAIN_SECRET's.

GET: public, cached for a minute. 200 with p75, shares and n of each group; parameters `days` or
`from` and `to`, `path`, `device`, `metric`, `release`, `by`, `compare`, `histogram`;
400 validation_error names every wrong one; 503 temporarily_unavailable without Postgres.
"""

from datetime import UTC, datetime
from functools import partial

from lib import log
from lib.app import Context, Response, json_response, wsgi_app
from lib.problems import CacheDown, DatabaseDown, Forbidden, NotConfigured, Unavailable
from lib.vitals import drain, ingest, query, report, rollup, samples
from lib.vitals.samples import ParsedReports, RequestInfo


def post(context: Context) -> Response:
    body, request = context.request.get_data(), _request_info(context)
    if drain.SIGNATURE_HEADER in context.request.headers:
        _require_signature(context, body)
        context.add_log_fields(drain=True)
        parse = partial(drain.parse, body, request.release, context.now)
    else:
        parse = partial(samples.parse, body, request)
    context.after_response(lambda: _record(context, parse()))
    return Response(status=204)


def _require_signature(context: Context, body: bytes) -> None:
    signature = context.request.headers[drain.SIGNATURE_HEADER]
    settings = context.services.settings
    try:
        secrets = (settings.rum_drain_secret, settings.rum_drain_secret_previous)
    except NotConfigured as error:
        log.not_configured(error, context.request_id)
        raise Forbidden from None
    if not any(drain.verify_signature(secret, signature, body) for secret in secrets if secret):
        raise Forbidden


def _request_info(context: Context) -> RequestInfo:
    headers, settings = context.request.headers, context.services.settings
    return RequestInfo(
        user_agent=headers.get("User-Agent", ""),
        mobile_hint=headers.get("Sec-CH-UA-Mobile"),
        referrer=headers.get("Referer", ""),
        release=samples.release_name(settings.vercel_deployment_id, settings.vercel_git_commit_sha),
        now=context.now,
    )


def _record(context: Context, parsed: ParsedReports) -> None:
    context.add_log_fields(
        samples=len(parsed.samples), dropped=parsed.dropped or None, why=parsed.drop_reason
    )
    if not parsed.samples:
        return
    result = ingest.record(context.services, parsed.samples, context.now)
    if result.lost:
        log.write("rum_dropped", "warning", id=context.request_id, samples=result.lost)
    context.services.probe_open_breakers()
    if result.rollup_due and context.cached_maintenance is None:
        _roll_up(context)


def _roll_up(context: Context) -> None:
    """Beside the cron, which on some plans comes once a day."""
    try:
        context.add_log_fields(rolled_up=rollup.roll_up(context.services, datetime.now(UTC)))
    except (CacheDown, DatabaseDown, NotConfigured) as error:
        context.add_log_fields(rollup_failed=type(error).__name__)


def get(context: Context) -> Response:
    parameters = context.request.args.to_dict(flat=False)
    parsed = query.parse(parameters, context.now, context.locale)
    context.after_response(context.services.probe_open_breakers)
    database = context.services.database
    try:
        data = report.load(context.services, parsed)
        body = report.render(data)
        if parsed.compare is not None:
            body["comparison"] = report.compare_releases(context.services, data)
    except DatabaseDown as error:
        context.record_outage("database", error)
        raise Unavailable from None
    except database.all_errors as error:
        context.add_log_fields(refused=type(error).__name__)  # a table or a right is missing
        raise Unavailable from None
    response = json_response(body)
    response.headers["Cache-Control"] = "public, s-maxage=60"
    return response


app = wsgi_app("rum", GET=get, POST=post)
