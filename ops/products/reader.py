"""Parses and validates a catalogue file: JSON, which is all of it, or CSV, the products alone.

CSV has `|` between the values of a list. Every error is reported at once, with its line.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from lib.products.snapshot import to_row
from ops.products.catalogue import COLUMNS, Catalogue

KEYS = ("brands", "categories", "functions", "synonyms", "products")
PRODUCT_KEYS = {"slug", "name", "brand", "audience", "categories", "functions", "summary",
                "benefits", "howToUse", "image", "published", "createdAt"}  # fmt: skip
LIST_COLUMNS = ("audience", "categories", "functions", "benefits_id", "benefits_en")
REQUIRED_COLUMNS = ("slug", "name", "brand", "audience", "categories")
BOOLEANS = {"": True, "true": True, "1": True, "false": False, "0": False}
AUDIENCES = {"SALON", "BARBER"}
FIRST_CHARACTER = re.compile(r"[^\s,]")  # of an item of a JSON array
UNSTORABLE_CHARACTERS = re.compile("[\x00\ud800-\udfff]")


class InvalidCatalogue(Exception):
    """A file that cannot be imported; `errors` has one line each, with its place in the file."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(f"{len(errors)} errors")
        self.errors = errors


def parse(text: str, *, known: Catalogue) -> Catalogue:
    """The catalogue in a file. Raises InvalidCatalogue.

    known: what the database holds; products may name its brands and labels too.
    """
    catalogue = Catalogue()
    if text.lstrip()[:1] in ("{", "["):
        errors = _parse_json(text, catalogue)
    else:
        errors = _parse_csv(text, catalogue)
    errors = errors or list(_validate(catalogue, known))
    if errors:
        raise InvalidCatalogue(errors)
    return catalogue


def _add(catalogue: Catalogue, row: dict[str, Any], line: int) -> list[str]:
    """Add a product; an error when it is there already."""
    slug = row["slug"]
    errors = [f"line {line}: {slug} is there twice"] if slug in catalogue.line_numbers else []
    catalogue.line_numbers[slug] = line
    catalogue.products.append(row)
    return errors


# ---------------------------------------------------------------- JSON


