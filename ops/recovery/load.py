"""Putting a backup back into a database: the parts that the drill and the real restore share.

A backup is read to its end and found whole, and versions are compared, before anything is
touched. Dropping what is there and loading the backup are one transaction: a restore that fails
leaves what was there.
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
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from lib.problems import DecryptionError
from ops.command import Failed
from ops.progress import ProgressBar
from ops.recovery import archive, backup, clearing, manifest, postgres, stream_encryption
from ops.recovery.manifest import Manifest

APP_GROUP = "alfa_app"
STATEMENT_TIMEOUT = "8s"

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

# A mail the backup knows as unsent may have left after it was taken. Marked so, it is tried again
# only while Resend still knows its idempotency key; then a person looks at it.
MARK_MAILS_UNCERTAIN = """
update outbox set uncertain = true, first_attempt_at = coalesce(first_attempt_at, created_at),
  leased_until = null
where sent_at is null and dead_at is null
"""


def verify_backup(
    folder: Path, backed_up: Manifest, keys: tuple[bytes, ...], *, quiet: bool
) -> None:
    """Read all of it: bytes, seals, checksums. Raises Failed, saying what is wrong."""
    seen, opened = hashlib.sha256(), hashlib.sha256()
    with (
        manifest.sealed_file(folder, backed_up.name).open("rb") as file,
        ProgressBar("check", backed_up.sealed_bytes, quiet=quiet) as bar,
    ):
        try:
            for piece in stream_encryption.decrypt(_MeteredFile(file, seen, bar), keys):  # type: ignore[arg-type]
                opened.update(piece)
        except DecryptionError:
            raise Failed(f"{backed_up.name} is damaged, or sealed with another key") from None
    sums = (seen.hexdigest(), opened.hexdigest())
    if sums != (backed_up.sealed_sha256, backed_up.dump_sha256):
        raise Failed(f"{backed_up.name} is not what its manifest says")


class _MeteredFile:
    """A file whose bytes are summed and shown as they are read."""

    def __init__(self, file: IO[bytes], seen: Any, bar: ProgressBar) -> None:
        self._file, self._checksum, self._bar = file, seen, bar

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._checksum.update(piece)
        self._bar.add(len(piece))
        return piece


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How a backup can be put into a database, found out before anything is touched."""

    pg_restore: Path
    server: int
    selection: archive.Selection
    tables: tuple[str, ...]

    @property
    def left_out(self) -> list[str]:
        return [f"left out: {words}" for words in self.selection.left_out]


def plan_load(dsn: str, folder: Path, backed_up: Manifest, keys: tuple[bytes, ...]) -> LoadPlan:
    """Compare versions and owners; nothing is changed. Raises Failed."""
    with postgres.connect(dsn) as connection:
        server = connection.info.server_version // 10_000
        roles = [role for (role,) in connection.execute(backup.SELECT_OWNER_ROLES)]
    with manifest.sealed_file(folder, backed_up.name).open("rb") as file:
        found = archive.read_contents(_decrypt(file, keys))
    program = archive.choose_pg_restore(found, server)
    selection = archive.select_entries(found, backup.SCHEMAS, roles, backed_up.owners)
    tables = tuple(name for name in backed_up.tables if _is_selected(name, selection.entries))
    return LoadPlan(program, server, selection, tables)


def _is_selected(table: str, lines: Iterable[str]) -> bool:
    schema, _, name = table.partition(".")
    return any(f" TABLE DATA {schema} {name} " in line for line in lines)


def load(
    dsn: str, folder: Path, backed_up: Manifest, keys: tuple[bytes, ...], *, quiet: bool
) -> list[str]:
    """Replace what the database holds of ours by a backup that was checked. Raises Failed.

    All or nothing, in one transaction: what is dropped and what is loaded. Whatever fails, and
    wherever it is cut off, the database holds what it held. Returns what a person should know.
    """
    planned = plan_load(dsn, folder, backed_up, keys)
    heard: list[str] = []
    for tries_left in reversed(range(ATTEMPTS)):
        with (
            manifest.sealed_file(folder, backed_up.name).open("rb") as file,
            ProgressBar("restore", backed_up.sealed_bytes, quiet=quiet) as bar,
        ):
            source = _decrypt(_MeteredFile(file, hashlib.sha256(), bar), keys)
            try:
                _load_in_transaction(dsn, planned, backed_up, source, heard)
                break
            except Failed as fault:
                if not (tries_left and DEADLOCK in str(fault)):
                    raise
    with postgres.connect(dsn) as connection:
        connection.execute("analyze")
    return [*planned.left_out, *heard]


def _load_in_transaction(
    dsn: str,
    planned: LoadPlan,
    backed_up: Manifest,
    source: Iterator[bytes],
    heard: list[str],
) -> None:
    """One transaction in psql, which is given its COMMIT only when pg_restore ended well."""
    name = f"alfa-restore-{secrets.token_hex(6)}"
    with postgres.connect(dsn) as connection:
        before = clearing.sql_before_data(connection, backed_up, backup.SCHEMAS, name)
        after = clearing.sql_after_data(
            connection, backed_up, list(planned.tables), backup.SET_TEXT_FORMATS
        )
    psql = [str(_find_psql(planned.pg_restore)), *PSQL]
    committed = False
    try:
        with (
            postgres.run_program(psql, postgres.libpq_environment(dsn), heard=heard) as sink,
            contextlib.suppress(_PsqlExited),  # its own words say why
            contextlib.closing(_restore_script(planned, source)) as script,
        ):
            for piece in itertools.chain([before], script, [after]):
                _write_to_psql(sink, piece)
            _write_to_psql(sink, b"commit;\n")
            committed = True
    except BaseException as fault:
        blockers = _end_transaction(dsn, name)
        if isinstance(fault, Failed) and blockers:
            raise Failed(f"{fault}; in the way: {blockers}") from None
        raise
    if not committed:
        raise Failed("psql ended before all was loaded: nothing was changed")


