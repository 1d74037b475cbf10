"""Every lead as an Excel file, newest first: texts stay texts, and memory does not grow.

The file is written in a folder beside its final name and then moved there: a killed export leaves
no half file. The rule a newcomer would break: a cell goes through `LeadSheets`, which handles what
xlsx cannot hold and what XlsxWriter would take for markup.
"""

import contextlib
import fcntl
import glob
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.leads import export
from lib.leads.export import ExportQuery
from lib.services import Services
from ops import command
from ops.command import Args, Failed
from ops.leads.queries import leads_commands
from ops.progress import RowProgress, Waiting

ROWS_PER_SHEET = 1_048_576  # Excel's, the header's row included
MAX_CELL_UNITS = 32_767  # Excel's, in UTF-16 code units
CUT_MARK = " … [cut here: a cell holds 32,767 characters; `ops leads show` has the rest]"
NUMBER_COLUMNS = frozenset(("chair_count",))
WIDTHS = {"id": 10, "message": 50, "phone": 16, "business_name": 28, "name": 22, "email": 26}
DEFAULT_WIDTH = 14

# What XML 1.0 cannot hold. XlsxWriter would write `_x0007_`, which LibreOffice shows as such.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@leads_commands.command(
    "export", examples=("python3 -m ops leads export leads.xlsx",), confirms=True
)
@command.argument("file", metavar="FILE.xlsx", help="the file to write")
def export_leads(services: Services, args: Args) -> int:
    """Every lead into an Excel file, newest first, every text as it was stored.

    A file that is there already is replaced after a question.
    """
    file = Path(args.file)
    if file.suffix.lower() != ".xlsx":
        raise Failed(f"{file}: name a file that ends in .xlsx", status=2)
    if file.exists() and not command.confirm(args, f"Replace {file}?"):
        return 1
    started = time.monotonic()
    with _folder_beside(file) as folder:
        part = folder / file.name
        sheets = LeadSheets(part)
        try:
            _write_rows(services, sheets, quiet=args.json)
            with Waiting("compressing"):
                sheets.finish()
        finally:
            sheets.abandon()
        part.chmod(0o600)
        part.replace(file)
    facts = {
        "file": str(file), "rows": sheets.rows, "sheets": sheets.sheets,
        "bytes": file.stat().st_size, "cut_cells": sheets.cut_cells,
        "replaced_cells": sheets.replaced_cells, "took_s": round(time.monotonic() - started, 1),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }  # fmt: skip
    command.print_result(args, facts, *_describe(facts))
    return 0


def _describe(facts: dict[str, Any]) -> Iterator[str]:
    sheets = "1 sheet" if facts["sheets"] == 1 else f"{facts['sheets']} sheets"
    yield (f"{facts['file']}: {facts['rows']:,} leads in {sheets}, {facts['bytes'] / 1e6:,.1f} MB;"
           f" {facts['took_s']} s, {facts['memory_mb']} MB of memory at most")  # fmt: skip
    if facts["cut_cells"]:
        yield f"{facts['cut_cells']} cells were longer than Excel's 32,767 characters, and are cut"
    if facts["replaced_cells"]:
        yield (f"{facts['replaced_cells']} cells held control characters, which an Excel file"
               " cannot hold: replaced by symbols (␇, ␛)")  # fmt: skip


