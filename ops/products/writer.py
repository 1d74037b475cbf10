"""Writes a catalogue as a JSON file, which is all of it. sheet.py writes the products as CSV."""

import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from ops.products.catalogue import Catalogue


def to_json(catalogue: Catalogue) -> str:
    labels = {
        table: [
            {"code": row["code"], "label": {"id": row["label_id"], "en": row["label_en"]}}
            for row in getattr(catalogue, table)
        ]
        for table in ("categories", "functions")
    }
    document = {
        "brands": [{"name": row["name"]} for row in catalogue.brands],
        **labels,
        "synonyms": [{"term": row["term"], "sameAs": row["same_as"]} for row in catalogue.synonyms],
        "products": [_to_product(row) for row in catalogue.products],
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _to_product(row: Mapping[str, Any]) -> dict[str, Any]:
    """Every key, of what is empty too: a key that a file leaves out would stay as it is."""

    def texts(column: str) -> dict[str, Any]:
        return {locale: row[f"{column}_{locale}"] for locale in ("id", "en")}

    names = ("slug", "name", "brand", "audience", "categories", "functions")
    return {name: row[name] for name in names} | {
        "summary": texts("summary"),
        "benefits": texts("benefits"),
        "howToUse": texts("how_to_use"),
        "image": {
            "url": row["image_url"],
            "alt": texts("image_alt"),
            "caption": texts("image_caption"),
        },
        "published": row["published"],
        "createdAt": row["created_at"] and row["created_at"].astimezone(UTC).isoformat(),
    }
