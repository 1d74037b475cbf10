"""Commands about maintenance: the instant switch, and the variable a deployment is born with."""

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click

from lib import maintenance
from lib.interfaces import RunQuery
from lib.maintenance import MODES, MaintenanceWindow
from lib.problems import CacheDown, DatabaseDown, NotConfigured
from lib.settings import parse_maintenance_mode
from ops import command, connections
from ops.command import Args
from ops.incidents import maintenance_window, notes, site_mode
from ops.settings import OperatorServices
from ops.vendors import redeployment
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel

maintenance_commands = command.group("maintenance", "switch maintenance on or off")


def parse_duration(text: str) -> timedelta:
    """30m, 2h: at most 24h."""
    match = re.fullmatch(r"(\d+)([mh])", text)
    if not match:
        raise click.BadParameter("use a duration such as 30m or 2h")
    duration = timedelta(minutes=int(match[1]) * (60 if match[2] == "h" else 1))
    if not timedelta() < duration <= maintenance_window.MAX_DURATION:
        raise click.BadParameter("the duration must be above 0 and at most 24h")
    return duration


@maintenance_commands.command(
    "on",
    examples=(
        "python3 -m ops maintenance on --for 30m --reason 'moving the database'",
        "python3 -m ops maintenance on --for 2h --mode read_only --reason migration",
    ),
    dry_run=True,
    confirms=True,
)
@click.option(
    "--for",
    "length",
    required=True,
    type=parse_duration,
    metavar="30m",
    help="how long: 30m, 2h; at most 24h",
)
@click.option("--reason", required=True, help="for operators; no personal data")
@click.option(
    "--mode", type=click.Choice(("intake", "read_only")), default="intake", help="default: intake"
)
@command.by_option
@click.option("--timeout", type=float, default=600, show_default=True,
              help="seconds to wait for a deployment, where Redis is down")  # fmt: skip
def switch_on(services: OperatorServices, args: Args) -> int:
    """Start maintenance now: leads are queued and answered 202, health says so and stays 200."""
    now = datetime.now(UTC)
    window = MaintenanceWindow(args.mode, now, now + args.length, args.reason, args.by)
    if not args.dry_run:
        until = command.format_time(window.until)
        if not command.confirm(args, f"Start maintenance ({window.mode}) until {until}?"):
            return 1
        try:
            maintenance_window.open_in_redis(services.cache.execute, window, now)
        except CacheDown as error:
            return _deploy_instead(services, args, error)
        _tell_postgres(services, lambda run: maintenance_window.open_in_postgres(run, window))
        _note_on_incidents(services, "on", window)
    _print_window(args, window, "would be" if args.dry_run else "is")
    return 0


def _deploy_instead(services: OperatorServices, args: Args, error: CacheDown) -> int:
    """Redis holds the instant switch; without it the variable of a new deployment remains."""
    print(connections.explain(error), file=sys.stderr)
    print(
        "The switch is kept in Redis. The other way is MAINTENANCE_MODE at Vercel and a deployment,"
        " which takes about a minute and lasts until `ops maintenance deploy off`.",
        file=sys.stderr,
    )
    try:
        return _deploy_mode(services, args, args.mode)
    except NotConfigured as missing:
        print(f"{missing}: a deployment is not possible either.", file=sys.stderr)
        return 2


@maintenance_commands.command("off", examples=("python3 -m ops maintenance off",), dry_run=True)
def switch_off(services: OperatorServices, args: Args) -> int:
    """Close the window; queued leads are stored when the cron next runs. Does not ask.

    Postgres is opened although Redis is down. Exit 1 where something is still on.
    """
    was, fault = None, ""
    try:
        text = services.cache.execute("GET", maintenance.KEY)
        was = maintenance.parse_window(text, datetime.now(UTC))
    except (CacheDown, NotConfigured) as error:
        fault = connections.explain_missing(error)
    is_open = args.dry_run or _tell_postgres(services, maintenance_window.close_in_postgres)
    if not args.dry_run and not fault:
        fault = _close_in_redis(services, was)
    document = {"was": was and was.mode, "dry_run": args.dry_run, "redis_error": fault or None}
    command.print_result(args, document, _describe_end(args, was, fault, is_open))
    if fault:
        print(
            f"Redis cannot be used: {fault}. Its switch is unchanged and ends by itself within a "
            "day. Run `ops maintenance off` again when Redis answers.",
            file=sys.stderr,
        )
    is_built_in = not args.dry_run and _warn_of_deployed_mode(services)
    return int(bool(fault) or not is_open or is_built_in)


def _close_in_redis(services: OperatorServices, was: MaintenanceWindow | None) -> str:
    """Why the switch could not be turned off; empty when it is off."""
    try:
        is_closed = maintenance_window.close_in_redis(services.cache.execute)
    except (CacheDown, NotConfigured) as error:
        return connections.explain_missing(error)
    if is_closed and was is not None:
        _note_on_incidents(services, "off", was)
    return ""


def _describe_end(args: Args, was: MaintenanceWindow | None, fault: str, is_open: bool) -> str:
    if fault:
        verb = "would take" if args.dry_run else "takes" if is_open else "may not take"
        return f"Postgres {verb} leads again"
    if was is None:
        return "maintenance was not on"
    return f"maintenance ({was.mode}) {'would be' if args.dry_run else 'is'} off"


