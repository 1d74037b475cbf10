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
from lib.app import Context, Response
from lib.leads import export
from lib.leads.export import ExportQuery, Progress, ResultSize
from lib.problems import Invalid

PATH = "/api/leads/export"


def get(call: Context) -> Response:
    lib_app.require_operator_token(call)
    try:
        asked = export.parse(call.request.args.to_dict(flat=False))
    except export.ValidationError as faulty:
        raise Invalid(faulty.details(call.locale)) from None
    call.after_response(call.services.probe_open_breakers)
    run = call.services.database.run
    extent = export.count(run, asked)
    progress = Progress()
    call.after_response(lambda: call.add_log_fields(rows=progress.rows, cut=progress.truncated_by))
    body = export.stream(run, asked, extent, progress)
    response = Response(body, content_type="text/csv; charset=utf-8")
    response.headers.update(_headers(call, asked, extent))
    return response


def _headers(call: Context, asked: ExportQuery, extent: ResultSize) -> dict[str, str]:
    headers = {
        "Content-Disposition": f'attachment; filename="leads-export-{call.now:%Y-%m-%d}.csv"',
        "X-Row-Count": str(extent.rows),
    }
    if extent.last_row is not None:
        query = urlencode({"before": extent.last_row.text, "limit": asked.limit})
        headers["Link"] = f'<{PATH}?{query}>; rel="next"'
    return headers


app = lib_app.wsgi_app("leads_export", GET=get)
