"""Our own backup: pg_dump, encrypted while it runs, with a manifest counted in the same snapshot.

A run that dies leaves a `.part` file, which a later run removes; run it again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ops.command import Failed
from ops.progress import ProgressBar, RowProgress
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


def plan(dsn: str, folder: Path) -> dict[str, object]:
    """What would be backed up."""
    with postgres.connect(dsn) as connection:
        tables = connection.execute(SELECT_TABLES, {"schemas": list(SCHEMAS)}).fetchall()
        size = _table_size(connection)
    database = postgres.display_address(dsn)
    return {"database": database, "tables": len(tables), "bytes": size, "folder": str(folder)}


def take(
    dsn: str, folder: Path, keys: tuple[bytes, ...], *, quiet: bool = False, recorded: bool = True
) -> Manifest:
    """Back up the database into the folder and record it. Raises Failed, recorded as such."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale_files(folder)
    started = datetime.now(UTC)
    with postgres.connect(dsn) as connection:
        try:
            backup = _dump_snapshot(connection, dsn, folder, keys, quiet=quiet)
        except (Failed, OSError, psycopg.Error) as error:
            reason = type(error).__name__
            if recorded:
                with contextlib.suppress(Failed):
                    record(connection, OWN_BACKUP, started, "FAILED", {"reason": reason})
            if isinstance(error, psycopg.Error):
                raise Failed(f"the backup failed: {reason}") from error
            raise
        if recorded:
            record(connection, OWN_BACKUP, backup.taken_at, COMPLETED, backup.as_dict())
    return backup


