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
from lib.app import Call, Response
from lib.problems import (
    CacheDown,
    DatabaseDown,
    Forbidden,
    Invalid,
    NotConfigured,
    Unavailable,
)
from lib.vitals import drain, ingest, query, report, rollup, samples
from lib.vitals.samples import Read, Visit


def post(call: Call) -> Response:
    body, visit = call.request.get_data(), _visit(call)
    if drain.SIGNATURE_HEADER in call.request.headers:
        _refuse_unsigned(call, body)
        found = drain.read(body, visit.release, call.now)
        call.note(drain=True)
    else:
        found = samples.read(body, visit)
    call.note(samples=len(found.samples), dropped=found.dropped or None, why=found.why)
    if found.samples:
        call.later(lambda: _keep(call, found))
    return Response(status=204)


def _refuse_unsigned(call: Call, body: bytes) -> None:
    signature = call.request.headers[drain.SIGNATURE_HEADER]
    settings = call.services.settings
    try:
        secrets = (settings.rum_drain_secret, settings.rum_drain_secret_previous)
    except NotConfigured as fault:
        log.not_configured(fault, call.request_id)
        raise Forbidden from None
    if not any(drain.is_signed(one, signature, body) for one in secrets if one):
        raise Forbidden


def _visit(call: Call) -> Visit:
    headers, settings = call.request.headers, call.services.settings
    return Visit(
        user_agent=headers.get("User-Agent", ""),
        mobile_hint=headers.get("Sec-CH-UA-Mobile"),
        referrer=headers.get("Referer", ""),
        release=samples.release_of(settings.vercel_deployment_id, settings.vercel_git_commit_sha),
        now=call.now,
    )


def _keep(call: Call, found: Read) -> None:
    kept = ingest.keep(call.services, found.samples, call.now)
    call.note(kept=kept.where)
    if kept.lost:
        log.write("rum_dropped", "warning", id=call.request_id, samples=kept.lost)
    call.services.probe()
    if kept.due and call.known_maintenance is None:
        _fold(call)


def _fold(call: Call) -> None:
    """So that no plan's slow cron is the only one to take the counts over."""
    try:
        folded = rollup.fold(call.services, datetime.now(UTC))
    except (CacheDown, DatabaseDown, NotConfigured) as fault:
        call.note(not_folded=type(fault).__name__)
        return
    if folded is not None:
        call.note(folded=folded.counts)


def get(call: Call) -> Response:
    try:
        asked = query.read(call.request.args.to_dict(flat=False), call.now)
    except query.Faulty as faulty:
        raise Invalid(faulty.details(call.locale)) from None
    call.later(call.services.probe)
    database = call.services.database
    try:
        found, complete = report.gather(call.services, asked)
        body = report.report(asked, found, complete=complete)
        if asked.compare is not None:
            body["comparison"] = report.comparison(call.services, asked, found)
    except DatabaseDown as fault:
        call.met_outage("database", fault)
        raise Unavailable from None
    except database.faults as fault:
        call.note(refused=type(fault).__name__)  # a table or a right that is missing
        raise Unavailable from None
    response = lib_app.reply(body)
    response.headers["Cache-Control"] = "public, s-maxage=60"
    return response


app = lib_app.wsgi("rum", GET=get, POST=post)
