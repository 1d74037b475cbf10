"""The catalogue at 100,000 products: the time each kind of query takes in Postgres, and its plan.

`python3 -m dev bench products [--products N]`. A scratch server, filled with made-up products;
the statement that the function runs, as the functions' own role.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from dev.bootstrap import ROOT
from dev.platform import migrations
from dev.platform.postgres import Postgres
from dev.platform.seed import load_seed
from lib.products import catalogue
from lib.products.query import CursorPosition, Query, parse

SEED = ROOT / "supabase" / "seed" / "catalogue.json"
RUNS = 7
PASSWORD = "bench"

# 20,000 distinct model words, some thousand combinations of labels.
FILL = """
insert into products (slug, name, brand, audience, categories, functions, summary_id, summary_en,
  benefits_id, benefits_en, created_at)
select 'product-' || i,
  (array['Ultra', 'Semi', 'Gold', 'Pure', 'Deep', 'Soft', 'Bright', 'Calm', 'Silk', 'Vital',
         'Nova'])[1 + i % 11]
    || ' ' || (array['Repair', 'Keratin', 'Argan', 'Violet', 'Curl', 'Volume', 'Ocean', 'Amber',
                     'Cotton', 'Velvet', 'Mint', 'Clay', 'Cedar'])[1 + i % 13]
    || ' m' || (i::bigint * 7919) % 20000,
  (select name from brands order by name offset i % 5 limit 1),
  (array['{SALON}', '{BARBER}', '{SALON,BARBER}'])[1 + i % 3]::text[],
  array[(select code from categories order by code offset i % 7 limit 1)],
  array[(select code from functions order by code offset i % 20 limit 1),
        (select code from functions order by code offset (i / 20) % 19 limit 1)],
  'Produk nomor ' || i || ' untuk rambut sehat di salon.',
  'Product number ' || i || ' for healthy hair in the salon.',
  array['Lembut setiap hari'], array['Gentle every day'],
  timestamptz '2020-01-01' + i * interval '1 minute'
from generate_series(1, %(n)s) as i
"""


def requests(n: int) -> Iterator[tuple[str, Query]]:
    """Each kind of request, by its name."""

    def query(**parameters: object) -> Query:
        pairs = [(name, str(item)) for name, value in parameters.items()
                 for item in (value if isinstance(value, list) else [value])]  # fmt: skip
        return parse(pairs, "en")

    def deep(first: Query, position: CursorPosition) -> Query:
        return parse(
            [
                ("limit", "24"),
                ("sort", first.sort) if first.q is None else ("q", first.q),
                ("cursor", first.encode_cursor(position)),
            ],
            "en",
        )

    first = query(limit=24)
    yield "list, first page", first
    yield "list, deep page", deep(first, CursorPosition(0, "soft violet m5000", "product-1"))
    newest = query(limit=24, sort="newest")
    yield "newest, first page", newest
    half = -(1_577_836_800 + n // 2 * 60) * 1_000_000
    yield "newest, deep page", deep(newest, CursorPosition(half, "a", "a"))
    yield "filtered", query(limit=24, brand="Kemon", category="tools", audience="BARBER")
    yield "filtered, two functions", query(limit=24, function=["beard", "shine"], sort="newest")
    yield "faceted", query(limit=24, facets=1, total=1)
    yield "faceted and filtered", query(limit=24, facets=1, total=1, brand="Kemon", function="curl")
    yield "searched", query(limit=24, q="keratin m790")
    search = query(limit=24, q="keratim m790")
    yield "searched with a typo", search
    yield (
        "searched, deep page",
        deep(search, CursorPosition(-100_000, "silk keratin m7900", "product-1")),
    )
    yield "searched, faceted", query(limit=24, facets=1, total=1, q="velvet m12")
    yield "searched broadly (1 in 13)", query(limit=24, facets=1, total=1, q="keratin")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench products")
    parser.add_argument("--products", type=int, default=100_000)
    n: int = parser.parse_args(arguments).products
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(Path(folder) / "postgres", PASSWORD, durable=False)
        try:
            _run(server, n)
        finally:
            server.close()
    return 0


def _run(server: Postgres, n: int) -> None:
    admin = server.dsn("bench")
    migrations.ensure_database(server.dsn("postgres"), "bench")
    migrations.apply(admin, ROOT / "supabase" / "migrations")
    migrations.ensure_login(admin, "bench", "alfa_app", PASSWORD)
    _fill(admin, n)
    with psycopg.connect(server.dsn("bench", "bench", PASSWORD), autocommit=True) as connection:
        connection.prepare_threshold = None
        print(f"{'request':28} {'median':>9} {'worst':>9}  plan: indexes; tables read by Seq Scan")
        for name, query in requests(n):
            print(_measure(connection, name, query), flush=True)


def _fill(admin: str, n: int) -> None:
    started = time.monotonic()
    with psycopg.connect(admin, autocommit=True) as connection:
        load_seed(connection, json.loads(SEED.read_text("utf-8")), products=False)
        connection.execute(FILL.encode().replace(b"%(n)s", str(n).encode()))
        connection.execute("vacuum analyze")
        row = connection.execute(
            "select (select count(*) from product_groups), (select count(*) from search_words),"
            " pg_size_pretty(pg_total_relation_size('products'))"
        ).fetchone()
    assert row is not None
    took_s = time.monotonic() - started
    print(f"{n} products in {took_s:.0f} s: {row[0]} groups, {row[1]} words, {row[2]}")


def _measure(connection: "psycopg.Connection[Any]", name: str, query: Query) -> str:
    times = []
    # As an instance asks that has answered before: it knows what is published.
    published = catalogue.find(lambda work: work(connection), query).published
    for _ in range(RUNS):
        started = time.perf_counter()
        catalogue.find(lambda work: work(connection), query, published)
        times.append((time.perf_counter() - started) * 1000)
    values = catalogue._parameters(query) | {"known": None}
    plan = connection.execute(
        b"explain (format json) " + catalogue.FIND_PRODUCTS.encode(), values
    ).fetchone()
    assert plan is not None
    whole = plan[0] if isinstance(plan[0], list) else json.loads(plan[0])
    nodes = list(_nodes(whole[0]["Plan"]))
    scans = [node for node in nodes if "Scan" in node["Node Type"] and not _is_never_run(node)]
    by_index = sorted({node["Index Name"] for node in scans if "Index Name" in node})
    whole_tables = sorted(
        {node["Relation Name"] for node in scans if node["Node Type"] == "Seq Scan"}
    )
    small = ", ".join(table for table in whole_tables if table != "products")
    shape = (
        f"{', '.join(by_index)}; products whole: {'YES' if 'products' in whole_tables else 'no'}"
    )
    shape += f"; small tables whole: {small}"
    return f"{name:28} {statistics.median(times):6.1f} ms {max(times):6.1f} ms  {shape}"


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node that is run: none below a condition that is false."""
    if plan.get("One-Time Filter") == "false":
        return
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _is_never_run(node: dict[str, Any]) -> bool:
    return bool(node.get("One-Time Filter") == "false")
