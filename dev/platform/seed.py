"""Fills an empty catalogue from a catalogue file."""

import json
from collections.abc import Mapping
from typing import Any

import psycopg

from lib.products.snapshot import to_row

COLUMNS = {
    "brands": "name, position",
    "categories": "code, label_id, label_en, position",
    "functions": "code, label_id, label_en, position",
    "synonyms": "term, same_as",
    "products": "slug, name, brand, audience, categories, functions, summary_id, summary_en,"
    " benefits_id, benefits_en, how_to_use_id, how_to_use_en, image_url, image_alt_id,"
    " image_alt_en, image_caption_id, image_caption_en, published, created_at",
}


def load_seed(
    connection: "psycopg.Connection[Any]", document: Mapping[str, Any], *, products: bool = True
) -> int:
    """Insert the labels and, unless told otherwise, the products of `document`; how many."""
    tables: dict[str, list[dict[str, Any]]] = {
        "brands": [
            {"name": brand["name"], "position": at} for at, brand in enumerate(document["brands"])
        ],
        "synonyms": [
            {"term": synonym["term"], "same_as": synonym["sameAs"]}
            for synonym in document["synonyms"]
        ],
    }
    for name in ("categories", "functions"):
        tables[name] = [
            {
                "code": label["code"],
                "label_id": label["label"]["id"],
                "label_en": label["label"]["en"],
                "position": at,
            }
            for at, label in enumerate(document[name])
        ]
    tables["products"] = [to_row(product) for product in document["products"]] if products else []
    with connection.transaction():
        for table, rows in tables.items():
            statement = (
                f"insert into {table} ({COLUMNS[table]}) select {COLUMNS[table]}"
                f" from jsonb_populate_recordset(null::{table}, %s) on conflict do nothing"
            )
            text = json.dumps(rows, default=lambda moment: moment.isoformat())
            connection.execute(statement.encode(), [text])
    return len(tables["products"])
