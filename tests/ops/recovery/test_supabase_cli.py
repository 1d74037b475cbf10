"""Supabase's own CLI on a database of Supabase's shape, beside `python3 -m ops migrate`."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.rows import TupleRow

from dev import tools
from dev.platform.local_platform import Platform
from dev.platform.migrations import ensure_database
from ops import cli
from ops.recovery import migrations
from tests.conftest import ROOT

VERSIONS = sorted(file.name[:14] for file in (ROOT / "supabase/migrations").glob("*.sql"))


@pytest.fixture
def empty(platform: Platform) -> Iterator[str]:
    """The address of a database as a fresh Supabase project has it."""
    name = f"project_{secrets.token_hex(4)}"
    parts = urlsplit(platform.admin_database_url)
    ensure_database(platform.admin_database_url, name)
    url = urlunsplit(parts._replace(path=f"/{name}"))
    yield url
    with psycopg.connect(platform.admin_database_url, autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)'.encode())


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "supabase", folder / "supabase", ignore=shutil.ignore_patterns(".temp"))
    return folder


def supabase(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In the clone, with a home of its own; --agent=no, as some environments make its text JSON."""
    return subprocess.run(
        [str(tools.ensure_supabase()), *words, "--agent=no"],
        cwd=clone,
        env={"PATH": os.environ["PATH"], "HOME": str(clone / "home"),
             "SUPABASE_TELEMETRY_DISABLED": "1", "PGSSLMODE": "disable"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def push(clone: Path, url: str) -> subprocess.CompletedProcess[str]:
    return supabase(clone, "db", "push", f"--remote={url}", "--yes")


def record(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select version from supabase_migrations.schema_migrations order by version"
        ).fetchall()
    return [version for (version,) in rows]


def schema(url: str) -> list[TupleRow]:
    """Columns, policies and rights: whatever made them."""
    with psycopg.connect(url) as connection:
        shape = []
        for statement in (
            "select table_name, column_name, data_type, is_nullable, column_default"
            " from information_schema.columns where table_schema = 'public' order by 1, 2",
            "select tablename, policyname, roles, cmd, qual, with_check from pg_policies"
            " where schemaname = 'public' order by 1, 2",
            "select relname, relrowsecurity, relacl::text from pg_class"
            " where relnamespace = 'public'::regnamespace order by 1",
            "select proname, pg_get_functiondef(oid) from pg_proc"
            " where pronamespace = 'public'::regnamespace and prokind = 'f' order by 1, 2",
        ):
            shape += connection.execute(statement.encode()).fetchall()
    return shape


def test_push_builds_an_empty_project_and_ops_migrate_agrees(
    clone: Path, empty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = push(clone, empty)
    assert answer.returncode == 0, answer.stderr
    assert record(empty) == VERSIONS
    assert cli.main(["migrate", "--dsn", empty], {}) == 0
    assert capsys.readouterr().out == "nothing to apply\n"
    listed = supabase(clone, "migration", "list", f"--remote={empty}")
    rows = [[cell.strip(" `") for cell in line.split("|")] for line in listed.stdout.splitlines()]
    pairs = [(row[0], row[1]) for row in rows if len(row) == 3 and row[0].isdigit()]
    assert pairs == [(version, version) for version in VERSIONS]


def test_push_finds_nothing_to_do_after_ops_migrate(clone: Path, empty: str) -> None:
    assert cli.main(["migrate", "--dsn", empty], {}) == 0
    before = schema(empty)
    answer = push(clone, empty)
    assert answer.returncode == 0, answer.stderr
    assert "Remote database is up to date" in answer.stdout + answer.stderr
    assert (record(empty), schema(empty)) == (VERSIONS, before)


def test_each_goes_on_where_the_other_stopped(
    clone: Path, empty: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((ROOT / "supabase/migrations").glob("*.sql"))
    first = tmp_path / "first"
    first.mkdir()
    for file in files[:2]:
        shutil.copy2(file, first)
    assert len(migrations.apply(empty, first)) == 2
    for file in files[4:]:
        (clone / "supabase/migrations" / file.name).unlink()
    answer = push(clone, empty)
    assert answer.returncode == 0, answer.stderr
    assert record(empty) == VERSIONS[:4]
    assert cli.main(["migrate", "--dsn", empty], {}) == 0
    assert capsys.readouterr().out.split()[1::2] == [file.name for file in files[4:]]


def test_push_and_ops_migrate_make_the_same_schema(
    clone: Path, empty: str, platform: Platform
) -> None:
    assert push(clone, empty).returncode == 0
    # The platform's own database was migrated by ops migrate's code.
    assert schema(empty) == schema(platform.admin_database_url)


@pytest.mark.parametrize("advisor", ["security", "performance"])
def test_the_advisors_warn_of_nothing(clone: Path, empty: str, advisor: str) -> None:
    assert push(clone, empty).returncode == 0
    answer = advise(clone, empty, advisor)
    assert answer.returncode == 0, answer.stdout


def test_the_advisors_would_warn(clone: Path, empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute("create table public.open (id int); grant select on public.open to anon")
    answer = advise(clone, empty, "security")
    assert answer.returncode != 0
    (warning,) = json.loads(answer.stdout)
    assert (warning["name"], warning["level"]) == ("rls_disabled_in_public", "ERROR")


def advise(clone: Path, url: str, advisor: str) -> subprocess.CompletedProcess[str]:
    words = ("--type", advisor, "--level", "warn", "--fail-on", "warn")
    return supabase(clone, "db", "advisors", f"--remote={url}", *words)


USE = """
import type { Database } from "./database";
type Lead = Database["public"]["Tables"]["leads"]["Row"];
export const name = (lead: Lead): string => lead.business_name;
"""


def test_the_generated_types_compile_and_know_the_columns(clone: Path, empty: str) -> None:
    assert push(clone, empty).returncode == 0
    answer = supabase(clone, "gen", "types", f"--remote={empty}", "--lang", "typescript")
    assert answer.returncode == 0, answer.stderr
    (clone / "database.ts").write_text(answer.stdout)
    (clone / "use.ts").write_text(USE)
    compiled = tsc(clone)
    assert compiled.returncode == 0, compiled.stdout
    (clone / "use.ts").write_text(USE.replace("lead.business_name", "lead.busines_name"))
    assert "error TS2551" in tsc(clone).stdout


def tsc(clone: Path) -> subprocess.CompletedProcess[str]:
    compiler = tools.ensure_node_packages() / ".bin" / "tsc"
    command = [str(compiler), "--noEmit", "--strict", "use.ts"]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)


def test_a_push_leaves_nothing_for_git(clone: Path, empty: str) -> None:
    before = files_of(clone)
    assert push(clone, empty).returncode == 0
    left = files_of(clone) - before
    result = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        input="\n".join(left),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert left
    assert set(result.stdout.split()) == left


def files_of(clone: Path) -> set[str]:
    files = (file for file in (clone / "supabase").rglob("*") if file.is_file())
    return {file.relative_to(clone).as_posix() for file in files}
