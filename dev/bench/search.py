"""Search quality: recall, precision and time of the queries in search_queries.txt.

`python3 -m dev bench search [--before MIGRATION] [--queries]`. A scratch server with the seed
catalogue; --before leaves out that migration and later ones, to compare with.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from dev.bootstrap import ROOT
from dev.platform import migrations
from dev.platform.postgres import Postgres
from dev.platform.seed import load_seed
from lib.products import catalogue
from lib.products.query import fold, parse

SEED = ROOT / "supabase" / "seed" / "catalogue.json"
QUERIES = Path(__file__).with_name("search_queries.txt")
PASSWORD = "bench"


class SearchScore(NamedTuple):
    """Of one query. ranking: average precision, 1 when all that is wanted comes first."""

    query: str
    recall: float
    precision: float
    ranking: float
    took_ms: float


def load_queries(file: Path = QUERIES) -> dict[str, str]:
    """Query -> what is wanted."""
    lines = [line for line in file.read_text("utf-8").splitlines() if line and line[0] != "#"]
    return {query: wanted for query, _, wanted in (line.partition(" = ") for line in lines)}


def wanted_slugs(wanted: str, products: list[dict[str, Any]]) -> set[str]:
    """The slugs of the products that an expression of search_queries.txt describes."""
    return {
        product["slug"]
        for product in products
        if any(
            all(_is_described(term.strip(), product) for term in alternative.split("&"))
            for alternative in wanted.split("|")
        )
    }


def _is_described(term: str, product: Mapping[str, Any]) -> bool:
    if term.startswith("!"):
        return not _is_described(term[1:], product)
    kind, colon, value = term.partition(":")
    if not colon:
        return term in (*product["categories"], *product["functions"], *product["audience"])
    if kind == "brand":
        return bool(product["brand"] == value)
    texts = [product["name"]]
    if kind == "text":
        for field in ("summary", "benefits"):
            for text in (product.get(field) or {}).values():
                texts += [text] if isinstance(text, str) else text
    return any(f" {value} " in f" {fold(text)} " for text in texts)


def score(connection: "psycopg.Connection[Any]", query: str, wanted: set[str]) -> SearchScore:
    """Search as the function does, and compare with the wanted slugs, of which there are some."""
    parsed = parse([("q", query)], "id")
    started = time.perf_counter()
    result = catalogue.find(lambda work: work(connection), parsed)
    took_ms = (time.perf_counter() - started) * 1000
    slugs = [row["slug"] for row in result.rows]
    hits = [position for position, slug in enumerate(slugs, 1) if slug in wanted]
    precision_at_hits = [number / position for number, position in enumerate(hits, 1)]
    return SearchScore(
        query,
        recall=len(hits) / len(wanted),
        precision=len(hits) / len(slugs) if slugs else 0.0,
        ranking=sum(precision_at_hits) / len(wanted),
        took_ms=took_ms,
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench search")
    parser.add_argument("--before", default="", metavar="MIGRATION", help="its number, or a part")
    parser.add_argument("--queries", action="store_true", help="a line a query")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(Path(folder) / "postgres", PASSWORD, durable=False)
        try:
            scores = _measure(server, Path(folder) / "migrations", options.before)
        finally:
            server.close()
    if options.queries:
        for row in scores:
            print(f"{row.query}\t{row.recall:.2f}\t{row.precision:.2f}\t{row.ranking:.2f}")
    _print_summary(scores)
    return 0


def _measure(server: Postgres, directory: Path, before: str) -> list[SearchScore]:
    directory.mkdir()
    for file in sorted((ROOT / "supabase" / "migrations").glob("*.sql")):
        if not before or file.name < before:
            shutil.copy(file, directory)
    admin = server.dsn("bench")
    migrations.ensure_database(server.dsn("postgres"), "bench")
    migrations.apply(admin, directory)
    migrations.ensure_login(admin, "bench", "alfa_app", PASSWORD)
    document = json.loads(SEED.read_text("utf-8"))
    with psycopg.connect(admin, autocommit=True) as connection:
        load_seed(connection, document)
        connection.execute("vacuum analyze")
    with psycopg.connect(server.dsn("bench", "bench", PASSWORD), autocommit=True) as connection:
        connection.prepare_threshold = None
        return [
            score(connection, query, wanted_slugs(wanted, document["products"]))
            for query, wanted in load_queries().items()
        ]


def _print_summary(scores: list[SearchScore]) -> None:
    times = [row.took_ms for row in scores]
    print(
        f"{len(scores)} queries: recall {statistics.mean(row.recall for row in scores):.3f}, "
        f"precision {statistics.mean(row.precision for row in scores):.3f}, "
        f"ranking {statistics.mean(row.ranking for row in scores):.3f}; "
        f"{sum(row.recall == 0 for row in scores)} find nothing that is wanted; "
        f"{statistics.median(times):.1f} ms median, {max(times):.1f} ms worst"
    )
