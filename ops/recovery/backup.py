"""Our own backup: pg_dump, sealed while it runs, with a manifest counted in the same snapshot.

Dies anywhere: what is left is a `.part` file, which a later run removes; run it again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ops.command import Failed
from ops.progress import ProgressBar
from ops.recovery import manifest, postgres, stream_encryption
from ops.recovery.manifest import Manifest

OWN_BACKUP, COMPLETED = "own", "COMPLETED"
SCHEMAS = ("public", "supabase_migrations")
STALE_PARTIAL_AGE = timedelta(hours=6)  # no run lives so long
COMPRESSION_RATIO = (
    0.2  # of a table's size on disk that its compressed dump has, until one was taken
)
LOCK_WAIT_MS = 30_000
PG_DUMP_OPTIONS = (
    *("--format=custom", "--compress=1", "--no-password", f"--lock-wait-timeout={LOCK_WAIT_MS}"),
    *(f"--schema={schema}" for schema in SCHEMAS),
)

# Texts of values, and so checksums, depend on these.
SET_TEXT_FORMATS = """
set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; set local intervalstyle = 'postgres';
set local bytea_output = 'hex'; set local extra_float_digits = 1; set local statement_timeout = 0;
set local idle_in_transaction_session_timeout = 0; set local search_path = ''; set local jit = off
"""

SELECT_TABLES = """
select n.nspname, c.relname
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = any(%(schemas)s) and c.relkind = 'r' and pg_has_role(c.relowner, 'USAGE')
  and not exists (
    select from pg_depend as d
    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
  )
order by 1, 2
"""

# Theirs in our schemas: pg_dump may not be allowed to read it, and we could not put it back.
SELECT_FOREIGN_RELATIONS = """
select n.nspname, c.relname, pg_get_userbyid(c.relowner)
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = any(%(schemas)s) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  and not pg_has_role(c.relowner, 'USAGE')
  and not exists (
    select from pg_depend as d
    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('e', 'a', 'i')
  )
order by 1, 2
"""

SELECT_OWNER_ROLES = "select rolname from pg_roles where pg_has_role(oid, 'USAGE') order by 1"

# Whoever is named by a grant, a policy or a default privilege must be there to restore it.
SELECT_GRANTEES = """
with ours as (select oid from pg_namespace where nspname = any(%(schemas)s)),
named (classid, objid) as (
  select 'pg_class'::regclass, oid from pg_class where relnamespace in (select oid from ours)
  union all
  select 'pg_proc'::regclass, oid from pg_proc where pronamespace in (select oid from ours)
  union all
  select 'pg_type'::regclass, oid from pg_type where typnamespace in (select oid from ours)
  union all
  select 'pg_namespace'::regclass, oid from ours
  union all
  select 'pg_policy'::regclass, p.oid from pg_policy as p join pg_class as c on c.oid = p.polrelid
  where c.relnamespace in (select oid from ours)
  union all
  select 'pg_default_acl'::regclass, oid from pg_default_acl
  where defaclnamespace in (select oid from ours)
)
select distinct r.rolname
from pg_shdepend as d
join named as n on n.classid = d.classid and n.objid = d.objid
join pg_roles as r on r.oid = d.refobjid
where d.dbid = (select oid from pg_database where datname = current_database())
  and d.refclassid = 'pg_authid'::regclass and d.deptype in ('a', 'r')
