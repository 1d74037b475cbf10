"""Applies `supabase/migrations/*.sql` and records them as the Supabase CLI does.

The record is its own table, so a database migrated here and one migrated by `supabase db push`
agree on what has been applied.
"""

import contextlib
import re
from pathlib import Path

import psycopg
from psycopg import sql

_NAME = re.compile(r"(?P<version>\d{14})_(?P<name>.+)\.sql")

# Any number that nothing else locks: two runs at once take turns.
_LOCK = 7_236_518_841

ENSURE_RECORD = """
CREATE SCHEMA IF NOT EXISTS supabase_migrations;
CREATE TABLE IF NOT EXISTS supabase_migrations.schema_migrations (
    version text PRIMARY KEY, statements text[], name text
);
ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN IF NOT EXISTS statements text[];
ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN IF NOT EXISTS name text;
"""


class MigrationFailed(RuntimeError):
    """A migration that could not be applied; the text names file, line and fault."""


def ensure_database(dsn: str, name: str) -> None:
    """Create the database unless it is there; `dsn` leads to another one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if known.fetchone() is None:
            with contextlib.suppress(psycopg.errors.DuplicateDatabase):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def apply(dsn: str, directory: Path) -> list[str]:
    """Apply what is not recorded yet, in order, each file in one transaction; returns the names.

    MigrationFailed leaves the earlier files applied and nothing of the failed one.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        with connection.transaction():
            _lock(connection)
            connection.execute(ENSURE_RECORD)
        return [file.name for file in _files(directory) if _apply_one(connection, file)]


def ensure_login(dsn: str, role: str, group: str, password: str) -> bool:
    """Make `role` log in with `password` as a member of `group`; False when there is no group."""
    with psycopg.connect(dsn) as connection:
        _lock(connection)
        known = {
            name
            for (name,) in connection.execute(
                "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [[role, group]]
            )
        }
        if group not in known:
            return False
        verb = "ALTER" if role in known else "CREATE"
        names = (sql.SQL(verb), sql.Identifier(role), sql.Literal(password))
        connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(*names))
        membership = (sql.Identifier(group), sql.Identifier(role))
        connection.execute(sql.SQL("GRANT {} TO {}").format(*membership))
    return True


def _apply_one(connection: "psycopg.Connection[tuple[object, ...]]", file: Path) -> bool:
    found = _NAME.fullmatch(file.name)
    if found is None:
        return False
    text = file.read_text(encoding="utf-8")
    try:
        with connection.transaction():
            _lock(connection)
            record = connection.execute(
                "INSERT INTO supabase_migrations.schema_migrations (version, statements, name)"
                " VALUES (%s, %s, %s) ON CONFLICT (version) DO NOTHING",
                [found["version"], [text], found["name"]],
            )
            if record.rowcount == 0:
                return False
            # No parameters: the file is sent as it is, whatever signs it holds.
            connection.execute(text.encode())
    except psycopg.Error as fault:
        raise MigrationFailed(f"{file.name}{_line(text, fault)}: {fault}") from fault
    return True


def _lock(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Until the transaction's end; a session's lock would exclude nobody behind a pooler."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


def _line(text: str, fault: psycopg.Error) -> str:
    position = fault.diag.statement_position
    return f", line {text[: int(position)].count(chr(10)) + 1}" if position else ""


def _files(directory: Path) -> list[Path]:
    """MigrationFailed when a file's name is none the Supabase CLI would take."""
    found = sorted(directory.glob("*.sql"))
    for file in found:
        if _NAME.fullmatch(file.name) is None:
            raise MigrationFailed(f"{file.name}: a migration is named <14 digits>_<name>.sql")
    return found
