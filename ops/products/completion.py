"""Completes the products of a file with what is stored: what a file leaves out stays as it is.

The rule a newcomer would break: a value that a spreadsheet merely wrote otherwise (line ends, lost
tabs, question marks for letters its encoding lacks) is the stored value.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from ops.products import model
from ops.products.catalogue import COLUMNS, LABEL_TABLES, Catalogue
from ops.products.model import CatalogueFile, ProductEntry
from ops.products.text_file import WINDOWS_1252

NEW_PRODUCT: dict[str, Any] = dict.fromkeys(COLUMNS) | {"published": True}
REQUIRED_LISTS = ("audience", "categories", "functions")
NEVER_EMPTY = ("published", "created_at")  # an empty cell leaves them

type Row = dict[str, Any]


class CompleteProduct(NamedTuple):
    """stored: None for a new product. row: every column. changed: the columns that differ."""

    row: Row
    stored: Row | None
    changed: tuple[str, ...]


def complete(file: CatalogueFile, before: Catalogue, errors: list[str]) -> list[CompleteProduct]:
    """Each product of the file; every fault is added to `errors`."""
    stored = {row["slug"]: row for row in before.products}
    names = _known_names(file, before)
    places: dict[str, str] = {}
    products = []
    for entry in file.products:
        slug = entry.values.get("slug")
        where = f"{entry.place}: {slug}" if slug else entry.place
        errors += [f"{where}: {fault}" for fault in entry.faults]
        if not slug or not isinstance(slug, str):
            errors.append(f"{where}: slug: empty or missing; wanted: {model.RULES['slug']}")
            continue
        if slug in places:
            errors.append(f"{where} is there twice, first in {places[slug]}")
        places.setdefault(slug, entry.place)
        product = _complete(entry, stored.get(slug), names["brand"], file.encoding)
        errors += [f"{where}: {fault}" for fault in _find_faults(entry, product, names)]
        products.append(product)
    return products


def _known_names(file: CatalogueFile, before: Catalogue) -> dict[str, set[str]]:
    """By column, the names a product may use: those stored, and those of the file."""
    keys = {"brand": ("brands", "name"), "categories": ("categories", "code"),
            "functions": ("functions", "code")}  # fmt: skip
    return {
        column: {row[key] for row in (*getattr(before, table), *file.labels.get(table, []))}
        for column, (table, key) in keys.items()
    }


def _complete(
    entry: ProductEntry, stored: Row | None, brands: Collection[str], encoding: str
) -> CompleteProduct:
    row = dict(stored or NEW_PRODUCT)
    changed = []
    for column, value in entry.values.items():
        new = _normalize(column, value, brands)
        if column in NEVER_EMPTY and new is None:
            continue
        if stored is None:
            row[column] = new
        elif not _is_same(stored[column], new, encoding):
            row[column] = new
            changed.append(column)
    for column in REQUIRED_LISTS:
        row[column] = [] if row[column] is None else row[column]
    return CompleteProduct(row, stored, tuple(name for name in COLUMNS if name in changed))


def _normalize(column: str, value: Any, brands: Collection[str]) -> Any:
    """Nothing in one form; a brand without outer spaces unless it is known with them."""
    if isinstance(value, list):
        value = [item for item in value if item != ""]
        if column == "audience":
            value = [item.upper() if isinstance(item, str) else item for item in value]
        return value or None
    if column == "brand" and isinstance(value, str) and value not in brands:
        return value.strip() or None
    return None if value == "" else value


def _is_same(stored: Any, new: Any, encoding: str) -> bool:
    if isinstance(stored, list) and isinstance(new, list):
        items = [item for item in stored if item != ""]
        return len(items) == len(new) and all(
            _is_same(old, item, encoding) for old, item in zip(items, new, strict=True)
        )
    if isinstance(stored, str) and isinstance(new, str):
        old = _unify_line_ends(stored)
        if encoding == WINDOWS_1252 and "?" in new:
            old = old.encode("cp1252", "replace").decode("cp1252")
        # LibreOffice loses the tabs within a cell, one after an escape too.
        without_tabs = old.replace("\t", "")
        return _unify_line_ends(new) in (old, without_tabs, f"'{without_tabs}")
    if isinstance(stored, list) and not any(stored):
        stored = None
    return (stored or None) == (new or None) if not isinstance(stored, bool) else stored is new


def _unify_line_ends(text: str) -> str:
    return re.sub(r"\r\n?", "\n", text)


def _find_faults(
    entry: ProductEntry, product: CompleteProduct, names: Mapping[str, set[str]]
) -> Iterator[str]:
    """Faults of what the file changes: what is stored and stays is not this file's fault."""
    for column in entry.missing_cells:
        if product.stored and column in product.stored and product.stored[column]:
            yield f"{column}: the row ends before it; an empty cell would empty it"
    changed = {*product.changed}
    if changed & {"summary_id", "summary_en"}:
        changed.add("summary")
    for column, fault in model.find_faults(product.row, names):
        if product.stored is None or column in changed:
            yield fault


def complete_labels(
    file: CatalogueFile, before: Catalogue, errors: list[str]
) -> dict[str, list[Row]]:
    """By table, the file's labels with what they leave out; every fault is added to `errors`."""
    return {
        table: _complete_labels(table, file.labels.get(table, []), getattr(before, table), errors)
        for table in LABEL_TABLES
    }


def _complete_labels(
    table: str, labels: list[Row], before: list[Row], errors: list[str]
) -> list[Row]:
    key = "name" if table == "brands" else "code"
    stored = {row[key]: row for row in before}
    names = [row[key] for row in labels]
    errors += [f"{table}: {name!r} is there twice" for name in dict.fromkeys(names)
               if names.count(name) > 1]  # fmt: skip
    # The file's order where it has them all; else what it adds comes after what is stored.
    order = names if set(stored) <= set(names) else list(dict.fromkeys([*stored, *names]))
    rows = []
    for label in labels:
        row = stored.get(label[key], {}) | label | {"position": order.index(label[key])}
        if table != "brands" and not {"label_id", "label_en"} <= set(row):
            errors.append(f"{table}: {label[key]!r}: label: a text for id and en")
        rows.append(row)
    return rows