order by 1
"""

# Order of rows does not matter, every bit of each row does.
COUNT_AND_CHECKSUM = """
select count(*), coalesce(sum(hashtextextended(whole_row::text, 0)), 0)::text
from {} as whole_row
"""

SELECT_SIZE = """
select coalesce(sum(pg_table_size(c.oid)), 0)::bigint
from pg_class as c where c.relkind = 'r' and c.relnamespace = any(%(schemas)s::regnamespace[])
"""

SELECT_EXTENSIONS = """
select e.extname, n.nspname
from pg_extension as e join pg_namespace as n on n.oid = e.extnamespace
where n.nspname in ('extensions', 'public') order by 1
"""

SELECT_SCHEMA_VERSION = "select max(version) from supabase_migrations.schema_migrations"

UPSERT_BACKUP = """
insert into backups (source, taken_at, status, facts)
values (%(source)s, %(taken_at)s, %(status)s, %(facts)s::jsonb)
on conflict (source, taken_at) do update set status = excluded.status, facts = excluded.facts
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be backed up."""

    database: str
    tables: int
    bytes: int
    folder: str


def plan(dsn: str, folder: Path) -> Plan:
    with postgres.connect(dsn) as connection:
        tables = connection.execute(SELECT_TABLES, {"schemas": list(SCHEMAS)}).fetchall()
        size = _fetch_value(connection, SELECT_SIZE, {"schemas": list(SCHEMAS)})
    return Plan(postgres.display_address(dsn), len(tables), int(size), str(folder))


def take(
    dsn: str, folder: Path, keys: tuple[bytes, ...], *, quiet: bool = False, recorded: bool = True
) -> Manifest:
    """Back up the database into the folder and record it. Raises Failed, recorded as such."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale_files(folder)
    started = datetime.now(UTC)
    with postgres.connect(dsn) as connection:
        try:
            made = _dump_snapshot(connection, dsn, folder, keys, quiet=quiet)
        except (Failed, OSError, psycopg.Error) as fault:
            if recorded:
                with contextlib.suppress(Failed):
                    record(
                        connection, OWN_BACKUP, started, "FAILED", {"reason": type(fault).__name__}
                    )
            if isinstance(fault, psycopg.Error):
                raise Failed(f"the backup failed: {type(fault).__name__}") from fault
            raise
        if recorded:
            record(connection, OWN_BACKUP, made.taken_at, COMPLETED, made.as_dict())
    return made


