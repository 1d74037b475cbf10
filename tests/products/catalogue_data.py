"""For tests about products: the seed, made-up products, and a function that serves them."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from ops.products import catalogue, diff, importing, reader
from tests.conftest import ROOT

type Database = psycopg.Connection[DictRow]

SEED = ROOT / "supabase" / "seed" / "catalogue.json"
DOCUMENT: dict[str, Any] = json.loads(SEED.read_text("utf-8"))
PRODUCTS: list[dict[str, Any]] = DOCUMENT["products"]


def store_catalogue(platform: Platform, document: Mapping[str, Any] = DOCUMENT) -> None:
    """Replace the stored catalogue, as the functions' role."""
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        file = reader.read(json.dumps(document).encode())
        changes = diff.compare(catalogue.load(connection), file, prune=True)
        importing.store(connection, file, changes, prune=True)


@pytest.fixture
def seeded(platform: Platform, database: Database) -> Database:
    """The seed is in the database; Redis is empty."""
    store_catalogue(platform)
    return database


@pytest.fixture
def shop(platform: Platform, seeded: Database) -> Iterator[Function]:
    """A function with an empty memory."""
    with platform.function("api/products.py") as function:
        yield function


def get_products(function: Function, query: str = "", **headers: str) -> httpx.Response:
    return httpx.get(f"{function.url}/api/products{query}", headers=headers, timeout=20)


def slugs(response: httpx.Response) -> list[str]:
    body = response.json()
    return [item["slug"] for item in (body["items"] if isinstance(body, dict) else body)]


def make_product(slug: str, **changes: Any) -> dict[str, Any]:
    """A valid product."""
    return {
        "slug": slug,
        "name": slug.replace("-", " ").title(),
        "brand": "Farmavita",
        "audience": ["SALON"],
        "categories": ["shampoo"],
        "functions": ["shine"],
        "summary": {"id": "Sampo untuk uji coba.", "en": "A shampoo for trials."},
        "benefits": {"id": ["Bersih"], "en": ["Clean"]},
        "howToUse": {"id": "Bilas.", "en": "Rinse."},
        "createdAt": datetime(2025, 1, 1, tzinfo=UTC).isoformat(),
    } | changes


def write_file(folder: Path, document: object, name: str = "catalogue.json") -> str:
    """The path of a file that holds `document`, as JSON unless it is text."""
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)
