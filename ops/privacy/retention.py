"""Commands about retention: the oldest row of each class, and pruning before the cron does."""

import argparse
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from lib.privacy import retention
from lib.services import Services
from ops import command
from ops.privacy import data_inventory

BUDGET_S = 600.0


def _rules(services: Services) -> tuple[retention.Rule, ...]:
    return retention.rules(services.settings.leads_retention_days)


def show_ages(services: Services, args: argparse.Namespace) -> int:
    """The oldest row of every class. Exit 1 when one should have ended more than a day ago."""
    ages = retention.ages(services.database.run, _rules(services), datetime.now(UTC))
    if args.json:
        command.print_json([asdict(age) for age in ages])
    else:
        rows = [(age.name, age.days, age.oldest_at or "-", "LATE" if age.late else "ok", age.what)
                for age in ages]  # fmt: skip
        command.print_table(("class", "days", "oldest", "", "what"), rows)
    return 1 if any(age.late for age in ages) else 0


def prune_expired(services: Services, args: argparse.Namespace) -> int:
    """End what was kept long enough, as the cron does; for ten minutes at most.

    A lead that sales were never told of is kept and named.
    """
    rules, now, run = _rules(services), datetime.now(UTC), services.database.run
    unnotified = retention.unnotified_leads(run, rules, now)
    if args.dry_run:
        expired = {
            age.name: str(age.oldest_at)
            for age in retention.ages(run, rules, now)
            if age.oldest_at is not None and age.oldest_at < now - timedelta(days=age.days)
        }
        if args.json:
            command.print_json({"would_end": expired, "unheard": unnotified})
        else:
            command.print_table(("class", "oldest row to end"), expired.items())
            _print_unnotified(unnotified)
        return 0
    ended = retention.prune(run, rules, now, budget_s=BUDGET_S)
    if args.json:
        command.print_json({"ended": ended, "unheard": unnotified})
    else:
        command.print_table(("class", "rows ended"), [(name, n) for name, n in ended.items() if n])
        print(f"{sum(ended.values())} rows ended")
        _print_unnotified(unnotified)
    return 0


def _print_unnotified(lead_ids: list[str]) -> None:
    for lead_id in lead_ids:
        print(f"kept: lead {lead_id}, past its time, of which sales never heard (`ops dead list`)")


def list_columns(services: Services, args: argparse.Namespace) -> int:
    """Every column that holds something of a person, and the class that ends it."""
    ends = {rule.name: f"{rule.days} days" for rule in _rules(services)}
    ends |= data_inventory.OTHER_RETENTION
    rows = [
        {"table": table, "column": column, "class": name, "ends": ends[name]}
        for table, inventory in data_inventory.TABLES.items()
        for name, names in inventory.personal_columns.items()
        for column in names.split()
    ]
    if args.json:
        command.print_json(rows)
    else:
        command.print_table(
            ("table", "column", "class", "ends"), [tuple(row.values()) for row in rows]
        )
    return 0


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "retention", "how long data is kept")
    command.command(verbs, "ages", show_ages, "python3 -m ops retention ages", as_json=True)
    example = "python3 -m ops retention prune --dry-run"
    command.command(verbs, "prune", prune_expired, example, dry_run=True, as_json=True)
    example = "python3 -m ops retention columns"
    command.command(verbs, "columns", list_columns, example, as_json=True)
