"""Putting a backup back into a database: the parts that the drill and the real restore share.

A backup is read to its end and found whole before anything is dropped. What it brings back goes
in as one transaction: all of it is there, or none.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from lib.problems import Unreadable
from ops import backup, manifest, postgres, sealing
from ops.command import Failed
from ops.manifest import Manifest
from ops.progress import Bar

GROUP = "alfa_app"
OWNER = "pg_database_owner"
STATEMENT_TIMEOUT = "8s"

ENSURE_GROUP = """
do $$
begin
  if not exists (select from pg_roles where rolname = 'alfa_app') then
    create role alfa_app nologin;
  end if;
end
$$
"""

AVAILABLE = "select name from pg_available_extensions where name = any(%(names)s)"

# A mail the backup knows as unsent may have left after it was taken. Marked so, it is tried again
# only while Resend still knows its idempotency key; then a person looks at it.
DOUBT_MAILS = """
update outbox set uncertain = true, first_attempt_at = coalesce(first_attempt_at, created_at),
  leased_until = null
where sent_at is null and dead_at is null
"""


def check(folder: Path, backed_up: Manifest, keys: tuple[bytes, ...], *, quiet: bool) -> None:
    """Read all of it: bytes, seals, checksums. Raises Failed, saying what is wrong."""
    seen, opened = hashlib.sha256(), hashlib.sha256()
    with (
        manifest.sealed_file(folder, backed_up.name).open("rb") as file,
        Bar("check", backed_up.sealed_bytes, quiet=quiet) as bar,
    ):
        try:
            for piece in sealing.unseal(_Watched(file, seen, bar), keys):  # type: ignore[arg-type]
                opened.update(piece)
        except Unreadable:
            raise Failed(f"{backed_up.name} is damaged, or sealed with another key") from None
    sums = (seen.hexdigest(), opened.hexdigest())
    if sums != (backed_up.sealed_sha256, backed_up.dump_sha256):
        raise Failed(f"{backed_up.name} is not what its manifest says")


class _Watched:
    """A file whose bytes are summed and shown as they are read."""

    def __init__(self, file: IO[bytes], seen: Any, bar: Bar) -> None:
        self._file, self._seen, self._bar = file, seen, bar

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._seen.update(piece)
        self._bar.add(len(piece))
        return piece


def load(
    dsn: str, folder: Path, backed_up: Manifest, keys: tuple[bytes, ...], *, quiet: bool
) -> None:
    """Replace what the database holds by a backup that was checked. Raises Failed.

    Cut off in the middle it leaves an empty database: run it again.
    """
    with postgres.connect(dsn) as connection:
        program = postgres.tool("pg_restore", backed_up.server_version // 10_000)
        _make_room(connection, backed_up)
        command = [
            str(program),
            *("--single-transaction", "--exit-on-error", "--no-owner", "--no-password"),
            f"--dbname={conninfo_to_dict(dsn).get('dbname', '')}",
        ]
        with (
            manifest.sealed_file(folder, backed_up.name).open("rb") as file,
            Bar("restore", backed_up.sealed_bytes, quiet=quiet) as bar,
            postgres.running(command, postgres.environment(dsn)) as child,
        ):
            for piece in _unsealed(_Watched(file, hashlib.sha256(), bar), keys):
                if child.stdin is not None:
                    child.stdin.write(piece)
        name = sql.Identifier(OWNER)
        connection.execute(sql.SQL("alter schema public owner to {}").format(name))
        connection.execute("analyze")


def _unsealed(file: _Watched, keys: tuple[bytes, ...]) -> Iterator[bytes]:
    try:
        yield from sealing.unseal(file, keys)  # type: ignore[arg-type]
    except Unreadable:
        raise Failed("the backup was changed while it was read") from None


def _make_room(connection: postgres.Connection, backed_up: Manifest) -> None:
    """Drop what the backup holds, and make what it stands on. One transaction."""
    with connection.transaction():
        for schema in backup.SCHEMAS:
            drop = sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema))
            connection.execute(drop)
        connection.execute(ENSURE_GROUP)
        names = {"names": list(backed_up.extensions)}
        for (extension,) in connection.execute(AVAILABLE, names).fetchall():
            place = sql.Identifier(backed_up.extensions[extension])
            connection.execute(sql.SQL("create schema if not exists {}").format(place))
            create = sql.SQL("create extension if not exists {} schema {}")
            connection.execute(create.format(sql.Identifier(extension), place))


def differences(dsn: str, backed_up: Manifest) -> list[str]:
    """Where the database differs from the manifest: rows, and contents to the last bit."""
    with postgres.connect(dsn) as connection, connection.transaction():
        connection.execute(backup.FIX_TEXTS)
        there = backup.contents(connection)
    said = []
    for table in sorted({*there, *backed_up.tables}):
        rows, contents = there.get(table, [None, None])
        rows_then, contents_then = backed_up.tables.get(table, [None, None])
        if rows != rows_then:
            said.append(f"{table}: {rows_then} rows in the backup, {rows} restored")
        elif contents != contents_then:
            said.append(f"{table}: {rows} rows, but not the same")
    return said


def doubt_mails(dsn: str) -> int:
    """Before any mail leaves the restored database; how many are in doubt."""
    with postgres.connect(dsn) as connection:
        return connection.execute(DOUBT_MAILS).rowcount


def let_in(dsn: str, database_url: str) -> str:
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
        name, group = sql.Identifier(role), sql.Identifier(GROUP)
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
