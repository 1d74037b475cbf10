"""Commands about backup and restore."""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lib.incidents import rules
from lib.problems import DatabaseDown, NotConfigured
from lib.services import Services
from ops import command, steps
from ops.command import Failed
from ops.recovery import backup, drill, manifest, postgres, restore
from ops.recovery.manifest import Manifest
from ops.vendors import supabase

KEEP_DAYS = 30


def take_backup(services: Services, args: argparse.Namespace) -> int:
    """Dump the database, sealed, with a manifest counted in the same snapshot; and record it.

    Older backups than --keep-days are removed afterwards, never the newest.
    """
    settings = services.settings
    folder, keys = Path(settings.backup_directory), settings.backup_encryption_key
    dsn = settings.database_direct_url
    if args.dry_run:
        plan = backup.plan(dsn, folder)
        gone = backup.expired(
            manifest.list_backups(folder, keys)[0], datetime.now(UTC), args.keep_days
        )
        facts = {
            "database": plan.database,
            "tables": plan.tables,
            "bytes": plan.bytes,
            "folder": plan.folder,
            "would_remove": [one.name for one in gone],
        }
        return _print_facts(args, facts, "dry run: nothing was written")
    made = backup.take(dsn, folder, keys, quiet=args.json)
    gone = backup.expired(manifest.list_backups(folder, keys)[0], datetime.now(UTC), args.keep_days)
    for one in gone:
        backup.remove(folder, one)
    facts = {"taken_at": made.taken_at, **made.as_dict(), "removed": [one.name for one in gone]}
    return _print_facts(args, facts, f"recorded; {folder / made.name}")


def list_backups(services: Services, args: argparse.Namespace) -> int:
    """Supabase's backups and our own, with their ages; what is seen is recorded for the watch.

    Exit 1 when the newest good one is too old, or one cannot be used; 2 when Supabase is not
    configured.
    """
    settings, now = services.settings, datetime.now(UTC)
    found, faults = manifest.list_backups(
        Path(settings.backup_directory), settings.backup_encryption_key
    )
    rows = [_own_backup_row(one, now) for one in found]
    status, pitr = 0, None
    try:
        with supabase.Project(settings) as project:
            there = project.list_backups()
        pitr = there.pitr
        rows += [_supabase_backup_row(one, now) for one in there.backups]
    except NotConfigured as fault:
        faults, status = [*faults, f"Supabase is not asked: {fault}"], 2
    except Failed as refusal:
        faults, status = [*faults, str(refusal)], 1
    rows.sort(key=lambda row: str(row["taken_at"]), reverse=True)
    if not args.dry_run:
        _record_backups(settings.database_direct_url, rows)
    good = [row for row in rows if row["status"] == backup.COMPLETED]
    if not good or now - _taken_at(good[0]) > rules.MAX_BACKUP_AGE:
        faults, status = [*faults, "the newest good backup is over a day old"], max(status, 1)
    if args.json:
        command.print_json({"pitr": pitr, "backups": rows, "faults": faults})
    else:
        names = ("source", "taken_at", "age_h", "status", "name", "rows", "bytes")
        command.print_table(names, ([row.get(name, "") for name in names] for row in rows))
        print(f"PITR: {'unknown' if pitr is None else 'on' if pitr else 'off'}")
        print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)
    return max(status, 1) if faults and status != 2 else status


def _own_backup_row(one: Manifest, now: datetime) -> dict[str, Any]:
    return {
        "source": backup.OWN_BACKUP,
        "taken_at": one.taken_at.isoformat(timespec="microseconds"),
        "age_h": _age_hours(now - one.taken_at),
        "status": backup.COMPLETED,
        **one.as_dict(),
    }


def _supabase_backup_row(one: supabase.Backup, now: datetime) -> dict[str, Any]:
    return {
        "source": supabase.SOURCE,
        "taken_at": one.taken_at.astimezone(UTC).isoformat(timespec="microseconds"),
        "age_h": _age_hours(now - one.taken_at),
        "status": one.status,
        "name": "point in time" if one.id is None else str(one.id),
        **one.as_dict(),
    }


