"""Which backup is restored, and what would be lost by it."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg

from lib.leads.queue import journal_key
from ops import command, connections
from ops.command import Args, Failed
from ops.recovery import backup, manifest, postgres
from ops.settings import OperatorServices
from ops.vendors import supabase

COUNT_NEWER_LEADS = "select count(*) from leads where created_at > %(taken_at)s and not canary"
SELECT_NEWER_LEAD_IDS = """
select id::text from leads where created_at > %(taken_at)s and not canary limit 10000
"""


@dataclass(frozen=True, slots=True)
class BackupSource:
    """kind: own (a dump, by name), supabase (by number), point (a time of PITR)."""

    kind: str
    name: str
    taken_at: datetime

    def describe(self, now: datetime) -> str:
        age = (now - self.taken_at).total_seconds() / 3600
        return f"{self.kind} {self.name}, {age:.1f} h old ({command.format_time(self.taken_at)})"


def choose_source(services: OperatorServices, args: Args, now: datetime) -> BackupSource:
    """The backup that was asked for, or the newest good one (before --before). Raises Failed."""
    if args.point is not None:
        return BackupSource("point", args.point.isoformat(), args.point)
    settings = services.settings
    sources: list[BackupSource] = []
    if args.source != "supabase":
        folder, keys = Path(settings.backup_directory), settings.backup_encryption_key
        own, _ = manifest.list_backups(folder, keys)
        sources = [BackupSource("own", copy.name, copy.taken_at) for copy in own]
    if args.source == "supabase" or (args.source is None and not sources):
        with supabase.Project(settings) as project:
            copies = project.list_backups().backups
        sources = [
            BackupSource("supabase", str(copy.id), copy.taken_at)
            for copy in copies
            if copy.status == supabase.COMPLETED and copy.id is not None
        ]
    latest = args.before or now
    fitting = [
        source
        for source in sources
        if source.taken_at <= latest and args.backup in (None, source.name)
    ]
    if not fitting:
        raise Failed("no usable backup matches: `ops backups` lists them")
    return max(fitting, key=lambda source: source.taken_at)


def newer_data(
    services: OperatorServices, source: BackupSource, *, quiet: bool
) -> dict[str, object]:
    """What is newer than the backup: leads, how many the journal has, and rows of each table."""
    values = {"taken_at": source.taken_at}
    newer: dict[str, object] = {}
    try:
        with postgres.connect(services.settings.database_direct_url) as connection:
            row = connection.execute(COUNT_NEWER_LEADS, values).fetchone()
            newer["leads_since"] = row[0] if row else 0
            ids = [lead_id for (lead_id,) in connection.execute(SELECT_NEWER_LEAD_IDS, values)]
            if source.kind == "own":
                newer["rows"] = _changed_tables(services, connection, source, quiet=quiet)
    except (Failed, psycopg.Error) as error:
        return {"unknown": f"Postgres cannot be used: {connections.explain_reason(error)}"}
    execute = services.cache.execute
    newer["leads_in_journal"] = sum(int(execute("EXISTS", journal_key(i))) for i in ids)
    return newer


def _changed_tables(
    services: OperatorServices,
    connection: postgres.Connection,
    source: BackupSource,
    *,
    quiet: bool,
) -> dict[str, str]:
    settings = services.settings
    file = manifest.manifest_file(Path(settings.backup_directory), source.name)
    saved = manifest.read(file, settings.backup_encryption_key).tables
    with connection.transaction():
        connection.execute(backup.SET_TEXT_FORMATS)
        current = backup.table_checksums(connection, quiet=quiet)
    return {
        table: f"{contents[0]} now, {saved.get(table, [0])[0]} in the backup"
        for table, contents in current.items()
        if contents != saved.get(table)
    }
