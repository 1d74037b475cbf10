"""GET, HEAD /api/leads/export: every lead as CSV, newest first, for operators.

`Authorization: Bearer $LEADS_ADMIN_TOKEN` or `X-Admin-Token`. Parameters: `limit` (rows; default:
all), `before` (a cursor, or an RFC 3339 time), `excel=1` (byte order mark and `;`, for Excel).
200 text/csv, streamed, with a header row. `X-Row-Count`: the rows after it. `Link: <…>; rel="next"`
where older rows follow. A response that stops early ends with a row that begins with INCOMPLETE and
holds the cursor of the next page.
400 validation_error; 401 unauthorized; 503 service_not_configured without a token,
temporarily_unavailable without Postgres.
"""

from urllib.parse import urlencode

from lib.app import Context, Response, wsgi_app
from lib.authorization import require_operator_token
from lib.leads import export

PATH = "/api/leads/export"


def get(context: Context) -> Response:
    require_operator_token(context)
    query = export.parse(context.request.args.to_dict(flat=False), context.locale)
    context.after_response(context.services.probe_open_breakers)
    run = context.services.database.run
    size = export.count(run, query)
    progress = export.Progress()
    context.after_response(
        lambda: context.add_log_fields(rows=progress.rows, truncated_by=progress.truncated_by)
    )
    body = export.stream(run, query, size, progress)
    response = Response(body, content_type="text/csv; charset=utf-8")
    filename = f"leads-export-{context.now:%Y-%m-%d}.csv"
    response.headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    response.headers["X-Row-Count"] = str(size.rows)
    if size.last_row is not None:
        parameters = {"before": size.last_row.text, "limit": query.limit}
        next_page = urlencode(parameters | ({"excel": 1} if query.excel else {}))
        response.headers["Link"] = f'<{PATH}?{next_page}>; rel="next"'
    return response


app = wsgi_app("leads_export", GET=get)
