"""`ops restore`: the real thing, in order, resumable, asking before what cannot be undone."""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.services import Services
from ops import command, local_platform, steps
from ops.command import Failed
from ops.recovery.backup_sources import BackupSource, choose_source, newer_data
from ops.recovery.plan import SKIPPABLE_STEPS, ConfirmationRequired, Restore


def restore(services: Services, args: argparse.Namespace) -> int:
    """Restore production: intake mode, restore, passwords, migrations, erasures, journal, open.

    Chooses the newest backup of ours, or of Supabase where there is none. Stopped anywhere, the
    same command goes on. It asks before what cannot be undone; without a terminal say --yes-….
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
    if not args.json:
        going_on = f", going on after {list(state['done'])[-1]}" if state["done"] else ""
        print(f"restoring {job.source.describe(now)}{going_on}")
    job.save()
    try:
        outcomes = job.run(steps.printer(quiet=args.json))
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
        "source": {"kind": source.kind, "name": source.name, "taken_at": str(source.taken_at)},
        "done": {},
    }


def _print_plan(
    services: Services, args: argparse.Namespace, job: Restore, state: dict[str, Any]
) -> int:
    risk = newer_data(services, job.source)
    left = [step.name for step in job.steps() if step.name not in state["done"]]
    if args.json:
        command.print_json({**state, "at_risk": risk, "left": left})
        return 0
    print(f"would restore {job.source.describe(datetime.now(UTC))}")
    for name, value in risk.items():
        shown = value.items() if isinstance(value, dict) else [(name, value)]
        for what, words in shown:
            print(f"  {what:<28}{words}")
    print("steps: " + " -> ".join(left))
    return 0


def _load_state(file: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise Failed(f"{file} cannot be read: say --start-over, or correct it", status=2) from None
    return state


def parse_time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise argparse.ArgumentTypeError("a moment with its zone: 2026-11-24T03:00:00+07:00")
    return at.astimezone(UTC)


def add_commands(groups: Any) -> None:
    verb = command.command(
        groups,
        "restore",
        restore,
        "python3 -m ops restore --dry-run",
        "python3 -m ops restore --before 2026-11-24T03:00:00+07:00",
        "python3 -m ops restore --source supabase",
        "python3 -m ops restore --point 2026-11-24T03:00:00+07:00",
        dry_run=True,
        as_json=True,
    )
    verb.add_argument("--source", choices=("own", "supabase"), help="default: own, if there is one")
    verb.add_argument("--backup", help="its name or number (default: the newest)")
    verb.add_argument("--before", type=parse_time, metavar="TIME", help="taken before that moment")
    verb.add_argument(
        "--point", type=parse_time, metavar="TIME", help="Supabase's PITR, to that moment"
    )
    verb.add_argument(
        "--skip", choices=SKIPPABLE_STEPS, action="append", default=[], help="leave it out"
    )
    verb.add_argument("--yes-replace", metavar="TARGET", help="HOST/DATABASE, or the project")
    verb.add_argument("--yes-erase", action="store_true")
    verb.add_argument("--yes-open", action="store_true")
    verb.add_argument("--start-over", action="store_true", help="forget an unfinished restore")
    state = local_platform.DATA / "restore.json"
    verb.add_argument("--state", type=Path, default=state, help="what is done is kept here")
    verb.add_argument("--every", type=float, default=5.0, metavar="S", help="ask Supabase so often")
