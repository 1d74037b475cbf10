"""Writes a catalogue as a JSON file, which is all of it, or as CSV, the products alone."""

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ops.products.catalogue import COLUMNS, Catalogue


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
    def texts(column: str) -> dict[str, Any]:
        by_locale = {locale: row[f"{column}_{locale}"] for locale in ("id", "en")}
        return {locale: text for locale, text in by_locale.items() if text}

    names = ("slug", "name", "brand", "audience", "categories", "functions")
    product: dict[str, Any] = {name: row[name] for name in names}
    product |= {"summary": texts("summary"), "benefits": texts("benefits")}
    product["howToUse"] = texts("how_to_use")
    image = {"url": row["image_url"], "alt": texts("image_alt"), "caption": texts("image_caption")}
    product["image"] = {name: value for name, value in image.items() if value}
    if not row["published"]:
        product["published"] = False
    if row["created_at"]:
        product["createdAt"] = row["created_at"].astimezone(UTC).isoformat()
    return product


def to_csv(catalogue: Catalogue) -> str:
    """A cell that a spreadsheet would take for a formula gets a ' in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in catalogue.products:
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
