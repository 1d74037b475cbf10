"""Commands about backup and restore."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import psycopg

from lib.incidents import rules
from lib.problems import DatabaseDown, NotConfigured
from ops import command, connections, steps
from ops.command import Args, Failed
from ops.progress import Waiting
from ops.recovery import backup, drill, journal, manifest, migrations, postgres
from ops.settings import OperatorServices
from ops.vendors import supabase

journal_commands = command.group("journal", "the encrypted journal of the last 48 hours")


KEEP_DAYS = 30


@command.root.command(
    "backup",
    examples=("python3 -m ops backup --yes", "python3 -m ops backup --keep-days 14 --dry-run"),
    dry_run=True,
    confirms=True,
)
@click.option("--keep-days", type=int, default=30, metavar="N", help="default: 30")
def take_backup(services: OperatorServices, args: Args) -> int:
    """Dump the database, encrypted, with a manifest counted in the same snapshot; and record it.

    It never waits for an answer before the backup is complete. Older backups than --keep-days are
    removed afterwards, once you agree; never the newest. Without a terminal and --yes they stay.
    Exit 1 when the backup failed.
    """
    settings = services.settings
    folder, keys = Path(settings.backup_directory), settings.backup_encryption_key
    dsn = settings.database_direct_url
    if args.dry_run:
        facts: dict[str, Any] = backup.plan(dsn, folder)
    else:
        archive = backup.take(dsn, folder, keys, quiet=args.json)
        facts = {"taken_at": archive.taken_at, **archive.as_dict()}
    backups, _ = manifest.list_backups(folder, keys)
    expired = backup.expired(backups, datetime.now(UTC), args.keep_days)
    names = [old.name for old in expired]
    if args.dry_run:
        return _print_facts(args, facts | {"would_remove": names}, "dry run: nothing was written")
    is_removed = bool(expired) and _confirm_removal(args, names)
    for old in expired if is_removed else ():
        backup.remove(folder, old)
    result = {"removed": names if is_removed else [], "expired": [] if is_removed else names}
    return _print_facts(args, facts | result, f"recorded; {folder / archive.name}")


def _confirm_removal(args: Args, names: list[str]) -> bool:
    """Whether expired backups are deleted; the new one is complete whatever the answer."""
    if args.yes:
        return True
    listed = f"{len(names)} backups are older than {args.keep_days} days: {', '.join(names)}."
    if not sys.stdin.isatty():
        print(f"{listed} They were kept; add --yes to delete them", file=sys.stderr)
        return False
    if command.ask(f"The new backup is complete. {listed} Delete them? (yes/no)") == "yes":
        return True
    print("the older backups were kept", file=sys.stderr)
    return False


@command.root.command("backups", examples=("python3 -m ops backups --record",), dry_run=True)
@click.option("--record", is_flag=True, help="write into Postgres what was found, for the watch")
def list_backups(services: OperatorServices, args: Args) -> int:
    """Supabase's backups and our own, with their ages; --record lets the watch know of them.

    Exit 1 when the newest good one is too old, or one cannot be used; 2 when Supabase is not
    configured.
    """
    settings, now = services.settings, datetime.now(UTC)
    folder = Path(settings.backup_directory)
    own, faults = manifest.list_backups(folder, settings.backup_encryption_key)
    rows = [
        _row(backup.OWN_BACKUP, copy.taken_at, now, backup.COMPLETED, copy.as_dict())
        for copy in own
    ]
    status, pitr = 0, None
    try:
        pitr, supabase_rows = _list_at_supabase(services, now)
        rows += supabase_rows
    except NotConfigured as error:
        faults, status = [*faults, f"Supabase was not asked: {error}"], 2
    except Failed as error:
        faults = [*faults, str(error)]
    rows.sort(key=lambda row: str(row["taken_at"]), reverse=True)
    if args.record and not args.dry_run:
        _record_backups(settings.database_direct_url, rows)
    good = [row for row in rows if row["status"] == backup.COMPLETED]
    if not good or now - datetime.fromisoformat(good[0]["taken_at"]) > rules.MAX_BACKUP_AGE:
        faults = [*faults, "no good backup is younger than a day"]
    if args.json:
        command.print_json({"pitr": pitr, "backups": rows, "faults": faults})
    else:
        _print_backups(rows, pitr, faults)
    return status or (1 if faults else 0)


def _list_at_supabase(
    services: OperatorServices, now: datetime
) -> tuple[bool, list[dict[str, Any]]]:
    """Whether PITR is on, and Supabase's backups. Raises NotConfigured, Failed."""
    with supabase.Project(services.settings) as project:
        listed = project.list_backups()
    rows = []
    for copy in listed.backups:
        name = "point in time" if copy.id is None else str(copy.id)
        facts = {"name": name, **copy.as_dict()}
        rows.append(_row(supabase.SOURCE, copy.taken_at, now, copy.status, facts))
    return listed.pitr, rows


