"""Loading a backup into a database: shared by the drill and the real restore.

A backup is read to its end and verified, and versions are compared, before anything is touched.
Dropping what is there and loading the backup are one transaction: a restore that fails leaves
what was there.
"""

import contextlib
import hashlib
import itertools
import secrets
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psycopg

from lib.problems import DecryptionError
from ops.command import Failed
from ops.progress import ProgressBar
from ops.recovery import archive, backup, clearing, manifest, postgres, stream_encryption
from ops.recovery.manifest import Manifest

ATTEMPTS, DEADLOCK = 3, "(40P01)"  # a function that was running may have won

PSQL = (
    *("--no-psqlrc", "--quiet", "--no-password", "--output=/dev/null"),
    *("--set=ON_ERROR_STOP=1", "--set=VERBOSITY=verbose", "--file=-"),
    # What is not in its environment: a server that no longer answers is given up.
    "--dbname=tcp_user_timeout=60000 keepalives_idle=30 keepalives_interval=10 keepalives_count=3",
)

TERMINATE_SESSIONS = """
select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = %(name)s
"""

# Only the restore's own transaction waits for all of our tables; others hold a few for a moment.
SELECT_BLOCKERS = """
select distinct l.pid, a.usename, extract(epoch from now() - a.xact_start)::float8
from pg_locks as l
join pg_stat_activity as a on a.pid = l.pid
join pg_class as c on c.oid = l.relation
where l.granted and l.locktype = 'relation' and c.relnamespace = any(%(schemas)s::regnamespace[])
  and l.database = (select oid from pg_database where datname = current_database())
  and a.xact_start < now() - interval '10 seconds' and a.application_name not like 'alfa-restore-%%'
"""


def verify_backup(
    folder: Path, backed_up: Manifest, keys: tuple[bytes, ...], *, quiet: bool
) -> None:
    """Read all of it: size, encryption, checksums. Raises Failed, saying what is wrong."""
    dump_checksum = hashlib.sha256()
    with _open_backup("check", folder, backed_up, quiet=quiet) as file:
        try:
            for piece in stream_encryption.decrypt(file, keys):  # type: ignore[arg-type]
                dump_checksum.update(piece)
        except DecryptionError:
            raise Failed(f"{backed_up.name} is damaged, or encrypted with another key") from None
    checksums = (file.checksum.hexdigest(), dump_checksum.hexdigest())
    if checksums != (backed_up.sealed_sha256, backed_up.dump_sha256):
        raise Failed(f"{backed_up.name} is not what its manifest says")


class _MeteredFile:
    """A file whose bytes are hashed and shown on a progress bar as they are read."""

    def __init__(self, file: IO[bytes], bar: ProgressBar) -> None:
        self._file, self.bar = file, bar
        self.checksum = hashlib.sha256()

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self.checksum.update(piece)
        self.bar.add(len(piece))
        return piece


@contextlib.contextmanager
def _open_backup(
    title: str, folder: Path, backed_up: Manifest, *, quiet: bool
) -> Iterator[_MeteredFile]:
    with (
        manifest.sealed_file(folder, backed_up.name).open("rb") as file,
        ProgressBar(title, backed_up.sealed_bytes, quiet=quiet) as bar,
    ):
        yield _MeteredFile(file, bar)


def _decrypt(file: Any, keys: tuple[bytes, ...]) -> Iterator[bytes]:
    try:
        yield from stream_encryption.decrypt(file, keys)
    except DecryptionError:
        raise Failed("the backup was changed while it was read") from None