def _warn_of_deployed_mode(services: OperatorServices) -> bool:
    """Whether production is in maintenance all the same: it was built so."""
    status = site_mode.load_serving(services, datetime.now(UTC))
    if status.deployed_mode not in MODES:
        return False
    print(
        f"Production is still in maintenance: {status.deployment} was built with "
        f"MAINTENANCE_MODE={status.deployed_mode}; `ops maintenance deploy off`",
        file=sys.stderr,
    )
    return True


def _tell_postgres(services: OperatorServices, switch: Callable[[RunQuery], None]) -> bool:
    """Whether it knows. Postgres may be down: that can be why maintenance is switched on."""
    try:
        switch(services.database.run_or_down)
    except (DatabaseDown, NotConfigured) as error:
        print(
            f"Postgres cannot be used ({connections.explain_missing(error)}): its own switch is "
            "unchanged. Run this command again when it answers.",
            file=sys.stderr,
        )
        return False
    return True


@maintenance_commands.command("status", examples=("python3 -m ops maintenance status",))
def show_status(services: OperatorServices, args: Args) -> int:
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
    headlines = {
        "off": "off: production is not in maintenance",
        "unknown": "unknown: neither the site nor Redis says whether production is in maintenance",
    }
    print(headlines.get(status.mode, f"on: production is in maintenance ({status.mode})"))
    built = status.deployed_mode
    if status.deployed_mode in MODES:
        built += ", until the next deployment: `ops maintenance deploy off`"
    print(f"  {status.deployment or 'the deployment that serves'} was built with: {built}")
    switch = status.window_mode
    if window is not None:
        switch += f", until {command.format_time(window.until)}: {window.reason} ({window.by})"
    print(f"  the switch in Redis: {switch}")
    print(f"  MAINTENANCE_MODE at Vercel (next deployment): {status.next_mode}")
    return int(not status.is_off)


@maintenance_commands.command(
    "deploy",
    examples=(
        "python3 -m ops maintenance deploy on",
        "python3 -m ops maintenance deploy off --yes",
    ),
    dry_run=True,
    confirms=True,
)
@command.argument(
    "mode", type=click.Choice(("on", "off", "intake", "read_only")), help="on is intake"
)
@command.by_option
@click.option("--timeout", type=float, default=600, help="seconds to wait", show_default=True)
def deploy(services: OperatorServices, args: Args) -> int:
    """Set MAINTENANCE_MODE at Vercel, and redeploy the current production deployment with it."""
    return _deploy_mode(services, args, parse_maintenance_mode(args.mode))


def _deploy_mode(services: OperatorServices, args: Args, mode: str) -> int:
    vercel = Vercel(services.settings)
    try:
        serving, _ = vercel.production()
        report = _reporter(args)
        report(f"sets MAINTENANCE_MODE={mode} at Vercel, then builds {serving} again with it")
        if args.dry_run:
            command.print_result(args, {"mode": mode, "would_rebuild": serving})
            return 0
        if not command.confirm(args, f"Deploy production with maintenance {mode}?"):
            return 1
        vercel.set_variable(site_mode.VARIABLE, mode, kind="plain")
        report(f"MAINTENANCE_MODE={mode} is set")
        target = redeployment.redeploy(
            vercel,
            services.settings.site_url,
            f"maintenance-{mode}-{serving}",
            report,
            args.timeout,
        )
    except ApiError as refused:
        print(refused, file=sys.stderr)
        return 1
    finally:
        vercel.close()
    return _report_deployed(services, args, mode, target)


def _reporter(args: Args) -> Callable[[str], None]:
    """Progress, on standard error where standard output is for a program."""
    stream = sys.stderr if args.json else sys.stdout
    return lambda words: print(words, file=stream, flush=True)


def _report_deployed(services: OperatorServices, args: Args, mode: str, target: str) -> int:
    """Note it on the incidents, and ask the site itself. The exit status."""
    _note_on_incidents(
        services,
        "off" if mode == "off" else "on",
        MaintenanceWindow(mode, reason=f"{site_mode.VARIABLE} of {target}", by=args.by),
    )
    status = site_mode.load(services, datetime.now(UTC))
    if status.deployed_mode != mode:
        print(
            f"{target} is live but reports maintenance {status.deployed_mode}: check its variables",
            file=sys.stderr,
        )
        return 1
    command.print_result(
        args,
        {"mode": mode, "deployment": target},
        f"production is built with maintenance {mode}",
    )
    if mode == "off" and status.window is not None:
        print("the switch in Redis is still on: `ops maintenance off`", file=sys.stderr)
        return 1
    return 0


def _print_window(args: Args, window: MaintenanceWindow, verb: str) -> None:
    if args.json:
        command.print_json(
            {
                "mode": window.mode,
                "until": window.until,
                "reason": window.reason,
                "by": window.by,
                "dry_run": args.dry_run,
            }
        )
        return
    until = "a redeploy" if window.until is None else command.format_time(window.until)
    print(f"maintenance ({window.mode}) {verb} on until {until}: {window.reason} ({window.by})")


def _note_on_incidents(services: OperatorServices, what: str, window: MaintenanceWindow) -> None:
    """Postgres may be down: that can be why maintenance is switched on."""
    facts: dict[str, object] = {"switched": what, "mode": window.mode, "reason": window.reason}
    now = datetime.now(UTC)
    try:
        run = services.database.run_or_down
        for incident_id in notes.add_event_to_open(run, "maintenance", window.by, now, facts):
            print(f"recorded on {incident_id}", file=sys.stderr)
    except (DatabaseDown, NotConfigured) as error:
        reason = connections.explain_missing(error)
        print(f"Not recorded on an incident: Postgres cannot be used ({reason}).", file=sys.stderr)
