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

MAGIC = b"PGDMP"

# The archive's own version -> the first pg_restore that reads it.
READERS = {(1, 14): 12, (1, 15): 16, (1, 16): 17}

# pg_restore's own, from 17 on; an older server knows no such setting.
NEW_SETTING, NEW_SETTING_FROM = b"SET transaction_timeout = 0;\n", 17

_ENTRY = re.compile(r"^\d+; \d+ \d+ (?P<words>.+)$")
_DUMPED_FROM = re.compile(r"^;\s+Dumped from database version: (\d+)", re.MULTILINE)
_DUMPED_BY = re.compile(r"^;\s+Dumped by pg_dump version: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Contents:
    """An archive's table of contents. server, pg_dump: the majors it was made with."""

    server: int
    pg_dump: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """lines: for `pg_restore -L`. left_out: what stays away, in pg_restore's words."""

    lines: tuple[str, ...]
    left_out: tuple[str, ...]


def first_reader(archive: bytes) -> int:
    """The oldest pg_restore that reads it, by its first bytes. Raises Failed."""
    if archive[:5] != MAGIC or len(archive) < 7:
        raise Failed("the backup holds no archive of pg_dump")
    version = (archive[5], archive[6])
    if version not in READERS:
        known = ", ".join(f"{major}.{minor}" for major, minor in READERS)
        raise Failed(f"the archive is of version {version[0]}.{version[1]}; known are {known}")
    return READERS[version]


def read(pieces: Iterable[bytes]) -> Contents:
    """The contents of an archive, read from its beginning. Raises Failed."""
    stream = iter(pieces)
    head = next(stream, b"")
    program = postgres.tool("pg_restore", first_reader(head), or_newer=True)
    listed = _listed(program, head, stream)
    found = Contents(
        int(_one(_DUMPED_FROM, listed)), int(_one(_DUMPED_BY, listed)), _entries(listed)
    )
    if not found.lines:
        raise Failed("the backup's archive is empty")
    return found


def _listed(program: Path, head: bytes, stream: Iterator[bytes]) -> str:
    command = [str(program), "--list"]
    with postgres.running(command, postgres.surroundings()) as child:
        postgres.feed(child, head, stream)
        return b"".join(postgres.pieces(child)).decode()


def _entries(listed: str) -> tuple[str, ...]:
    return tuple(line for line in listed.splitlines() if _ENTRY.match(line))


def _one(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    if found is None:
        raise Failed("pg_restore does not say what made the archive")
    return found[1]


def check_versions(found: Contents, server: int) -> Path:
    """The pg_restore to load it into a server of that major with. Raises Failed."""
    if found.server > server:
        raise Failed(
            f"the backup was taken from PostgreSQL {found.server}, the database is {server}: an"
            f" older server cannot be given it. Restore into PostgreSQL {found.server} or newer"
        )
    return postgres.tool("pg_restore", found.pg_dump, or_newer=True)


def select(found: Contents, schemas: Collection[str], roles: Collection[str],
           then: Collection[str]) -> Selection:  # fmt: skip
    """What the restoring one can put back.

    roles: whose rights it has there; then: whose rights the one had who took the backup. Default
    privileges can be changed by `roles` alone; all else becomes the restoring one's own.
    """
    kept: list[str] = []
    left_out: list[str] = []
    for line in found.lines:
        matched = _ENTRY.match(line)
        words = matched["words"] if matched else ""
        if any(words.startswith(f"SCHEMA - {schema} ") for schema in schemas):
            continue  # it is there, or was made before this
        owners = roles if words.startswith("DEFAULT ACL ") else {*roles, *then}
        if _belongs(words, owners):
            kept.append(line)
        else:
            left_out.append(words)
    if not any(" TABLE DATA " in line for line in kept):
        raise Failed(
            "nothing in the backup belongs to the role that restores, by DATABASE_DIRECT_URL:"
            " give it the rights of the tables' owner, or restore as that one"
        )
    return Selection(tuple(kept), tuple(left_out))


def _belongs(words: str, owners: Collection[str]) -> bool:
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
    yield head.replace(NEW_SETTING, b"", 1) if server < NEW_SETTING_FROM else head
    yield from stream
