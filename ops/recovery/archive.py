"""What a pg_dump archive says of itself, and which of it a database can be given.

Versions are compared here, before anything is touched. `pg_dump --schema` also writes down what
belongs to other roles (Supabase's default privileges in `public`): a role that is no superuser
can put none of that back, so it is left out, and told.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.command import Failed
from ops.recovery import postgres

ARCHIVE_MAGIC = b"PGDMP"

# The archive's own version -> the first pg_restore that reads it.
FIRST_PG_RESTORE = {(1, 14): 12, (1, 15): 16, (1, 16): 17}

# pg_restore's own, from 17 on; an older server knows no such setting.
TRANSACTION_TIMEOUT, TRANSACTION_TIMEOUT_SINCE = b"SET transaction_timeout = 0;\n", 17

_ENTRY = re.compile(r"^\d+; \d+ \d+ (?P<words>.+)$")
_DUMPED_FROM = re.compile(r"^;\s+Dumped from database version: (\d+)", re.MULTILINE)
_DUMPED_BY = re.compile(r"^;\s+Dumped by pg_dump version: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TableOfContents:
    """An archive's table of contents. server, pg_dump: the majors it was made with."""

    server_major: int
    pg_dump_major: int
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """lines: for `pg_restore -L`. left_out: what stays away, in pg_restore's words."""

    entries: tuple[str, ...]
    left_out: tuple[str, ...]


def first_pg_restore(archive: bytes) -> int:
    """The oldest pg_restore that reads it, by its first bytes. Raises Failed."""
    if archive[:5] != ARCHIVE_MAGIC or len(archive) < 7:
        raise Failed("the backup holds no archive of pg_dump")
    version = (archive[5], archive[6])
    if version not in FIRST_PG_RESTORE:
        known = ", ".join(f"{major}.{minor}" for major, minor in FIRST_PG_RESTORE)
        raise Failed(f"the archive is of version {version[0]}.{version[1]}; known are {known}")
    return FIRST_PG_RESTORE[version]


def read_contents(pieces: Iterable[bytes]) -> TableOfContents:
    """The contents of an archive, read from its beginning. Raises Failed."""
    stream = iter(pieces)
    head = next(stream, b"")
    program = postgres.find_program("pg_restore", first_pg_restore(head), or_newer=True)
    listed = _run_pg_restore_list(program, head, stream)
    found = TableOfContents(
        int(_search(_DUMPED_FROM, listed)), int(_search(_DUMPED_BY, listed)), _parse_entries(listed)
    )
    if not found.entries:
        raise Failed("the backup's archive is empty")
    return found


def _run_pg_restore_list(program: Path, head: bytes, stream: Iterator[bytes]) -> str:
    command = [str(program), "--list"]
    with postgres.run_program(command, postgres.base_environment()) as child:
        postgres.write_in_thread(child, head, stream)
        return b"".join(postgres.read_output(child)).decode()


def _parse_entries(listed: str) -> tuple[str, ...]:
    return tuple(line for line in listed.splitlines() if _ENTRY.match(line))


def _search(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    if found is None:
        raise Failed("pg_restore does not say what made the archive")
    return found[1]


def choose_pg_restore(found: TableOfContents, server: int) -> Path:
    """The pg_restore to load it into a server of that major with. Raises Failed."""
    if found.server_major > server:
        raise Failed(
            f"the backup was taken from PostgreSQL {found.server_major}, the database is {server}:"
            " an older server cannot be given it."
            f" Restore into PostgreSQL {found.server_major} or newer"
        )
    return postgres.find_program("pg_restore", found.pg_dump_major, or_newer=True)


def select_entries(found: TableOfContents, schemas: Collection[str], roles: Collection[str],
           then: Collection[str]) -> Selection:  # fmt: skip
    """What the restoring one can put back.

    roles: whose rights it has there; then: whose rights the one had who took the backup. Default
    privileges can be changed by `roles` alone; all else becomes the restoring one's own.
    """
    kept: list[str] = []
    left_out: list[str] = []
    for line in found.entries:
        matched = _ENTRY.match(line)
        words = matched["words"] if matched else ""
        if any(words.startswith(f"SCHEMA - {schema} ") for schema in schemas):
            continue  # it is there, or was made before this
        owners = roles if words.startswith("DEFAULT ACL ") else {*roles, *then}
        if _is_owned_by(words, owners):
            kept.append(line)
        else:
            left_out.append(words)
    if not any(" TABLE DATA " in line for line in kept):
        raise Failed(
            "nothing in the backup belongs to the role that restores, by DATABASE_DIRECT_URL:"
            " give it the rights of the tables' owner, or restore as that one"
        )
    return Selection(tuple(kept), tuple(left_out))


def _is_owned_by(words: str, owners: Collection[str]) -> bool:
    # An entry ends with its owner; what has none ends with a space.
    return words.endswith(" ") or any(words.endswith(f" {owner}") for owner in owners)


def without_unknown_settings(script: Iterable[bytes], server: int) -> Iterator[bytes]:
    """pg_restore's script less the setting that an older server would refuse."""
    stream = iter(script)
    head = b""
    for piece in stream:
        head += piece
        if b"set_config('search_path'" in head:
            break
    yield head.replace(TRANSACTION_TIMEOUT, b"", 1) if server < TRANSACTION_TIMEOUT_SINCE else head
    yield from stream
