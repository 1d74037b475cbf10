"""`ops rollback`: lead the domains back to an earlier deployment, and wait until they are there.

It asks the site itself which deployment answers: Vercel's word that a rollback succeeded is not
taken for it. It works while the database is down, but then nothing is known to be safe.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import Any

from lib.services import Services
from ops import command
from ops.incidents import notes, rollback_candidates
from ops.incidents.rollback_candidates import Candidate
from ops.vendors.http import ApiError
from ops.vendors.redeployment import CONSECUTIVE_ANSWERS, serving_deployment
from ops.vendors.vercel import Vercel

WAIT_S = 180
POLL_S = 0.5
NEXT_STEPS = """
From now on pushes to the production branch are built but no longer served: Vercel switched the
automatic assignment of domains off. Once the fault is mended, undo it and switch it on again:

    vercel promote <the mended deployment>     (to go back to where you were: {before})
"""


def rollback(services: Services, args: argparse.Namespace) -> int:
    """Lead production back to an earlier deployment (Vercel's instant rollback), if it is safe."""
    vercel = Vercel(services.settings)
    try:
        serving, _ = vercel.production()
        listed = vercel.deployments()
        found = rollback_candidates.assess(
            listed, serving, rollback_candidates.load_records(services)
        )
        chosen = _choose(found, args.deployment)
        if not args.json:
            _print_table(found, chosen)
        refusal = _refusal(chosen, args)
        if args.json and (args.dry_run or refusal):
            command.print_json({"chosen": chosen and chosen.deployment.id, "refused": refusal,
                                "candidates": [_to_json(one) for one in found]})  # fmt: skip
        if refusal or chosen is None:
            print(refusal, file=sys.stderr)
            return 1
        if not args.json:
            print(f"\nThe same by hand: vercel rollback {chosen.deployment.id}")
        if args.dry_run:
            return 0
        if not args.yes and not _confirmed(chosen):
            print("nothing was changed", file=sys.stderr)
            return 1
        return _roll_back(services, vercel, serving, chosen, args)
    except ApiError as refused:
        print(refused, file=sys.stderr)
        return 1
    finally:
        vercel.close()


def _choose(found: list[Candidate], wanted: str | None) -> Candidate | None:
    """The one named, or the newest safe one that is older than what serves."""
    if wanted:
        return next((one for one in found if one.deployment.id == wanted), None)
    places = [place for place, one in enumerate(found) if one.is_serving]
    older = found[places[0] + 1 :] if places else found
    return next((one for one in older if one.is_safe), None)


def _refusal(chosen: Candidate | None, args: argparse.Namespace) -> str | None:
    if chosen is None and args.deployment:
        return f"{args.deployment} is not among production's last deployments"
    if chosen is None:
        return "no earlier deployment is safe; name one with --force REASON, or mend forward"
    if chosen.is_serving:
        return f"{chosen.deployment.id} serves already"
    if chosen.faults and not args.force:
        return f"{chosen.deployment.id} is unsafe ({'; '.join(chosen.faults)}): --force REASON"
    return None


def _to_json(one: Candidate) -> dict[str, Any]:
    built = one.deployment
    return {
        "deployment": built.id,
        "commit": built.commit,
        "created_at": built.created_at.isoformat(timespec="seconds"),
        "serving": one.is_serving,
        "safe": one.is_safe,
        "unsafe_because": one.faults,
    }


def _print_table(found: list[Candidate], chosen: Candidate | None) -> None:
    rows = [
        (
            ">" if one is chosen else "",
            one.deployment.id,
            one.deployment.commit[:8],
            f"{one.deployment.created_at:%Y-%m-%d %H:%M}",
            "serves now" if one.is_serving else "safe" if one.is_safe else "; ".join(one.faults),
        )
        for one in found
    ]
    command.print_table(("", "deployment", "commit", "built (UTC)", "verdict"), rows)


def _confirmed(chosen: Candidate) -> bool:
    for fault in chosen.faults:
        print(f"UNSAFE: {fault}")
    try:
        return input(f"Lead all of production to {chosen.deployment.id}? (yes/no) ") == "yes"
    except EOFError:
        return False


def _roll_back(
    services: Services, vercel: Vercel, before: str, chosen: Candidate, args: argparse.Namespace
) -> int:
    target = chosen.deployment.id
    started, reason = time.monotonic(), args.force or args.reason or "rollback"
    facts = {"from": before, "to": target, "forced": bool(args.force), "unsafe": chosen.faults}
    noted = notes.add_note_to_open(services, "rollback_asked", facts, reason, datetime.now(UTC))
    try:
        vercel.rollback(target, reason)
        fault = _wait_until_serving(services, vercel, target, started + args.timeout)
    except ApiError as refused:
        fault = str(refused)
    took_s = round(time.monotonic() - started, 1)
    kind = "rollback_failed" if fault else "rolled_back"
    facts |= {"took_s": took_s, "fault": fault}
    notes.add_note_to_open(services, kind, facts, fault or reason, datetime.now(UTC))
    if args.json:
        command.print_json({**facts, "incidents": noted})
    elif not fault:
        print(f"{target} serves; it took {took_s} s")
        print(
            f"noted on {', '.join(noted)}"
            if noted
            else "no open incident to note it on, or no database"
        )
        print(NEXT_STEPS.format(before=before))
    if fault:
        print(f"NOT ROLLED BACK after {took_s} s: {fault}", file=sys.stderr)
    return 1 if fault else 0


def _wait_until_serving(services: Services, vercel: Vercel, target: str, end: float) -> str | None:
    """None once the site itself answers as `target`; else what stood in the way."""
    in_a_row, seen = 0, "nothing"
    while time.monotonic() < end:
        seen = serving_deployment(services.settings.site_url)
        in_a_row = in_a_row + 1 if seen == target else 0
        if in_a_row == CONSECUTIVE_ANSWERS:
            return None
        _, move = vercel.production()
        if move and move.deployment_id == target and move.status in ("failed", "skipped"):
            return f"Vercel says that the rollback {move.status}; {seen} answers"
        time.sleep(POLL_S if not in_a_row else 0.1)
    return f"accepted by Vercel, but {seen} still answers: look at its dashboard, or ask again"


def add_commands(areas: Any) -> None:
    verb = command.command(
        areas,
        "rollback",
        rollback,
        "python3 -m ops rollback --dry-run",
        "python3 -m ops rollback --reason 'leads answer 500 since 14:02'",
        "python3 -m ops rollback dpl_… --force 'its key was never used for leads'",
        dry_run=True,
        as_json=True,
    )
    verb.add_argument("deployment", nargs="?", help="default: the newest safe one before this")
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.add_argument("--reason", default="", help="why; kept at Vercel and on the incident")
    verb.add_argument("--force", metavar="REASON", help="although it is unsafe, because …")
    verb.add_argument(
        "--timeout", type=float, default=WAIT_S, help="seconds to wait (default: %(default)s)"
    )
