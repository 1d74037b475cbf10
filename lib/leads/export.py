"""Every lead as CSV, newest first, read in batches: memory does not grow with their number.

Rows that were sent cannot be taken back, so a response that stops early says so in its last row,
with the cursor of the next page. A cell that a spreadsheet would run as a formula is escaped.
"""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from lib import query_parameters
from lib.interfaces import RunQuery
from lib.problems import DatabaseDown, Invalid

if TYPE_CHECKING:
    from psycopg import Connection

COLUMNS = (
    "id", "created_at", "name", "phone", "email", "message", "business_name", "salon_type",
    "chair_count", "specialization", "current_brands_used", "monthly_spend_range", "city",
    "ip_address", "page_url_current",
    "ref", "locale", "page_url_initial", "referrer", "utm_source", "utm_medium", "utm_campaign",
    "utm_term", "utm_content", "consent_at", "consent_version", "consent_locale", "consent_sha256",
    "user_agent", "arrival",
)  # fmt: skip
BATCH_ROWS = 2000
BUDGET_S = 50.0  # of the function's 60
QUERY_BUDGET_S = 8.0

# What begins a formula in a spreadsheet, also after spaces, with the full-width forms.
FORMULA_STARTS = frozenset("=+-@＝＋－＠")
CONTROL_CHARACTERS = frozenset("\t\r\n")
# Columns that cannot begin a formula: ours, or constrained to a plus and digits by the table.
SAFE_COLUMNS = frozenset(COLUMNS.index(name) for name in ("id", "created_at", "phone", "ref"))

ERROR_MESSAGES = {
    "limit": {
        "id": "Isi dengan bilangan bulat dari 1 ke atas.",
        "en": "Give a whole number from 1.",
    },
    "before": {
        "id": "Bukan kursor dari jawaban sebelumnya, atau waktu RFC 3339.",
        "en": "Neither a cursor of an earlier answer nor an RFC 3339 time.",
    },
    "excel": {"id": "Isi dengan 1 atau 0.", "en": "Give 1 or 0."},
    "unknown": {"id": "Parameter ini tidak dikenal.", "en": "This parameter is not known."},
    "repeated": {"id": "Diberikan lebih dari sekali.", "en": "Given more than once."},
}


class Cursor(NamedTuple):
    """A position in the list: what follows it is older."""

    created_at: str
    lead_id: str

    @property
    def text(self) -> str:
        return f"{self.created_at}_{self.lead_id}"


FROM_NEWEST = Cursor("infinity", "ffffffff-ffff-ffff-ffff-ffffffffffff")


class ExportQuery(NamedTuple):
    """limit: rows at most; None: all. excel: BOM and `;`, for Excel in Indonesia."""

    before: Cursor = FROM_NEWEST
    limit: int | None = None
    excel: bool = False

    @property
    def delimiter(self) -> str:
        return ";" if self.excel else ","


class ResultSize(NamedTuple):
    """rows: of the response. last_row: the last of them, where older ones follow it."""

    rows: int
    last_row: Cursor | None


class Progress:
    """How far the stream has come, for the log and for the row that says it is incomplete."""

    rows: int = 0
    truncated_by: str | None = None


def parse(parameters: Mapping[str, list[str]], locale: str) -> ExportQuery:
    """Raises Invalid with every error."""
    query, error_types = ExportQuery(), dict[str, str]()
    for name, values in query_parameters.drop_empty(parameters).items():
        if name not in _PARSERS:
            error_types[name[:100]] = "unknown"
        elif len(values) > 1:
            error_types[name] = "repeated"
        else:
            try:
                query = query._replace(**{name: _PARSERS[name](values[0])})
            except (OverflowError, ValueError):
                error_types[name] = name
    if error_types:
        raise Invalid({name: [ERROR_MESSAGES[key][locale]] for name, key in error_types.items()})
    return query


def _parse_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) > 0):
        raise ValueError(text)
    return int(text)


def _parse_cursor(text: str) -> Cursor:
    """A cursor's text, or a time: everything before it."""
    created_at, _, lead_id = text.partition("_")
    moment = datetime.fromisoformat(created_at.replace(" ", "+"))  # an unquoted + is a space
    if moment.tzinfo is None:
        raise ValueError(text)
    return Cursor(
        moment.astimezone(UTC).isoformat(), str(UUID(lead_id) if lead_id else UUID(int=0))
    )


def _parse_excel(text: str) -> bool:
    if (flag := query_parameters.parse_flag(text)) is None:
        raise ValueError(text)
    return flag


_PARSERS: dict[str, Callable[[str], Any]] = {
    "limit": _parse_limit, "before": _parse_cursor, "excel": _parse_excel
}  # fmt: skip

