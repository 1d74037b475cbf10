"""The catalogue that ships with a deployment: what answers while both stores are down.

It is listed, filtered and searched in plain Python, over a few hundred products. A search finds
the beginnings of words and nothing else: no typing errors, no synonyms, no ranking beyond names
first. Written by `python3 -m dev snapshot`; never edited by hand.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from lib.products.catalogue import QueryResult, Row, page_size, sort_key
from lib.products.query import FILTERS, Query, fold

FILE = Path(__file__).with_name("catalogue.snapshot.json")
COLUMNS = {"category": "categories", "function": "functions", "audience": "audience"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """made_at: when it was written. rows: columns as in the table, and `text`, which is searched.

    labels: one of each value of each facet.
    """

    made_at: datetime
    rows: list[Row]
    labels: list[Row]

    def find(self, query: Query, published: frozenset[str] | None = None) -> QueryResult:
        """As catalogue.find. published: slugs; others were withdrawn since. None: unknown."""
        candidates = [
            row | {"rank": _rank(row, query)}
            for row in self.rows
            if (published is None or row["slug"] in published)
            and query.slug in (None, row["slug"])
            and _contains(row["text"], query.q or "")
        ]
        matches = [row for row in candidates if _matches_filters(row, query)]
        matches.sort(key=sort_key, reverse=query.sort == "-name")
        page = [row for row in matches if _is_after(row, query)]
        size = page_size(query)
        facets = [
            label | {"n": _count(candidates, query, label)}
            for label in self.labels
            if label["facet"] in query.facets
        ]
        return QueryResult(page[:size], len(page) > size, len(matches), facets, self.made_at)


@cache
def load(file: Path = FILE) -> Snapshot:
    """The snapshot of this deployment, read once."""
    return parse(json.loads(file.read_text(encoding="utf-8")))


def parse(document: Mapping[str, Any]) -> Snapshot:
    labels = list(_facet_labels(document))
    texts = {
        label["value"]: f"{label['label_id']} {label['label_en']}"
        for label in labels
        if label["facet"] in ("category", "function")
    }
    rows = [to_row(product) for product in document["products"] if product.get("published", True)]
    for row in rows:
        codes = (*row["categories"], *row["functions"])
        text = [row["name"], row["brand"], *(texts.get(code, "") for code in codes)]
        for locale in ("id", "en"):
            text += [row[f"summary_{locale}"] or "", *(row[f"benefits_{locale}"] or [])]
        row["text"] = fold(" ".join(text))
    return Snapshot(datetime.fromisoformat(document["madeAt"]), rows, labels)


def to_row(product: Mapping[str, Any]) -> Row:
    """A product of a catalogue file as a row of the table."""
    image = product.get("image") or {}
    row: Row = {name: product.get(name) for name in ("slug", "name", "brand")}
    row |= {name: list(product.get(name) or []) for name in ("audience", "categories", "functions")}
    texts = {
        "summary": product.get("summary"),
        "benefits": product.get("benefits"),
        "how_to_use": product.get("howToUse"),
        "image_alt": image.get("alt"),
        "image_caption": image.get("caption"),
    }
    for name, text in texts.items():
        row |= {f"{name}_{locale}": (text or {}).get(locale) for locale in ("id", "en")}
    created = product.get("createdAt")
    created_at = datetime.fromisoformat(created) if created else None
    if created_at is not None and created_at.tzinfo is None:
        created_at = created_at.replace(tzinfo=UTC)
    row |= {
        "image_url": image.get("url"),
        "published": product.get("published", True),
        "created_at": created_at,
        "name_key": fold(product["name"]),
    }
    return row


def _facet_labels(document: Mapping[str, Any]) -> Iterable[Row]:
    for brand in document["brands"]:
        name = brand["name"]
        yield {"facet": "brand", "value": name, "label_id": name, "label_en": name}
    for facet in ("category", "function"):
        for item in document[COLUMNS[facet]]:
            texts = {f"label_{locale}": item["label"][locale] for locale in ("id", "en")}
            yield {"facet": facet, "value": item["code"], **texts}
    for value in ("BARBER", "SALON"):
        yield {"facet": "audience", "value": value, "label_id": None, "label_en": None}


def _contains(text: str, q: str) -> bool:
    """Whether each word of `q` is the beginning of a word of `text`."""
    return all(f" {word}" in f" {text}" for word in q.split())


def _rank(row: Row, query: Query) -> int:
    if query.sort == "newest":
        created_at: datetime | None = row["created_at"]
        return -int(created_at.timestamp() * 1_000_000) if created_at else 0
    return 0 if query.sort != "relevance" or _contains(row["name_key"], query.q or "") else 1


def _is_after(row: Row, query: Query) -> bool:
    """Whether the row follows the page that the cursor ended."""
    if query.after is None:
        return True
    return sort_key(row) < query.after if query.sort == "-name" else sort_key(row) > query.after


def _facet_values(row: Row, facet: str) -> list[str]:
    return [row["brand"].lower()] if facet == "brand" else row[COLUMNS[facet]]


def _matches_filters(row: Row, query: Query, *, without: str = "") -> bool:
    """Whether every filter accepts the product; `without`: a facet whose own filter is ignored."""
    filters = (query.brands, query.categories, query.functions, query.audiences)
    return all(
        not values or facet == without or not set(values).isdisjoint(_facet_values(row, facet))
        for facet, values in zip(FILTERS, filters, strict=True)
    )


def _count(rows: list[Row], query: Query, label: Row) -> int:
    facet, value = label["facet"], label["value"]
    if facet == "brand":
        value = value.lower()
    return sum(
        value in _facet_values(row, facet) and _matches_filters(row, query, without=facet)
        for row in rows
    )
