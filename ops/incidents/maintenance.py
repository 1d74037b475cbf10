"""Commands about maintenance: the instant switch, and the variable a deployment is born with."""

import argparse
import getpass
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from lib import maintenance
from lib.interfaces import RunQuery
from lib.maintenance import MODES, MaintenanceWindow
from lib.problems import DatabaseDown, NotConfigured
from lib.services import Services
from lib.settings import parse_maintenance_mode
from ops import command
from ops.incidents import notes, site_mode
from ops.vendors import redeployment
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel


def switch_on(services: Services, args: argparse.Namespace) -> int:
    """Open a window now: leads are queued and answered 202, health says so and stays 200."""
    now = datetime.now(UTC)
    window = MaintenanceWindow(args.mode, now, now + args.length, args.reason, args.by)
    if not args.dry_run:
        maintenance.open_window(services.cache.execute, window, now)
        _tell_postgres(services, lambda run: maintenance.open_in_postgres(run, window))
        _note_on_incidents(services, "on", window)
    _print_window(args, window, "would be" if args.dry_run else "is")
    return 0


def switch_off(services: Services, args: argparse.Namespace) -> int:
    """Close the window; queued leads are stored with the next round."""
    was = maintenance.parse_window(
        services.cache.execute("GET", maintenance.KEY), datetime.now(UTC)
    )
    if not args.dry_run:
        _tell_postgres(services, maintenance.close_in_postgres)
    if not args.dry_run and maintenance.close_window(services.cache.execute) and was is not None:
        _note_on_incidents(services, "off", was)
    if args.json:
        command.print_json({"was": was and was.mode})
    else:
        print("no window was open" if was is None else f"{was.mode} is over")
    status = site_mode.load(services, datetime.now(UTC))
    if status.deployed_mode in MODES and not args.dry_run:
        print(
            f"production is in maintenance all the same: {status.deployment} was built with "
            f"MAINTENANCE_MODE={status.deployed_mode}; `ops maintenance deploy off`",
            file=sys.stderr,
        )
        return 1
    return 0


def _tell_postgres(services: Services, switch: Callable[[RunQuery], None]) -> None:
    """Postgres may be down: that can be why maintenance is switched on."""
    try:
        switch(services.database.run_or_down)
    except (DatabaseDown, NotConfigured):
        print("Postgres does not know: say it again once it answers", file=sys.stderr)


def show_status(services: Services, args: argparse.Namespace) -> int:
    """What production does, asked of the site itself, of Redis and of Vercel. Exit 1 unless off."""
    status = site_mode.load(services, datetime.now(UTC))
    window = status.window
    if args.json:
        command.print_json({
            "mode": status.mode,
            "until": status.until,
            "reason": window and window.reason,
            "by": window and window.by,
            "deployment": status.deployment,
            "site": status.deployed_mode,
            "switch": status.window_mode,
            "next_deployment": status.next_mode,
        })  # fmt: skip
        return int(not status.is_off)
    print(status.mode if status.mode in ("off", "unknown") else f"{status.mode} is on")
    built = status.deployed_mode
    if status.deployed_mode in MODES:
        built += ", until it is deployed anew: `ops maintenance deploy off`"
    print(f"  {status.deployment or 'the deployment that serves'} was built with: {built}")
    switch = status.window_mode
    if window is not None:
        switch += f", until {window.until:%Y-%m-%d %H:%M} UTC: {window.reason} ({window.by})"
    print(f"  the switch in Redis: {switch}")
    print(f"  the next deployment gets, by Vercel's variable: {status.next_mode}")
    return int(not status.is_off)