COUNT = """
select count(*) from (
  select from leads
  where not canary and (created_at, id) < (%(at)s::timestamptz, %(lead_id)s::uuid)
  limit %(limit)s::bigint
) as page
"""

LAST_ROW = """
select to_char(created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), id::text
from leads
where not canary and (created_at, id) < (%(at)s::timestamptz, %(lead_id)s::uuid)
order by created_at desc, id desc
offset %(limit)s::bigint - 1 limit 2
"""

SELECT_BATCH = """
select id::text, to_char(created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  contact_name, phone_whatsapp, email, message, business_name, salon_type, chair_count::text,
  specialization, current_brands_used, monthly_spend_range, city, host(ip_address),
  page_url_current, ref, locale, page_url_initial, referrer,
  utm_source, utm_medium, utm_campaign, utm_term, utm_content,
  to_char(consent_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  consent_version, consent_locale, consent_sha256, user_agent, arrival
from leads
where not canary and (created_at, id) < (%(at)s::timestamptz, %(lead_id)s::uuid)
order by created_at desc, id desc
limit %(limit)s
"""


def count(run: RunQuery, query: ExportQuery) -> ResultSize:
    """The size of the response, before any of it is sent. Raises DatabaseDown."""
    values = _sql_values(query.before, query.limit)

    def select(connection: "Connection[Any]") -> ResultSize:
        rows = connection.execute(COUNT, values).fetchone() or (0,)
        last = connection.execute(LAST_ROW, values).fetchall() if query.limit is not None else []
        return ResultSize(rows[0], Cursor(*last[0]) if len(last) > 1 else None)

    size: ResultSize = run(select, budget_s=QUERY_BUDGET_S)
    return size


def fetch_batch(run: RunQuery, before: Cursor, limit: int) -> list[tuple[str | None, ...]]:
    """The rows that follow a cursor, in the order of COLUMNS. Raises DatabaseDown."""
    values = _sql_values(before, limit)
    rows: list[tuple[str | None, ...]] = run(
        lambda connection: connection.execute(SELECT_BATCH, values).fetchall(),
        budget_s=QUERY_BUDGET_S,
    )
    return rows


def cursor_after(row: tuple[str | None, ...]) -> Cursor:
    """The position of a row of `fetch_batch`."""
    return Cursor(str(row[1]), str(row[0]))


def stream(
    run: RunQuery, query: ExportQuery, size: ResultSize, progress: Progress
) -> Iterator[bytes]:
    """The CSV in parts: RFC 4180 with plain line ends, every text quoted."""
    header = query.delimiter.join(COLUMNS) + "\n"
    yield header.encode("utf-8-sig" if query.excel else "utf-8")
    end = time.monotonic() + BUDGET_S
    cursor, left = query.before, query.limit
    while left is None or left > 0:
        if time.monotonic() > end:
            progress.truncated_by = "time"
            break
        try:
            rows = fetch_batch(run, cursor, BATCH_ROWS if left is None else min(BATCH_ROWS, left))
        except DatabaseDown:
            progress.truncated_by = "database"
            break
        if not rows:
            return
        yield _encode(rows, query.delimiter)
        cursor = cursor_after(rows[-1])
        progress.rows += len(rows)
        left = None if left is None else left - len(rows)
    if progress.truncated_by is not None:
        action = "begin again" if cursor == FROM_NEWEST else f"go on with before={cursor.text}"
        reason = f"{progress.rows} of {size.rows} rows ({progress.truncated_by})"
        last_row = (f"INCOMPLETE: {reason}; {action}", *([None] * (len(COLUMNS) - 1)))
        yield _encode([last_row], query.delimiter)


def _sql_values(cursor: Cursor, limit: int | None) -> dict[str, object]:
    return {"at": cursor.created_at, "lead_id": cursor.lead_id, "limit": limit}


def _encode(rows: list[tuple[str | None, ...]], delimiter: str) -> bytes:
    out = io.StringIO()
    # Quoted, so that a program which splits at ; too does not split a text.
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NOTNULL)
    writer.writerows(
        [
            escape_formula(cell) if cell and column not in SAFE_COLUMNS else cell
            for column, cell in enumerate(row)
        ]
        for row in rows
    )
    return out.getvalue().encode("utf-8", "replace")


def escape_formula(cell: str) -> str:
    """The text with a ' before it where a spreadsheet would run it."""
    first = cell[0]
    runs = first in FORMULA_STARTS or first in CONTROL_CHARACTERS
    runs = runs or (first.isspace() and cell.lstrip()[:1] in FORMULA_STARTS)
    return f"'{cell}" if runs else cell
