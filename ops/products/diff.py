"""What an import would change, as lines for a person and as rows to store."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ops.products import completion
from ops.products.catalogue import COLUMNS, Catalogue, Rows
from ops.products.completion import CompleteProduct
from ops.products.model import CatalogueFile, InvalidCatalogue, format_value

MAX_NAMED_PRODUCTS = 10  # of those that the file leaves out
MAX_VALUE_CHARACTERS = 300


class CatalogueDiff(NamedTuple):
    """lines: empty when there is nothing to change. untouched: what the file leaves out."""

    lines: list[str]
    untouched: list[str]
    changed_products: Rows
    removed_slugs: list[str]
    changed_labels: dict[str, Rows]
    new_synonyms: Rows
    removed_synonyms: Rows


def compare(before: Catalogue, file: CatalogueFile, *, prune: bool = False) -> CatalogueDiff:
    """prune: remove the products and synonyms that the file leaves out.

    Raises InvalidCatalogue, with every fault of the file.
    """
    errors = list(file.errors)
    labels = completion.complete_labels(file, before, errors)
    products = completion.complete(file, before, errors)
    if prune and not file.products:
        errors.append("the file has no products: --prune would remove every one")
    if errors:
        raise InvalidCatalogue(errors)
    changed_labels, label_lines = _compare_labels(before, labels)
    added, removed = _compare_synonyms(before, file, prune=prune)
    lines = label_lines + [f"+ synonyms: {_format_synonym(row)}" for row in added]
    lines += [f"- synonyms: {_format_synonym(row)}" for row in removed]
    for product in products:
        lines += _product_lines(product)
    slugs = {product.row["slug"] for product in products}
    left_out = [row for row in before.products if row["slug"] not in slugs]
    if prune:
        lines += [f"- {row['slug']}  {row['name']}" for row in left_out]
    return CatalogueDiff(
        lines,
        list(_untouched_lines(file, products, [] if prune else left_out)),
        [product.row for product in products if product.stored is None or product.changed],
        [row["slug"] for row in left_out] if prune else [],
        changed_labels,
        added,
        removed,
    )


def _compare_labels(
    before: Catalogue, labels: Mapping[str, Rows]
) -> tuple[dict[str, Rows], list[str]]:
    changed: dict[str, Rows] = {}
    lines: list[str] = []
    for table, rows in labels.items():
        key = "name" if table == "brands" else "code"
        # Positions as the export numbers them, which knows the order alone.
        stored = {row[key]: row | {"position": at} for at, row in enumerate(getattr(before, table))}
        changed[table] = [row for row in rows if stored.get(row[key]) != row]
        for row in changed[table]:
            old = stored.get(row[key])
            if old is None:
                texts = [str(value) for name, value in row.items() if name != "position"]
                lines.append(f"+ {table}: {' = '.join(texts)}")
                continue
            lines.append(f"~ {table}: {row[key]}")
            lines += _value_lines(old, row, [name for name in row if old[name] != row[name]])
        if changed[table]:
            changed[table] = rows  # with every position
    return changed, lines


def _compare_synonyms(before: Catalogue, file: CatalogueFile, *, prune: bool) -> tuple[Rows, Rows]:
    """Those that the file adds, and those it removes."""
    stored = {_format_synonym(row) for row in before.synonyms}
    wanted = {_format_synonym(row): row for row in file.synonyms}
    added = [row for text, row in wanted.items() if text not in stored]
    removes = prune and bool(file.synonyms)
    removed = [row for row in before.synonyms if _format_synonym(row) not in wanted]
    return added, removed if removes else []


def _format_synonym(row: Mapping[str, Any]) -> str:
    return f"{row['term']} = {row['same_as']}"


def _product_lines(product: CompleteProduct) -> list[str]:
    row = product.row
    if product.stored is None:
        return [f"+ {row['slug']}  {row['name']}{'' if row['published'] else '  (not published)'}"]
    if not product.changed:
        return []
    heading = f"~ {row['slug']}  {row['name']}"
    return [heading, *_value_lines(product.stored, row, product.changed)]


def _value_lines(
    old: Mapping[str, Any], new: Mapping[str, Any], columns: Iterable[str]
) -> Iterator[str]:
    for name in columns:
        values = [format_value(row[name], MAX_VALUE_CHARACTERS) for row in (old, new)]
        if values[0] == values[1]:  # cut before they differ
            values = [format_value(row[name], 10**9) for row in (old, new)]
        yield f"    {name}: {values[0]} -> {values[1]}"


def _untouched_lines(
    file: CatalogueFile, products: list[CompleteProduct], left_out: Rows
) -> Iterator[str]:
    """What stays as it is because the file leaves it out."""
    stored = {product.row["slug"] for product in products if product.stored is not None}
    entries = [entry for entry in file.products if entry.values.get("slug") in stored]
    present = Counter(column for entry in entries for column in entry.values)
    absent = {name: len(entries) - present[name] for name in COLUMNS}
    whole = [name for name, count in absent.items() if entries and count == len(entries)]
    partly = [f"{name} ({count} products)" for name, count in absent.items()
              if 0 < count < len(entries)]  # fmt: skip
    if whole:
        yield f"not in the file, stays as it is: {', '.join(whole)}"
    if partly:
        yield f"not in the file for some products, stays as it is: {', '.join(partly)}"
    if file.products and left_out:
        names = ", ".join(row["slug"] for row in left_out[:MAX_NAMED_PRODUCTS])
        more = ", …" if len(left_out) > MAX_NAMED_PRODUCTS else ""
        yield f"not in the file, stay as they are: {len(left_out)} products ({names}{more})"
