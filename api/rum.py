"""POST /api/rum: a browser's vitals, or a drain of Vercel's. GET, HEAD /api/rum: read them.

POST: 204 at once whatever comes, and the counting after the answer; bad items are dropped and
counted in the log line. At most 64 KiB and 50 items, application/json or text/plain. With
`x-vercel-signature` the body is a drain's (JSON array or NDJSON): 403 forbidden when the
signature is not RUM_DRAIN_SECRET's.

GET: public, cached for a minute. 200 with p75, shares and n of each group; parameters `days` or
`from` and `to`, `path`, `device`, `metric`, `release`, `by`, `compare`, `histogram`;
400 validation_error names every faulty one; 503 temporarily_unavailable without Postgres.
"""

from datetime import UTC, datetime

from lib import app as lib_app
from lib import log
from lib.app import Context, Response
from lib.problems import (
    CacheDown,
    DatabaseDown,
    Forbidden,
    Invalid,
    NotConfigured,
    Unavailable,
)
from lib.vitals import drain, ingest, query, report, rollup, samples
from lib.vitals.samples import ParsedReports, RequestInfo


def post(call: Context) -> Response:
    body, visit = call.request.get_data(), _request_info(call)
    if drain.SIGNATURE_HEADER in call.request.headers:
        _require_signature(call, body)
        found = drain.parse(body, visit.release, call.now)
        call.add_log_fields(drain=True)
    else:
        found = samples.parse(body, visit)
    call.add_log_fields(
        samples=len(found.samples), dropped=found.dropped or None, why=found.drop_reason
    )
    if found.samples:
        call.after_response(lambda: _record_samples(call, found))
    return Response(status=204)


def _require_signature(call: Context, body: bytes) -> None:
    signature = call.request.headers[drain.SIGNATURE_HEADER]
    settings = call.services.settings
    try:
        secrets = (settings.rum_drain_secret, settings.rum_drain_secret_previous)
    except NotConfigured as fault:
        log.not_configured(fault, call.request_id)
        raise Forbidden from None
    if not any(drain.verify_signature(one, signature, body) for one in secrets if one):
        raise Forbidden


def _request_info(call: Context) -> RequestInfo:
    headers, settings = call.request.headers, call.services.settings
    return RequestInfo(
        user_agent=headers.get("User-Agent", ""),
        mobile_hint=headers.get("Sec-CH-UA-Mobile"),
        referrer=headers.get("Referer", ""),
        release=samples.release_name(settings.vercel_deployment_id, settings.vercel_git_commit_sha),
        now=call.now,
    )


def _record_samples(call: Context, found: ParsedReports) -> None:
    kept = ingest.record(call.services, found.samples, call.now)
    call.add_log_fields(kept=kept.where)
    if kept.lost:
        log.write("rum_dropped", "warning", id=call.request_id, samples=kept.lost)
    call.services.probe_open_breakers()
    if kept.rollup_due and call.cached_maintenance is None:
        _roll_up(call)


def _roll_up(call: Context) -> None:
    """So that no plan's slow cron is the only one to take the counts over."""
    try:
        folded = rollup.roll_up(call.services, datetime.now(UTC))
    except (CacheDown, DatabaseDown, NotConfigured) as fault:
        call.add_log_fields(not_folded=type(fault).__name__)
        return
    if folded is not None:
        call.add_log_fields(folded=folded.counts)


def get(call: Context) -> Response:
    try:
        asked = query.parse(call.request.args.to_dict(flat=False), call.now)
    except query.ValidationError as faulty:
        raise Invalid(faulty.details(call.locale)) from None
    call.after_response(call.services.probe_open_breakers)
    database = call.services.database
    try:
        found, complete = report.load(call.services, asked)
        body = report.render(asked, found, complete=complete)
        if asked.compare is not None:
            body["comparison"] = report.compare_releases(call.services, asked, found)
    except DatabaseDown as fault:
        call.record_outage("database", fault)
        raise Unavailable from None
    except database.all_errors as fault:
        call.add_log_fields(refused=type(fault).__name__)  # a table or a right that is missing
        raise Unavailable from None
    response = lib_app.json_response(body)
    response.headers["Cache-Control"] = "public, s-maxage=60"
    return response


app = lib_app.wsgi_app("rum", GET=get, POST=post)
