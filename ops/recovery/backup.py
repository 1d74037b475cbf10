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
from ops.progress import Bar
from ops.recovery import manifest, postgres, stream_encryption
from ops.recovery.manifest import Manifest

SOURCE, GOOD = "own", "COMPLETED"
SCHEMAS = ("public", "supabase_migrations")
LEFT_BEHIND = timedelta(hours=6)  # no run lives so long
USUAL_SHARE = 0.2  # of a table's size on disk that its compressed dump has, until one was taken
LOCK_WAIT_MS = 30_000
OPTIONS = (
    *("--format=custom", "--compress=1", "--no-password", f"--lock-wait-timeout={LOCK_WAIT_MS}"),
    *(f"--schema={schema}" for schema in SCHEMAS),
)

# Texts of values, and so checksums, depend on these.
FIX_TEXTS = """
set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; set local intervalstyle = 'postgres';
set local bytea_output = 'hex'; set local extra_float_digits = 1; set local statement_timeout = 0;
set local idle_in_transaction_session_timeout = 0; set local search_path = ''; set local jit = off
"""

TABLES = """
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
FOREIGN = """
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

OWNERS = "select rolname from pg_roles where pg_has_role(oid, 'USAGE') order by 1"

# Whoever is named by a grant, a policy or a default privilege must be there to restore it.
GRANTEES = """
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
COUNT = """
select count(*), coalesce(sum(hashtextextended(whole_row::text, 0)), 0)::text
from {} as whole_row
"""

SIZE = """
select coalesce(sum(pg_table_size(c.oid)), 0)::bigint
from pg_class as c where c.relkind = 'r' and c.relnamespace = any(%(schemas)s::regnamespace[])
"""

EXTENSIONS = """
select e.extname, n.nspname
from pg_extension as e join pg_namespace as n on n.oid = e.extnamespace
where n.nspname in ('extensions', 'public') order by 1
"""

NEWEST_MIGRATION = "select max(version) from supabase_migrations.schema_migrations"

RECORD = """
insert into backups (source, taken_at, status, facts)
values (%(source)s, %(taken_at)s, %(status)s, %(facts)s::jsonb)
on conflict (source, taken_at) do update set status = excluded.status, facts = excluded.facts
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be backed up."""

    where: str
    tables: int
    bytes: int
    folder: str


def plan(dsn: str, folder: Path) -> Plan:
    with postgres.connect(dsn) as connection:
        tables = connection.execute(TABLES, {"schemas": list(SCHEMAS)}).fetchall()
        size = _one(connection, SIZE, {"schemas": list(SCHEMAS)})
    return Plan(postgres.where(dsn), len(tables), int(size), str(folder))


def take(
    dsn: str, folder: Path, keys: tuple[bytes, ...], *, quiet: bool = False, recorded: bool = True
) -> Manifest:
    """Back up the database into the folder and record it. Raises Failed, recorded as such."""
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    started = datetime.now(UTC)
    with postgres.connect(dsn) as connection:
        try:
            made = _take(connection, dsn, folder, keys, quiet=quiet)
        except (Failed, OSError, psycopg.Error) as fault:
            if recorded:
                with contextlib.suppress(Failed):
                    record(connection, SOURCE, started, "FAILED", {"reason": type(fault).__name__})
            if isinstance(fault, psycopg.Error):
                raise Failed(f"the backup failed: {type(fault).__name__}") from fault
            raise
        if recorded:
            record(connection, SOURCE, made.taken_at, GOOD, made.facts())
    return made


def _take(
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
        connection.execute(FIX_TEXTS)
        # now() is the transaction's begin, a moment before its snapshot: never too young.
        snapshot = _one(connection, "select pg_export_snapshot()")
        taken_at = _one(connection, "select now()").astimezone(UTC)
        name = f"alfa-{taken_at:%Y%m%dT%H%M%S%fZ}"
        server = connection.info.server_version
        ours = {"schemas": list(SCHEMAS)}
        foreign = connection.execute(FOREIGN, ours).fetchall()
        facts: dict[str, Any] = {
            "tables": contents(connection),
            "extensions": dict(connection.execute(EXTENSIONS).fetchall()),
            "schema_version": _one(connection, NEWEST_MIGRATION) or "",
            "owners": tuple(role for (role,) in connection.execute(OWNERS)),
            "grantees": tuple(role for (role,) in connection.execute(GRANTEES, ours)),
            "left_out": tuple(f"{schema}.{name} of {owner}" for schema, name, owner in foreign),
        }
        about = _estimate(connection, folder, keys)
        with Bar("backup", about, exact=False, quiet=quiet) as bar:
            program = postgres.tool("pg_dump", server // 10_000)
            left_out = [f"--exclude-table={_pattern(*names)}" for *names, _ in foreign]
            command = [str(program), f"--snapshot={snapshot}", *OPTIONS, *left_out]
            sums = _dump(dsn, command, folder, name, keys[0], bar)
    took_s = round(time.monotonic() - began, 1)
    key = manifest.fingerprint(keys[0])
    made = Manifest(
        name=name, taken_at=taken_at, took_s=took_s, server_version=server, key=key, **facts, **sums
    ).signed(keys[0])
    manifest.write(folder, made)
    return made


def contents(connection: postgres.Connection) -> dict[str, list[Any]]:
    """Every table's rows and checksum, as this transaction sees them, under FIX_TEXTS."""
    found = {}
    for schema, table in connection.execute(TABLES, {"schemas": list(SCHEMAS)}).fetchall():
        counted = connection.execute(sql.SQL(COUNT).format(sql.Identifier(schema, table)))
        found[f"{schema}.{table}"] = list(counted.fetchone() or ())
    return found


