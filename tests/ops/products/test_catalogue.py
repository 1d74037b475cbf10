"""`ops catalogue`: import, export, purge; and the snapshot that ships."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from dev.build import catalogue_snapshot as writing
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.products import cache, snapshot
from ops import cli
from ops.products import catalogue, diff, importing, reader
from tests.conftest import ROOT, eventually
from tests.ops.terminal import Terminal
from tests.products.catalogue_data import (
    DOCUMENT,
    PRODUCTS,
    SEED,
    Database,
    get_products,
    make_product,
    seeded,
    shop,
    slugs,
    write_file,
)

__all__ = ["seeded", "shop"]

type Printed = pytest.CaptureFixture[str]


def ops(platform: Platform, *arguments: str, **environ: str) -> int:
    return cli.main(["catalogue", *arguments], platform.environment | environ)


def rows_of(database: Database) -> dict[str, dict[str, Any]]:
    """By slug, the columns that a file has."""
    rows = database.execute("select * from products").fetchall()
    return {row["slug"]: {name: row[name] for name in catalogue.COLUMNS} for row in rows}


def names(database: Database) -> dict[str, str]:
    rows = database.execute("select slug, name from products").fetchall()
    return {row["slug"]: row["name"] for row in rows}


def test_the_seed_is_imported_once_and_every_cache_invalidated(
    platform: Platform, database: Database, capsys: Printed
) -> None:
    assert ops(platform, "import", "--yes", str(SEED)) == 0
    assert len(names(database)) == len(PRODUCTS)
    [purge] = platform.vercel.received()
    assert (purge["method"], purge["body"], purge["outcome"]) == (
        "POST",
        {"tags": ["products"]},
        "ok",
    )
    with redis.Redis.from_url(platform.redis_url) as valkey:
        assert valkey.get(cache.VERSION_KEY) == b"1"
    capsys.readouterr()
    assert ops(platform, "import", "--yes", str(SEED)) == 0
    assert capsys.readouterr().out.splitlines()[0] == "nothing to change"
    assert len(platform.vercel.received()) == 1


def test_a_dry_run_shows_the_difference_and_changes_nothing(
    platform: Platform, seeded: Database, tmp_path: Path, capsys: Printed
) -> None:
    first, *rest = PRODUCTS
    changed = first | {"summary": {"id": "Kalimat baru.", "en": first["summary"]["en"]}}
    document = DOCUMENT | {"products": [changed, *rest[1:], make_product("brand-new")]}
    before = names(seeded)
    assert ops(platform, "import", "--dry-run", "--prune", write_file(tmp_path, document)) == 0
    output = capsys.readouterr().out
    assert f"~ {first['slug']}" in output
    assert "    summary_id: " in output
    assert "-> 'Kalimat baru.'" in output
    assert "+ brand-new  Brand New" in output
    assert f"- {rest[0]['slug']}" in output
    assert "dry run" in output
    assert names(seeded) == before
    assert platform.vercel.received() == []


def test_what_a_file_leaves_out_stays_unless_it_is_pruned(
    platform: Platform, seeded: Database, tmp_path: Path
) -> None:
    file = write_file(tmp_path, {"products": [make_product("brand-new")]})
    assert ops(platform, "import", "--yes", file) == 0
    assert len(names(seeded)) == len(PRODUCTS) + 1
    assert ops(platform, "import", "--yes", "--prune", file) == 0
    assert set(names(seeded)) == {"brand-new"}


def test_every_error_is_reported_with_its_line_and_nothing_is_changed(
    platform: Platform, seeded: Database, tmp_path: Path, capsys: Printed
) -> None:
    bad = [
        make_product("fine"),
        make_product("Not A Slug"),
        make_product("no-brand", brand="Nobody"),
        make_product("no-such-code", categories=["perfume"], audience=["VET"]),
        make_product("priced") | {"price": 10},
        make_product("fine"),
    ]
    text = json.dumps({"products": bad}, indent=1)
    before = names(seeded)
    assert ops(platform, "import", "--yes", write_file(tmp_path, text)) == 1
    output = capsys.readouterr().err
    lines = text.splitlines()

    def begins(slug: str, nth: int = 0) -> int:
        """The line that the object with this slug begins on."""
        return [n for n, line in enumerate(lines) if f'"slug": "{slug}"' in line][nth]

    assert f"line {begins('priced')}: priced: 'price' is not known" in output
    assert f"line {begins('fine', 1)}: fine is there twice, first in line" in output
    assert f"line {begins('Not A Slug')}: Not A Slug: slug" in output
    assert f"line {begins('no-brand')}: no-brand: brand: 'Nobody' is not known" in output
    assert "categories: 'perfume' is not known" in output
    assert "audience: SALON, BARBER or both; not ['VET']" in output
    assert "6 faults; nothing was changed" in output
    assert ops(platform, "import", "--yes", write_file(tmp_path, '{"products": [\n{]')) == 1
    assert "line 2: this is no JSON" in capsys.readouterr().err
    assert names(seeded) == before


def test_an_exported_csv_is_imported_unchanged(
    platform: Platform, seeded: Database, tmp_path: Path, capsys: Printed
) -> None:
    seeded.execute("update products set summary_id = '=1+1' where slug = 'barber-beard-oil'")
    capsys.readouterr()
    assert ops(platform, "export", "--csv") == 0
    table = capsys.readouterr().out
    assert "'=1+1" in table, "a spreadsheet must not reckon it"
    assert ops(platform, "import", "--yes", write_file(tmp_path, table, "p.csv")) == 0
    assert capsys.readouterr().out == "nothing to change\n"
    edited = re.sub(r'^("barber-beard-oil"),[^,]*,', r'\1,"Beard Oil Deluxe",', table, flags=re.M)
    assert ops(platform, "import", "--yes", write_file(tmp_path, edited, "p.csv")) == 0
    assert names(seeded)["barber-beard-oil"] == "Beard Oil Deluxe"
    broken = table.replace(',"Gamma+",', ',"Gamma",')
    assert ops(platform, "import", "--yes", write_file(tmp_path, broken, "p.csv")) == 1
    row = next(n for n, row in enumerate(table.splitlines(), 1) if ',"Gamma+",' in row)
    assert f"row {row}: " in capsys.readouterr().err
    assert ops(platform, "import", "--yes", write_file(tmp_path, "slug,cost\nx,1\n", "p.csv")) == 1
    output = capsys.readouterr().err
    assert "row 1: column 'cost' is not known" in output
    assert "row 2: x: name: empty or missing" in output


def test_an_export_is_an_import_that_changes_nothing(
    platform: Platform, seeded: Database, tmp_path: Path, capsys: Printed
) -> None:
    assert ops(platform, "export") == 0
    text = capsys.readouterr().out
    assert ops(platform, "import", "--yes", "--prune", write_file(tmp_path, text)) == 0
    assert capsys.readouterr().out == "nothing to change\n"


def test_a_sheet_with_some_columns_leaves_the_others_and_hidden_products_alone(
    platform: Platform, seeded: Database, tmp_path: Path, capsys: Printed
) -> None:
    slug = PRODUCTS[0]["slug"]
    seeded.execute("update products set published = false where slug = %s", [slug])
    before = rows_of(seeded)
    table = f"slug,name,published\n{slug},New Name,\n"
    assert ops(platform, "import", "--yes", write_file(tmp_path, table, "p.csv")) == 0
    output = capsys.readouterr().out
    assert f"    name: {PRODUCTS[0]['name']!r} -> 'New Name'" in output
    assert "not in the file, stays as it is: brand, audience, categories" in output
    assert f"not in the file, stay as they are: {len(PRODUCTS) - 1} products" in output
    after = rows_of(seeded)
    assert after.pop(slug) == before.pop(slug) | {"name": "New Name"}
    assert after == before
    table = f"slug,summary_en,published\n{slug},,ya\n"
    assert ops(platform, "import", "--yes", write_file(tmp_path, table, "p.csv")) == 0
    assert "    published: False -> True" in capsys.readouterr().out
    row = rows_of(seeded)[slug]
    assert (row["summary_en"], row["published"]) == (None, True)
    assert row["summary_id"] == PRODUCTS[0]["summary"]["id"]


def test_a_key_that_json_leaves_out_stays_and_null_empties(
    platform: Platform, seeded: Database, tmp_path: Path
) -> None:
    slug = PRODUCTS[0]["slug"]
    before = rows_of(seeded)[slug]
    product = {"slug": slug, "howToUse": {"en": None}, "image": {"alt": {"id": "Botol"}}}
    assert ops(platform, "import", "--yes", write_file(tmp_path, [product])) == 0
    changes = {"how_to_use_en": None, "image_alt_id": "Botol"}
    assert rows_of(seeded)[slug] == before | changes


def test_pruning_more_than_a_tenth_asks_once_more(
    platform: Platform,
    seeded: Database,
    tmp_path: Path,
    capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write_file(tmp_path, {"products": [make_product("brand-new")]})
    monkeypatch.setattr(sys, "stdin", Terminal("yes\nno\n"))
    assert ops(platform, "import", "--prune", file) == 1
    count = len(PRODUCTS)
    question = f"--prune removes {count} of {count} products (100 %). Remove them?"
    assert question in capsys.readouterr().err
    assert len(names(seeded)) == count
    assert ops(platform, "import", "--prune", "--yes", file) == 0
    assert set(names(seeded)) == {"brand-new"}


@pytest.mark.parametrize("text", ["slug,name\n", "slug;name\n;;\n", "[]", "{}", "", "\n\n"])
def test_a_file_without_rows_is_refused(
    platform: Platform, seeded: Database, tmp_path: Path, capsys: Printed, text: str
) -> None:
    file = write_file(tmp_path, text, "p.csv")
    assert ops(platform, "import", "--yes", "--prune", file) == 1
    assert "the file has no rows" in capsys.readouterr().err
    assert len(names(seeded)) == len(PRODUCTS)


def test_labels_alone_are_imported_and_prune_no_product(
    platform: Platform, seeded: Database, tmp_path: Path, capsys: Printed
) -> None:
    file = write_file(tmp_path, {"categories": [{"code": "shampoo", "label": {"en": "Hair wash"}}]})
    assert ops(platform, "import", "--yes", "--prune", file) == 1
    assert "--prune would remove every one" in capsys.readouterr().err
    assert ops(platform, "import", "--yes", file) == 0
    assert "    label_en: 'Shampoo' -> 'Hair wash'" in capsys.readouterr().out
    rows = seeded.execute("select * from categories order by position").fetchall()
    codes = [category["code"] for category in DOCUMENT["categories"]]
    assert [row["code"] for row in rows] == codes
    assert (rows[0]["label_id"], rows[0]["label_en"]) == ("Sampo", "Hair wash")


def test_two_imports_at_once_lose_nothing(
    platform: Platform, seeded: Database, tmp_path: Path
) -> None:
    """An import is refused where its difference is no more the one that was shown."""
    first, second = PRODUCTS[0]["slug"], PRODUCTS[1]["slug"]
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        before = catalogue.load(connection)
        apart = reader.read(f"slug,name\n{first},One\n".encode())
        beside = reader.read(f"slug,name\n{second},Two\n".encode())
        against = reader.read(f"slug,name\n{first},Three\n".encode())
        changes = {id(file): diff.compare(before, file) for file in (apart, beside, against)}
        for file in (apart, beside, apart):
            importing.store(connection, file, changes[id(file)], prune=False)
        with pytest.raises(importing.ChangedMeanwhile):
            importing.store(connection, against, changes[id(against)], prune=False)
    assert (names(seeded)[first], names(seeded)[second]) == ("One", "Two")


def test_two_commands_at_the_same_moment_end_as_one_after_the_other(
    platform: Platform, seeded: Database, tmp_path: Path
) -> None:
    slugs_and_files = [
        (
            product["slug"],
            write_file(tmp_path, f"slug,name\n{product['slug']},Together\n", f"{n}.csv"),
        )
        for n, product in enumerate(PRODUCTS[:2])
    ]
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "ops", "catalogue", "import", "--yes", file],
            env={**os.environ, **platform.environment},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        for _, file in slugs_and_files
    ]
    assert [command.wait(120) for command in commands] == [0, 0]
    assert {names(seeded)[slug] for slug, _ in slugs_and_files} == {"Together"}


def test_a_cache_that_cannot_be_invalidated_is_reported(
    platform: Platform, seeded: Database, capsys: Printed
) -> None:
    platform.vercel.switch("fail", status=500)
    platform.upstash.switch("fail", status=500)
    assert ops(platform, "purge") == 1
    output = capsys.readouterr().out
    assert "Redis: NOT purged" in output
    assert "CDN: NOT purged: Vercel cannot be used: it answers 500" in output
    platform.vercel.ok()
    platform.upstash.ok()
    assert ops(platform, "purge", VERCEL_API_TOKEN="") == 0
    assert "not purged: VERCEL_API_TOKEN is not set" in capsys.readouterr().out


def test_an_import_is_seen_by_an_instance_that_holds_the_old_list(
    platform: Platform, shop: Function, tmp_path: Path
) -> None:
    get_products(shop)
    assert (
        ops(
            platform,
            "import",
            "--yes",
            write_file(tmp_path, {"products": [make_product("brand-new")]}),
        )
        == 0
    )
    with platform.function("api/products.py") as other:  # Redis still has the older copy
        # At once, or where Postgres takes longer than a visitor waits, with the next request.
        eventually(lambda: "brand-new" in slugs(get_products(other)))


def test_the_snapshot_and_the_pages_are_in_step_with_the_seed() -> None:
    text = snapshot.FILE.read_text("utf-8")
    made_at = datetime.fromisoformat(json.loads(text)["madeAt"])
    assert text == writing.render(DOCUMENT, made_at), "python3 -m dev snapshot"
    for name, (form, parameter) in writing.PAGES.items():
        page = (ROOT / name).read_text("utf-8")
        assert page == writing.render_product_list(page, DOCUMENT, form, parameter), (
            "python3 -m dev snapshot"
        )
