"""`ops rollback`: point production's domains at an earlier deployment, and wait until it serves.

The rule a newcomer would break: the site itself is asked which deployment serves; Vercel's word
that a rollback succeeded is not enough. It works while the database is down, but then no
deployment is known to be safe.
"""

import sys
import time
from datetime import UTC, datetime

import click

from ops import command
from ops.command import Args
from ops.incidents import notes, rollback_candidates
from ops.incidents.rollback_candidates import Candidate
from ops.progress import Waiting
from ops.settings import OperatorServices
from ops.vendors.http import ApiError
from ops.vendors.redeployment import CONSECUTIVE_ANSWERS, serving_deployment
from ops.vendors.vercel import Vercel

TIMEOUT_S = 180
POLL_S = 0.5
NEXT_STEPS = """
From now on pushes to the production branch are built but no longer served: Vercel switched the
automatic assignment of domains off. Once the fault is fixed, undo it and switch it on again:

    vercel promote <the fixed deployment>     (to go back to where you were: {before})
"""
NOT_NOTED = "Not recorded on an incident: none is open, or Postgres cannot be used."


@command.root.command(
    "rollback",
    examples=(
        "python3 -m ops rollback --dry-run",
        "python3 -m ops rollback --reason 'leads answer 500 since 14:02'",
        "python3 -m ops rollback dpl_… --force 'its key was never used for leads'",
    ),
    dry_run=True,
    confirms=True,
)
@command.argument("deployment", required=False, help="default: the newest safe one before this")
@click.option("--reason", default="", help="why; kept at Vercel and on the incident")
@click.option(
    "--force", metavar="REASON", help="roll back to an unsafe deployment; REASON is recorded"
)
@click.option("--timeout", type=float, default=180, help="seconds to wait", show_default=True)
def rollback(services: OperatorServices, args: Args) -> int:
    """Let an earlier deployment serve production (Vercel's instant rollback), if it is safe.

    Exit 1 when it is refused or does not arrive.
    """
    vercel = Vercel(services.settings)
    try:
        serving, _ = vercel.production()
        records = rollback_candidates.load_records(services)
        candidates = rollback_candidates.assess(vercel.deployments(), serving, records)
        chosen = _choose(candidates, args.deployment)
        refusal = _refusal(chosen, args)
        if not args.json:
            _print_table(candidates, chosen)
        elif args.dry_run or refusal:
            command.print_json({"chosen": chosen and chosen.deployment.id, "refused": refusal,
                                "candidates": [c.to_json() for c in candidates]})  # fmt: skip
        if refusal or chosen is None:
            print(refusal, file=sys.stderr)
            return 1
        if not args.json:
            print(f"\nEquivalent command: vercel rollback {chosen.deployment.id}")
        if args.dry_run:
            return 0
        if not _confirmed(args, chosen):
            return 1
        return _roll_back(services, vercel, serving, chosen, args)
    except ApiError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        vercel.close()


def _choose(candidates: list[Candidate], deployment_id: str | None) -> Candidate | None:
    """The one named, or the newest safe one that is older than what serves."""
    if deployment_id:
        return next((c for c in candidates if c.deployment.id == deployment_id), None)
    serving = next((n for n, c in enumerate(candidates) if c.is_serving), -1)
    return next((c for c in candidates[serving + 1 :] if c.is_safe), None)


def _refusal(chosen: Candidate | None, args: Args) -> str | None:
    if chosen is None and args.deployment:
        return f"{args.deployment} is not among production's last deployments"
    if chosen is None:
        return ("no earlier deployment is safe; choose one with DEPLOYMENT --force REASON, "
                "or deploy a fix")  # fmt: skip
    if chosen.is_serving:
        return f"{chosen.deployment.id} already serves production"
    if chosen.faults and not args.force:
        flags = "--force REASON" + ("" if args.yes or sys.stdin.isatty() else " --yes")
        return f"{chosen.deployment.id} is unsafe ({'; '.join(chosen.faults)}): add {flags}"
    return None


def _print_table(candidates: list[Candidate], chosen: Candidate | None) -> None:
    rows = [
        (
            ">" if candidate is chosen else "",
            candidate.deployment.id,
            candidate.deployment.commit[:8],
            candidate.deployment.created_at,
            "serves now" if candidate.is_serving else "; ".join(candidate.faults) or "safe",
        )
        for candidate in candidates
    ]
    command.print_table(("", "deployment", "commit", "built", "verdict"), rows)


def _confirmed(args: Args, chosen: Candidate) -> bool:
    for fault in chosen.faults:
        print(f"UNSAFE: {fault}", file=sys.stderr)
    return command.confirm(args, f"Let {chosen.deployment.id} serve all of production?")


def _roll_back(
    services: OperatorServices, vercel: Vercel, before: str, chosen: Candidate, args: Args
) -> int:
    target, started = chosen.deployment.id, time.monotonic()
    reason = args.force or args.reason or "rollback"
    facts = {"from": before, "to": target, "forced": bool(args.force), "unsafe": chosen.faults}
    now = datetime.now(UTC)
    incidents = notes.add_note_to_open(services, "rollback_asked", facts, reason, now)
    try:
        vercel.rollback(target, reason)
        fault = _wait_until_serving(services, vercel, target, started + args.timeout)
    except ApiError as error:
        fault = str(error)
    took_s = round(time.monotonic() - started, 1)
    facts |= {"took_s": took_s, "fault": fault}
    kind, now = "rollback_failed" if fault else "rolled_back", datetime.now(UTC)
    notes.add_note_to_open(services, kind, facts, fault or reason, now)
    if args.json:
        command.print_json({**facts, "incidents": incidents})
    elif not fault:
        noted = f"recorded on {', '.join(incidents)}" if incidents else NOT_NOTED
        print(f"{target} serves; it took {took_s} s\n{noted}")
        print(NEXT_STEPS.format(before=before))
    if fault:
        print(f"NOT ROLLED BACK after {took_s} s: {fault}", file=sys.stderr)
    return 1 if fault else 0


def _wait_until_serving(
    services: OperatorServices, vercel: Vercel, target: str, deadline: float
) -> str | None:
    """None once the site itself answers as `target`; else why it does not."""
    in_a_row, serving = 0, "nothing"
    with Waiting(f"{target} is to serve", deadline - time.monotonic()) as waiting:
        while time.monotonic() < deadline:
            serving = serving_deployment(services.settings.site_url)
            waiting.update(f"{serving} answers")
            in_a_row = in_a_row + 1 if serving == target else 0
            if in_a_row == CONSECUTIVE_ANSWERS:
                return None
            _, move = vercel.production()
            if move and move.deployment_id == target and move.status in ("failed", "skipped"):
                return f"Vercel says that the rollback {move.status}; {serving} answers"
            time.sleep(POLL_S if not in_a_row else 0.1)
    return (f"accepted by Vercel, but {serving} still answers: look at its dashboard, "
            "or run the command again")  # fmt: skip
