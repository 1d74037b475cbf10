"""Catalogue files: read, checked, compared with the database, stored whole or not at all; written.

JSON is the whole catalogue (brands, labels, synonyms, products); CSV is products alone, with `|`
between the values of a list. What a file leaves out stays as it is, unless it is told to go.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lib.products.snapshot import to_row

if TYPE_CHECKING:
    from psycopg import Connection

type Rows = list[dict[str, Any]]

LISTS = ("audience", "categories", "functions")
LOCALES = ("id", "en")
COLUMNS = (
    "slug", "name", "brand", "audience", "categories", "functions", "summary_id", "summary_en",
    "benefits_id", "benefits_en", "how_to_use_id", "how_to_use_en", "image_url", "image_alt_id",
    "image_alt_en", "image_caption_id", "image_caption_en", "published", "created_at",
)  # fmt: skip
PRODUCT_KEYS = {
    "slug",
    "name",
    "brand",
    "audience",
    "categories",
    "functions",
    "summary",
    "benefits",
    "howToUse",
    "image",
    "published",
    "createdAt",
}
REQUIRED_COLUMNS = ("slug", "name", "brand", "audience", "categories")
AUDIENCES = {"SALON", "BARBER"}
UNSTORABLE_CHARACTERS = re.compile("[\x00\ud800-\udfff]")
TOP_LEVEL_KEYS = ("brands", "categories", "functions", "synonyms", "products")

SELECT_BRANDS = "select name from brands order by position, name"
SELECT_CATEGORIES = "select code, label_id, label_en from categories order by position, code"
SELECT_FUNCTIONS = "select code, label_id, label_en from functions order by position, code"
SELECT_SYNONYMS = "select term, same_as from synonyms order by term, same_as"
SELECT_PRODUCTS = """
select slug, name, brand, audience, categories, functions, summary_id, summary_en, benefits_id,
  benefits_en, how_to_use_id, how_to_use_en, image_url, image_alt_id, image_alt_en,
  image_caption_id, image_caption_en, published, created_at
from products order by slug
"""

UPSERT_BRANDS = """
insert into brands (name, position)
select name, position from jsonb_to_recordset(%(rows)s) as given (name text, position integer)
on conflict (name) do update set position = excluded.position
where brands.position <> excluded.position
"""
UPSERT_CATEGORIES = """
insert into categories as held (code, label_id, label_en, position)
select * from jsonb_to_recordset(%(rows)s)
  as given (code text, label_id text, label_en text, position integer)
on conflict (code) do update
set label_id = excluded.label_id, label_en = excluded.label_en, position = excluded.position
where (held.label_id, held.label_en, held.position)
  <> (excluded.label_id, excluded.label_en, excluded.position)
"""
UPSERT_FUNCTIONS = """
insert into functions as held (code, label_id, label_en, position)
select * from jsonb_to_recordset(%(rows)s)
  as given (code text, label_id text, label_en text, position integer)
on conflict (code) do update
set label_id = excluded.label_id, label_en = excluded.label_en, position = excluded.position
where (held.label_id, held.label_en, held.position)
  <> (excluded.label_id, excluded.label_en, excluded.position)
"""
INSERT_SYNONYMS = """
insert into synonyms (term, same_as)
select distinct term, same_as
from jsonb_to_recordset(%(rows)s) as given (term text, same_as text)
on conflict do nothing
"""
UPSERT_PRODUCTS = """
insert into products as held (
  slug, name, brand, audience, categories, functions, summary_id, summary_en, benefits_id,
  benefits_en, how_to_use_id, how_to_use_en, image_url, image_alt_id, image_alt_en,
  image_caption_id, image_caption_en, published, created_at, updated_at)
select slug, name, brand, audience, categories, functions, summary_id, summary_en, benefits_id,
  benefits_en, how_to_use_id, how_to_use_en, image_url, image_alt_id, image_alt_en,
  image_caption_id, image_caption_en, published, coalesce(created_at, now()), now()
from jsonb_to_recordset(%(rows)s) as given (
  slug text, name text, brand text, audience text[], categories text[], functions text[],
  summary_id text, summary_en text, benefits_id text[], benefits_en text[], how_to_use_id text,
  how_to_use_en text, image_url text, image_alt_id text, image_alt_en text,
  image_caption_id text, image_caption_en text, published boolean, created_at timestamptz)