def _dump_snapshot(
    connection: postgres.Connection,
    dsn: str,
    folder: Path,
    keys: tuple[bytes, ...],
    *,
    quiet: bool,
) -> Manifest:
    began = time.monotonic()
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        connection.execute(SET_TEXT_FORMATS)
        # now() is the transaction's begin, a moment before its snapshot: never too young.
        snapshot = _fetch_value(connection, "select pg_export_snapshot()")
        taken_at = _fetch_value(connection, "select now()").astimezone(UTC)
        name = f"alfa-{taken_at:%Y%m%dT%H%M%S%fZ}"
        server = connection.info.server_version
        ours = {"schemas": list(SCHEMAS)}
        foreign = connection.execute(SELECT_FOREIGN_RELATIONS, ours).fetchall()
        facts: dict[str, Any] = {
            "tables": table_checksums(connection),
            "extensions": dict(connection.execute(SELECT_EXTENSIONS).fetchall()),
            "schema_version": _fetch_value(connection, SELECT_SCHEMA_VERSION) or "",
            "owners": tuple(role for (role,) in connection.execute(SELECT_OWNER_ROLES)),
            "grantees": tuple(role for (role,) in connection.execute(SELECT_GRANTEES, ours)),
            "left_out": tuple(f"{schema}.{name} of {owner}" for schema, name, owner in foreign),
        }
        about = _estimate_size(connection, folder, keys)
        with ProgressBar("backup", about, exact=False, quiet=quiet) as bar:
            program = postgres.find_program("pg_dump", server // 10_000)
            left_out = [f"--exclude-table={_table_pattern(*names)}" for *names, _ in foreign]
            command = [str(program), f"--snapshot={snapshot}", *PG_DUMP_OPTIONS, *left_out]
            sums = _dump(dsn, command, folder, name, keys[0], bar)
    took_s = round(time.monotonic() - began, 1)
    key = manifest.fingerprint(keys[0])
    made = Manifest(
        name=name, taken_at=taken_at, took_s=took_s, server_version=server, key=key, **facts, **sums
    ).signed(keys[0])
    manifest.write(folder, made)
    return made


def table_checksums(connection: postgres.Connection) -> dict[str, list[Any]]:
    """Every table's rows and checksum, as this transaction sees them, under FIX_TEXTS."""
    found = {}
    for schema, table in connection.execute(SELECT_TABLES, {"schemas": list(SCHEMAS)}).fetchall():
        counted = connection.execute(
            sql.SQL(COUNT_AND_CHECKSUM).format(sql.Identifier(schema, table))
        )
        found[f"{schema}.{table}"] = list(counted.fetchone() or ())
    return found


def _dump(
    dsn: str, command: list[str], folder: Path, name: str, key: bytes, bar: ProgressBar
) -> dict[str, Any]:
    """Sizes and checksums of what was written. The file gets its name when it is whole."""
    part = folder / f".{name}.{secrets.token_hex(4)}.part"
    dumped, sealed = _Checksum(), _Checksum()
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        with postgres.run_program(command, postgres.libpq_environment(dsn)) as child:
            for piece in stream_encryption.encrypt(dumped.wrap(postgres.read_output(child)), key):
                stream.write(sealed.add(piece))
                bar.add(len(piece))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(manifest.sealed_file(folder, name))
    manifest.sync(folder)
    return {
        "dump_bytes": dumped.size,
        "dump_sha256": dumped.hex,
        "sealed_bytes": sealed.size,
        "sealed_sha256": sealed.hex,
    }


def _table_pattern(schema: str, name: str) -> str:
    """One relation and no other, as pg_dump's patterns are quoted."""
    quoted = (part.replace('"', '""') for part in (schema, name))
    return ".".join(f'"{part}"' for part in quoted)


class _Checksum:
    """Size and SHA-256 of what goes by."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()

    def add(self, piece: bytes) -> bytes:
        self.size += len(piece)
        self._hash.update(piece)
        return piece

    def wrap(self, source: Iterable[bytes]) -> Iterator[bytes]:
        for piece in source:
            yield self.add(piece)


def _estimate_size(connection: postgres.Connection, folder: Path, keys: tuple[bytes, ...]) -> int:
    """About how many bytes it will be: as the last one, else a share of the tables' size."""
    before, _ = manifest.list_backups(folder, keys)
    if before:
        return before[0].sealed_bytes
    size = _fetch_value(connection, SELECT_SIZE, {"schemas": list(SCHEMAS)})
    return int(int(size) * COMPRESSION_RATIO)


def record(
    connection: postgres.Connection,
    source: str,
    taken_at: datetime,
    status: str,
    facts: dict[str, object],
) -> None:
    """Write down a backup that was seen; again is no harm."""
    values = {"source": source, "taken_at": taken_at, "status": status, "facts": json.dumps(facts)}
    try:
        connection.execute(UPSERT_BACKUP, values)
    except psycopg.Error as fault:
        raise Failed(f"seen, but not recorded in table backups: {type(fault).__name__}") from None


def expired(found: list[Manifest], now: datetime, keep_days: int) -> list[Manifest]:
    """Those older than keep_days; never the newest, whatever its age."""
    return [one for one in found[1:] if now - one.taken_at > timedelta(days=keep_days)]


def remove(folder: Path, gone: Manifest) -> None:
    """The manifest first: what is half removed is no backup."""
    manifest.manifest_file(folder, gone.name).unlink(missing_ok=True)
    manifest.sealed_file(folder, gone.name).unlink(missing_ok=True)


def _remove_stale_files(folder: Path) -> None:
    """Remove what runs that died have left behind."""
    for part in folder.glob(".*.part"):
        if time.time() - part.stat().st_mtime > STALE_PARTIAL_AGE.total_seconds():
            part.unlink(missing_ok=True)
    for sealed in folder.glob("*.sealed"):
        lonely = not sealed.with_suffix(".json").exists()
        if lonely and time.time() - sealed.stat().st_mtime > STALE_PARTIAL_AGE.total_seconds():
            sealed.unlink(missing_ok=True)


def _fetch_value(
    connection: postgres.Connection, query: str, values: dict[str, Any] | None = None
) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None
