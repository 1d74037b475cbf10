"""A restore is all or nothing: whatever fails, and whenever, the database holds what it held.

On servers shaped as Supabase's, where the restoring role is no superuser. Each failure is a real
one: another pg_dump's archive, a full disk, a held lock, a killed process.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from dev.faults.fault_proxy import FaultProxy
from dev.platform import postgres_binaries
from dev.platform.migrations import ensure_database
from dev.platform.postgres import Postgres
from ops.command import Failed
from ops.recovery import archive, backup, manifest, migrations, postgres, stream_encryption
from ops.recovery import load as recovery_load
from ops.recovery.manifest import Manifest
from tests.conftest import ROOT, eventually

KEYS = (bytes(range(32)),)
ROWS = 30_000

FILL = """
insert into spam (id, ref, received_at, reason, submission, locale)
select gen_random_uuid(), 'ALFA-' || n, now(), 'flood',
  jsonb_build_object('message', 'Nomor ' || n), 'id'
from generate_series(1, %s) as n
"""

LOAD = """
import sys
from pathlib import Path
from ops.recovery import load, manifest
dsn, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
keys = (bytes(range(32)),)
found = manifest.read(manifest.manifest_file(folder, name), keys)
print("begun", flush=True)
load.load(dsn, folder, found, keys, quiet=True)
"""


@dataclass
class Site:
    """One database of ours and a backup of it, which it has since moved on from."""

    server: Postgres
    dsn: str
    super_dsn: str
    folder: Path
    taken: Manifest

    def run(self, query: str, *, by: str = "") -> list[tuple[object, ...]]:
        with psycopg.connect(by or self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def load(self) -> list[str]:
        return recovery_load.load(self.dsn, self.folder, self.taken, KEYS, quiet=True)

    def picture(self) -> tuple[dict[str, list[object]], str]:
        """Every row's checksum, and everything that is no row, of all roles."""
        with psycopg.connect(self.super_dsn) as connection:
            connection.execute(backup.SET_TEXT_FORMATS)
            contents = backup.table_checksums(connection, quiet=True)
        dumped = subprocess.run(
            [self.server.tool("pg_dump"), "--schema-only"],
            env=postgres.libpq_environment(self.super_dsn),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        lines = [line for line in dumped.splitlines() if "restrict " not in line]
        return contents, "\n".join(lines)

    def refuses(self, words: str) -> None:
        before = self.picture()
        with pytest.raises(Failed, match=words):
            self.load()
        assert self.picture() == before, "as it was"

    def hold_instead(self, dump: bytes, **changed: object) -> None:
        """The same backup, soundly sealed and signed, of another archive."""
        sealed = b"".join(stream_encryption.encrypt([dump], KEYS[0]))
        manifest.sealed_file(self.folder, self.taken.name).write_bytes(sealed)
        sizes = {"sealed_bytes": len(sealed), "dump_bytes": len(dump), **changed}
        self.taken = replace(self.taken, **sizes).signed(KEYS[0])  # type: ignore[arg-type]
        manifest.write(self.folder, self.taken)

    def dump(self) -> bytes:
        with manifest.sealed_file(self.folder, self.taken.name).open("rb") as file:
            return b"".join(stream_encryption.decrypt(file, KEYS))

    def dumped_by(self, major: int, *, by: str = "") -> bytes:
        """What another pg_dump makes of the database as it is now."""
        program = postgres_binaries.ensure(major) / "bin" / "pg_dump"
        command = [
            str(program),
            "--format=custom",
            *(f"--schema={name}" for name in backup.SCHEMAS),
        ]
        return subprocess.run(
            command, env=postgres.libpq_environment(by or self.dsn), capture_output=True, check=True
        ).stdout


@pytest.fixture(params=[17, 15], ids=["pg17", "pg15"], scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Postgres]:
    folder = tmp_path_factory.mktemp("server") / "postgres"
    started = Postgres(folder, "secret", durable=False, major=request.param)
    yield started
    started.close()


@pytest.fixture
def site(server: Postgres, tmp_path: Path) -> Iterator[Site]:
    new_site = make(server, tmp_path / "backups", "alfa")
    yield new_site
    drop(server, "alfa")


def make(server: Postgres, folder: Path, name: str, prepare: str = "") -> Site:
    ensure_database(server.dsn("postgres"), name)
    dsn, super_dsn = server.dsn(name), server.dsn(name, "supabase_admin")
    migrations.apply(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(FILL, [1000])
    if prepare:
        with psycopg.connect(super_dsn) as connection:
            connection.execute(prepare.encode())
    taken = backup.take(dsn, folder, KEYS, quiet=True, recorded=False)
    with psycopg.connect(dsn) as connection:
        connection.execute(FILL.replace("'ALFA-'", "'LATER-'"), [10])
    return Site(server, dsn, super_dsn, folder, taken)


def drop(server: Postgres, name: str) -> None:
    with psycopg.connect(server.dsn("postgres", "supabase_admin"), autocommit=True) as connection:
        connection.execute(f"drop database if exists {name} with (force)".encode())


# ------------------------------------------------------------------ a restore that succeeds


def test_a_supabase_database_is_restored_in_place_and_is_the_same_but_for_its_rows(
    site: Site,
) -> None:
    schema = site.picture()[1]
    notices = site.load()
    assert recovery_load.differences(site.dsn, site.taken) == []
    assert site.picture()[1] == schema, "definitions, owners, grants and default privileges"
    left_out = [line for line in notices if "DEFAULT PRIVILEGES FOR TABLES supabase_admin" in line]
    assert len(left_out) == 1
    assert all(line.endswith("supabase_admin") for line in notices), notices


def test_it_is_restored_into_another_project_where_nothing_of_it_is(
    site: Site, server: Postgres
) -> None:
    site.run("create role analyst", by=site.super_dsn)
    try:
        site.run("grant select on products to analyst")
        site.run("create policy seen on products for select to analyst using (true)")
        site.run("create extension citext schema public")
        taken = backup.take(site.dsn, site.folder, KEYS, quiet=True, recorded=False)
        ensure_database(server.dsn("postgres"), "elsewhere")
        for name in ("alfa", "elsewhere"):
            site.run("drop owned by analyst cascade", by=server.dsn(name, "supabase_admin"))
        site.run("drop role analyst", by=site.super_dsn)
        there = server.dsn("elsewhere")
        notices = recovery_load.load(there, site.folder, taken, KEYS, quiet=True)
        assert "made the role analyst, which may not log in" in notices
        assert recovery_load.differences(there, taken) == []
        rights = "select has_table_privilege('analyst', 'products', 'select')"
        assert site.run(rights, by=there) == [(True,)]
        placed = (
            "select extnamespace::regnamespace::text from pg_extension where extname = 'citext'"
        )
        assert site.run(placed, by=there) == [("public",)]
    finally:
        drop(server, "elsewhere")
        site.run("drop owned by analyst; drop role analyst", by=site.super_dsn)


THEIRS = """
create table public.theirs (id int primary key, words text);
insert into public.theirs values (1, 'kept');
create function public.their_function() returns int language sql as 'select 1';
create type public.their_type as enum ('a');
create view public.their_view as select id from public.leads;
alter publication supabase_realtime add table public.products;
"""


def test_what_others_own_in_public_is_left_out_and_listed_and_stays_as_it_is(
    server: Postgres, tmp_path: Path
) -> None:
    site = make(server, tmp_path, "shared", THEIRS)
    try:
        assert site.taken.left_out == (
            "public.their_view of supabase_admin", "public.theirs of supabase_admin",
        )  # fmt: skip
        assert "public.theirs" not in site.taken.tables
        site.run("insert into public.theirs values (2, 'later')", by=site.super_dsn)
        notices = site.load()
        assert "left out: FUNCTION public their_function() supabase_admin" in notices
        assert "left out: TYPE public their_type supabase_admin" in notices
        assert "dropped with our tables: view public.their_view of supabase_admin" in notices
        published = "publication of table public.products in publication supabase_realtime"
        assert f"dropped with our tables: {published}" in notices
        assert site.run("select * from public.theirs order by 1", by=site.super_dsn) == [
            (1, "kept"), (2, "later"),
        ]  # fmt: skip
        assert site.run("select public.their_function()") == [(1,)]
        assert recovery_load.differences(site.dsn, site.taken) == []
    finally:
        drop(server, "shared")


def test_an_older_backup_with_what_others_own_in_it_is_restored_without(
    server: Postgres, tmp_path: Path
) -> None:
    site = make(server, tmp_path, "shared", THEIRS)
    try:
        rows = {"public.theirs": [1, "0"], **site.taken.tables}
        old = {"tables": rows, "owners": (), "grantees": (), "left_out": ()}
        with psycopg.connect(site.dsn) as connection:
            connection.execute("delete from spam where ref like 'LATER-%'")
        site.hold_instead(site.dumped_by(server.major, by=site.super_dsn), **old)
        notices = site.load()
        assert "left out: TABLE DATA public theirs supabase_admin" in notices
        assert site.run("select words from public.theirs", by=site.super_dsn) == [("kept",)]
        assert site.run("select count(*) from spam") == [(1000,)]
    finally:
        drop(server, "shared")


@pytest.mark.parametrize("major", [15, 17, 18])
def test_what_another_pg_dump_made_is_restored_into_the_server_it_came_from(
    site: Site, major: int
) -> None:
    """18 and 17 write archives and settings that 15 alone does not know."""
    if major < site.server.major:
        with pytest.raises(subprocess.CalledProcessError):
            site.dumped_by(major)  # it refuses a newer server itself
        return
    site.run("delete from spam where ref like 'LATER-%'")
    site.hold_instead(site.dumped_by(major))
    site.run("truncate spam")
    site.load()
    assert recovery_load.differences(site.dsn, site.taken) == []


def test_a_backup_of_15_is_restored_into_17(site: Site, tmp_path: Path) -> None:
    """Supabase's upgrade; the other way round is refused."""
    if site.server.major != 15:
        return
    newer = Postgres(tmp_path / "postgres", "secret", durable=False, major=17)
    try:
        there = newer.dsn("postgres")
        recovery_load.load(there, site.folder, site.taken, KEYS, quiet=True)
        assert recovery_load.differences(there, site.taken) == []
        taken = backup.take(there, site.folder, KEYS, quiet=True, recorded=False)
        before = site.picture()
        with pytest.raises(Failed, match="taken from PostgreSQL 17, the database is 15"):
            recovery_load.load(site.dsn, site.folder, taken, KEYS, quiet=True)
        assert site.picture() == before
    finally:
        newer.close()


def test_sessions_that_read_meanwhile_wait_and_see_either_all_or_all(site: Site) -> None:
    counts, faults, stop = set(), [], threading.Event()

    def look() -> None:
        try:
            with psycopg.connect(site.dsn, autocommit=True, prepare_threshold=None) as reading:
                while not stop.is_set():
                    counts.add(reading.execute("select count(*) from spam").fetchone())
        except psycopg.Error as fault:
            faults.append(fault)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        eventually(lambda: counts)
        site.load()
        eventually(lambda: (1000,) in counts)
    finally:
        stop.set()
        reader.join()
    assert not faults, faults
    assert counts == {(1010,), (1000,)}


def test_a_deadlock_with_a_function_that_is_running_is_tried_again(site: Site) -> None:
    name = conninfo_to_dict(site.dsn)["dbname"]
    site.run(f"alter database {name} set deadlock_timeout = '4s'", by=site.super_dsn)
    with psycopg.connect(site.super_dsn) as function:
        # Whoever's timeout ends first is cancelled: the restore.
        function.execute("set deadlock_timeout = '1min'")
        function.execute("lock table spam in row exclusive mode")

        def cross() -> None:
            waits = "select 1 from pg_locks where not granted and mode = 'AccessExclusiveLock'"
            eventually(lambda: site.run(waits, by=site.super_dsn))
            function.execute("select count(*) from leads")  # it holds that, and waits for spam
            function.commit()

        crossing = threading.Thread(target=cross)
        crossing.start()
        site.load()
        crossing.join()
    assert recovery_load.differences(site.dsn, site.taken) == []


def test_a_backup_is_made_by_the_servers_own_pg_dump(site: Site) -> None:
    contents = archive.read_contents(iter([site.dump()]))
    assert (contents.server_major, contents.pg_dump_major) == (site.server.major, site.server.major)


# ------------------------------------------------------------------ a restore that fails


def test_an_archive_from_a_newer_server_is_refused_in_words(site: Site) -> None:
    newer = site.dump().replace(
        f"{site.server.major}.".encode(), f"{site.server.major + 1}.".encode()
    )
    site.hold_instead(newer)
    site.refuses(f"the backup was taken from PostgreSQL {site.server.major + 1}, the database is"
                 f" {site.server.major}.*Restore into PostgreSQL")  # fmt: skip


def test_an_archive_of_a_version_nobody_knows_is_refused_in_words(site: Site) -> None:
    dump = bytearray(site.dump())
    dump[6] = 99
    site.hold_instead(bytes(dump))
    site.refuses(r"the archive is of version 1\.99; known are 1\.14, 1\.15, 1\.16")
    site.hold_instead(b"nothing of the kind")
    site.refuses("holds no archive of pg_dump")


def test_a_pg_restore_that_is_nowhere_is_named_with_what_to_install(
    site: Site,
) -> None:
    contents = archive.TableOfContents(server_major=site.server.major, pg_dump_major=99, entries=())
    with pytest.raises(Failed, match=r"pg_restore 99 is wanted.*postgresql-client-99"):
        archive.choose_pg_restore(contents, site.server.major)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "an unknown setting": (
        lambda d: d.replace(b"SET search_path", b"SET searchXpath"),
        "42704|22023",  # it is unknown, or takes one value
    ),
    "an unknown language": (lambda d: d.replace(b"LANGUAGE plpgsql", b"LANGUAGE plpgsqX"), "42704"),
    "half an archive": (lambda d: d[: len(d) - len(d) // 3], "pg_restore|psql"),
    "a byte of the data": (
        lambda d: d[: len(d) * 9 // 10] + b"\0" + d[len(d) * 9 // 10 + 1 :],
        ".",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_archive_that_fails_in_the_middle_changes_nothing(site: Site, damage: str) -> None:
    broken, words = DAMAGES[damage]
    dump = broken(site.dump())
    assert dump != site.dump()
    site.hold_instead(dump)
    site.refuses(words)


def test_default_privileges_of_a_role_we_are_not_fail_and_change_nothing(site: Site) -> None:
    """Where the list of contents does not tell: the entry says `postgres`, its SQL another."""
    site.run("create role stranger", by=site.super_dsn)
    try:
        words = b"ALTER DEFAULT PRIVILEGES FOR ROLE postgres"
        dump = site.dump().replace(words, words.replace(b"postgres", b"stranger"))
        assert dump != site.dump()
        site.hold_instead(dump)
        site.refuses("42501")
    finally:
        site.run("drop role stranger", by=site.super_dsn)


def test_a_backup_that_is_not_what_its_manifest_says_is_not_kept(site: Site) -> None:
    rows, contents = site.taken.tables["public.spam"]
    for counted, words in (([rows + 1, contents], "1001 rows in the backup, 1000 restored"),
                        ([rows, "7"], "1000 rows, contents differ")):  # fmt: skip
        site.hold_instead(site.dump(), tables={**site.taken.tables, "public.spam": counted})
        site.refuses(words)


def test_a_backup_by_nobody_we_are_is_refused(site: Site) -> None:
    dump = site.dump().replace(b"\x08\x00\x00\x00postgres", b"\x08\x00\x00\x00stranger")
    site.hold_instead(dump, owners=())
    site.refuses("nothing in the backup belongs to the role that restores")


def test_a_lock_that_somebody_holds_is_waited_for_and_then_named(site: Site) -> None:
    if site.server.major != 17:
        return  # the wait takes 20 s
    before = site.picture()
    with psycopg.connect(site.dsn) as holding:
        holding.execute("select from spam limit 1 for update")
        pid = holding.info.backend_pid
        words = rf"lock timeout.*in the way: process {pid} \(postgres, for 2\d s\)"
        with pytest.raises(Failed, match=words):
            site.load()
    assert site.picture() == before
    site.load()
    assert recovery_load.differences(site.dsn, site.taken) == []


def test_a_connection_that_is_cut_changes_nothing(site: Site) -> None:
    site.run(f"truncate spam; {FILL % ROWS}")
    site.taken = backup.take(site.dsn, site.folder, KEYS, quiet=True, recorded=False)
    site.run("delete from spam where ref like '%7'")
    before = site.picture()
    proxy = FaultProxy("127.0.0.1", site.server.port)

    def cut() -> None:
        eventually(lambda: at_work(site))
        proxy.switch("kill")

    try:
        cutting = threading.Thread(target=cut)
        cutting.start()
        there = site.dsn.replace(f":{site.server.port}/", f":{proxy.port}/")
        with pytest.raises(Failed, match="connection"):
            recovery_load.load(there, site.folder, site.taken, KEYS, quiet=True)
        cutting.join()
    finally:
        proxy.close()
    eventually(lambda: not at_work(site), 20)
    assert site.picture() == before


@pytest.fixture
def small_disk(server: Postgres) -> Iterator[Path]:
    """24 megabytes, where the server's user may write."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own can be mounted by root alone")
    place = server.data.parent / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=True)
    os.chown(place, server.data.stat().st_uid, -1)
    place.chmod(0o700)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_fills_up_changes_nothing(
    server: Postgres, small_disk: Path, tmp_path: Path
) -> None:
    root = server.dsn("postgres", "supabase_admin")
    with psycopg.connect(root, autocommit=True) as connection:
        connection.execute(f"create tablespace small location '{small_disk}'".encode())
        connection.execute("create database cramped owner postgres tablespace small")
    try:
        site = make(server, tmp_path, "cramped")
        filler = small_disk / "filler"
        room = os.statvfs(small_disk)
        filler.write_bytes(b"x" * (room.f_bavail * room.f_bsize - 400_000))
        site.refuses(r"No space left on device|could not (extend|write|create)")
        filler.unlink()
        site.load()
        assert recovery_load.differences(site.dsn, site.taken) == []
    finally:
        drop(server, "cramped")
        with psycopg.connect(root, autocommit=True) as connection:
            connection.execute("checkpoint")
            connection.execute("drop tablespace small")


def test_a_restore_killed_at_ten_moments_leaves_all_of_one_or_all_of_the_other(
    site: Site,
) -> None:
    site.run(f"truncate spam; {FILL % ROWS}")
    site.taken = backup.take(site.dsn, site.folder, KEYS, quiet=True, recorded=False)
    site.run("delete from spam where ref like '%7'")
    before = site.picture()
    took_s = time.monotonic()
    site.load()
    took_s = time.monotonic() - took_s
    after = site.picture()
    site.run("delete from spam where ref like '%7'")
    assert site.picture() == before
    chance = random.Random(20261128)
    command = [sys.executable, "-c", LOAD, site.dsn, str(site.folder), site.taken.name]
    outcomes = []
    for number in range(10):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            running.stdout.readline()
            time.sleep(took_s * (number + chance.random()) / 10)
            running.kill()
        eventually(lambda: not at_work(site), 20)
        there = site.picture()
        assert there in (before, after), f"killed as number {number}"
        outcomes.append(there == after)
        if there == after:
            site.run("delete from spam where ref like '%7'")
    assert not all(outcomes), "at least one was killed before its end"


def at_work(site: Site) -> list[tuple[object, ...]]:
    return site.run(
        "select 1 from pg_stat_activity where application_name like 'alfa-restore-%'",
        by=site.super_dsn,
    )