on conflict (slug) do update set
  name = excluded.name, brand = excluded.brand, audience = excluded.audience,
  categories = excluded.categories, functions = excluded.functions,
  summary_id = excluded.summary_id, summary_en = excluded.summary_en,
  benefits_id = excluded.benefits_id, benefits_en = excluded.benefits_en,
  how_to_use_id = excluded.how_to_use_id, how_to_use_en = excluded.how_to_use_en,
  image_url = excluded.image_url, image_alt_id = excluded.image_alt_id,
  image_alt_en = excluded.image_alt_en, image_caption_id = excluded.image_caption_id,
  image_caption_en = excluded.image_caption_en, published = excluded.published,
  created_at = excluded.created_at, updated_at = excluded.updated_at
"""
DELETE_PRODUCTS = "delete from products where slug = any(%(slugs)s)"
DELETE_SYNONYMS = "delete from synonyms"
DELETE_UNUSED_WORDS = """
delete from search_words as w
where not exists (
  select from products as p where p.published and p.search @@ quote_literal(w.word)::tsquery
)
"""


class InvalidCatalogue(Exception):
    """A file that cannot be imported; `faults` has one line each, with its place in the file."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(f"{len(faults)} faults")
        self.errors = faults


@dataclass(slots=True)
class Catalogue:
    """What a file, or the database, holds: rows as in the tables. lines: by slug, in the file."""

    brands: Rows = field(default_factory=list)
    categories: Rows = field(default_factory=list)
    functions: Rows = field(default_factory=list)
    synonyms: Rows = field(default_factory=list)
    products: Rows = field(default_factory=list)
    line_numbers: dict[str, int] = field(default_factory=dict)
    whole: bool = False


# ---------------------------------------------------------------- reading


def parse(text: str, *, known: "Catalogue") -> Catalogue:
    """A file's catalogue, JSON or CSV. Raises Unusable, naming every fault with its line.

    known: what the database holds; products may name its brands and labels too.
    """
    found = _parse_json(text) if text.lstrip()[:1] in ("{", "[") else _parse_csv(text)
    faults = list(_validate(found, known))
    if faults:
        raise InvalidCatalogue(faults)
    return found


def _parse_json(text: str) -> Catalogue:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as fault:
        line = getattr(fault, "lineno", 1)
        raise InvalidCatalogue([f"line {line}: this is no JSON"]) from None
    if isinstance(document, list):
        document = {"products": document}
    faults = [f"line 1: {name!r} is not known" for name in document if name not in TOP_LEVEL_KEYS]
    made = Catalogue(whole="brands" in document)
    places = _product_lines(text)
    for position, product in enumerate(document.get("products", [])):
        line = places[position] if position < len(places) else 1
        try:
            row = _parse_product(product, line)
        except InvalidCatalogue as unusable:
            faults += unusable.errors
            continue
        if row["slug"] in made.line_numbers:
            faults.append(f"line {line}: {row['slug']} is there twice")
        made.line_numbers[row["slug"]] = line
        made.products.append(row)
    try:
        _parse_labels(document, made)
    except (KeyError, TypeError, AttributeError):
        faults.append("line 1: brands have a name, labels a code and label.id, label.en, "
                      "synonyms term and sameAs")  # fmt: skip
    if faults:
        raise InvalidCatalogue(faults)
    return made


def _parse_labels(document: Mapping[str, Any], made: Catalogue) -> None:
    made.brands = [
        {"name": each["name"], "position": at} for at, each in enumerate(document.get("brands", []))
    ]
    for name in ("categories", "functions"):
        rows = [
            {
                "code": each["code"],
                "label_id": each["label"]["id"],
                "label_en": each["label"]["en"],
                "position": at,
            }
            for at, each in enumerate(document.get(name, []))
        ]
        setattr(made, name, rows)
    made.synonyms = [
        {"term": each["term"], "same_as": each["sameAs"]} for each in document.get("synonyms", [])
    ]


def _product_lines(text: str) -> list[int]:
    """The line each product of the file begins on."""
    start = re.search(r'"products"\s*:\s*\[', text) or re.match(r"\s*\[", text)
    decoder, lines = json.JSONDecoder(), []
    at = start.end() if start else len(text)
    while (at := _skip_separators(text, at)) < len(text) and text[at] != "]":
        lines.append(text.count("\n", 0, at) + 1)
        _, at = decoder.raw_decode(text, at)
    return lines


