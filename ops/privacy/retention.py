"""Commands about retention: the oldest row of each class, and pruning before the cron does."""

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click

from lib.privacy import retention
from lib.services import Services
from ops import command
from ops.command import Args
from ops.privacy import data_inventory
from ops.progress import Waiting

retention_commands = command.group("retention", "how long data is kept")


def _rules(services: Services) -> tuple[retention.Rule, ...]:
    return retention.rules(services.settings.leads_retention_days)


@retention_commands.command("ages", examples=("python3 -m ops retention ages",))
def show_ages(services: Services, args: Args) -> int:
    """The oldest row of every class. Exit 1 when one should have ended more than a day ago."""
    ages = retention.ages(services.database.run, _rules(services), datetime.now(UTC))
    if args.json:
        command.print_json([asdict(age) for age in ages])
    else:
        rows = [(age.name, age.days, command.format_time(age.oldest_at),
                 "LATE" if age.late else "ok", age.what) for age in ages]  # fmt: skip
        command.print_table(("class", "days", "oldest", "", "what"), rows)
    return 1 if any(age.late for age in ages) else 0


@retention_commands.command(
    "prune", examples=("python3 -m ops retention prune --dry-run",), dry_run=True, confirms=True
)
@click.option(
    "--timeout", type=float, default=600.0, metavar="SECONDS", help="then it ends",
    show_default=True,
)  # fmt: skip
def prune_expired(services: Services, args: Args) -> int:
    """Delete expired rows, as the cron does.

    A lead that sales were never told of is kept and named. Exit 1 when time ran out.
    """
    rules, now, run = _rules(services), datetime.now(UTC), services.database.run
    unnotified = retention.unnotified_leads(run, rules, now)
    if args.dry_run:
        expired = {
            age.name: age.oldest_at.isoformat()
            for age in retention.ages(run, rules, now)
            if age.oldest_at is not None and age.oldest_at < now - timedelta(days=age.days)
        }
        if args.json:
            command.print_json({"would_end": expired, "unheard": unnotified})
        else:
            command.print_table(
                ("class", "oldest row to delete"),
                [(name, command.format_time(at)) for name, at in expired.items()],
                empty="no row is old enough to be deleted",
            )
            _print_unnotified(unnotified)
        return 0
    if not command.confirm(args, "Delete every row that is older than its class allows?"):
        return 1
    deadline = time.monotonic() + args.timeout
    with Waiting("expired rows are deleted") as waiting:
        ended = retention.prune(run, rules, now, budget_s=args.timeout, progress=waiting.update)
    is_finished = time.monotonic() < deadline
    if args.json:
        command.print_json({"ended": ended, "unheard": unnotified, "finished": is_finished})
    else:
        rows = [(name, count) for name, count in ended.items() if count]
        command.print_table(("class", "rows deleted"), rows, empty="no row was old enough")
        print(f"{sum(ended.values())} rows deleted")
        _print_unnotified(unnotified)
    if not is_finished:
        print(f"not finished within {args.timeout:,.0f} s: run the command again", file=sys.stderr)
    return 0 if is_finished else 1


def _print_unnotified(lead_ids: list[str]) -> None:
    for lead_id in lead_ids:
        print(f"not deleted: lead {lead_id} is old enough, but sales were never mailed about it"
              " (`ops dead list`)")  # fmt: skip


@retention_commands.command("columns", examples=("python3 -m ops retention columns",))
def list_columns(services: Services, args: Args) -> int:
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
