r"""Products as a sheet: CSV as spreadsheets read and write it, with `|` between a list's values.

A cell that a spreadsheet would take for a formula, a number, a date or nothing is written with an
apostrophe before it. In a list `\|`, `\\` and `\ ` stand for a value's own `|`, backslash and
outer space. The rule a newcomer would break: `from_cell` undoes exactly what `to_cell` does, for
every text, one that begins with an apostrophe too.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ops.products.catalogue import COLUMNS, Rows
from ops.products.text_file import UnreadableFile

LIST_COLUMNS = ("audience", "categories", "functions", "benefits_id", "benefits_en")
PLAIN_COLUMNS = ("slug", "image_url", "published", "created_at")  # outer spaces mean nothing
# Words for true and false, as spreadsheets write them in English and Indonesian.
BOOLEANS = {
    "true": True, "1": True, "yes": True, "ya": True, "benar": True,
    "false": False, "0": False, "no": False, "tidak": False, "salah": False,
}  # fmt: skip
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
MAX_CELL_CHARACTERS = 10_000_000
MAX_NUMBER_CHARACTERS = 60

# With the full-width forms, which some spreadsheets take for the same.
FORMULA_STARTS = frozenset("=+-@＝＋－＠")
_SIGNS = r"[\d\s.,:/%()$€Rp-]*"
_MONTH = r"(jan|feb|mar|apr|may|mei|jun|jul|aug|agu|agt|sep|oct|okt|nov|dec|des)[a-z]*\.?"
_CONVERTED_TEXT = re.compile(
    rf"{_SIGNS}\d{_SIGNS}((e[+-]?\d+)|am|pm)?|(?=.*\d){_SIGNS}{_MONTH}{_SIGNS}"
    r"|true|false|benar|salah",
    re.IGNORECASE | re.DOTALL,
)


class SheetRow(NamedTuple):
    """number: as a spreadsheet counts. cells: by column. faults: cells of no column.

    missing: the columns after the row's last cell.
    """

    number: int
    cells: dict[str, str]
    faults: list[str]
    missing: tuple[str, ...]


class Sheet(NamedTuple):
    header_row: int
    columns: list[str]
    rows: Iterator[SheetRow]
    delimiter: str


# ---------------------------------------------------------------- rows


def read(text: str) -> Sheet:
    """Raises UnreadableFile, the rows too."""
    delimiter, body, first_row = _find_delimiter(text)
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, strict=True)
    numbered = _number_rows(reader, first_row)
    for number, cells in numbered:
        if any(map(str.strip, cells)):
            header = [_to_column(cell) for cell in cells]
            return Sheet(
                number, [name for name in header if name], _rows(numbered, header), delimiter
            )
    raise UnreadableFile("the file has no rows")


def _find_delimiter(text: str) -> tuple[str, str, int]:
    """What stands between cells, the text from its first row that is not blank, and its number."""
    blank = re.match(r'(?:[\s,;"]*(?:\r\n|\n|\r))?', text)
    start = blank.end() if blank else 0
    first_row = 1 + len(re.findall(r"\r\n|\n|\r", text[:start]))
    stated = re.compile(r'"?sep=([,;\t])"?[,;\t]*(?:\r\n|\n|\r)', re.IGNORECASE).match(text, start)
    if stated:
        return stated[1], text[stated.end() :], first_row
    header = re.split(r"[\r\n]", text[start:], maxsplit=1)[0]
    present = [sign for sign in DELIMITERS if sign in header]
    if not present:
        return ",", text[start:], first_row
    try:
        delimiter = csv.Sniffer().sniff(header, "".join(DELIMITERS)).delimiter
    except csv.Error:
        delimiter = present[0]
    if len(present) > 1 and not _explains_header(header, delimiter):
        names = " and ".join(DELIMITERS[sign] for sign in present)
        raise UnreadableFile(f"row {first_row}: the header has {names}: which separates its cells?")
    return delimiter, text[start:], first_row


def _explains_header(header: str, delimiter: str) -> bool:
    """Whether its cells, separated so, contain no other sign that may separate them."""
    cells = next(csv.reader([header], delimiter=delimiter))
    return not any(sign in cell.strip() for cell in cells for sign in DELIMITERS)


def _number_rows(reader: Any, first: int) -> Iterator[tuple[int, list[str]]]:
    number = first
    try:
        for cells in reader:
            yield number, cells
            number += 1
    except csv.Error as error:
        raise UnreadableFile(
            f"row {number} (or a quotation mark before it that does not end): {error}"
        ) from None


def _to_column(cell: str) -> str:
    """`Image URL` is image_url."""
    return re.sub(r"[\s_-]+", "_", cell.strip("\ufeff \t\r\n'\"\u00a0").lower())


def _rows(numbered: Iterable[tuple[int, list[str]]], header: list[str]) -> Iterator[SheetRow]:
    for number, row in numbered:
        if not any(map(str.strip, row)):
            continue
        named = [(name, cell) for name, cell in zip(header, row, strict=False) if name]
        nameless = [cell for name, cell in zip(header, row, strict=False) if not name]
        faults = [
            f"{cell.strip()!r} stands in a column without a name"
            for cell in (*nameless, *row[len(header) :])
            if cell.strip()
        ]
        missing = tuple(name for name in header[len(row) :] if name)
        yield SheetRow(number, dict(named), faults, missing)


# ---------------------------------------------------------------- cells


def from_cell(column: str, cell: str) -> Any:
    """A cell as the table has it: what is empty, or blank, is None or an empty list."""
    text = (cell[1:] if _is_escaped(cell) else cell) if cell.strip() else ""
    if column in LIST_COLUMNS:
        return _split(text)
    if column in PLAIN_COLUMNS:
        text = text.strip()
    if column == "published":
        return BOOLEANS.get(text.lower(), text or None)
    if column == "created_at":
        return parse_time(text) if text else None
    return text or None


def to_cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, list):
        value = "|".join(map(_escape_item, value))
    text = "" if value is None else str(value)
    return f"'{text}" if _wants_escape(text) else text


def _wants_escape(text: str) -> bool:
    if text.startswith("'"):
        return _is_escaped(text)
    return bool(text) and (
        text.lstrip()[:1] in ("", *FORMULA_STARTS)
        or text[0] in "\t\r\n"
        or (len(text) <= MAX_NUMBER_CHARACTERS and bool(_CONVERTED_TEXT.fullmatch(text.strip())))
    )


def _is_escaped(cell: str) -> bool:
    """Whether the apostrophe before it is an escape: what follows wants one, or is a number."""
    rest = cell[1:]
    return cell.startswith("'") and (_wants_escape(rest) or rest[:1].isdigit())


def _escape_item(item: str) -> str:
    inner = item.strip()
    if not inner:
        return "".join(f"\\{space}" for space in item)
    start = item.index(inner)
    before, after = item[:start], item[start + len(inner) :]
    escaped = inner.replace("\\", "\\\\").replace("|", "\\|")
    return "".join(
        (*(f"\\{space}" for space in before), escaped, *(f"\\{space}" for space in after))
    )


def _split(text: str) -> list[str]:
    """The values of a list, without outer spaces, unless a backslash stands before the space."""
    items: list[list[tuple[str, bool]]] = [[]]
    characters = iter(text)
    for character in characters:
        if character == "|":
            items.append([])
        elif character != "\\":
            items[-1].append((character, character.isspace()))
        else:
            following = next(characters, "")
            if following in ("\\", "|") or following.isspace():
                items[-1].append((following, False))
            else:
                items[-1] += [("\\", False), *((sign, False) for sign in following)]
    return [value for value in map(_strip, items) if value]


def _strip(item: list[tuple[str, bool]]) -> str:
    """The text of pairs of a character and whether it may be stripped."""
    solid = [at for at, (_, is_space) in enumerate(item) if not is_space]
    return "".join(sign for sign, _ in item[solid[0] : solid[-1] + 1]) if solid else ""


def parse_time(text: str) -> datetime | str:
    """A time with its zone, or a day (in UTC); else the text as it is, which is a fault."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    if moment.tzinfo is None and re.fullmatch(r"\d{4}-?\d\d-?\d\d", text):
        return moment.replace(tzinfo=UTC)
    return moment if moment.tzinfo else text


# ---------------------------------------------------------------- writing


def write(rows: Rows, *, excel: bool = False) -> str:
    """Every cell quoted. excel: for Excel in Indonesian, and most of Europe, by a double click."""
    out = io.StringIO()
    delimiter, end = (";", "\r\n") if excel else (",", "\n")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([to_cell(row[name]) for name in COLUMNS])
    return ("\ufeff" if excel else "") + out.getvalue()
