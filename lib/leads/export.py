"""Every lead as CSV, newest first, read in batches: the memory it takes does not grow with them.

What has been sent cannot be taken back, so an answer that has to stop early says so in its last
row, with the cursor to go on from. A cell that a spreadsheet would run gets a ' in front.
"""

import csv
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from lib import query_parameters
from lib.interfaces import RunQuery
from lib.problems import DatabaseDown, Details

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
BATCH_ROWS = 2000  # rows held at a time
BUDGET_S = 50.0  # of the function's 60
READ_BUDGET_S = 8.0

# What a spreadsheet takes for a formula, also after spaces; and the full-width forms of the same.
FORMULA_STARTS = frozenset("=+-@＝＋－＠")
CONTROL_CHARACTERS = frozenset("\t\r\n")
# These cannot begin a formula: ours, or held by the table to digits behind a plus.
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
    "unknown": {"id": "Parameter ini tidak dikenal.", "en": "This parameter is not known."},
    "repeated": {"id": "Diberikan lebih dari sekali.", "en": "Given more than once."},
}


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where in the list something stands: everything behind it is older."""

    created_at: str
    lead_id: str

    @property
    def text(self) -> str:
        return f"{self.created_at}_{self.lead_id}"


FROM_NEWEST = Cursor("infinity", "ffffffff-ffff-ffff-ffff-ffffffffffff")


@dataclass(frozen=True, slots=True)
class ExportQuery:
    """limit: rows at most; None for all there are."""

    before: Cursor = FROM_NEWEST
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class ResultSize:
    """rows: how many the answer will have. edge: the last of them, where more follow it."""

    rows: int
    last_row: Cursor | None


class ValidationError(Exception):
    """Parameters at fault: names of FAULTS by parameter."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        super().__init__("faulty parameters")
        self.error_types = kinds

    def details(self, locale: str) -> Details:
        return {name: [ERROR_MESSAGES[kind][locale]] for name, kind in self.error_types.items()}


def parse(given: Mapping[str, list[str]]) -> ExportQuery:
    """What is asked for. Raises Faulty with every fault."""
    kinds: dict[str, str] = {}
    asked = ExportQuery()
    for name, values in query_parameters.drop_empty(given).items():
        if name not in ("limit", "before"):
            kinds[name[:100]] = "unknown"
        elif len(values) > 1:
            kinds[name] = "repeated"
        else:
            try:
                asked = _set_parameter(asked, name, values[0])
            except ValueError:
                kinds[name] = name
    if kinds:
        raise ValidationError(kinds)
    return asked


def _set_parameter(asked: ExportQuery, name: str, value: str) -> ExportQuery:
    if name == "limit":
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) > 0):
            raise ValueError(name)
        return replace(asked, limit=int(value))
    at, _, lead_id = value.partition("_")
    moment = datetime.fromisoformat(at.replace(" ", "+"))  # an unquoted + arrives as a space
    if moment.tzinfo is None:
        raise ValueError(name)
    # Of a bare time: everything before it.
    known = UUID(lead_id) if lead_id else UUID(int=0)
    try:
        return replace(asked, before=Cursor(moment.astimezone(UTC).isoformat(), str(known)))
    except OverflowError as fault:
        raise ValueError(name) from fault


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


def count(run: RunQuery, asked: ExportQuery) -> ResultSize:
    """How much the answer will hold, before any of it is sent. Raises DatabaseDown."""
    values = {"at": asked.before.created_at, "lead_id": asked.before.lead_id, "limit": asked.limit}

    def look(connection: "Connection[Any]") -> ResultSize:
        found = connection.execute(COUNT, values).fetchone() or (0,)
        edge = connection.execute(LAST_ROW, values).fetchall() if asked.limit is not None else []
        return ResultSize(found[0], Cursor(*edge[0]) if len(edge) > 1 else None)

    extent: ResultSize = run(look, budget_s=READ_BUDGET_S)
    return extent


@dataclass(slots=True)
class Progress:
    """How far the stream has come: for the log, and for the row that says it is not whole."""

    rows: int = 0
    truncated_by: str | None = None


def stream(
    run: RunQuery, asked: ExportQuery, extent: ResultSize, progress: Progress
) -> Iterator[bytes]:
    """The CSV, part by part; RFC 4180 with plain line ends, every text in quotes."""
    yield (",".join(COLUMNS) + "\n").encode()
    end = time.monotonic() + BUDGET_S
    place, left = asked.before, asked.limit
    while left is None or left > 0:
        if time.monotonic() > end:
            progress.truncated_by = "time"
            break
        try:
            rows = _fetch_batch(run, place, BATCH_ROWS if left is None else min(BATCH_ROWS, left))
        except DatabaseDown:
            progress.truncated_by = "database"
            break
        if not rows:
            return
        yield _encode(rows)
        place = Cursor(str(rows[-1][1]), str(rows[-1][0]))
        progress.rows += len(rows)
        left = None if left is None else left - len(rows)
    if progress.truncated_by is not None:
        yield _incomplete_row(place, extent, progress)


def _fetch_batch(run: RunQuery, place: Cursor, limit: int) -> list[tuple[str | None, ...]]:
    values = {"at": place.created_at, "lead_id": place.lead_id, "limit": limit}
    rows: list[tuple[str | None, ...]] = run(
        lambda connection: connection.execute(SELECT_BATCH, values).fetchall(),
        budget_s=READ_BUDGET_S,
    )
    return rows


def _encode(rows: list[tuple[str | None, ...]]) -> bytes:
    out = io.StringIO()
    # In quotes, so that a program which splits at ; as well does not make a cell of half a text.
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NOTNULL)
    writer.writerows(
        [
            escape_formula(cell) if cell and at not in SAFE_COLUMNS else cell
            for at, cell in enumerate(row)
        ]
        for row in rows
    )
    return out.getvalue().encode("utf-8", "replace")


def escape_formula(cell: str) -> str:
    """The text, unable to be run as a formula."""
    first = cell[0]
    if first in FORMULA_STARTS or first in CONTROL_CHARACTERS:
        return f"'{cell}"
    return f"'{cell}" if first.isspace() and cell.lstrip()[:1] in FORMULA_STARTS else cell


def _incomplete_row(place: Cursor, extent: ResultSize, progress: Progress) -> bytes:
    on = "begin again" if place == FROM_NEWEST else f"go on with before={place.text}"
    said = f"INCOMPLETE: {progress.rows} of {extent.rows} rows ({progress.truncated_by}); {on}"
    return _encode([(said, *([None] * (len(COLUMNS) - 1)))])