def _print_backups(rows: list[dict[str, Any]], pitr: bool | None, faults: list[str]) -> None:
    names = ("taken_at", "source", "age_h", "status", "name", "rows")
    table = [
        [command.format_time(row["taken_at"]), *(row.get(name, "") for name in names[1:])]
        for row in rows
    ]
    command.print_table(names, table, empty="there is no backup")
    state = "unknown" if pitr is None else "on" if pitr else "off"
    print(f"point-in-time recovery at Supabase: {state}")
    print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)


def _row(
    source: str, taken_at: datetime, now: datetime, status: str, facts: dict[str, object]
) -> dict[str, Any]:
    return {
        "source": source,
        "taken_at": taken_at.astimezone(UTC).isoformat(timespec="microseconds"),
        "age_h": round((now - taken_at).total_seconds() / 3600, 1),
        "status": status,
        **facts,
    }


def _record_backups(dsn: str, rows: list[dict[str, Any]]) -> None:
    columns = {"source", "taken_at", "age_h", "status"}
    with postgres.connect(dsn) as connection:
        for row in rows:
            facts = {name: value for name, value in row.items() if name not in columns}
            taken_at = datetime.fromisoformat(row["taken_at"])
            backup.record(connection, row["source"], taken_at, row["status"], facts)


@command.root.command("restore-drill", examples=("python3 -m ops restore-drill",), dry_run=True)
def restore_drill(services: OperatorServices, args: Args) -> int:
    """Restore the newest backup into a server of its own and prove that leads get through.

    PASS, FAIL or COULD NOT VERIFY is recorded with the measured RTO and RPO. Exit 0 for PASS
    alone. Nothing of production changes.
    """
    settings = services.settings
    folder, keys = Path(settings.backup_directory), settings.backup_encryption_key
    at = datetime.now(UTC)
    try:
        newest = drill.newest_backup(folder, keys)
        if args.dry_run:
            return _print_facts(args, {"taken_at": newest.taken_at, **newest.as_dict()}, "dry run")
        job = drill.Drill(services, folder, quiet=args.json)
        report = job.run(newest, steps.Printer(quiet=args.json))
    except steps.CouldNotVerify as error:
        report = drill.DrillReport(steps.COULD_NOT_VERIFY, "", 0, 0.0, 0.0, None, ())
        print(error, file=sys.stderr)
    if args.json:
        command.print_json(report.as_dict())
    else:
        lost_s = report.rpo_leads_s
        leads = "leads unknown" if lost_s is None else f"leads {lost_s:,.0f} s"
        rpo = f"{report.rpo_s / 3600:,.1f} h (backup), {leads}"
        print(f"{report.verdict}: RTO {report.rto_s:,.0f} s, RPO {rpo}")
    if not args.dry_run:
        try:
            drill.record(services, report, at)
        except DatabaseDown as error:
            print(f"the drill is NOT RECORDED: {connections.explain(error)}", file=sys.stderr)
            return 1
    return 0 if report.verdict == steps.PASS else 1


@journal_commands.command(
    "replay", examples=("python3 -m ops journal replay --dry-run",), dry_run=True
)
def replay_journal(services: OperatorServices, args: Args) -> int:
    """Store every lead of the journal that Postgres does not have. Twice does no harm.

    Exit 1 when an entry is unreadable, or Postgres refused one.
    """
    with Waiting("leads of the journal are stored"):
        stats = journal.replay(services, datetime.now(UTC), dry_run=args.dry_run)
    _print_facts(args, stats.as_dict(), "dry run: nothing was stored" if args.dry_run else "")
    return 1 if stats.unreadable or stats.refused else 0


def _print_facts(args: Args, facts: dict[str, Any], last_line: str) -> int:
    if args.json:
        command.print_json(facts)
        return 0
    for name, value in facts.items():
        text = command.format_time(value) if name.endswith("_at") else value
        print(f"{name:>16}  {text}")
    if last_line:
        print(last_line)
    return 0


@command.root.command("migrate", examples=("python3 -m ops migrate",))
@click.option("--dsn", help="as the tables' owner (default: DATABASE_DIRECT_URL)")
@click.option("--folder", type=click.Path(path_type=Path), default=migrations.FOLDER, hidden=True)
def migrate(services: OperatorServices, args: Args) -> int:
    """Apply supabase/migrations, recorded where the Supabase CLI records them. Exit 1: refused."""
    try:
        names = migrations.apply(args.dsn or services.settings.database_direct_url, args.folder)
    except psycopg.Error as error:
        raise Failed(str(error).strip()) from None
    lines = [f"applied {name}" for name in names] or ["nothing to apply"]
    command.print_result(args, {"applied": names}, *lines)
    return 0
