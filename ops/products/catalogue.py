"""The whole catalogue, published or not, read from Postgres and stored there.

`store` belongs in a transaction of its caller (importing.py), which locks what it compared.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import batched
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

if TYPE_CHECKING:
    from psycopg import Connection

    from ops.products.diff import CatalogueDiff

type Rows = list[dict[str, Any]]

BATCH_PRODUCTS = 500
LABEL_TABLES = ("brands", "categories", "functions")

COLUMNS = (
    "slug", "name", "brand", "audience", "categories", "functions", "summary_id", "summary_en",
    "benefits_id", "benefits_en", "how_to_use_id", "how_to_use_en", "image_url", "image_alt_id",
    "image_alt_en", "image_caption_id", "image_caption_en", "published", "created_at",
)  # fmt: skip

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
select name, position from jsonb_populate_recordset(null::brands, %(rows)s)
on conflict (name) do update set position = excluded.position
where brands.position <> excluded.position
"""
UPSERT_CATEGORIES = """
insert into categories as stored (code, label_id, label_en, position)
select code, label_id, label_en, position
from jsonb_populate_recordset(null::categories, %(rows)s)
on conflict (code) do update
set label_id = excluded.label_id, label_en = excluded.label_en, position = excluded.position
where (stored.label_id, stored.label_en, stored.position)
  <> (excluded.label_id, excluded.label_en, excluded.position)
"""
UPSERT_FUNCTIONS = """
insert into functions as stored (code, label_id, label_en, position)
select code, label_id, label_en, position
from jsonb_populate_recordset(null::functions, %(rows)s)
on conflict (code) do update
set label_id = excluded.label_id, label_en = excluded.label_en, position = excluded.position
where (stored.label_id, stored.label_en, stored.position)
  <> (excluded.label_id, excluded.label_en, excluded.position)
"""
INSERT_SYNONYMS = """
insert into synonyms (term, same_as)
select distinct term, same_as from jsonb_populate_recordset(null::synonyms, %(rows)s)
on conflict do nothing
"""
UPSERT_PRODUCTS = """
insert into products (
  slug, name, brand, audience, categories, functions, summary_id, summary_en, benefits_id,
  benefits_en, how_to_use_id, how_to_use_en, image_url, image_alt_id, image_alt_en,
  image_caption_id, image_caption_en, published, created_at, updated_at)
select slug, name, brand, audience, categories, functions, summary_id, summary_en, benefits_id,
  benefits_en, how_to_use_id, how_to_use_en, image_url, image_alt_id, image_alt_en,
  image_caption_id, image_caption_en, published, coalesce(created_at, now()), now()
from jsonb_populate_recordset(null::products, %(rows)s)
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
DELETE_SYNONYMS = """
delete from synonyms as s using jsonb_populate_recordset(null::synonyms, %(rows)s) as removed
where s.term = removed.term and s.same_as = removed.same_as
"""
DELETE_UNUSED_WORDS = """
with used as materialized (
  select distinct unnest(tsvector_to_array(search)) as word from products where published
)
delete from search_words as w where not exists (select from used where used.word = w.word)
"""


@dataclass(slots=True)
class Catalogue:
    """Rows as in the tables."""

    brands: Rows = field(default_factory=list)
    categories: Rows = field(default_factory=list)
    functions: Rows = field(default_factory=list)
    synonyms: Rows = field(default_factory=list)
    products: Rows = field(default_factory=list)


def load(connection: "Connection[Any]") -> Catalogue:
    cursor = connection.cursor(row_factory=dict_row)
    return Catalogue(
        brands=cursor.execute(SELECT_BRANDS).fetchall(),
        categories=cursor.execute(SELECT_CATEGORIES).fetchall(),
        functions=cursor.execute(SELECT_FUNCTIONS).fetchall(),
        synonyms=cursor.execute(SELECT_SYNONYMS).fetchall(),
        products=cursor.execute(SELECT_PRODUCTS).fetchall(),
    )


def store(
    connection: "Connection[Any]",
    diff: "CatalogueDiff",
    progress: Callable[[int], object] = lambda _stored: None,
) -> None:
    """Store what `diff` changes. progress: called with the number of products stored so far."""

    def write(statement: str, rows: Rows) -> None:
        if rows:
            text = json.dumps(rows, default=lambda moment: moment.isoformat())
            connection.execute(statement, {"rows": text})

    write(UPSERT_BRANDS, diff.changed_labels["brands"])
    write(UPSERT_CATEGORIES, diff.changed_labels["categories"])
    write(UPSERT_FUNCTIONS, diff.changed_labels["functions"])
    write(DELETE_SYNONYMS, diff.removed_synonyms)
    write(INSERT_SYNONYMS, diff.new_synonyms)
    stored = 0
    for rows in batched(diff.changed_products, BATCH_PRODUCTS):
        write(UPSERT_PRODUCTS, list(rows))
        stored += len(rows)
        progress(stored)
    if diff.removed_slugs:
        connection.execute(DELETE_PRODUCTS, {"slugs": diff.removed_slugs})
    connection.execute(DELETE_UNUSED_WORDS)
