"""Every lead as CSV, newest first, read in batches: the memory it takes does not grow with them.

What has been sent cannot be taken back, so an answer that has to stop early says so in its last
row, with the cursor to go on from. A cell that a spreadsheet would run gets a ' in front.
"""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from lib import query_parameters
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
BATCH = 2000  # rows held at a time
BUDGET_S = 50.0  # of the function's 60
READ_BUDGET_S = 8.0

# What a spreadsheet takes for a formula, also after spaces; and the full-width forms of the same.
FORMULA = frozenset("=+-@＝＋－＠")
CONTROL = frozenset("\t\r\n")
# These cannot begin a formula: ours, or held by the table to digits behind a plus.
SAFE = frozenset(COLUMNS.index(name) for name in ("id", "created_at", "phone", "ref"))

FAULTS = {
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

type Run = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the list something stands: everything behind it is older."""

    at: str
    lead_id: str

    @property
    def cursor(self) -> str:
        return f"{self.at}_{self.lead_id}"


NEWEST = Place("infinity", "ffffffff-ffff-ffff-ffff-ffffffffffff")


@dataclass(frozen=True, slots=True)
class Asked:
    """limit: rows at most; None for all there are."""

    before: Place = NEWEST
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """rows: how many the answer will have. edge: the last of them, where more follow it."""

    rows: int
    edge: Place | None


class Faulty(Exception):
    """Parameters at fault: names of FAULTS by parameter."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        super().__init__("faulty parameters")
        self.kinds = kinds

    def details(self, locale: str) -> Details:
        return {name: [FAULTS[kind][locale]] for name, kind in self.kinds.items()}


def read(given: Mapping[str, list[str]]) -> Asked:
    """What is asked for. Raises Faulty with every fault."""
    kinds: dict[str, str] = {}
    asked = Asked()
    for name, values in query_parameters.without_empty(given).items():
        if name not in ("limit", "before"):
            kinds[name[:100]] = "unknown"
        elif len(values) > 1:
            kinds[name] = "repeated"
        else:
            try:
                asked = _with(asked, name, values[0])
            except ValueError:
                kinds[name] = name
    if kinds:
        raise Faulty(kinds)
    return asked


def _with(asked: Asked, name: str, value: str) -> Asked:
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
        return replace(asked, before=Place(moment.astimezone(UTC).isoformat(), str(known)))
    except OverflowError as fault:
        raise ValueError(name) from fault


COUNT = """
select count(*) from (
  select from leads
  where not canary and (created_at, id) < (%(at)s::timestamptz, %(lead_id)s::uuid)
  limit %(limit)s::bigint
) as page
"""

EDGE = """
select to_char(created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), id::text
from leads
where not canary and (created_at, id) < (%(at)s::timestamptz, %(lead_id)s::uuid)
order by created_at desc, id desc
offset %(limit)s::bigint - 1 limit 2
"""

ROWS = """
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


def measure(run: Run, asked: Asked) -> Extent:
    """How much the answer will hold, before any of it is sent. Raises DatabaseDown."""
    values = {"at": asked.before.at, "lead_id": asked.before.lead_id, "limit": asked.limit}

    def look(connection: "Connection[Any]") -> Extent:
        found = connection.execute(COUNT, values).fetchone() or (0,)
        edge = connection.execute(EDGE, values).fetchall() if asked.limit is not None else []
        return Extent(found[0], Place(*edge[0]) if len(edge) > 1 else None)

    extent: Extent = run(look, budget_s=READ_BUDGET_S)
    return extent


@dataclass(slots=True)
class Progress:
    """How far the stream has come: for the log, and for the row that says it is not whole."""

    rows: int = 0
    cut: str | None = None


def stream(run: Run, asked: Asked, extent: Extent, progress: Progress) -> Iterator[bytes]:
    """The CSV, part by part; RFC 4180 with plain line ends, every text in quotes."""
    yield (",".join(COLUMNS) + "\n").encode()
    end = time.monotonic() + BUDGET_S
    place, left = asked.before, asked.limit
    while left is None or left > 0:
        if time.monotonic() > end:
            progress.cut = "time"
            break
        try:
            rows = _batch(run, place, BATCH if left is None else min(BATCH, left))
        except DatabaseDown:
            progress.cut = "database"
            break
        if not rows:
            return
        yield _written(rows)
        place = Place(str(rows[-1][1]), str(rows[-1][0]))
        progress.rows += len(rows)
        left = None if left is None else left - len(rows)
    if progress.cut is not None:
        yield _incomplete(place, extent, progress)


def _batch(run: Run, place: Place, limit: int) -> list[tuple[str | None, ...]]:
    values = {"at": place.at, "lead_id": place.lead_id, "limit": limit}
    rows: list[tuple[str | None, ...]] = run(
        lambda connection: connection.execute(ROWS, values).fetchall(), budget_s=READ_BUDGET_S
    )
    return rows


def _written(rows: list[tuple[str | None, ...]]) -> bytes:
    out = io.StringIO()
    # In quotes, so that a program which splits at ; as well does not make a cell of half a text.
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NOTNULL)
    writer.writerows(
        [defused(cell) if cell and at not in SAFE else cell for at, cell in enumerate(row)]
        for row in rows
    )
    return out.getvalue().encode("utf-8", "replace")


def defused(cell: str) -> str:
    """The text, unable to be run as a formula."""
    first = cell[0]
    if first in FORMULA or first in CONTROL:
        return f"'{cell}"
    return f"'{cell}" if first.isspace() and cell.lstrip()[:1] in FORMULA else cell


def _incomplete(place: Place, extent: Extent, progress: Progress) -> bytes:
    on = "begin again" if place == NEWEST else f"go on with before={place.cursor}"
    said = f"INCOMPLETE: {progress.rows} of {extent.rows} rows ({progress.cut}); {on}"
    return _written([(said, *([None] * (len(COLUMNS) - 1)))])
