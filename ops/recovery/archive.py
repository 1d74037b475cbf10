"""The table of contents of a pg_dump archive, and which entries a database can be given.

Versions are compared here, before anything is touched. `pg_dump --schema` also writes what belongs
to other roles (Supabase's default privileges in `public`): only a superuser could restore that, so
it is left out, and reported.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.command import Failed
from ops.recovery import postgres

ARCHIVE_MAGIC = b"PGDMP"

# The archive format's version -> the first pg_restore that reads it.
FIRST_PG_RESTORE = {(1, 14): 12, (1, 15): 16, (1, 16): 17}

# Written by pg_restore from 17 on; an older server does not know the setting.
TRANSACTION_TIMEOUT, TRANSACTION_TIMEOUT_SINCE = b"SET transaction_timeout = 0;\n", 17

_ENTRY = re.compile(r"^\d+; \d+ \d+ (?P<words>.+)$")
_DUMPED_FROM = re.compile(r"^;\s+Dumped from database version: (\d+)", re.MULTILINE)
_DUMPED_BY = re.compile(r"^;\s+Dumped by pg_dump version: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TableOfContents:
    """The majors of the server and the pg_dump it was made with; `pg_restore --list`'s lines."""

    server_major: int
    pg_dump_major: int
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """entries: for `pg_restore -L`. left_out: what is not restored, in pg_restore's words."""

    entries: tuple[str, ...]
    left_out: tuple[str, ...]


def first_pg_restore(archive: bytes) -> int:
    """The oldest pg_restore that reads it, by its first bytes. Raises Failed."""
    if archive[:5] != ARCHIVE_MAGIC or len(archive) < 7:
        raise Failed("the backup holds no archive of pg_dump")
    version = (archive[5], archive[6])
    if version not in FIRST_PG_RESTORE:
        versions = ", ".join(f"{major}.{minor}" for major, minor in FIRST_PG_RESTORE)
        raise Failed(f"the archive is of version {version[0]}.{version[1]}; known are {versions}")
    return FIRST_PG_RESTORE[version]


def read_contents(dump: Iterable[bytes]) -> TableOfContents:
    """Run `pg_restore --list` on the beginning of an archive. Raises Failed."""
    stream = iter(dump)
    head = next(stream, b"")
    program = postgres.find_program("pg_restore", first_pg_restore(head), or_newer=True)
    with postgres.run_program([str(program), "--list"], postgres.base_environment()) as child:
        postgres.write_in_thread(child, head, stream)
        listing = b"".join(postgres.read_output(child)).decode()
    server, pg_dump = _DUMPED_FROM.search(listing), _DUMPED_BY.search(listing)
    entries = tuple(line for line in listing.splitlines() if _ENTRY.match(line))
    if server is None or pg_dump is None or not entries:
        raise Failed("the backup's archive is empty, or does not say what made it")
    return TableOfContents(int(server[1]), int(pg_dump[1]), entries)


def choose_pg_restore(contents: TableOfContents, server: int) -> Path:
    """The pg_restore to load it into a server of that major with. Raises Failed."""
    if contents.server_major > server:
        raise Failed(
            f"the backup was taken from PostgreSQL {contents.server_major}, the database is"
            f" {server}: an older server cannot load it. Restore into PostgreSQL"
            f" {contents.server_major} or newer"
        )
    return postgres.find_program("pg_restore", contents.pg_dump_major, or_newer=True)


def select_entries(
    contents: TableOfContents,
    schemas: Collection[str],
    roles: Collection[str],
    backup_roles: Collection[str],
) -> Selection:
    """What the restoring role can put back.

    roles: whose rights it has; backup_roles: whose rights the role had that took the backup.
    Default privileges can be changed by `roles` alone; all else becomes the restoring role's.
    """
    entries: list[str] = []
    left_out: list[str] = []
    for line in contents.entries:
        match = _ENTRY.match(line)
        words = match["words"] if match else ""
        if any(words.startswith(f"SCHEMA - {schema} ") for schema in schemas):
            continue  # it exists, or was created before
        owners = roles if words.startswith("DEFAULT ACL ") else {*roles, *backup_roles}
        # An entry ends with its owner; one without an owner ends with a space.
        if words.endswith((" ", *(f" {owner}" for owner in owners))):
            entries.append(line)
        else:
            left_out.append(words)
    if not any(" TABLE DATA " in line for line in entries):
        raise Failed(
            "nothing in the backup belongs to the role that restores, by DATABASE_DIRECT_URL:"
            " give it the rights of the tables' owner, or restore as that one"
        )
    return Selection(tuple(entries), tuple(left_out))


def without_unknown_settings(script: Iterable[bytes], server: int) -> Iterator[bytes]:
    """pg_restore's script without the setting that an older server would refuse."""
    stream = iter(script)
    head = b""
    for piece in stream:
        head += piece
        if b"set_config('search_path'" in head:
            break
    yield (
        head.replace(TRANSACTION_TIMEOUT, b"", 1) if server < TRANSACTION_TIMEOUT_SINCE else head
    )
    yield from stream