def _skip_separators(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _parse_product(product: Any, line: int) -> dict[str, Any]:
    if not isinstance(product, dict):
        raise InvalidCatalogue([f"line {line}: a product is an object"])
    strange = sorted(set(product) - PRODUCT_KEYS)
    if strange:
        raise InvalidCatalogue([f"line {line}: {name!r} is not known" for name in strange])
    try:
        row = to_row(product)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InvalidCatalogue([f"line {line}: a text is missing or of the wrong kind"]) from None
    return {name: row[name] for name in COLUMNS}


def _parse_csv(text: str) -> Catalogue:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    strange = sorted(set(reader.fieldnames or []) - set(COLUMNS))
    missing = [name for name in REQUIRED_COLUMNS if name not in (reader.fieldnames or [])]
    faults = [f"line 1: column {name!r} is not known" for name in strange]
    faults += [f"line 1: column {name!r} is missing" for name in missing]
    if faults:
        raise InvalidCatalogue(faults)
    made = Catalogue()
    for cells in reader:
        line = reader.line_num
        try:
            row = _parse_cells(cells)
        except (ValueError, AttributeError, TypeError):
            faults.append(f"line {line}: more or fewer cells than columns, or a bad date")
            continue
        if row["slug"] in made.line_numbers:
            faults.append(f"line {line}: {row['slug']} is there twice")
        made.line_numbers[row["slug"] or ""] = line
        made.products.append(row)
    if faults:
        raise InvalidCatalogue(faults)
    return made


def _parse_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    for name, cell in cells.items():
        # `export` puts ' before what a spreadsheet would take for a formula.
        text = re.sub(r"^'(?=[=+\-@\t\r])", "", cell).strip()
        if name in LISTS or name.startswith("benefits"):
            row[name] = [part.strip() for part in text.split("|") if part.strip()]
        elif name == "published":
            row[name] = {"": True, "true": True, "1": True, "false": False, "0": False}.get(
                text.lower(), text
            )
        elif name == "created_at":
            row[name] = _parse_time(text)
        else:
            row[name] = text or None
    row["published"] = True if row["published"] is None else row["published"]
    row["functions"] = row["functions"] or []
    return row


def _parse_time(text: str) -> datetime | None:
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _validate(found: Catalogue, known: Catalogue) -> Iterator[str]:
    brands = {row["name"] for row in (*found.brands, *known.brands)}
    codes = {
        name: {row["code"] for row in (*getattr(found, name), *getattr(known, name))}
        for name in ("categories", "functions")
    }
    for row in found.products:
        for fault in _validate_product(row, brands, codes):
            yield f"line {found.line_numbers.get(row['slug'], 1)}: {row['slug']}: {fault}"


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
    yield from (fault for fault, kept in rules.items() if not kept)
    for kind, known in codes.items():
        yield from (f"{kind}: {code!r} is not known" for code in row[kind] if code not in known)
    for column, value in row.items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and UNSTORABLE_CHARACTERS.search(text) for text in texts):
            yield f"{column}: characters that cannot be stored"


# ---------------------------------------------------------------- the database


def load(connection: "Connection[Any]") -> Catalogue:
    """What the database holds, published or not."""

    def rows(statement: str) -> Rows:
        cursor = connection.execute(statement.encode())
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    return Catalogue(
        rows(SELECT_BRANDS),
        rows(SELECT_CATEGORIES),
        rows(SELECT_FUNCTIONS),
        rows(SELECT_SYNONYMS),
        rows(SELECT_PRODUCTS),
        whole=True,
    )


@dataclass(frozen=True, slots=True)
class CatalogueDiff:
    """What an import would do. lines: for a person to read. Empty: nothing to do."""

    lines: list[str]
    changed_products: Rows
    removed_slugs: list[str]

    @property
    def is_empty(self) -> bool:
        return not self.lines


def diff(before: Catalogue, after: Catalogue, *, prune: bool) -> CatalogueDiff:
    """prune: products that the file leaves out go."""
    lines = list(_diff_labels(before, after))
    old = {row["slug"]: row for row in before.products}
    changed: Rows = []
    for row in after.products:
        was = old.pop(row["slug"], None)
        if was is not None and row["created_at"] is None:
            row["created_at"] = was["created_at"]
        told = _diff_product(was, row)
        if told:
            changed.append(row)
            lines += told
    gone = sorted(old) if prune else []
    lines += [f"- {slug}  {old[slug]['name']}" for slug in gone]
    return CatalogueDiff(lines, changed, gone)