@contextlib.contextmanager
def _folder_beside(file: Path) -> Iterator[Path]:
    """A folder for the file in the making, on the same disk. Removes those of killed exports."""
    prefix = f".{file.name}."
    for leftover in file.parent.glob(f"{glob.escape(prefix)}*.part"):
        with contextlib.suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(
        prefix=prefix, suffix=".part", dir=file.parent
    ) as name, _locked(Path(name)):  # fmt: skip
        yield Path(name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises BlockingIOError while another export holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _write_rows(services: Services, sheets: "LeadSheets", *, quiet: bool) -> None:
    run, cursor = services.database.run, export.FROM_NEWEST
    total = export.count(run, ExportQuery()).rows
    with RowProgress("leads", total, quiet=quiet) as progress:
        while rows := export.fetch_batch(run, cursor, export.BATCH_ROWS):
            for row in rows:
                sheets.add(row)
            cursor = export.cursor_after(rows[-1])
            progress.add(len(rows))


class LeadSheets:
    """An Excel file in the making, row by row; a new sheet where one is full."""

    def __init__(self, file: Path, rows_per_sheet: int = ROWS_PER_SHEET) -> None:
        try:
            import xlsxwriter
        except ImportError as error:
            words = "an Excel file needs XlsxWriter: pip install -r dev/requirements.txt"
            raise Failed(words, status=2) from error

        # tmpdir: what is written beside the file goes away with its folder.
        options = {"constant_memory": True, "tmpdir": str(file.parent), "use_zip64": True}
        self._book: Any = xlsxwriter.Workbook(str(file), options)
        # A text that is edited stays one: in a cell of another format, =1+1 becomes a formula.
        self._text = self._book.add_format({"num_format": "@"})
        self._bold = self._book.add_format({"num_format": "@", "bold": True})
        self._rows_per_sheet = rows_per_sheet
        self._sheet: Any = None
        self._next_row = 0
        self.rows = self.sheets = self.cut_cells = self.replaced_cells = 0
        self._begin_sheet()

    def add(self, row: tuple[str | None, ...]) -> None:
        """The cells of one lead, in the order of `export.COLUMNS`."""
        if self._next_row == self._rows_per_sheet:
            self._begin_sheet()
        for column, value in enumerate(row):
            if value is None or value == "":
                continue
            if export.COLUMNS[column] in NUMBER_COLUMNS:
                self._sheet.write_number(self._next_row, column, int(value), None)
            else:
                self._write_text(column, value)
        self._next_row += 1
        self.rows += 1

    def finish(self) -> None:
        """Assemble and compress the file."""
        self._book.close()

    def abandon(self) -> None:
        """Close the temporary files; after `finish` there are none."""
        for sheet in self._book.worksheets():
            if sheet.row_data_fh is not None:
                sheet.row_data_fh.close()

    def _begin_sheet(self) -> None:
        self.sheets += 1
        self._sheet = self._book.add_worksheet(
            f"Leads {self.sheets}" if self.sheets > 1 else "Leads"
        )
        last = len(export.COLUMNS) - 1
        for column, name in enumerate(export.COLUMNS):
            number_format = None if name in NUMBER_COLUMNS else self._text
            width = WIDTHS.get(name, DEFAULT_WIDTH)
            self._sheet.set_column(column, column, width, number_format)
        self._sheet.freeze_panes(1, 0)
        # No green corner at each phone number.
        self._sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{ROWS_PER_SHEET}"})
        self._next_row = 0
        for column in range(last + 1):
            self._sheet.write_string(0, column, export.COLUMNS[column], self._bold)
        self._next_row = 1

    def _write_text(self, column: int, value: str) -> None:
        text = self._fit(value)
        if text.startswith("<r>") and text.endswith("</r>"):
            # XlsxWriter would take it for markup of its own, and write it unescaped.
            parts = (self._text, text[:1], self._text, text[1:])
            self._sheet.write_rich_string(self._next_row, column, *parts, self._text)
            return
        self._sheet.write_string(self._next_row, column, text, self._text)

    def _fit(self, value: str) -> str:
        """The text as a cell can hold it."""
        text = value
        if FORBIDDEN.search(text):
            self.replaced_cells += 1
            text = FORBIDDEN.sub(_picture, text)
        if len(text) > MAX_CELL_UNITS // 2 and len(text.encode("utf-16-le")) > 2 * MAX_CELL_UNITS:
            self.cut_cells += 1
            room = 2 * (MAX_CELL_UNITS - len(CUT_MARK))
            text = text.encode("utf-16-le")[:room].decode("utf-16-le", "ignore") + CUT_MARK
        return text


def _picture(match: re.Match[str]) -> str:
    """The sign of a control character: ␇ for BEL."""
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"
