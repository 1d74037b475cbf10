"""Commands about maintenance: the instant switch, who opened it, and its end."""

import argparse
import getpass
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from lib import alarm, incident_store, maintenance
from lib.maintenance import MODES, Switch
from lib.problems import DatabaseDown, NotConfigured
from lib.services import Services
from ops import command


def switch_on(services: Services, args: argparse.Namespace) -> int:
    """Open a window now: leads are queued and answered 202, health says so and stays 200."""
    now = datetime.now(UTC)
    switch = Switch(args.mode, now, now + args.length, args.reason, args.by)
    if not args.dry_run:
        maintenance.switch_on(services.cache.run, switch, now)
        _enter(services, "on", switch)
    _print(args, switch, "would be" if args.dry_run else "is")
    return 0


def switch_off(services: Services, args: argparse.Namespace) -> int:
    """Close the window; queued leads are stored with the next round."""
    was = maintenance.read(services.cache.run("GET", maintenance.KEY), datetime.now(UTC))
    if not args.dry_run and maintenance.switch_off(services.cache.run) and was is not None:
        _enter(services, "off", was)
    if args.json:
        command.print_json({"was": was and was.mode})
    else:
        print("no window was open" if was is None else f"{was.mode} is over")
    if services.settings.maintenance_mode != "off":
        print("MAINTENANCE_MODE still holds it on: change it and redeploy", file=sys.stderr)
        return 1
    return 0


def show(services: Services, args: argparse.Namespace) -> int:
    """Whether a window is open, until when and why. Exit 1 while one is."""
    now = datetime.now(UTC)
    variable = services.settings.maintenance_mode
    switch = maintenance.read(services.cache.run("GET", maintenance.KEY), now)
    if variable != "off":
        switch = Switch(variable, reason="MAINTENANCE_MODE", by="deployment")
    if switch is None:
        if args.json:
            command.print_json({"mode": "off"})
        else:
            print("off")
        return 0
    _print(args, switch, "is")
    return 1


def _print(args: argparse.Namespace, switch: Switch, verb: str) -> None:
    if args.json:
        command.print_json(
            {"mode": switch.mode, "until": switch.until, "reason": switch.reason, "by": switch.by}
        )
        return
    until = "a redeploy" if switch.until is None else f"{switch.until:%Y-%m-%d %H:%M} UTC"
    print(f"{switch.mode} {verb} on until {until}: {switch.reason} ({switch.by})")


def _enter(services: Services, what: str, switch: Switch) -> None:
    """On the open incident, if there is one; a database that is down is why it is switched."""
    facts: dict[str, object] = {"switched": what, "mode": switch.mode, "reason": switch.reason}
    try:
        run = alarm.run_of(services)
        for incident in incident_store.record(
            run, "maintenance", switch.by, datetime.now(UTC), facts
        ):
            print(f"noted on {incident}")
    except (DatabaseDown, NotConfigured):
        print("not noted: the database is down", file=sys.stderr)


def length(text: str) -> timedelta:
    """30m, 2h: at most 24h."""
    found = re.fullmatch(r"(\d+)([mh])", text)
    if not found:
        raise argparse.ArgumentTypeError("a length is 30m or 2h")
    made = timedelta(minutes=int(found[1]) * (60 if found[2] == "h" else 1))
    if not timedelta() < made <= maintenance.LONGEST:
        raise argparse.ArgumentTypeError("more than nothing, at most 24h")
    return made


def declare(areas: Any) -> None:
    verbs = command.area(areas, "maintenance", "the instant switch")
    verb = command.verb(
        verbs,
        "on",
        switch_on,
        "python3 -m ops maintenance on --for 30m --reason 'moving the database'",
        "python3 -m ops maintenance on --for 2h --mode read_only --reason migration",
        dry_run=True,
        as_json=True,
    )
    verb.add_argument("--for", dest="length", type=length, required=True, metavar="30m")
    verb.add_argument("--reason", required=True, help="for operators; no personal data")
    verb.add_argument("--mode", choices=MODES, default=MODES[0], help="default: intake")
    verb.add_argument("--by", default=getpass.getuser(), help="who (default: you)")
    command.verb(
        verbs, "off", switch_off, "python3 -m ops maintenance off", dry_run=True, as_json=True
    )
    command.verb(verbs, "status", show, "python3 -m ops maintenance status", as_json=True)
