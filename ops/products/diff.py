"""What an import would change, as lines for a person and as rows to store."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ops.products.catalogue import COLUMNS, Catalogue, Rows


class CatalogueDiff(NamedTuple):
    """lines: empty when there is nothing to change."""

    lines: list[str]
    changed_products: Rows
    removed_slugs: list[str]


def compare(before: Catalogue, after: Catalogue, *, prune: bool) -> CatalogueDiff:
    """prune: remove products that `after` leaves out. Fills in a `created_at` left out."""
    lines = list(_diff_labels(before, after))
    remaining = {row["slug"]: row for row in before.products}
    changed: Rows = []
    for row in after.products:
        old = remaining.pop(row["slug"], None)
        if old is not None and row["created_at"] is None:
            row["created_at"] = old["created_at"]
        product_lines = _diff_product(old, row)
        if product_lines:
            changed.append(row)
            lines += product_lines
    removed = sorted(remaining) if prune else []
    lines += [f"- {slug}  {remaining[slug]['name']}" for slug in removed]
    return CatalogueDiff(lines, changed, removed)


def _diff_labels(before: Catalogue, after: Catalogue) -> Iterator[str]:
    for table in ("brands", "categories", "functions", "synonyms"):
        old = [_format_label(row) for row in getattr(before, table)]
        new = [_format_label(row) for row in getattr(after, table)]
        if table == "synonyms":
            old, new = sorted(old), sorted(new)
        yield from (f"+ {table}: {label}" for label in new if label not in old)
        if table == "synonyms" and new:
            yield from (f"- {table}: {label}" for label in old if label not in new)


def _format_label(row: Mapping[str, Any]) -> str:
    return " = ".join(str(value) for name, value in row.items() if name != "position")


def _diff_product(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[str]:
    if old is None:
        return [f"+ {new['slug']}  {new['name']}"]
    lines = [
        f"    {name}: {old[name]!r} -> {new[name]!r}"
        for name in COLUMNS
        if name != "created_at" and (old[name] or None) != (new[name] or None)
    ]
    if old["created_at"] != new["created_at"]:
        lines.append(f"    created_at: {old['created_at']} -> {new['created_at']}")
    return [f"~ {new['slug']}  {new['name']}", *lines] if lines else []
