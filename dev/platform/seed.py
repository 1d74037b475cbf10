"""Fills an empty catalogue from a catalogue file."""

import json
from collections.abc import Mapping
from typing import Any

import psycopg

from lib.products.snapshot import to_row

BRANDS = """
insert into brands (name, position)
select item->>'name', at - 1 from jsonb_array_elements(%(brands)s) with ordinality as t (item, at)
"""
CATEGORIES = """
insert into categories (code, label_id, label_en, position)
select item->>'code', item->'label'->>'id', item->'label'->>'en', at - 1
from jsonb_array_elements(%(categories)s) with ordinality as t (item, at)
"""
FUNCTIONS = """
insert into functions (code, label_id, label_en, position)
select item->>'code', item->'label'->>'id', item->'label'->>'en', at - 1
from jsonb_array_elements(%(functions)s) with ordinality as t (item, at)
"""
SYNONYMS = """
insert into synonyms (term, same_as)
select item->>'term', item->>'sameAs' from jsonb_array_elements(%(synonyms)s) as t (item)
on conflict do nothing
"""
PRODUCTS = """
insert into products (slug, name, brand, audience, categories, functions, summary_id, summary_en,
  benefits_id, benefits_en, how_to_use_id, how_to_use_en, image_url, image_alt_id, image_alt_en,
  image_caption_id, image_caption_en, published, created_at)
select slug, name, brand, audience, categories, functions, summary_id, summary_en,
  benefits_id, benefits_en, how_to_use_id, how_to_use_en, image_url, image_alt_id, image_alt_en,
  image_caption_id, image_caption_en, published, coalesce(created_at, now())
from jsonb_populate_recordset(null::products, %(products)s)
"""


def load_seed(
    connection: "psycopg.Connection[Any]", document: Mapping[str, Any], *, products: bool = True
) -> int:
    """Insert the labels and, unless told otherwise, the products of `document`; how many."""
    rows = [to_row(product) for product in document["products"]] if products else []
    tables = {name: document[name] for name in ("brands", "categories", "functions", "synonyms")}
    values = {
        name: json.dumps(items, default=lambda moment: moment.isoformat())
        for name, items in (tables | {"products": rows}).items()
    }
    with connection.transaction():
        for statement in (BRANDS, CATEGORIES, FUNCTIONS, SYNONYMS, PRODUCTS):
            connection.execute(statement.encode(), values)
    return len(rows)