def _dump_snapshot(
    connection: postgres.Connection,
    dsn: str,
    folder: Path,
    keys: tuple[bytes, ...],
    *,
    quiet: bool,
) -> Manifest:
    started = time.monotonic()
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        connection.execute(SET_TEXT_FORMATS)
        # now() is the transaction's begin, a moment before its snapshot: never too young.
        snapshot = _fetch_value(connection, "select pg_export_snapshot()")
        taken_at = _fetch_value(connection, "select now()").astimezone(UTC)
        name = f"alfa-{taken_at:%Y%m%dT%H%M%S%fZ}"
        version = connection.info.server_version
        schemas = {"schemas": list(SCHEMAS)}
        foreign = connection.execute(SELECT_FOREIGN_RELATIONS, schemas).fetchall()
        facts = _collect_facts(connection, foreign, quiet=quiet)
        estimate = _estimate_size(connection, folder, keys)
        with ProgressBar("backup", estimate, exact=False, quiet=quiet) as bar:
            program = postgres.find_program("pg_dump", version // 10_000)
            excluded = [f"--exclude-table={_table_pattern(*table)}" for *table, _ in foreign]
            command = [str(program), f"--snapshot={snapshot}", *PG_DUMP_OPTIONS, *excluded]
            checksums = _dump(dsn, command, folder, name, keys[0], bar)
    backup = Manifest(
        name=name,
        taken_at=taken_at,
        took_s=round(time.monotonic() - started, 1),
        server_version=version,
        key=manifest.fingerprint(keys[0]),
        **facts,
        **checksums,
    ).signed(keys[0])
    manifest.write(folder, backup)
    return backup


def _collect_facts(
    connection: postgres.Connection, foreign: list[tuple[Any, ...]], *, quiet: bool
) -> dict[str, Any]:
    """What the manifest says of the snapshot. foreign: relations of others, not backed up."""
    grantees = connection.execute(SELECT_GRANTEES, {"schemas": list(SCHEMAS)})
    return {
        "tables": table_checksums(connection, quiet=quiet),
        "extensions": dict(connection.execute(SELECT_EXTENSIONS).fetchall()),
        "schema_version": _fetch_value(connection, SELECT_SCHEMA_VERSION) or "",
        "owners": tuple(role for (role,) in connection.execute(SELECT_OWNER_ROLES)),
        "grantees": tuple(role for (role,) in grantees),
        "left_out": tuple(f"{schema}.{table} of {owner}" for schema, table, owner in foreign),
    }


def table_checksums(connection: postgres.Connection, *, quiet: bool) -> dict[str, list[Any]]:
    """Every table's rows and checksum, as this transaction sees them, under SET_TEXT_FORMATS."""
    checksums = {}
    tables = connection.execute(SELECT_TABLES, {"schemas": list(SCHEMAS)}).fetchall()
    with RowProgress("tables counted and summed", len(tables), quiet=quiet) as progress:
        for schema, table in tables:
            count = sql.SQL(COUNT_AND_CHECKSUM).format(sql.Identifier(schema, table))
            checksums[f"{schema}.{table}"] = list(connection.execute(count).fetchone() or ())
            progress.add(1)
    return checksums


def _dump(
    dsn: str, command: list[str], folder: Path, name: str, key: bytes, bar: ProgressBar
) -> dict[str, Any]:
    """Sizes and checksums of what was written. The file gets its name when it is complete."""
    part = folder / f".{name}.{secrets.token_hex(4)}.part"
    dump, encrypted = _Checksum(), _Checksum()
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        with postgres.run_program(command, postgres.libpq_environment(dsn)) as child:
            output = (dump.add(piece) for piece in postgres.read_output(child))
            for piece in stream_encryption.encrypt(output, key):
                stream.write(encrypted.add(piece))
                bar.add(len(piece))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(manifest.sealed_file(folder, name))
    manifest.sync(folder)
    return {
        "dump_bytes": dump.size,
        "dump_sha256": dump.sha256.hexdigest(),
        "sealed_bytes": encrypted.size,
        "sealed_sha256": encrypted.sha256.hexdigest(),
    }


def _table_pattern(schema: str, name: str) -> str:
    """One relation and no other, as pg_dump's patterns are quoted."""
    quoted = (part.replace('"', '""') for part in (schema, name))
    return ".".join(f'"{part}"' for part in quoted)


class _Checksum:
    """Size and SHA-256 of a stream."""

    def __init__(self) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()

    def add(self, piece: bytes) -> bytes:
        self.size += len(piece)
        self.sha256.update(piece)
        return piece


def _estimate_size(connection: postgres.Connection, folder: Path, keys: tuple[bytes, ...]) -> int:
    """As the last backup, else a share of the tables' size."""
    backups, _ = manifest.list_backups(folder, keys)
    return backups[0].sealed_bytes if backups else int(_table_size(connection) * COMPRESSION_RATIO)


def record(
    connection: postgres.Connection,
    source: str,
    taken_at: datetime,
    status: str,
    facts: dict[str, object],
) -> None:
    """Record a backup in the table `backups`; safe to repeat. Raises Failed."""
    values = {"source": source, "taken_at": taken_at, "status": status, "facts": json.dumps(facts)}
    try:
        connection.execute(UPSERT_BACKUP, values)
    except psycopg.Error as error:
        raise Failed(f"seen, but not recorded in table backups: {type(error).__name__}") from None


def expired(backups: list[Manifest], now: datetime, keep_days: int) -> list[Manifest]:
    """Those older than keep_days; never the newest (the first), whatever its age."""
    limit = timedelta(days=keep_days)
    return [backup for backup in backups[1:] if now - backup.taken_at > limit]


def remove(folder: Path, backup: Manifest) -> None:
    """The manifest first: without it the rest is no backup."""
    manifest.manifest_file(folder, backup.name).unlink(missing_ok=True)
    manifest.sealed_file(folder, backup.name).unlink(missing_ok=True)


def _remove_stale_files(folder: Path) -> None:
    """What runs that died have left behind."""
    without_manifest = (
        file for file in folder.glob("*.sealed") if not file.with_suffix(".json").exists()
    )
    for file in [*folder.glob(".*.part"), *without_manifest]:
        if time.time() - file.stat().st_mtime > STALE_PARTIAL_AGE.total_seconds():
            file.unlink(missing_ok=True)


def _table_size(connection: postgres.Connection) -> int:
    return int(_fetch_value(connection, SELECT_SIZE, {"schemas": list(SCHEMAS)}))


def _fetch_value(
    connection: postgres.Connection, query: str, values: dict[str, Any] | None = None
) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None
