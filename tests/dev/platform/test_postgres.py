"""The local server: of the major asked for, and as a fresh Supabase project is."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dev import tools
from dev.platform import migrations, postgres_binaries, unprivileged
from dev.platform.local_platform import Platform
from dev.platform.postgres import Postgres
from tests.conftest import ROOT, both_majors

pytestmark = pytest.mark.slow

PASSWORD = "not-a-secret"


@pytest.fixture(params=[17, 15], ids=["pg17", "pg15"], scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Postgres]:
    folder = tmp_path_factory.mktemp("server") / "postgres"
    started = Postgres(folder, PASSWORD, durable=False, major=request.param)
    yield started
    started.close()


def ask(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def test_the_programs_are_of_the_major_that_was_asked_for(server: Postgres) -> None:
    [(version,)] = ask(server.dsn("postgres"), "show server_version_num")
    assert int(str(version)) // 10_000 == server.major
    for name in ("psql", "pg_dump", "pg_restore"):
        version = subprocess.check_output([server.tool(name), "--version"], text=True)
        assert f"(PostgreSQL) {server.major}." in version


def test_the_owner_is_no_superuser_and_supabase_admin_made_the_server(server: Postgres) -> None:
    rows = ask(
        server.dsn("postgres"),
        "select rolname, rolsuper from pg_roles where oid > 16000 or oid = 10",
    )
    roles = dict(rows)  # type: ignore[arg-type,var-annotated]
    assert [name for name, is_super in roles.items() if is_super] == ["supabase_admin"]
    assert {"postgres", "anon", "authenticated", "service_role", "authenticator"} <= set(roles)
    [(first,)] = ask(server.dsn("postgres"), "select rolname from pg_roles where oid = 10")
    assert first == "supabase_admin"


def test_every_new_database_has_supabases_grants_schemas_and_triggers(server: Postgres) -> None:
    migrations.ensure_database(server.dsn("postgres"), "fresh")
    for name in ("fresh", "postgres"):
        dsn = server.dsn(name)
        grantors = ask(
            dsn,
            "select distinct pg_get_userbyid(defaclrole) from pg_default_acl"
            " where defaclnamespace = 'public'::regnamespace order by 1",
        )
        assert grantors == [("postgres",), ("supabase_admin",)]
        schemas = {row[0] for row in ask(dsn, "select nspname from pg_namespace")}
        assert {"auth", "extensions", "graphql_public", "storage"} <= schemas
        assert ask(dsn, "select pubname from pg_publication") == [("supabase_realtime",)]
        triggers = {row[0] for row in ask(dsn, "select evtname from pg_event_trigger")}
        assert {"pgrst_ddl_watch", "pgrst_drop_watch", "issue_pg_cron_access"} <= triggers
        assert ask(dsn, "select extensions.digest('a', 'sha256') is not null") == [(True,)]
        [(owner,)] = ask(
            dsn,
            "select pg_get_userbyid(datdba) from pg_database where datname = current_database()",
        )
        assert owner == "postgres"


def test_the_owner_may_not_do_what_only_a_superuser_may(server: Postgres) -> None:
    for forbidden in (
        "alter default privileges for role supabase_admin in schema public grant all on tables"
        " to anon",
        "create role another superuser",
        "create extension file_fdw",
        "create event trigger ours on ddl_command_end"
        " execute function extensions.pgrst_ddl_watch()",
    ):
        with (
            psycopg.connect(server.dsn("postgres")) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(forbidden.encode())


def test_the_rest_api_is_notified_of_a_new_table(server: Postgres) -> None:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute("listen pgrst")
        connection.execute("create table public.heard (id int)")
        assert [notice.payload for notice in connection.notifies(timeout=2, stop_after=1)]
        connection.execute("drop table public.heard")


@both_majors
def test_our_tables_belong_to_the_owner_and_our_role_is_none_of_supabases(
    platform: Platform,
) -> None:
    owners = ask(
        platform.admin_database_url,
        "select distinct pg_get_userbyid(relowner) from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind = 'r'",
    )
    assert owners == [("postgres",)]
    [(user, is_super)] = ask(
        platform.database_url,
        "select current_user, rolsuper from pg_roles where rolname = current_user",
    )
    assert (user, is_super) == ("alfa_api_a", False)


def test_data_of_another_major_are_kept_aside_and_the_person_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "postgres"
    old = Postgres(folder, PASSWORD, durable=True, major=18)
    with psycopg.connect(old.dsn("postgres"), autocommit=True) as connection:
        connection.execute("create table precious as select 7 as n")
    old.close()
    capfd.readouterr()
    new = Postgres(folder, PASSWORD, durable=True)
    try:
        assert (
            ask(new.dsn("postgres"), "select 1 from pg_tables where tablename = 'precious'") == []
        )
    finally:
        new.close()
    error = capfd.readouterr().err
    old_data = new.data.with_name("data-18")
    assert "was made by PostgreSQL 18; this is 17" in error
    assert str(old_data) in error
    assert (old_data / "PG_VERSION").read_text().strip() == "18"
    old_data.rename(new.data.with_name("data-18-again"))
    shutil.rmtree(new.data)
    new.data.with_name("data-18-again").rename(new.data)
    again = Postgres(folder, PASSWORD, durable=True, major=18)
    try:
        assert ask(again.dsn("postgres"), "select n from precious") == [(7,)]
    finally:
        again.close()


def test_a_server_killed_during_its_setup_is_set_up_at_the_next_start(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "postgres"
    first = Postgres(folder, PASSWORD, durable=True)
    with psycopg.connect(first.dsn("template1", "supabase_admin"), autocommit=True) as connection:
        connection.execute("drop database postgres")  # as it is between the two it shapes
        connection.execute("create database postgres template template0")
    first.close()
    again = Postgres(folder, PASSWORD, durable=True)
    try:
        assert ask(again.dsn("postgres"), "select pubname from pg_publication")
    finally:
        again.close()


def test_every_library_the_programs_load_has_a_package_to_install_it() -> None:
    """Of those that do not come with the C library itself."""
    base = {"libc", "libm", "libresolv", "libgcc_s", "libstdc", "libpq", "libdl", "libpthread"}
    behind = {"libcom_err", "libk5crypto", "libkeyutils", "libkrb5", "libkrb5support",  # of krb5
              "libicudata", "libicuuc", "liblzma"}  # of libxml2  # fmt: skip
    folder = postgres_binaries.ensure(17)
    paths = [str(folder / "bin" / name) for name in ("postgres", "psql", "pg_dump", "initdb")]
    listed = subprocess.check_output(["ldd", *paths], text=True)
    names = {
        line.strip().split(".so")[0].rstrip("+") for line in listed.splitlines() if "=>" in line
    }
    assert names - base - behind <= set(postgres_binaries.LIBRARIES)
    assert postgres_binaries.missing_libraries(folder) == set()


def test_a_missing_library_is_seen_and_named(tmp_path: Path) -> None:
    target = tmp_path / "17"
    shutil.copytree(postgres_binaries.ensure(17), target)
    server = target / "bin" / "postgres"
    server.write_bytes(server.read_bytes().replace(b"libxml2.so.2\0", b"libxmlX.so.2\0"))
    assert postgres_binaries.missing_libraries(target) == {"libxmlX"}


def test_a_major_that_is_not_pinned_is_refused_by_name() -> None:
    with pytest.raises(tools.Missing, match="PostgreSQL 14 is not among those pinned here"):
        postgres_binaries.ensure(14)
    for major in postgres_binaries.MAJORS:
        text = (ROOT / "dev" / "platform" / "postgresql" / f"{major}.txt").read_text()
        assert f"=={major}." in text
        assert text.count("--hash=sha256:") == 4


def test_root_serves_from_copies_where_its_folders_are_closed_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    shutil.copytree(postgres_binaries.ensure(17), closed / "17.11.0", symlinks=True)
    closed.chmod(0o700)
    place = unprivileged.prepare(closed / "17.11.0", tmp_path / "data")
    if place.uid is not None:
        assert (place.package / "bin" / "postgres").exists()
        assert closed not in place.package.parents
