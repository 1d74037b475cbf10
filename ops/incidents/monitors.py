"""Commands about UptimeRobot's monitors: ops/incidents/monitors.toml is what they should be."""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

from lib.services import Services
from lib.settings import Settings
from ops import command
from ops.incidents import monitor_plan
from ops.incidents.monitor_plan import Action, Step
from ops.vendors.uptimerobot import ApiError, Client, Fields

FILE = Path(__file__).with_name("monitors.toml")
MAX_WAIT_S = 130  # two windows of the free plan's rate limit
NOTIFY_AT_ONCE = {"threshold": 0, "recurrence": 0}  # at once and once: all that the free plan has

ACTION_SIGNS: dict[Action, str] = {
    "create": "+",
    "change": "~",
    "start": ">",
    "remove": "-",
    "leave": "?",
}
ACTION_MEANINGS: dict[Action, str] = {
    "create": "is not there",
    "change": "differs",
    "start": "is paused",
    "remove": "is there twice",
    "leave": "is no longer declared; `apply --prune` removes it",
}


class Reconciler:
    """The file and the account, side by side."""

    def __init__(self, settings: Settings, patience_s: float) -> None:
        self._api = Client(settings.uptimerobot_api_url, settings.uptimerobot_api_key, patience_s)
        self._prefix = monitor_plan.name_prefix(settings.site_url)
        text = FILE.read_text(encoding="utf-8")
        self._declared, self.missing = monitor_plan.load_declared(settings, text)
        names = {self._prefix + told["name"] for told in tomllib.loads(text)["monitor"]}
        self._unconfigured_names = names - {fields["friendlyName"] for fields in self._declared}
        self._contact_ids: list[int] | None = None

    def plan(self) -> list[Step]:
        return monitor_plan.plan(
            self._api.list_monitors(), self._declared, self._unconfigured_names, self._prefix
        )

    def apply(self, step: Step) -> None:
        """Failed when it is not known to be done."""
        if step.action == "create":
            case = {"keywordCaseType": "CaseSensitive"} if "keywordCaseType" in step.fields else {}
            self._api.create(step.fields | case | self._all_contacts())
        elif step.id is None:
            raise ValueError(step.name)
        elif step.action == "change":
            silent = any(one.field == "assignedAlertContacts" for one in step.differences)
            self._api.update(step.id, step.fields | (self._all_contacts() if silent else {}))
        elif step.action == "start":
            self._api.start(step.id)
        else:
            self._api.delete(step.id)

    def _all_contacts(self) -> Fields:
        if self._contact_ids is None:
            self._contact_ids = self._api.list_contact_ids()
        told = [{"alertContactId": contact, **NOTIFY_AT_ONCE} for contact in self._contact_ids]
        return {"assignedAlertContacts": told} if told else {}


# ------------------------------------------------------------------ commands


def monitors_plan(services: Services, args: argparse.Namespace) -> int:
    """Show where UptimeRobot's monitors are not as monitors.toml has them. Exit 1 if so."""
    desk = Reconciler(services.settings, args.wait)
    try:
        steps = desk.plan()
    except ApiError as fault:
        return _print_failure(fault)
    _print_steps(desk, steps, as_json=args.json)
    return 1 if steps else 0


def monitors_apply(services: Services, args: argparse.Namespace) -> int:
    """Bring UptimeRobot's monitors to monitors.toml, then look again. Exit 1 if they differ."""
    if args.dry_run:
        return monitors_plan(services, args)
    desk = Reconciler(services.settings, args.wait)
    outcomes: list[str] = []
    try:
        steps = desk.plan()
        due = [step for step in steps if args.prune or step.action != "leave"]
        for step in due:
            try:
                desk.apply(step)
                outcomes.append("done")
            except ApiError as fault:
                outcomes.append(str(fault))
        # What was answered is one thing, what is kept another: a plan may not have a feature.
        left = [
            step for step in (desk.plan() if due else steps) if args.prune or step.action != "leave"
        ]
    except ApiError as fault:
        return _print_failure(fault)
    _print_steps(desk, due, outcomes, left, as_json=args.json)
    return 1 if left else 0


def _print_failure(fault: ApiError) -> int:
    print(f"UptimeRobot: {fault}", file=sys.stderr)
    return 1


def _print_steps(
    desk: Reconciler,
    steps: list[Step],
    outcomes: list[str] | None = None,
    left: list[Step] | None = None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        told: Fields = {"steps": [step.to_json() for step in steps], "left_out": desk.missing}
        if outcomes is not None:
            for step, outcome in zip(told["steps"], outcomes, strict=True):
                step["outcome"] = outcome
            told["left"] = [step.to_json() for step in left or []]
        command.print_json(told)
        return
    for setting in desk.missing:
        print(f"left out: a monitor that needs {setting}, which is not set")
    for number, step in enumerate(steps):
        _print_step(step, f": {outcomes[number]}" if outcomes else "")
    if left:
        print("still:")
        for step in left:
            _print_step(step, "")
    elif outcomes is not None or not steps:
        print("as declared")


def _print_step(step: Step, outcome: str) -> None:
    print(f"{ACTION_SIGNS[step.action]} {step.name}: {ACTION_MEANINGS[step.action]}{outcome}")
    for one in step.differences:
        print(f"    {one.field}: {one.held!r} -> {one.wanted!r}")


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "monitors", "UptimeRobot's monitors, as a file has them")
    shown = command.command(
        verbs, "plan", monitors_plan, "python3 -m ops monitors plan", as_json=True
    )
    applied = command.command(
        verbs,
        "apply",
        monitors_apply,
        "python3 -m ops monitors apply --dry-run",
        "python3 -m ops monitors apply",
        dry_run=True,
        as_json=True,
    )
    applied.add_argument(
        "--prune", action="store_true", help="remove ours that the file leaves out"
    )
    for verb in (shown, applied):
        verb.add_argument(
            "--wait",
            type=float,
            default=MAX_WAIT_S,
            metavar="SECONDS",
            help=f"the most to wait for the rate limit, in all (default: {MAX_WAIT_S})",
        )