def _diff_labels(before: Catalogue, after: Catalogue) -> Iterator[str]:
    for name in ("brands", "categories", "functions", "synonyms"):
        was = [_without_position(row) for row in getattr(before, name)]
        now = [_without_position(row) for row in getattr(after, name)]
        if name == "synonyms":
            was, now = sorted(was, key=str), sorted(now, key=str)
        yield from (f"+ {name}: {_format_row(row)}" for row in now if row not in was)
        if name == "synonyms" and now:
            yield from (f"- {name}: {_format_row(row)}" for row in was if row not in now)


def _without_position(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "position"}


def _format_row(row: Mapping[str, Any]) -> str:
    return " = ".join(str(value) for value in row.values())


def _diff_product(was: Mapping[str, Any] | None, row: Mapping[str, Any]) -> list[str]:
    if was is None:
        return [f"+ {row['slug']}  {row['name']}"]
    told = [
        f"    {name}: {was[name]!r} -> {row[name]!r}"
        for name in COLUMNS
        if name != "created_at" and (was[name] or None) != (row[name] or None)
    ]
    if was["created_at"] != row["created_at"]:
        told.append(f"    created_at: {was['created_at']} -> {row['created_at']}")
    return [f"~ {row['slug']}  {row['name']}", *told] if told else []


def store(connection: "Connection[Any]", found: Catalogue, change: CatalogueDiff) -> None:
    """All of it or nothing."""
    with connection.transaction():
        for statement, rows in (
            (UPSERT_BRANDS, found.brands),
            (UPSERT_CATEGORIES, found.categories),
            (UPSERT_FUNCTIONS, found.functions),
        ):
            if rows:
                connection.execute(statement, {"rows": _encode_rows(rows)})
        if found.synonyms:
            connection.execute(DELETE_SYNONYMS)
            connection.execute(INSERT_SYNONYMS, {"rows": _encode_rows(found.synonyms)})
        if change.changed_products:
            connection.execute(UPSERT_PRODUCTS, {"rows": _encode_rows(change.changed_products)})
        if change.removed_slugs:
            connection.execute(DELETE_PRODUCTS, {"slugs": change.removed_slugs})
        connection.execute(DELETE_UNUSED_WORDS)


def _encode_rows(rows: Rows) -> str:
    return json.dumps(rows, default=lambda moment: moment.isoformat())


# ---------------------------------------------------------------- writing


def to_document(found: Catalogue, *, published_only: bool = False) -> dict[str, Any]:
    """The catalogue as its JSON file."""
    labels = {
        name: [
            {"code": row["code"], "label": {"id": row["label_id"], "en": row["label_en"]}}
            for row in getattr(found, name)
        ]
        for name in ("categories", "functions")
    }
    return {
        "brands": [{"name": row["name"]} for row in found.brands],
        **labels,
        "synonyms": [{"term": row["term"], "sameAs": row["same_as"]} for row in found.synonyms],
        "products": [
            _to_product(row) for row in found.products if row["published"] or not published_only
        ],
    }


def _to_product(row: Mapping[str, Any]) -> dict[str, Any]:
    def both(name: str) -> dict[str, Any]:
        texts = ((locale, row[f"{name}_{locale}"]) for locale in LOCALES)
        return {locale: text for locale, text in texts if text}

    made: dict[str, Any] = {name: row[name] for name in ("slug", "name", "brand", *LISTS)}
    made |= {"summary": both("summary"), "benefits": both("benefits")}
    made |= {"howToUse": both("how_to_use")}
    image = {"url": row["image_url"], "alt": both("image_alt"), "caption": both("image_caption")}
    made["image"] = {name: value for name, value in image.items() if value}
    if not row["published"]:
        made["published"] = False
    if row["created_at"]:
        made["createdAt"] = row["created_at"].astimezone(UTC).isoformat()
    return made


def to_json(found: Catalogue) -> str:
    return json.dumps(to_document(found), ensure_ascii=False, indent=1) + "\n"


def to_csv(found: Catalogue) -> str:
    """Products alone. A cell that a spreadsheet would take for a formula gets a ' in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found.products:
        writer.writerow([_to_cell(row[name]) for name in COLUMNS])
    return out.getvalue()


def _to_cell(value: Any) -> str:
    if isinstance(value, list):
        value = "|".join(value)
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, datetime):
        value = value.astimezone(UTC).isoformat()
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
