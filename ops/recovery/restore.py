"""`ops restore`: the real thing, in order, resumable, asking before what cannot be undone."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ops import command, local_platform, steps
from ops.command import Args, Failed
from ops.recovery.backup_sources import BackupSource, choose_source, newer_data
from ops.recovery.plan import ConfirmationRequired, Restore
from ops.settings import OperatorServices

START_QUESTION = (
    "Production enters maintenance, and what is in the database now is saved; you are asked again"
    " before anything is replaced. Begin?"
)


@command.root.command(
    "restore",
    examples=(
        "python3 -m ops restore --dry-run",
        "python3 -m ops restore --before 2026-11-24T03:00:00+07:00",
        "python3 -m ops restore --source supabase",
        "python3 -m ops restore --point 2026-11-24T03:00:00+07:00",
    ),
    dry_run=True,
)
@click.option(
    "--source", type=click.Choice(("own", "supabase")), help="default: own, if there is one"
)
@click.option("--backup", help="its name or number (default: the newest)")
@click.option("--before", type=command.Moment(), metavar="TIME", help="taken before that moment")
@click.option(
    "--point", type=command.Moment(), metavar="TIME", help="Supabase's PITR, to that moment"
)
@click.option(
    "--skip",
    multiple=True,
    type=click.Choice(
        ("maintenance", "keep", "passwords", "erasures", "journal", "caches", "canary", "proof")
    ),
    help="leave it out",
)
@click.option(
    "--yes-replace", metavar="TARGET", help="replace everything in HOST/DATABASE, or in the project"
)
@click.option("--yes-erase", is_flag=True, help="erase again whoever was erased since the backup")
@click.option("--yes-open", is_flag=True, help="end maintenance when a lead got through")
@click.option("--start-over", is_flag=True, help="forget an unfinished restore")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=local_platform.DATA / "restore.json",
    help="what is done is kept here",
)
@click.option("--every", type=float, default=5.0, metavar="S", help="poll interval at Supabase")
def restore(services: OperatorServices, args: Args) -> int:
    """Restore production: intake mode, restore, passwords, migrations, erasures, journal, open.

    Chooses the newest backup of ours, or of Supabase where there is none. Stopped anywhere, the
    same command goes on. It asks before maintenance, and before what cannot be undone; without a
    terminal say --yes-…. Exit 1 when a step failed; 2 when a confirmation is missing.
    """
    file: Path = args.state
    state = _load_state(file)
    now = datetime.now(UTC)
    if state is None or args.start_over:
        state = _new_state(choose_source(services, args, now), now)
    job = Restore(services, args, file, state)
    if args.dry_run:
        return _print_plan(services, args, job, state)
    if "canary" not in args.skip:  # a missing setting shows now, not in the middle
        _ = services.settings.maintenance_bypass_token, services.settings.canary_secret
    if missing := job.missing_confirmations():
        print("there is no terminal to ask at; add: " + " ".join(missing), file=sys.stderr)
        return 2
    if not args.json:
        resumed = f"; continues after the step {list(state['done'])[-1]}" if state["done"] else ""
        print(f"restores {job.source.describe(now)}{resumed}")
    asks = sys.stdin.isatty() and not (state["done"] or args.yes_replace)
    if asks and not command.confirm_at_terminal(START_QUESTION):
        return 1
    job.save()
    try:
        outcomes = job.run(steps.Printer(quiet=args.json))
    except ConfirmationRequired as error:
        print(error, file=sys.stderr)
        return 2
    finished = "proof" in state["done"]
    if finished:
        file.replace(file.with_name(f"{state['id'].replace(':', '-')}.json"))
    if args.json:
        results = [asdict(outcome) for outcome in outcomes]
        command.print_json({**state, "finished": finished, "steps": results})
    return 0 if finished else 1


def _new_state(source: BackupSource, now: datetime) -> dict[str, Any]:
    return {
        "id": f"restore:{now:%Y%m%dT%H%M%S}",
        "began": now.isoformat(),
        "source": {
            "kind": source.kind,
            "name": source.name,
            "taken_at": source.taken_at.isoformat(),
        },
        "done": {},
    }


def _print_plan(services: OperatorServices, args: Args, job: Restore, state: dict[str, Any]) -> int:
    risk = newer_data(services, job.source, quiet=args.json)
    left = [step.name for step in job.steps() if step.name not in state["done"]]
    if args.json:
        command.print_json({**state, "at_risk": risk, "left": left})
        return 0
    print(f"would restore {job.source.describe(datetime.now(UTC))}")
    for name, value in risk.items():
        lines = value.items() if isinstance(value, dict) else [(name, value)]
        for what, words in lines:
            print(f"  {what:<28}{words}")
    print("steps: " + " -> ".join(left))
    return 0


def _load_state(file: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise Failed(f"{file} cannot be read: correct it, or add --start-over", status=2) from None
    return state
