"""Applies `supabase/migrations/*.sql` and records them as the Supabase CLI does.

The record is its own table, so a database migrated here and one migrated by `supabase db push`
agree on what has been applied.
"""

import re
from pathlib import Path
from typing import Any

import psycopg

from ops.command import Failed
from ops.local_platform import ROOT

FOLDER = ROOT / "supabase" / "migrations"
CONNECT_S = 10

_FILE_NAME = re.compile(r"(?P<version>\d{14})_(?P<name>.+)\.sql")

# Any number that nothing else locks.
_LOCK_ID = 7_236_518_841

ENSURE_RECORD = """
CREATE SCHEMA IF NOT EXISTS supabase_migrations;
CREATE TABLE IF NOT EXISTS supabase_migrations.schema_migrations (
    version text PRIMARY KEY, statements text[], name text
);
ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN IF NOT EXISTS statements text[];
ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN IF NOT EXISTS name text;
"""

INSERT_RECORD = """
INSERT INTO supabase_migrations.schema_migrations (version, statements, name)
VALUES (%s, %s, %s) ON CONFLICT (version) DO NOTHING
"""


def apply(dsn: str, folder: Path = FOLDER) -> list[str]:
    """Apply what is not recorded yet, in order, each file in one transaction; returns the names.

    Raises Failed, naming file and line; earlier files stay applied, nothing of the failed one does.
    """
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_S) as connection:
        with connection.transaction():
            _lock(connection)
            connection.execute(ENSURE_RECORD)
        return [file.name for file in _files(folder) if _apply_file(connection, file)]


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.sql"))
    for file in files:
        if _FILE_NAME.fullmatch(file.name) is None:
            raise Failed(f"{file.name}: a migration is named <14 digits>_<name>.sql")
    return files


def _apply_file(connection: psycopg.Connection[Any], file: Path) -> bool:
    text = file.read_text(encoding="utf-8")
    version, _, name = file.stem.partition("_")
    try:
        with connection.transaction():
            _lock(connection)
            if connection.execute(INSERT_RECORD, [version, [text], name]).rowcount == 0:
                return False
            # Without parameters the file is sent as it is, percent signs included.
            connection.execute(text.encode())
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = f", line {text[: int(position)].count(chr(10)) + 1}" if position else ""
        raise Failed(f"{file.name}{line}: {error}") from error
    return True


def _lock(connection: psycopg.Connection[Any]) -> None:
    """Until the transaction's end; a session's lock would exclude nobody behind a pooler."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_ID])