def _read_dump(file: _MeteredFile, keys: tuple[bytes, ...]) -> Iterator[bytes]:
    yield from _decrypt(file, keys)
    file.bar.describe("all is read; Postgres applies it")  # indexes may take longer than the rows


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How a backup can be put into a database, found out before anything is touched."""

    pg_restore: Path
    server: int
    selection: archive.Selection
    tables: tuple[str, ...]

    @property
    def left_out(self) -> list[str]:
        return [f"left out: {entry}" for entry in self.selection.left_out]


def plan_load(dsn: str, folder: Path, backed_up: Manifest, keys: tuple[bytes, ...]) -> LoadPlan:
    """Compare versions and owners; nothing is changed. Raises Failed."""
    with postgres.connect(dsn) as connection:
        server = connection.info.server_version // 10_000
        roles = [role for (role,) in connection.execute(backup.SELECT_OWNER_ROLES)]
    with manifest.sealed_file(folder, backed_up.name).open("rb") as file:
        contents = archive.read_contents(_decrypt(file, keys))
    program = archive.choose_pg_restore(contents, server)
    selection = archive.select_entries(contents, backup.SCHEMAS, roles, backed_up.owners)
    tables = tuple(name for name in backed_up.tables if _is_selected(name, selection.entries))
    return LoadPlan(program, server, selection, tables)


def _is_selected(table: str, entries: Iterable[str]) -> bool:
    schema, _, name = table.partition(".")
    return any(f" TABLE DATA {schema} {name} " in entry for entry in entries)


def load(
    dsn: str, folder: Path, backed_up: Manifest, keys: tuple[bytes, ...], *, quiet: bool
) -> list[str]:
    """Replace our tables by those of a verified backup. Raises Failed.

    All or nothing, in one transaction: wherever it fails or is cut off, the database holds what it
    held. Returns what a person should know.
    """
    plan = plan_load(dsn, folder, backed_up, keys)
    notices: list[str] = []
    for attempts_left in reversed(range(ATTEMPTS)):
        with _open_backup("restore", folder, backed_up, quiet=quiet) as file:
            try:
                _load_in_transaction(dsn, plan, backed_up, _read_dump(file, keys), notices)
                break
            except Failed as error:
                if not (attempts_left and DEADLOCK in str(error)):
                    raise
    with postgres.connect(dsn) as connection:
        connection.execute("analyze")
    return [*plan.left_out, *notices]


def _load_in_transaction(
    dsn: str, plan: LoadPlan, backed_up: Manifest, dump: Iterator[bytes], notices: list[str]
) -> None:
    """One transaction in psql, which gets its COMMIT only after pg_restore succeeded."""
    name = f"alfa-restore-{secrets.token_hex(6)}"
    with postgres.connect(dsn) as connection:
        before = clearing.sql_before_data(connection, backed_up, backup.SCHEMAS, name)
        after = clearing.sql_after_data(
            connection, backed_up, list(plan.tables), backup.SET_TEXT_FORMATS
        )
    command = [str(_find_psql(plan.pg_restore)), *PSQL]
    committed = False
    try:
        with (
            postgres.run_program(command, postgres.libpq_environment(dsn), notices=notices) as psql,
            contextlib.closing(_restore_script(plan, dump)) as script,
        ):
            statements = itertools.chain([before], script, [after, b"commit;\n"])
            committed = _write_all(psql, statements)
    except BaseException as error:
        blockers = _end_transaction(dsn, name)
        if isinstance(error, Failed) and blockers:
            raise Failed(f"{error}; in the way: {blockers}") from None
        raise
    if not committed:
        raise Failed("psql ended before all was loaded: nothing was changed")


def _write_all(program: subprocess.Popen[bytes], pieces: Iterable[bytes]) -> bool:
    """False when the program stopped reading; its own error says why."""
    if program.stdin is None:
        raise ValueError("a child without a pipe")
    for piece in pieces:
        try:
            program.stdin.write(piece)
            program.stdin.flush()
        except BrokenPipeError:
            return False
    return True


def _restore_script(plan: LoadPlan, dump: Iterator[bytes]) -> Generator[bytes]:
    """The chosen part of the archive as SQL. Raises Failed where there is not all of it."""
    with tempfile.NamedTemporaryFile("w", suffix=".list") as entries:
        entries.write("\n".join(plan.selection.entries) + "\n")
        entries.flush()
        command = [str(plan.pg_restore), "--file=-", "--no-owner", "--use-list", entries.name]
        with postgres.run_program(command, postgres.base_environment()) as pg_restore:
            errors = postgres.write_in_thread(pg_restore, b"", dump)
            try:
                output = postgres.read_output(pg_restore)
                yield from archive.without_unknown_settings(output, plan.server)
            finally:
                if errors:
                    raise errors[0]


def _find_psql(pg_restore: Path) -> Path:
    """The one beside it: an older psql does not know every command of the script."""
    beside = pg_restore.with_name("psql")
    major = postgres.major_version(pg_restore)
    return beside if beside.exists() else postgres.find_program("psql", major, or_newer=True)


def _end_transaction(dsn: str, name: str) -> str:
    """End a failed transaction on the server; who else holds locks on our tables."""
    with contextlib.suppress(Failed, psycopg.Error), postgres.connect(dsn) as connection:
        rows = connection.execute(SELECT_BLOCKERS, {"schemas": list(backup.SCHEMAS)}).fetchall()
        connection.execute(TERMINATE_SESSIONS, {"name": name})
        return ", ".join(f"process {pid} ({user}, for {age:.0f} s)" for pid, user, age in rows)
    return ""


def differences(dsn: str, backed_up: Manifest, *, quiet: bool = True) -> list[str]:
    """Where the database differs from the manifest: rows, and contents to the last bit."""
    with postgres.connect(dsn) as connection, connection.transaction():
        connection.execute(backup.SET_TEXT_FORMATS)
        restored = backup.table_checksums(connection, quiet=quiet)
    lines = []
    for table in sorted({*restored, *backed_up.tables}):
        rows, contents = restored.get(table, [None, None])
        rows_then, contents_then = backed_up.tables.get(table, [None, None])
        if rows != rows_then:
            lines.append(f"{table}: {rows_then} rows in the backup, {rows} restored")
        elif contents != contents_then:
            lines.append(f"{table}: {rows} rows, contents differ")
    return lines
