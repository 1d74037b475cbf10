"""`ops monitors`: UptimeRobot's monitors brought to what ops/incidents/monitors.toml declares."""

import sys
from functools import cached_property

import click

from ops import command
from ops.command import Args
from ops.incidents import monitor_plan
from ops.incidents.monitor_plan import Step
from ops.progress import Waiting
from ops.settings import OperatorServices, OperatorSettings
from ops.vendors.uptimerobot import ApiError, Client, Fields

monitors_commands = command.group(
    "monitors", "keep UptimeRobot's monitors as monitors.toml declares"
)


MAX_WAIT_S = 130  # two windows of the free plan's rate limit
NOTIFY_AT_ONCE = {"threshold": 0, "recurrence": 0}  # at once and once: all that the free plan has

# Action -> its sign, and what it says of a monitor.
ACTION_LABELS = {
    "create": ("+", "does not exist yet"),
    "change": ("~", "differs"),
    "start": (">", "is paused"),
    "remove": ("-", "exists twice"),
    "leave": ("?", "is no longer declared; `apply --prune` removes it"),
}


class Reconciler:
    """The declared monitors and the account's."""

    def __init__(self, settings: OperatorSettings, max_wait_s: float) -> None:
        self._api = Client(settings.uptimerobot_api_url, settings.uptimerobot_api_key, max_wait_s)
        self._prefix = monitor_plan.name_prefix(settings.site_url)
        self._declaration = monitor_plan.load_declared(settings)
        self.missing = self._declaration.missing

    def plan(self, *, prune: bool = True) -> list[Step]:
        with Waiting("UptimeRobot's monitors are read"):
            monitors = self._api.list_monitors()
        steps = monitor_plan.plan(monitors, self._declaration, self._prefix)
        return [step for step in steps if prune or step.action != "leave"]

    def apply(self, step: Step) -> None:
        """Raises ApiError when it is not known to be done."""
        if step.id is None:
            case = {"keywordCaseType": "CaseSensitive"} if "keywordCaseType" in step.fields else {}
            self._api.create(step.fields | case | self._all_contacts)
        elif step.action == "change":
            silent = any(change.field == "assignedAlertContacts" for change in step.differences)
            self._api.update(step.id, step.fields | (self._all_contacts if silent else {}))
        elif step.action == "start":
            self._api.start(step.id)
        else:
            self._api.delete(step.id)

    @cached_property
    def _all_contacts(self) -> Fields:
        """One request: the rate limit is low."""
        ids = self._api.list_contact_ids()
        contacts = [{"alertContactId": contact_id, **NOTIFY_AT_ONCE} for contact_id in ids]
        return {"assignedAlertContacts": contacts} if contacts else {}


wait_option = click.option(
    "--wait",
    type=float,
    default=130,
    metavar="SECONDS",
    help="the most to wait for the rate limit, in all",
    show_default=True,
)


@monitors_commands.command("plan", examples=("python3 -m ops monitors plan",))
@wait_option
def plan_monitors(services: OperatorServices, args: Args) -> int:
    """Show where UptimeRobot's monitors are not as monitors.toml has them. Exit 1 if so."""
    return _show_plan(services, args)


def _show_plan(services: OperatorServices, args: Args) -> int:
    reconciler = Reconciler(services.settings, args.wait)
    try:
        steps = reconciler.plan()
    except ApiError as error:
        return _print_failure(error)
    _print_steps(reconciler.missing, steps, as_json=args.json)
    return 1 if steps else 0


@monitors_commands.command(
    "apply",
    examples=(
        "python3 -m ops monitors apply --dry-run",
        "python3 -m ops monitors apply",
    ),
    dry_run=True,
    confirms=True,
)
@click.option("--prune", is_flag=True, help="remove ours that the file leaves out")
@wait_option
def apply_monitors(services: OperatorServices, args: Args) -> int:
    """Bring UptimeRobot's monitors to monitors.toml, then look again. Exit 1 if they differ."""
    if args.dry_run:
        return _show_plan(services, args)
    reconciler = Reconciler(services.settings, args.wait)
    outcomes: list[str] = []
    try:
        steps = reconciler.plan(prune=args.prune)
        if steps and not args.yes:
            _print_steps(reconciler.missing, steps, as_json=False)
        if steps and not command.confirm(args, f"Make these {len(steps)} changes at UptimeRobot?"):
            return 1
        for step in steps:
            try:
                with Waiting(f"UptimeRobot: {step.action} {step.name}"):
                    reconciler.apply(step)
                outcomes.append("done")
            except ApiError as error:
                outcomes.append(str(error))
        # Not everything that is answered with 200 is kept: a plan may not have a feature.
        remaining = reconciler.plan(prune=args.prune) if steps else []
    except ApiError as error:
        return _print_failure(error)
    _print_steps(reconciler.missing, steps, outcomes, remaining, as_json=args.json)
    return 1 if remaining else 0


def _print_failure(error: ApiError) -> int:
    print(f"UptimeRobot: {error}", file=sys.stderr)
    return 1


def _print_steps(
    missing: list[str],
    steps: list[Step],
    outcomes: list[str] | None = None,
    remaining: list[Step] | None = None,
    *,
    as_json: bool,
) -> None:
    """outcomes: of the steps, where they were applied."""
    if as_json:
        document: Fields = {"steps": [step.to_json() for step in steps], "left_out": missing}
        if outcomes is not None:
            for step, outcome in zip(document["steps"], outcomes, strict=True):
                step["outcome"] = outcome
            document["left"] = [step.to_json() for step in remaining or []]
        command.print_json(document)
        return
    for setting in missing:
        print(f"Skipped a monitor: {setting} is not set")
    for number, step in enumerate(steps):
        _print_step(step, f": {outcomes[number]}" if outcomes else "")
    if remaining:
        print("still different, although UptimeRobot answered that it was done:")
        for step in remaining:
            _print_step(step, "")
    elif outcomes is not None or not steps:
        print("every monitor is as monitors.toml declares it")


def _print_step(step: Step, outcome: str) -> None:
    sign, meaning = ACTION_LABELS[step.action]
    print(f"{sign} {step.name}: {meaning}{outcome}")
    for change in step.differences:
        print(f"    {change.field}: {change.current!r} -> {change.desired!r}")
