"""The catalogue as it was when this deployment was built: what answers when nothing else can.

It understands the same questions as the database, in plain Python over a few hundred products.
Written by `python3 -m dev snapshot`; never edited by hand.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from lib.products.catalogue import QueryResult, Row, page_size, sort_key
from lib.products.query import FILTERS, Query, fold

FILE = Path(__file__).with_name("catalogue.snapshot.json")

# As in the database's product_query.
LITTLE = {"dan", "untuk", "yang", "dengan", "di", "and", "for", "the", "of", "with", "a"}
WEIGHTS = {"name": 1_000_000, "kind": 400_000, "summary": 200_000, "benefit": 50_000}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """made_at: when it was written. words: by slug, each word and what it weighs there."""

    made_at: datetime
    rows: list[Row]
    labels: list[Row]
    synonyms: list[tuple[str, str]]
    words: dict[str, dict[str, int]]

    def find(self, query: Query, published: frozenset[str] | None = None) -> QueryResult:
        """What the database would find; relevance is weighed more simply.

        published: slugs; what is not among them was withdrawn since. None: nobody knows.
        """
        if published is not None:
            return replace(self, rows=[row for row in self.rows if row["slug"] in published]).find(
                query
            )
        if query.slug is not None:
            one = [row for row in self.rows if row["slug"] == query.slug]
            return QueryResult(
                one, has_more=False, total=len(one), facets=[], changed_at=self.made_at
            )
        pool = self._search(query)
        kept = [row for row in pool if _matches_filters(row, query)]
        kept.sort(key=sort_key, reverse=query.sort == "-name")
        rest = [row for row in kept if _is_after(row, query)]
        size = page_size(query)
        facets = [self._count_facet(label, pool, query) for label in self.labels]
        wanted = [row for row in facets if row["facet"] in query.facets]
        return QueryResult(rest[:size], len(rest) > size, len(kept), wanted, self.made_at)

    def _search(self, query: Query) -> list[Row]:
        if query.q is None:
            return [row | {"rank": _rank(row, query.sort)} for row in self.rows]
        scored = ((row, self._score(row, query.q)) for row in self.rows)
        return [row | {"rank": _rank(row, query.sort, n)} for row, n in scored if n]

    def _score(self, row: Row, q: str) -> int:
        """How well a product meets what was typed; 0 when it does not meet every word."""
        typed = q.split()
        words = ([word for word in typed if word not in LITTLE] or typed)[:8]
        held = self.words[row["slug"]]
        scores = [self._meets(held, word, words) for word in words]
        if not scores or not all(scores):
            return 0
        bonus = 3_000_000 if row["name_key"] == q else 0
        if not bonus and row["name_key"].startswith(q):
            bonus = 2_000_000
        return bonus + sum(scores) // len(scores)

    def _meets(self, held: Mapping[str, int], typed: str, words: list[str]) -> int:
        near = self._near(typed)
        best = max((n for word, n in held.items() if near(word)), default=0)
        for meant in self._meant(typed, words):
            if all(word in held for word in meant.split()):
                best = max(best, min(held[word] for word in meant.split()))
        return best

    def _near(self, typed: str) -> Callable[[str], bool]:
        slips = _slips(typed)
        if not slips or any(
            word.startswith(typed) for held in self.words.values() for word in held
        ):
            return lambda word: word.startswith(typed)
        return lambda word: (
            distance(word, typed) <= slips or distance(word[: len(typed)], typed) <= 1
        )

    def _meant(self, typed: str, words: list[str]) -> Iterable[str]:
        whole = f" {' '.join(words)} "
        for term, same_as in self.synonyms:
            phrase = f" {term} " in whole and typed in term.split()
            beginning = " " not in term and len(typed) >= 3 and term.startswith(typed)
            slip = " " not in term and _slips(typed) and len(term) > 3
            if phrase or beginning or (slip and distance(term, typed) <= 1):
                yield same_as

    def _count_facet(self, label: Row, pool: list[Row], query: Query) -> Row:
        facet, value = label["facet"], label["value"]
        n = sum(
            value in _facet_values(row, facet) and _matches_filters(row, query, but=facet)
            for row in pool
        )
        return label | {"n": n}


@cache
def load(file: Path = FILE) -> Snapshot:
    """The snapshot shipped with this deployment, read once."""
    return parse(json.loads(file.read_text(encoding="utf-8")))


def parse(document: Mapping[str, Any]) -> Snapshot:
    rows = [to_row(product) for product in document["products"] if product.get("published", True)]
    labels = list(_facet_labels(document))
    named = {(label["facet"], label["value"]): label for label in labels}
    return Snapshot(
        made_at=datetime.fromisoformat(document["madeAt"]),
        rows=rows,
        labels=labels,
        synonyms=[(fold(each["term"]), fold(each["sameAs"])) for each in document["synonyms"]],
        words={row["slug"]: _words(row, named) for row in rows},
    )


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
    made = product.get("createdAt")
    created_at = datetime.fromisoformat(made) if made else None
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
    for facet, places in (("category", "categories"), ("function", "functions")):
        for each in document[places]:
            yield {
                "facet": facet,
                "value": each["code"],
                "label_id": each["label"]["id"],
                "label_en": each["label"]["en"],
            }
    for value in ("BARBER", "SALON"):
        yield {"facet": "audience", "value": value, "label_id": None, "label_en": None}


def _words(row: Row, named: Mapping[tuple[str, str], Row]) -> dict[str, int]:
    labels = [named.get(("category", code), {}) for code in row["categories"]]
    labels += [named.get(("function", code), {}) for code in row["functions"]]
    kinds = [row["brand"], *(str(text) for label in labels for text in label.values())]
    benefits = [*(row["benefits_id"] or []), *(row["benefits_en"] or [])]
    texts = {
        "benefit": " ".join(benefits),
        "summary": f"{row['summary_id'] or ''} {row['summary_en'] or ''}",
        "kind": " ".join(kinds),
        "name": row["name"],
    }
    return {word: WEIGHTS[part] for part, text in texts.items() for word in fold(text).split()}


def _rank(row: Row, sort: str, score: int = 0) -> int:
    if sort == "newest":
        created_at: datetime | None = row["created_at"]
        return -int(created_at.timestamp() * 1_000_000) if created_at else 0
    return -score if sort == "relevance" else 0


def _is_after(row: Row, query: Query) -> bool:
    if query.after is None:
        return True
    after = (query.after.rank, query.after.name_key, query.after.slug)
    return sort_key(row) < after if query.sort == "-name" else sort_key(row) > after


def _facet_values(row: Row, facet: str) -> list[str]:
    places = {"category": "categories", "function": "functions", "audience": "audience"}
    return [row["brand"]] if facet == "brand" else row[places[facet]]


def _matches_filters(row: Row, query: Query, but: str = "") -> bool:
    """Whether every filter lets the product through; `but` names one that is left out."""
    asked = (query.brands, query.categories, query.functions, query.audiences)
    for facet, wanted in zip(FILTERS, asked, strict=True):
        held = _facet_values(row, facet)
        if facet == "brand":
            held = [name.lower() for name in held]
        if wanted and facet != but and not set(wanted) & set(held):
            return False
    return True


def _slips(typed: str) -> int:
    """How many typing errors a word of this length may have."""
    return 0 if len(typed) < 4 else 1 if len(typed) < 6 else 2


def distance(one: str, other: str) -> int:
    """Levenshtein's: letters to add, drop or change."""
    if abs(len(one) - len(other)) > 2:
        return 3  # more than anybody asks about
    above = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
        above = row
    return above[-1]
