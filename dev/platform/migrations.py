"""A local database and its login role; `python3 -m ops migrate` applies the migrations to it."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psycopg
from psycopg import sql

from dev.bootstrap import ROOT

# Any number that nothing else locks: two runs at once take turns.
_LOCK = 7_236_518_842


class MigrationFailed(RuntimeError):
    """A migration that could not be applied; the text names file, line and error."""


def ensure_database(dsn: str, name: str) -> None:
    """Create the database unless it is there; `dsn` leads to another one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        result = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if result.fetchone() is None:
            with contextlib.suppress(psycopg.errors.DuplicateDatabase):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def apply(dsn: str, directory: Path) -> list[str]:
    """Apply what is not recorded yet; returns the files' names. Raises MigrationFailed."""
    result = subprocess.run(
        [sys.executable, "-m", "ops.cli", "migrate", "--folder", str(directory.resolve())],
        cwd=ROOT,
        env={**os.environ, "DATABASE_DIRECT_URL": dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise MigrationFailed(result.stderr.strip())
    lines = result.stdout.splitlines()
    return [line.removeprefix("applied ") for line in lines if line.startswith("applied ")]


def ensure_login(dsn: str, role: str, group: str, password: str) -> bool:
    """Make `role` log in with `password` as a member of `group`; False when there is no group."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        roles = {
            name
            for (name,) in connection.execute(
                "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [[role, group]]
            )
        }
        if group not in roles:
            return False
        verb = "ALTER" if role in roles else "CREATE"
        names = (sql.SQL(verb), sql.Identifier(role), sql.Literal(password))
        connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(*names))
        membership = (sql.Identifier(group), sql.Identifier(role))
        connection.execute(sql.SQL("GRANT {} TO {}").format(*membership))
    return True
