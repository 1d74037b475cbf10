"""GET, HEAD /api/leads/export: every lead as CSV, newest first, for operators.

`Authorization: Bearer $LEADS_ADMIN_TOKEN` or `X-Admin-Token`. Parameters: `limit` (rows; all where
it is left out), `before` (a cursor, or an RFC 3339 time).
200 text/csv, streamed, its first line always the same. `X-Row-Count` says how many rows follow it;
`Link: <…>; rel="next"` that older ones are left after them. An answer that had to stop early ends
with a row that begins with INCOMPLETE and holds the cursor to go on from.
400 validation_error; 401 unauthorized; 503 service_not_configured without a token,
temporarily_unavailable without Postgres.
"""

from urllib.parse import urlencode

from lib import app as lib_app
from lib.app import Call, Response
from lib.leads import export
from lib.leads.export import Asked, Extent, Progress
from lib.problems import Invalid

PATH = "/api/leads/export"


def get(call: Call) -> Response:
    lib_app.refuse_all_but_operators(call)
    try:
        asked = export.read(call.request.args.to_dict(flat=False))
    except export.Faulty as faulty:
        raise Invalid(faulty.details(call.locale)) from None
    call.later(call.services.probe)
    run = call.services.database.run
    extent = export.measure(run, asked)
    progress = Progress()
    call.later(lambda: call.note(rows=progress.rows, cut=progress.cut))
    body = export.stream(run, asked, extent, progress)
    response = Response(body, content_type="text/csv; charset=utf-8")
    response.headers.update(_headers(call, asked, extent))
    return response


def _headers(call: Call, asked: Asked, extent: Extent) -> dict[str, str]:
    headers = {
        "Content-Disposition": f'attachment; filename="leads-export-{call.now:%Y-%m-%d}.csv"',
        "X-Row-Count": str(extent.rows),
    }
    if extent.edge is not None:
        query = urlencode({"before": extent.edge.cursor, "limit": asked.limit})
        headers["Link"] = f'<{PATH}?{query}>; rel="next"'
    return headers


app = lib_app.wsgi("leads_export", GET=get)
