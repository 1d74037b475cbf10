"""Our own backups: sealed, counted in their own snapshot, whole or none; no secret is shown."""

import io
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from dev.platform.migrations import ensure_database
from dev.platform.pgbouncer import PgBouncer
from lib.problems import DecryptionError
from lib.settings import encryption_keys as read_keys
from ops import cli
from ops.command import Failed
from ops.recovery import backup, load, manifest, migrations, postgres, stream_encryption
from ops.recovery.manifest import Manifest
from tests.conftest import LEAD, ROOT, both_majors, eventually
from tests.ops.terminal import Terminal

type Rows = psycopg.Connection[DictRow]

pytestmark = both_majors
type Printed = pytest.CaptureFixture[str]

KEY, OTHER = bytes(range(32)), bytes(32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def ops(platform: Platform, folder: Path, *arguments: str, **changed: str) -> int:
    environ = {**platform.environment, "BACKUP_DIRECTORY": str(folder), **changed}
    return cli.main(list(arguments), environ)


def key(platform: Platform) -> tuple[bytes, ...]:
    return read_keys(platform.environment["BACKUP_ENCRYPTION_KEY"])


def the_backup(platform: Platform, folder: Path) -> Manifest:
    [backup_manifest], faults = manifest.list_backups(folder, key(platform))
    assert faults == []
    return backup_manifest


def post(platform: Platform, number: int) -> str:
    lead = {**LEAD, "message": f"Nomor {number}", "email": ""}
    answer = httpx.post(f"{platform.url}/api/leads", json=lead, timeout=20)
    assert answer.status_code in (200, 202), answer.text
    lead_id: str = answer.json()["id"]
    return lead_id


# ------------------------------------------------------------------ sealing


def sealed(text: bytes, by: bytes = KEY) -> bytes:
    return b"".join(stream_encryption.encrypt([text], by))


def opened(text: bytes, *by: bytes) -> bytes:
    return b"".join(stream_encryption.decrypt(io.BytesIO(text), by or (KEY,)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3 * stream_encryption.CHUNK_BYTES // 2), max_size=4))
def test_what_is_encrypted_is_decrypted_whatever_the_chunk_sizes(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    whole = b"".join(stream_encryption.encrypt(pieces, KEY))
    assert opened(whole) == b"".join(pieces)


def test_a_previous_key_still_decrypts() -> None:
    assert opened(sealed(b"leads", OTHER), KEY, OTHER) == b"leads"
    with pytest.raises(DecryptionError):
        opened(sealed(b"leads", OTHER))


def test_decryption_fails_after_every_kind_of_change() -> None:
    three = sealed(os.urandom(3 * stream_encryption.CHUNK_BYTES))
    head = len(stream_encryption.MAGIC) + 24
    size = stream_encryption.CHUNK_BYTES + 17
    first, second, third = (three[head + n * size : head + (n + 1) * size] for n in range(3))
    changed = bytearray(three)
    changed[len(three) // 2] ^= 1
    for broken in (
        b"",
        bytes(changed),
        three[:-1],
        three[: head + 2 * size],  # cut off between two chunks
        three[:head] + second + first + third,
        three[:head] + first + first + second + third,
        three + b"x",
        b"ALFA-BACKUP-2\n" + three[len(stream_encryption.MAGIC) :],
    ):
        with pytest.raises(DecryptionError):
            opened(broken)


# ------------------------------------------------------------------ taking one


@pytest.fixture
def scratch(platform: Platform) -> Iterator[str]:
    """Another database of the server, as a fresh Supabase project has it."""
    server = platform.postgres.dsn("postgres")
    ensure_database(server, "scratch")
    dsn = platform.postgres.dsn("scratch")
    yield dsn
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("drop database scratch with (force)")


def restored(platform: Platform, folder: Path, dsn: str) -> Manifest:
    taken = the_backup(platform, folder)
    load.verify_backup(folder, taken, key(platform), quiet=True)
    load.load(dsn, folder, taken, key(platform), quiet=True)
    return taken


def test_a_backup_taken_while_leads_come_in_is_exactly_what_its_manifest_says(
    platform: Platform, database: Rows, folder: Path, scratch: str
) -> None:
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(platform.admin_database_url, autocommit=True) as other:
            number = 0
            while not stop.is_set():
                number += 1
                other.execute(
                    "insert into spam (id, ref, received_at, reason, submission, locale)"
                    " values (gen_random_uuid(), 'ALFA-' || %s, now(), 'flood', '{}', 'id')",
                    [str(number)],
                )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        eventually(lambda: database.execute("select 1 from spam offset 50").fetchone())
        assert ops(platform, folder, "backup") == 0
    finally:
        stop.set()
        writer.join()
    taken = restored(platform, folder, scratch)
    counted = database.execute("select count(*) as n from spam").fetchone()
    assert counted is not None
    assert 50 < taken.tables["public.spam"][0] < counted["n"], "counted where it was dumped"
    assert load.differences(scratch, taken) == []


def test_a_restored_database_is_the_same_to_the_last_bit_and_right(
    platform: Platform, database: Rows, folder: Path, scratch: str
) -> None:
    post(platform, 1)
    eventually(
        lambda: database.execute("select 1 from outbox where sent_at is not null").fetchone()
    )
    assert ops(platform, folder, "backup") == 0
    taken = restored(platform, folder, scratch)
    assert load.differences(scratch, taken) == []
    newest = sorted((ROOT / "supabase" / "migrations").glob("*.sql"))[-1]
    assert taken.schema_version == newest.name.partition("_")[0]
    assert migrations.apply(scratch, newest.parent) == []
    with psycopg.connect(scratch, autocommit=True) as there:
        rights = "select has_table_privilege(%s, 'public.leads', 'select')"
        for role, may in (("anon", False), ("alfa_app", True)):
            assert there.execute(rights, [role]).fetchone() == (may,)
        secured = "select relrowsecurity from pg_class where oid = 'public.leads'::regclass"
        assert there.execute(secured).fetchone() == (True,)
        there.execute("update leads set city = 'Bandung'")
    [difference] = load.differences(scratch, taken)
    assert difference == "public.leads: 1 rows, contents differ"


def test_a_backup_is_recorded_with_its_figures_and_no_personal_data(
    platform: Platform, database: Rows, folder: Path, capsys: Printed
) -> None:
    post(platform, 1)
    assert ops(platform, folder, "backup", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    row = database.execute("select * from backups").fetchone()
    assert row is not None
    assert (row["source"], row["status"]) == ("own", "COMPLETED")
    assert row["taken_at"] == datetime.fromisoformat(report["taken_at"])
    assert row["facts"]["sha256"] == the_backup(platform, folder).sealed_sha256
    everything = b"".join(file.read_bytes() for file in folder.iterdir())
    for secret in (b"Barber Maju Jaya", b"+6281234567890", b"INSERT", b"PGDMP"):
        assert secret not in everything


def test_a_dry_run_writes_nothing(
    platform: Platform, database: Rows, folder: Path, capsys: Printed
) -> None:
    assert ops(platform, folder, "backup", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tables"] > 10
    assert not folder.exists()
    assert database.execute("select 1 from backups").fetchall() == []


def test_files_are_the_owners_alone(platform: Platform, database: Rows, folder: Path) -> None:
    assert ops(platform, folder, "backup") == 0
    sealed_file = manifest.sealed_file(folder, the_backup(platform, folder).name)
    assert stat.S_IMODE(sealed_file.stat().st_mode) == 0o600


# ------------------------------------------------------------------ what goes wrong


def pretend(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> Path:
    """A pg_dump of ours before every other; the real one is $REAL."""
    postgres.major_version.cache_clear()
    real = platform.postgres.tool("pg_dump")
    tools = tmp_path / "bin"
    tools.mkdir()
    fake = tools / "pg_dump"
    fake.write_text(
        "#!/bin/sh\n"
        f'REAL={real}\n[ "$1" = --version ] && exec $REAL --version\n'
        f"OUT={tmp_path}\n{script}\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tools


def test_no_secret_is_in_the_arguments_of_a_child(
    platform: Platform, database: Rows, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    pretend(
        platform, tmp_path, monkeypatch, 'echo "$@" > $OUT/seen; env > $OUT/env; exec $REAL "$@"'
    )
    assert ops(platform, folder, "backup") == 0
    password = urlsplit(platform.admin_database_url).password or ""
    assert password
    assert password not in (tmp_path / "seen").read_text()
    environment = (tmp_path / "env").read_text()
    assert f"PGPASSWORD={password}" in environment
    assert "UPSTASH" not in environment


def test_a_dump_that_dies_leaves_no_backup_and_is_recorded_as_failed(
    platform: Platform, database: Rows, folder: Path, tmp_path: Path, monkeypatch: Any,
    capsys: Printed,
) -> None:  # fmt: skip
    script = (
        "head -c 3000000 /dev/zero\n"
        "echo 'pg_dump: error: connection lost' >&2\n"
        "echo 'DETAIL: Key (email)=(andi@example.com)' >&2; exit 1"
    )
    pretend(platform, tmp_path, monkeypatch, script)
    assert ops(platform, folder, "backup") == 1
    error = capsys.readouterr().err
    assert "connection lost" in error
    assert "andi@example.com" not in error
    assert manifest.list_backups(folder, key(platform)) == ([], [])
    assert list(folder.glob("*.sealed")) == list(folder.glob("*.json")) == []
    row = database.execute("select source, status from backups").fetchone()
    assert row == {"source": "own", "status": "FAILED"}
    monkeypatch.undo()
    assert ops(platform, folder, "backup") == 0
    assert the_backup(platform, folder).rows > 0


def test_a_backup_killed_in_the_middle_is_none_and_the_next_one_works(
    platform: Platform, database: Rows, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    pretend(platform, tmp_path, monkeypatch, "head -c 5000000 /dev/zero; touch $OUT/half; sleep 60")
    environ = {**os.environ, **platform.environment, "BACKUP_DIRECTORY": str(folder)}
    command = [sys.executable, "-m", "ops.cli", "backup"]
    with subprocess.Popen(command, env=environ, cwd=ROOT) as running:
        try:
            eventually((tmp_path / "half").exists, 20)
        finally:
            running.kill()
    assert list(folder.glob(".*.part"))
    assert manifest.list_backups(folder, key(platform)) == ([], [])
    long_ago = (datetime.now(UTC) - backup.STALE_PARTIAL_AGE - timedelta(hours=1)).timestamp()
    for part in folder.glob(".*.part"):
        os.utime(part, (long_ago, long_ago))
    monkeypatch.undo()
    assert ops(platform, folder, "backup") == 0
    assert the_backup(platform, folder).rows > 0
    assert list(folder.glob(".*.part")) == []


@pytest.mark.parametrize("missing", ["DATABASE_DIRECT_URL", "BACKUP_ENCRYPTION_KEY",
                                     "BACKUP_DIRECTORY"])  # fmt: skip
def test_a_missing_variable_is_named(platform: Platform, capsys: Printed, missing: str) -> None:
    for command in (["backup"], ["backups", "--record"], ["restore"]):
        environ = {k: v for k, v in platform.environment.items() if k != missing}
        assert cli.main(command, environ) == 2
        assert missing in capsys.readouterr().err


def test_a_transaction_pooler_is_refused_by_its_port_and_by_how_it_behaves(
    platform: Platform, database: Rows, folder: Path, capsys: Printed
) -> None:
    supabase = "postgresql://postgres.ref:secret@aws-0.pooler.supabase.com:6543/postgres"
    pooler = PgBouncer(platform.admin_database_url)
    try:
        for dsn in (supabase, pooler.dsn):
            assert ops(platform, folder, "backup", DATABASE_DIRECT_URL=dsn) == 2
            error = capsys.readouterr().err
            assert "transaction pooler" in error
            assert "secret" not in error
    finally:
        pooler.close()


def test_a_server_that_is_gone_is_said_without_its_address(
    platform: Platform, folder: Path, capsys: Printed
) -> None:
    dsn = "postgresql://postgres:geheim@127.0.0.1:1/alfa"
    assert ops(platform, folder, "backup", DATABASE_DIRECT_URL=dsn) == 1
    output = capsys.readouterr()
    assert "the server does not listen there" in output.err
    assert "geheim" not in output.err + output.out


@pytest.mark.parametrize("elsewhere", ["/a/postgres/bin/pg_dump", "/z/postgres/bin/pg_dump"])
def test_of_two_programs_alike_the_one_on_the_path_runs(
    monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    programs = {Path("/on/the/path/pg_dump"): 18, Path(elsewhere): 18, Path("/newer/pg_dump"): 19}
    monkeypatch.setattr(postgres, "_installed", lambda _name: iter(programs))
    monkeypatch.setattr(postgres, "major_version", programs.__getitem__)
    assert postgres.find_program("pg_dump", 18) == Path("/on/the/path/pg_dump")


def test_a_dump_is_taken_with_the_servers_own_major_and_no_other() -> None:
    for major in (15, 17):
        assert postgres.major_version(postgres.find_program("pg_dump", major)) == major
    with pytest.raises(Failed, match=r"pg_dump 99 is wanted; found: .*postgresql-client-99"):
        postgres.find_program("pg_dump", 99)


# ------------------------------------------------------------------ a folder of them


def test_a_backup_that_was_changed_is_found_before_anything_is_dropped(
    platform: Platform, database: Rows, folder: Path
) -> None:
    assert ops(platform, folder, "backup") == 0
    taken = the_backup(platform, folder)
    file = manifest.sealed_file(folder, taken.name)
    whole = file.read_bytes()
    broken = bytearray(whole)
    broken[-20] ^= 1
    file.write_bytes(bytes(broken))
    with pytest.raises(Failed, match="damaged"):
        load.verify_backup(folder, taken, key(platform), quiet=True)
    with pytest.raises(Failed, match="another key"):
        load.verify_backup(folder, taken, (OTHER,), quiet=True)
    exchanged = b"".join(
        stream_encryption.encrypt([os.urandom(taken.dump_bytes)], key(platform)[0])
    )
    assert len(exchanged) == len(whole)
    file.write_bytes(exchanged)  # sealed by us, and of the same size
    with pytest.raises(Failed, match="not what its manifest says"):
        load.verify_backup(folder, taken, key(platform), quiet=True)
    file.write_bytes(whole[:-1])
    assert manifest.list_backups(folder, key(platform))[0] == []


def test_a_manifest_that_was_changed_or_exchanged_is_rejected(
    platform: Platform, database: Rows, folder: Path
) -> None:
    assert ops(platform, folder, "backup") == 0
    taken = the_backup(platform, folder)
    file = manifest.manifest_file(folder, taken.name)
    values = json.loads(file.read_text())
    values["tables"]["public.leads"][0] = 7
    file.write_text(json.dumps(values))
    assert "somebody changed it" in manifest.list_backups(folder, key(platform))[1][0]
    file.write_text("{}")
    assert "no manifest" in manifest.list_backups(folder, key(platform))[1][0]


def test_old_backups_go_and_the_newest_stays_whatever_its_age() -> None:
    now = datetime.now(UTC)

    def aged(days: int) -> Manifest:
        return Manifest(
            f"alfa-{days}", now - timedelta(days=days), 1, "", 0, {}, {}, 0, "", 0, "", ""
        )

    assert [old.name for old in backup.expired([aged(1), aged(29), aged(31)], now, 30)] == [
        "alfa-31"
    ]
    assert backup.expired([aged(99)], now, 30) == []


def expired_copy(platform: Platform, folder: Path) -> str:
    """A good backup of 31 days ago beside the newest; its name."""
    newest = the_backup(platform, folder)
    at = newest.taken_at - timedelta(days=31)
    old = replace(newest, name=f"alfa-{at:%Y%m%dT%H%M%S%fZ}", taken_at=at)
    whole = manifest.sealed_file(folder, newest.name).read_bytes()
    manifest.sealed_file(folder, old.name).write_bytes(whole)
    manifest.write(folder, old.signed(key(platform)[0]))
    return old.name


def test_expired_backups_are_deleted_only_after_a_yes_and_the_new_one_is_taken_anyway(
    platform: Platform, database: Rows, folder: Path, capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert ops(platform, folder, "backup") == 0
    old = expired_copy(platform, folder)
    assert ops(platform, folder, "backup") == 0
    error = capsys.readouterr().err
    assert old in error
    assert "They were kept; add --yes" in error
    terminal = Terminal("no\n")
    monkeypatch.setattr("sys.stdin", terminal)
    assert ops(platform, folder, "backup") == 0
    assert terminal.questions == 1
    assert "the older backups were kept" in capsys.readouterr().err
    assert manifest.sealed_file(folder, old).exists()
    assert ops(platform, folder, "backup", "--yes", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["removed"], report["expired"]) == ([old], [])
    assert not manifest.sealed_file(folder, old).exists()
    assert len(manifest.list_backups(folder, key(platform))[0]) == 4