def _parse_json(text: str, catalogue: Catalogue) -> list[str]:
    """Fill the catalogue; the errors."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [f"line {getattr(error, 'lineno', 1)}: this is no JSON"]
    if isinstance(document, list):
        document = {"products": document}
    errors = [f"line 1: {name!r} is not known" for name in document if name not in KEYS]
    lines = _product_lines(text)
    for index, product in enumerate(document.get("products", [])):
        line = lines[index] if index < len(lines) else 1
        product_errors = _product_errors(product)
        if product_errors:
            errors += [f"line {line}: {error}" for error in product_errors]
            continue
        try:
            row = to_row(product)
            errors += _add(catalogue, {name: row[name] for name in COLUMNS}, line)
        except (KeyError, TypeError, AttributeError, ValueError):
            errors.append(f"line {line}: a text is missing or of the wrong kind")
    try:
        _parse_labels(document, catalogue)
    except (KeyError, TypeError, AttributeError):
        errors.append("line 1: brands have a name, labels a code and label.id, label.en, "
                      "synonyms term and sameAs")  # fmt: skip
    return errors


def _product_errors(product: object) -> list[str]:
    if not isinstance(product, dict):
        return ["a product is an object"]
    return [f"{name!r} is not known" for name in sorted(set(product) - PRODUCT_KEYS)]


def _parse_labels(document: Mapping[str, Any], catalogue: Catalogue) -> None:
    brands = enumerate(document.get("brands", []))
    catalogue.brands = [{"name": brand["name"], "position": at} for at, brand in brands]
    for table in ("categories", "functions"):
        rows = [
            {
                "code": label["code"],
                "label_id": label["label"]["id"],
                "label_en": label["label"]["en"],
                "position": at,
            }
            for at, label in enumerate(document.get(table, []))
        ]
        setattr(catalogue, table, rows)
    catalogue.synonyms = [
        {"term": synonym["term"], "same_as": synonym["sameAs"]}
        for synonym in document.get("synonyms", [])
    ]


def _product_lines(text: str) -> list[int]:
    """The line on which each product begins."""
    array = re.search(r'"products"\s*:\s*\[', text) or re.match(r"\s*\[", text)
    decoder, lines = json.JSONDecoder(), []
    at = array.end() if array else len(text)
    while (start := FIRST_CHARACTER.search(text, at)) and start.group() != "]":
        lines.append(text.count("\n", 0, start.start()) + 1)
        _, at = decoder.raw_decode(text, start.start())
    return lines


# ---------------------------------------------------------------- CSV


def _parse_csv(text: str, catalogue: Catalogue) -> list[str]:
    """Fill the catalogue; the errors."""
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    given = reader.fieldnames or []
    unknown = sorted(set(given) - set(COLUMNS))
    missing = [name for name in REQUIRED_COLUMNS if name not in given]
    errors = [f"line 1: column {name!r} is not known" for name in unknown]
    errors += [f"line 1: column {name!r} is missing" for name in missing]
    for cells in reader if not errors else ():
        line = reader.line_num
        try:
            errors += _add(catalogue, _parse_cells(cells), line)
        except (ValueError, AttributeError, TypeError):
            errors.append(f"line {line}: more or fewer cells than columns, or a bad date")
    return errors


def _parse_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"published": True, "functions": []}
    for name, cell in cells.items():
        # An export puts ' before what a spreadsheet would take for a formula.
        text = re.sub(r"^'(?=[=+\-@\t\r])", "", cell).strip()
        if name in LIST_COLUMNS:
            row[name] = [part.strip() for part in text.split("|") if part.strip()]
        elif name == "published":
            row[name] = BOOLEANS.get(text.lower(), text)
        elif name == "created_at":
            row[name] = _parse_time(text)
        else:
            row[name] = text or None
    return row


def _parse_time(text: str) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# ---------------------------------------------------------------- validation


def _validate(catalogue: Catalogue, known: Catalogue) -> Iterator[str]:
    brands = {row["name"] for row in (*catalogue.brands, *known.brands)}
    codes = {
        table: {row["code"] for row in (*getattr(catalogue, table), *getattr(known, table))}
        for table in ("categories", "functions")
    }
    for row in catalogue.products:
        for error in _validate_product(row, brands, codes):
            yield f"line {catalogue.line_numbers[row['slug']]}: {row['slug']}: {error}"


def _validate_product(
    row: Mapping[str, Any], brands: set[str], codes: Mapping[str, set[str]]
) -> Iterator[str]:
    slug = row["slug"] if isinstance(row["slug"], str) else ""
    rules = {
        "slug: a-z, 0-9 and single hyphens, at most 100": (
            re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) and len(slug) <= 100
        ),
        "name: 1 to 160 characters": isinstance(row["name"], str) and 1 <= len(row["name"]) <= 160,
        f"brand: {row['brand']!r} is not known": row["brand"] in brands,
        "audience: SALON, BARBER or both": row["audience"] and {*row["audience"]} <= AUDIENCES,
        "categories: at least one": row["categories"],
        "summary: in one language at least": row["summary_id"] or row["summary_en"],
        "published: true or false": isinstance(row["published"], bool),
        "image: an https address, or a path of this site": (
            not row["image_url"] or re.match(r"(https://|/(?!/))", row["image_url"])
        ),
    }
    yield from (rule for rule, holds in rules.items() if not holds)
    for table, known in codes.items():
        yield from (f"{table}: {code!r} is not known" for code in row[table] if code not in known)
    for column, value in row.items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and UNSTORABLE_CHARACTERS.search(text) for text in texts):
            yield f"{column}: characters that cannot be stored"
