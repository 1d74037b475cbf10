"""`ops catalogue`: import, export, purge; and the snapshot that ships."""

import json
import re
from datetime import datetime
from pathlib import Path

import pytest
import redis

from dev.build import catalogue_snapshot as writing
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.products import cache, snapshot
from ops import cli
from tests.conftest import ROOT, eventually
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
    assert capsys.readouterr().out == "nothing to change\n"
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

    assert f"line {begins('priced')}: 'price' is not known" in output
    assert f"line {begins('fine', 1)}: fine is there twice" in output
    file = write_file(tmp_path, json.dumps({"products": bad[:4]}, indent=1))
    assert ops(platform, "import", "--yes", file) == 1
    output = capsys.readouterr().err
    assert f"line {begins('Not A Slug')}: Not A Slug: slug" in output
    assert f"line {begins('no-brand')}: no-brand: brand: 'Nobody' is not known" in output
    assert "categories: 'perfume' is not known" in output
    assert "audience: SALON, BARBER or both" in output
    assert "4 faults; nothing was changed" in output
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
    edited = re.sub(r"^(barber-beard-oil),[^,]*,", r"\1,Beard Oil Deluxe,", table, flags=re.M)
    assert ops(platform, "import", "--yes", write_file(tmp_path, edited, "p.csv")) == 0
    assert names(seeded)["barber-beard-oil"] == "Beard Oil Deluxe"
    broken = table.replace(",Gamma+,", ",Gamma,")
    assert ops(platform, "import", "--yes", write_file(tmp_path, broken, "p.csv")) == 1
    line = next(n for n, row in enumerate(table.splitlines(), 1) if ",Gamma+," in row)
    assert f"line {line}: " in capsys.readouterr().err
    assert ops(platform, "import", "--yes", write_file(tmp_path, "slug,cost\nx,1\n", "p.csv")) == 1
    output = capsys.readouterr().err
    assert "line 1: column 'cost' is not known" in output
    assert "line 1: column 'name' is missing" in output


def test_an_export_is_an_import_that_changes_nothing(
    platform: Platform, seeded: Database, tmp_path: Path, capsys: Printed
) -> None:
    assert ops(platform, "export") == 0
    text = capsys.readouterr().out
    assert ops(platform, "import", "--yes", "--prune", write_file(tmp_path, text)) == 0
    assert capsys.readouterr().out == "nothing to change\n"


def test_a_cache_that_cannot_be_invalidated_is_reported(
    platform: Platform, seeded: Database, capsys: Printed
) -> None:
    platform.vercel.switch("fail", status=500)
    platform.upstash.switch("fail", status=500)
    assert ops(platform, "purge") == 1
    output = capsys.readouterr().out
    assert "Redis: NOT purged" in output
    assert "CDN: refused with status 500" in output
    platform.vercel.ok()
    platform.upstash.ok()
    assert ops(platform, "purge", VERCEL_API_TOKEN="") == 0
    assert "no VERCEL_API_TOKEN" in capsys.readouterr().out


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
