"""Which backup is restored, and what would be lost by it."""

import argparse
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg

from lib.services import Services
from ops.command import Failed
from ops.recovery import backup, manifest, postgres
from ops.vendors import supabase as vendor

COUNT_NEWER_LEADS = "select count(*) from leads where created_at > %(taken_at)s and not canary"
SELECT_NEWER_LEAD_IDS = """
select id::text from leads where created_at > %(taken_at)s and not canary limit 10000
"""


@dataclass(frozen=True, slots=True)
class BackupSource:
    """What is restored: our own dump by name, Supabase's by number, or a moment of PITR."""

    kind: str
    name: str
    taken_at: datetime

    def describe(self, now: datetime) -> str:
        age = (now - self.taken_at).total_seconds() / 3600
        return f"{self.kind} {self.name}, {age:.1f} h old ({self.taken_at:%Y-%m-%d %H:%M:%S} UTC)"


def choose_source(services: Services, args: argparse.Namespace, now: datetime) -> BackupSource:
    """The backup that is asked for, or the newest good one (before --before). Raises Failed."""
    if args.point is not None:
        return BackupSource("point", args.point.isoformat(), args.point)
    settings = services.settings
    found: list[BackupSource] = []
    if args.source in (None, "own"):
        held, _ = manifest.list_backups(
            Path(settings.backup_directory), settings.backup_encryption_key
        )
        found += [BackupSource("own", one.name, one.taken_at) for one in held]
    if args.source == "supabase" or (args.source is None and not found):
        with vendor.Project(settings) as project:
            there = project.list_backups()
        found += [
            BackupSource("supabase", str(one.id), one.taken_at)
            for one in there.backups
            if one.status == vendor.COMPLETED and one.id is not None
        ]
    bound = args.before or now
    fitting = [one for one in found if one.taken_at <= bound and args.backup in (None, one.name)]
    if not fitting:
        raise Failed("no good backup fits what was asked for: python3 -m ops backups")
    return max(fitting, key=lambda one: one.taken_at)


def newer_data(services: Services, source: BackupSource) -> dict[str, object]:
    """What is newer than the backup: leads, how many the journal has, and rows of each table."""
    found: dict[str, object] = {}
    values = {"taken_at": source.taken_at}
    try:
        with postgres.connect(services.settings.database_direct_url) as connection:
            row = connection.execute(COUNT_NEWER_LEADS, values).fetchone()
            found["leads_since"] = row[0] if row else 0
            ids = [one[0] for one in connection.execute(SELECT_NEWER_LEAD_IDS, values)]
            if source.kind == "own":
                found["rows"] = _changed_tables(services, connection, source)
    except (Failed, psycopg.Error) as fault:
        return {"unknown": f"the database cannot be read ({type(fault).__name__})"}
    found["leads_in_journal"] = sum(
        int(services.cache.execute("EXISTS", f"journal:{one}")) for one in ids
    )
    return found


def _changed_tables(
    services: Services, connection: postgres.Connection, source: BackupSource
) -> dict[str, str]:
    settings = services.settings
    file = manifest.manifest_file(Path(settings.backup_directory), source.name)
    then = manifest.read(file, settings.backup_encryption_key).tables
    with connection.transaction():
        connection.execute(backup.SET_TEXT_FORMATS)
        there = backup.table_checksums(connection)
    return {
        table: f"{there[table][0]} now, {then.get(table, [0])[0]} in the backup"
        for table in there
        if there[table] != then.get(table)
    }