def deploy(services: Services, args: argparse.Namespace) -> int:
    """Set MAINTENANCE_MODE at Vercel, and deploy what serves once more with it."""
    mode = parse_maintenance_mode(args.mode)
    vercel = Vercel(services.settings)
    try:
        serving, _ = vercel.production()
        print(f"MAINTENANCE_MODE={mode} at Vercel, then {serving} is built again with it")
        if args.dry_run:
            return 0
        if not args.yes and not _confirm(mode):
            print("nothing was changed", file=sys.stderr)
            return 1
        vercel.set_variable(site_mode.VARIABLE, mode, kind="plain")
        print(f"MAINTENANCE_MODE={mode} is set", flush=True)
        target = redeployment.redeploy(
            vercel,
            services.settings.site_url,
            f"maintenance-{mode}-{serving}",
            lambda words: print(words, flush=True),
            args.timeout,
        )
    except ApiError as refused:
        print(refused, file=sys.stderr)
        return 1
    finally:
        vercel.close()
    _note_on_incidents(
        services,
        "off" if mode == "off" else "on",
        MaintenanceWindow(mode, reason=f"{site_mode.VARIABLE} of {target}", by=args.by),
    )
    status = site_mode.load(services, datetime.now(UTC))
    if status.deployed_mode != mode:
        print(
            f"{target} serves, and says {status.deployed_mode}: look at its variables",
            file=sys.stderr,
        )
        return 1
    print(f"production is built with maintenance {mode}")
    if mode == "off" and status.window is not None:
        print("the switch in Redis is still on: `ops maintenance off`", file=sys.stderr)
        return 1
    return 0


def _confirm(mode: str) -> bool:
    try:
        return input(f"Deploy production with maintenance {mode}? (yes/no) ") == "yes"
    except EOFError:
        return False


def _print_window(args: argparse.Namespace, window: MaintenanceWindow, verb: str) -> None:
    if args.json:
        command.print_json(
            {"mode": window.mode, "until": window.until, "reason": window.reason, "by": window.by}
        )
        return
    until = "a redeploy" if window.until is None else f"{window.until:%Y-%m-%d %H:%M} UTC"
    print(f"{window.mode} {verb} on until {until}: {window.reason} ({window.by})")


def _note_on_incidents(services: Services, what: str, window: MaintenanceWindow) -> None:
    """Postgres may be down: that can be why maintenance is switched on."""
    facts: dict[str, object] = {"switched": what, "mode": window.mode, "reason": window.reason}
    now = datetime.now(UTC)
    try:
        run = services.database.run_or_down
        for incident_id in notes.add_event_to_open(run, "maintenance", window.by, now, facts):
            print(f"noted on {incident_id}")
    except (DatabaseDown, NotConfigured):
        print("not noted: the database is down", file=sys.stderr)


def parse_duration(text: str) -> timedelta:
    """30m, 2h: at most 24h."""
    match = re.fullmatch(r"(\d+)([mh])", text)
    if not match:
        raise argparse.ArgumentTypeError("a length is 30m or 2h")
    duration = timedelta(minutes=int(match[1]) * (60 if match[2] == "h" else 1))
    if not timedelta() < duration <= maintenance.MAX_DURATION:
        raise argparse.ArgumentTypeError("more than nothing, at most 24h")
    return duration


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "maintenance", "the instant switch, and the variable")
    verb = command.command(
        verbs,
        "on",
        switch_on,
        "python3 -m ops maintenance on --for 30m --reason 'moving the database'",
        "python3 -m ops maintenance on --for 2h --mode read_only --reason migration",
        dry_run=True,
        as_json=True,
    )
    verb.add_argument("--for", dest="length", type=parse_duration, required=True, metavar="30m")
    verb.add_argument("--reason", required=True, help="for operators; no personal data")
    verb.add_argument("--mode", choices=MODES, default=MODES[0], help="default: intake")
    verb.add_argument("--by", default=getpass.getuser(), help="who (default: you)")
    command.command(
        verbs, "off", switch_off, "python3 -m ops maintenance off", dry_run=True, as_json=True
    )
    command.command(verbs, "status", show_status, "python3 -m ops maintenance status", as_json=True)
    verb = command.command(
        verbs,
        "deploy",
        deploy,
        "python3 -m ops maintenance deploy on",
        "python3 -m ops maintenance deploy off --yes",
        dry_run=True,
    )
    verb.add_argument("mode", choices=("on", "off", *MODES), help="on is intake")
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.add_argument("--by", default=getpass.getuser(), help="who (default: you)")
    verb.add_argument(
        "--timeout", type=float, default=600, help="seconds to wait (default: %(default)s)"
    )