def _restore_script(planned: LoadPlan, source: Iterator[bytes]) -> Generator[bytes]:
    """The chosen part of the archive as SQL. Raises Failed where there is not all of it."""
    command = [str(planned.pg_restore), "--file=-", "--no-owner", "--use-list"]
    with (
        _entry_list_file(planned.selection) as chosen,
        postgres.run_program([*command, chosen], postgres.base_environment()) as child,
    ):
        faults = postgres.write_in_thread(child, b"", source)
        try:
            said = postgres.read_output(child)
            yield from archive.without_unknown_settings(said, planned.server)
        finally:
            if faults:
                raise faults[0]


def _find_psql(pg_restore: Path) -> Path:
    """The one beside it: an older psql does not know every command of the script."""
    beside = pg_restore.with_name("psql")
    major = postgres.major_version(pg_restore)
    return beside if beside.exists() else postgres.find_program("psql", major, or_newer=True)


@contextlib.contextmanager
def _entry_list_file(selection: archive.Selection) -> Iterator[str]:
    """A file for `pg_restore --use-list`, for as long as it is read."""
    with tempfile.NamedTemporaryFile("w", suffix=".list") as file:
        file.write("\n".join(selection.entries) + "\n")
        file.flush()
        yield file.name


class _PsqlExited(Exception):
    """psql reads no more."""


def _write_to_psql(sink: subprocess.Popen[bytes], piece: bytes) -> None:
    try:
        if sink.stdin is not None:
            sink.stdin.write(piece)
            sink.stdin.flush()
    except BrokenPipeError:
        raise _PsqlExited from None


def _end_transaction(dsn: str, name: str) -> str:
    """Have the server forget a transaction that failed; who else holds locks on our tables."""
    with contextlib.suppress(Failed, psycopg.Error), postgres.connect(dsn) as connection:
        blockers = connection.execute(SELECT_BLOCKERS, {"schemas": list(backup.SCHEMAS)}).fetchall()
        connection.execute(TERMINATE_SESSIONS, {"name": name})
        return ", ".join(f"process {pid} ({user}, for {age:.0f} s)" for pid, user, age in blockers)
    return ""


def _decrypt(file: Any, keys: tuple[bytes, ...]) -> Iterator[bytes]:
    try:
        yield from stream_encryption.decrypt(file, keys)
    except DecryptionError:
        raise Failed("the backup was changed while it was read") from None


def differences(dsn: str, backed_up: Manifest) -> list[str]:
    """Where the database differs from the manifest: rows, and contents to the last bit."""
    with postgres.connect(dsn) as connection, connection.transaction():
        connection.execute(backup.SET_TEXT_FORMATS)
        there = backup.table_checksums(connection)
    said = []
    for table in sorted({*there, *backed_up.tables}):
        rows, contents = there.get(table, [None, None])
        rows_then, contents_then = backed_up.tables.get(table, [None, None])
        if rows != rows_then:
            said.append(f"{table}: {rows_then} rows in the backup, {rows} restored")
        elif contents != contents_then:
            said.append(f"{table}: {rows} rows, but not the same")
    return said


def mark_mails_uncertain(dsn: str) -> int:
    """Before any mail leaves the restored database; how many are in doubt."""
    with postgres.connect(dsn) as connection:
        return connection.execute(MARK_MAILS_UNCERTAIN).rowcount


def set_app_password(dsn: str, database_url: str) -> str:
    """Make the functions' role log in with the password they have; its name. Raises Failed.

    Supabase's daily backups do not hold the passwords of roles. The server is given a SCRAM
    verifier, so the password is in no log of statements.
    """
    parts = conninfo_to_dict(database_url)
    role = str(parts.get("user", "")).partition(".")[0]  # the pooler's users are role.project
    password = str(parts.get("password", ""))
    if not role or not password:
        raise Failed("DATABASE_URL names no user and password", status=2)
    with postgres.connect(dsn) as connection, connection.transaction():
        if connection.info.user.partition(".")[0] == role:
            raise Failed("DATABASE_URL is the owner's: the functions want a role of their own")
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode()).decode()
        known = connection.execute("select from pg_roles where rolname = %s", [role]).fetchone()
        name, group = sql.Identifier(role), sql.Identifier(APP_GROUP)
        verb = sql.SQL("create" if known is None else "alter")
        login = sql.SQL("{} role {} login password {}")
        connection.execute(login.format(verb, name, sql.Literal(verifier)))
        connection.execute(sql.SQL("grant {} to {}").format(group, name))
        limit = sql.SQL("alter role {} set statement_timeout = {}")
        connection.execute(limit.format(name, sql.Literal(STATEMENT_TIMEOUT)))
    try:
        psycopg.connect(database_url, connect_timeout=postgres.CONNECT_S).close()
    except psycopg.OperationalError as fault:
        raise Failed(f"{role} still cannot log in ({type(fault).__name__})") from None
    return role
