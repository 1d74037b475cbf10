"""Reads a catalogue file: JSON, which is all of it, or CSV, the products alone.

It knows nothing of what is stored: diff.py completes what a file leaves out. Every fault is
reported at once, with its row (in JSON its line), product and field.
"""

from typing import Any

from ops.products import json_file, sheet
from ops.products.catalogue import COLUMNS
from ops.products.model import CatalogueFile, InvalidCatalogue, ProductEntry
from ops.products.text_file import UnreadableFile, decode


def read(data: bytes) -> CatalogueFile:
    """Its `errors` are faults of its form. Raises InvalidCatalogue where it cannot be read."""
    try:
        text, encoding = decode(data)
        if text.lstrip()[:1] in ("{", "["):
            file = CatalogueFile(f"JSON in {encoding}", encoding)
            json_file.read(text, file)
        else:
            file = _read_sheet(text, encoding)
    except UnreadableFile as unreadable:
        raise InvalidCatalogue([str(unreadable)]) from None
    if file.is_empty and not file.errors:
        raise InvalidCatalogue(["the file has no rows: there is nothing to import"])
    return file


def _read_sheet(text: str, encoding: str) -> CatalogueFile:
    table = sheet.read(text)
    separated = sheet.DELIMITERS[table.delimiter]
    file = CatalogueFile(f"CSV in {encoding}, cells separated by {separated}", encoding)
    file.errors = [f"row {table.header_row}: {fault}" for fault in _header_faults(table.columns)]
    for row in table.rows if "slug" in table.columns else ():
        values = {
            column: sheet.from_cell(column, cell)
            for column, cell in row.cells.items()
            if column in COLUMNS
        }
        file.products.append(ProductEntry(f"row {row.number}", values, row.faults, row.missing))
    return file


def _header_faults(columns: list[str]) -> list[str]:
    faults = [f"column {name!r} is not known{_suggest(name)}" for name in columns
              if name not in COLUMNS]  # fmt: skip
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    faults += [f"column {name!r} is there twice" for name in repeated]
    if "slug" not in columns:
        faults.append("column 'slug' is missing: it names the product")
    return faults


def _suggest(name: str) -> str:
    from difflib import get_close_matches

    close: list[Any] = get_close_matches(name, COLUMNS, n=1)
    return f" (perhaps {close[0]!r})" if close else f" (known: {', '.join(COLUMNS)})"