def _dump(
    dsn: str, command: list[str], folder: Path, name: str, key: bytes, bar: Bar
) -> dict[str, Any]:
    """Sizes and checksums of what was written. The file gets its name when it is whole."""
    part = folder / f".{name}.{secrets.token_hex(4)}.part"
    dumped, sealed = _Sum(), _Sum()
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        with postgres.running(command, postgres.environment(dsn)) as child:
            for piece in stream_encryption.seal(dumped.over(postgres.pieces(child)), key):
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


def _pattern(schema: str, name: str) -> str:
    """One relation and no other, as pg_dump's patterns are quoted."""
    quoted = (part.replace('"', '""') for part in (schema, name))
    return ".".join(f'"{part}"' for part in quoted)


class _Sum:
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

    def over(self, source: Iterable[bytes]) -> Iterator[bytes]:
        for piece in source:
            yield self.add(piece)


def _estimate(connection: postgres.Connection, folder: Path, keys: tuple[bytes, ...]) -> int:
    """About how many bytes it will be: as the last one, else a share of the tables' size."""
    before, _ = manifest.held(folder, keys)
    if before:
        return before[0].sealed_bytes
    size = _one(connection, SIZE, {"schemas": list(SCHEMAS)})
    return int(int(size) * USUAL_SHARE)


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
        connection.execute(RECORD, values)
    except psycopg.Error as fault:
        raise Failed(f"seen, but not recorded in table backups: {type(fault).__name__}") from None


def old(found: list[Manifest], now: datetime, keep_days: int) -> list[Manifest]:
    """Those older than keep_days; never the newest, whatever its age."""
    return [one for one in found[1:] if now - one.taken_at > timedelta(days=keep_days)]


def remove(folder: Path, gone: Manifest) -> None:
    """The manifest first: what is half removed is no backup."""
    manifest.manifest_file(folder, gone.name).unlink(missing_ok=True)
    manifest.sealed_file(folder, gone.name).unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what runs that died have left behind."""
    for part in folder.glob(".*.part"):
        if time.time() - part.stat().st_mtime > LEFT_BEHIND.total_seconds():
            part.unlink(missing_ok=True)
    for sealed in folder.glob("*.sealed"):
        lonely = not sealed.with_suffix(".json").exists()
        if lonely and time.time() - sealed.stat().st_mtime > LEFT_BEHIND.total_seconds():
            sealed.unlink(missing_ok=True)


def _one(connection: postgres.Connection, query: str, values: dict[str, Any] | None = None) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None