def _age_hours(age: timedelta) -> float:
    return round(age.total_seconds() / 3600, 1)


def _taken_at(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["taken_at"])


def _record_backups(dsn: str, rows: list[dict[str, Any]]) -> None:
    shown = {"source", "taken_at", "age_h", "status"}
    with postgres.connect(dsn) as connection:
        for row in rows:
            facts = {name: value for name, value in row.items() if name not in shown}
            backup.record(connection, row["source"], _taken_at(row), row["status"], facts)


def restore_drill(services: Services, args: argparse.Namespace) -> int:
    """Restore the newest backup into a server of its own and prove that leads get through.

    PASS, FAIL or COULD NOT VERIFY is recorded with the measured RTO and RPO. Exit 0 for PASS
    alone. Nothing of production changes.
    """
    settings = services.settings
    folder, keys = Path(settings.backup_directory), settings.backup_encryption_key
    at = datetime.now(UTC)
    try:
        backed_up = drill.newest_backup(folder, keys)
        if args.dry_run:
            return _print_facts(
                args, {"taken_at": backed_up.taken_at, **backed_up.as_dict()}, "dry run"
            )
        tell = _ignore_outcome if args.json else steps.print_outcome
        report = drill.Drill(services, folder, quiet=args.json).run(backed_up, tell)
    except steps.CouldNotVerify as fault:
        report = drill.DrillReport(steps.COULD_NOT_VERIFY, "", 0, 0.0, 0.0, None, ())
        print(fault, file=sys.stderr)
    if args.json:
        command.print_json(report.as_dict())
    else:
        print(f"{report.verdict}: RTO {report.rto_s:,.0f} s, RPO {_format_rpo(report)}")
    if not args.dry_run:
        try:
            drill.record(services, report, at)
        except DatabaseDown:
            print("NOT RECORDED: the database cannot be reached", file=sys.stderr)
            return 1
    return 0 if report.verdict == steps.PASS else 1


def _format_rpo(report: drill.DrillReport) -> str:
    leads = report.rpo_leads_s
    said = "leads unknown" if leads is None else f"leads {leads:,.0f} s"
    return f"{report.rpo_s / 3600:,.1f} h (backup), {said}"


def _ignore_outcome(_outcome: steps.Outcome) -> None:
    pass


def replay_journal(services: Services, args: argparse.Namespace) -> int:
    """Store every lead of the journal that Postgres does not have. Twice does no harm."""
    now = datetime.now(UTC)
    tally = drill.replay_journal(services, now, dry_run=args.dry_run)
    _print_facts(args, tally.as_dict(), "dry run: nothing was stored" if args.dry_run else "")
    return 1 if tally.unreadable or tally.refused else 0


def _print_facts(args: argparse.Namespace, facts: dict[str, Any], last: str) -> int:
    if args.json:
        command.print_json(facts)
        return 0
    for name, value in facts.items():
        print(f"{name:>16}  {value}")
    if last:
        print(last)
    return 0


def add_commands(areas: Any) -> None:
    made = command.command(
        areas,
        "backup",
        take_backup,
        "python3 -m ops backup",
        "python3 -m ops backup --keep-days 14 --json",
        dry_run=True,
        as_json=True,
    )
    made.add_argument(
        "--keep-days", type=int, default=KEEP_DAYS, help=f"default: {KEEP_DAYS}", metavar="N"
    )
    command.command(
        areas, "backups", list_backups, "python3 -m ops backups", dry_run=True, as_json=True
    )
    command.command(
        areas,
        "restore-drill",
        restore_drill,
        "python3 -m ops restore-drill",
        dry_run=True,
        as_json=True,
    )
    verbs = command.group(areas, "journal", "the sealed journal of the last 48 hours")
    command.command(
        verbs,
        "replay",
        replay_journal,
        "python3 -m ops journal replay --dry-run",
        dry_run=True,
        as_json=True,
    )
    restore.add_commands(areas)
