"""Commands about incidents: what is open, who has it, what was done, why it happened."""

import argparse
import getpass
import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from lib import json_body
from lib.incidents import alerting, fallback
from lib.incidents.fallback import NoStore
from lib.incidents.model import Incident, IncidentError
from lib.incidents.postgres_store import PostgresStore
from lib.incidents.store import IncidentStore
from lib.services import Services
from ops import command
from ops.command import Failed
from ops.incidents import alert_drill, lifecycle, postmortem

NEXT_STATES = ("contain", "resolve", "review", "closed")
SELECT_BROKEN_SEALS = "select incident_id, seq from broken_timelines()"


def list_incidents(services: Services, args: argparse.Namespace) -> int:
    """Incidents of the last days, newest first. Exit 1 while one is open."""
    since = datetime.now(UTC) - timedelta(days=args.days)
    incidents = _in_store(services, lambda store: store.list_recent(since))
    if args.json:
        command.print_json([incident.to_document() for incident in incidents])
    else:
        columns = ("number", "id", "severity", "state", "began", "title")
        command.print_table(columns, [_row(incident) for incident in incidents])
    return 1 if any(incident.is_open for incident in incidents) else 0


def _row(incident: Incident) -> tuple[Any, ...]:
    began = f"{incident.started_at:%Y-%m-%d %H:%M}"
    return (
        incident.number, incident.id, incident.severity, incident.state, began, incident.title
    )  # fmt: skip


def show(services: Services, args: argparse.Namespace) -> int:
    """One incident with its timeline, whose seals are checked. Exit 1 if one is broken."""

    def load(store: IncidentStore) -> tuple[Incident, list[tuple[Any, ...]], bool]:
        incident = store.find(args.incident)
        return incident, store.list_events(incident), isinstance(store, PostgresStore)

    incident, rows, is_sealed = _in_store(services, load)
    broken = _broken_events(services, incident) if is_sealed else []
    if args.json:
        columns = ("seq", "at", "kind", "actor", "facts", "note")
        events = [dict(zip(columns, row, strict=True)) for row in rows]
        command.print_json({**incident.to_document(), "events": events, "broken_at": broken})
        return 1 if broken else 0
    print(f"{incident.id}  {incident.severity}  {incident.state}  {incident.title}")
    for description in incident.descriptions.values():
        print(f"  {description}")
    for seq, at, kind, actor, facts, note in rows:
        text = note if note is not None else json.dumps(facts, ensure_ascii=False)
        print(f"{seq:>4}  {at:%Y-%m-%d %H:%M:%S}  {kind:<12}  {actor:<10}  {text}")
    if is_sealed:
        print(f"BROKEN at event {broken}" if broken else "the timeline is whole")
    return 1 if broken else 0


def _broken_events(services: Services, incident: Incident) -> list[int]:
    """The numbers of its events whose seals are broken."""
    rows = services.database.run(lambda c: c.execute(SELECT_BROKEN_SEALS).fetchall())
    return [seq for incident_id, seq in rows if incident_id == incident.id]


def _in_store[R](services: Services, operation: Callable[[IncidentStore], R]) -> R:
    """Says so where it is not Postgres that was asked."""

    def run(store: IncidentStore) -> R:
        result = operation(store)
        if not isinstance(store, PostgresStore):
            print(f"Postgres cannot be asked: this is what {store.name} holds", file=sys.stderr)
        return result

    try:
        return fallback.use_first_available(services, datetime.now(UTC), run)
    except NoStore as error:
        raise Failed(str(error)) from None


def acknowledge(services: Services, args: argparse.Namespace) -> int:
    """Say that you have it: reminders stop, and Slack shows your name."""
    incident = _in_store(services, lambda store: store.acknowledge(args.incident, args.by))
    return _notify_and_print(services, incident, args)


def add_note(services: Services, args: argparse.Namespace) -> int:
    """Enter a line in the timeline. No personal data: name a lead by its id."""
    note = sys.stdin.read().strip() if args.words == ["-"] else " ".join(args.words)
    incident = _in_store(services, lambda store: store.add_note(args.incident, args.by, note))
    return _notify_and_print(services, incident, args)


def transition(services: Services, args: argparse.Namespace) -> int:
    """Move it on: contain, resolve, review, closed. A Sev1 is closed only with its RCA."""
    run, now = services.database.run, datetime.now(UTC)
    incident = lifecycle.transition(run, args.incident, args.state, args.by, now, args.note)
    return _notify_and_print(services, incident, args)


def save_rca(services: Services, args: argparse.Namespace) -> int:
    """Keep the root cause analysis: cause, impact, and actions with an owner and a date."""
    rca = {"cause": args.cause, "impact": args.impact, "actions": args.action}
    if args.file:
        rca, repeated_keys = json_body.parse(Path(args.file).read_bytes())
        if repeated_keys:
            print(f"{args.file} holds a key twice: {', '.join(repeated_keys)}", file=sys.stderr)
            return 2
    run, now = services.database.run, datetime.now(UTC)
    is_complete = lifecycle.set_rca(run, args.incident, rca, args.by, now)
    missing = (
        "kept, but not complete: cause, impact, and every action with what, owner and due date"
    )
    print("complete" if is_complete else missing)
    return 0 if is_complete else 1


def write_postmortem(services: Services, args: argparse.Namespace) -> int:
    """Render the post-mortem as Markdown: facts filled in, TODO where a person must write."""
    data = postmortem.load(services, args.incident)
    if args.json:
        command.print_json(postmortem.as_dict(data))
    else:
        sys.stdout.write(postmortem.render(data))
    return 0


def run_alert_drill(services: Services, args: argparse.Namespace) -> int:
    """Send a test alert through the whole chain to Slack, and note the drill with its seconds."""
    return alert_drill.run(services, dry_run=args.dry_run)


def _notify_and_print(services: Services, incident: Incident, args: argparse.Namespace) -> int:
    stats = alerting.notify(services, datetime.now(UTC))
    if args.json:
        command.print_json(incident.to_document())
        return 0
    slack = "Slack knows"
    if stats.reason is not None:
        slack = f"Slack did not take it ({stats.reason}) and hears of it later"
    print(f"{incident.id} is in {incident.state}; {slack}")
    return 0


def parse_action(text: str) -> dict[str, str]:
    """`what | owner | 2026-12-01`."""
    parts = [part.strip() for part in text.split("|")]
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError("an action is: what | owner | YYYY-MM-DD")
    try:
        date.fromisoformat(parts[2])
    except ValueError:
        raise argparse.ArgumentTypeError(f"{parts[2]} is no date") from None
    return dict(zip(("what", "owner", "due"), parts, strict=True))


def report_incident_errors(run: command.CommandFunction) -> command.CommandFunction:
    """The command, with a refusal told and exit status 1."""

    def runs(services: Services, args: argparse.Namespace) -> int:
        try:
            return run(services, args)
        except IncidentError as refusal:
            print(refusal, file=sys.stderr)
            return 1

    runs.__doc__ = run.__doc__
    return runs


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "incident", "what is open, who has it, what was done and why")

    def add(
        name: str, run: Callable[..., int], *examples: str, dry_run: bool = False
    ) -> argparse.ArgumentParser:
        return command.command(
            verbs, name, report_incident_errors(run), *examples, as_json=True, dry_run=dry_run
        )

    def on_one(name: str, run: Callable[..., int], *examples: str) -> argparse.ArgumentParser:
        verb = add(name, run, *examples)
        verb.add_argument("incident", help="its id, its number, or `last`")
        verb.add_argument("--by", default=getpass.getuser(), help="who (default: you)")
        return verb

    verb = add("list", list_incidents, "python3 -m ops incident list --days 30")
    verb.add_argument("--days", type=int, default=14, help="how far back (default: 14)")
    on_one("show", show, "python3 -m ops incident show last")
    on_one("ack", acknowledge, "python3 -m ops incident ack last")
    verb = on_one("note", add_note, "python3 -m ops incident note last pool restarted",
                  "python3 -m ops incident note last - < note.txt")  # fmt: skip
    verb.add_argument("words", nargs="+", help="the line; - for standard input")
    verb = on_one("step", transition, "python3 -m ops incident step last contain")
    verb.add_argument("state", choices=NEXT_STATES)
    verb.add_argument("--note", help="a line for the timeline")
    verb = on_one(
        "rca",
        save_rca,
        "python3 -m ops incident rca last --cause 'the pool ran out' --impact '12 leads late'"
        " --action 'raise the limit | ops | 2026-12-01'",
    )
    verb.add_argument("--cause")
    verb.add_argument("--impact")
    verb.add_argument(
        "--action", type=parse_action, action="append", default=[], metavar="A|WHO|DATE"
    )
    verb.add_argument("--file", help="the same as JSON: {cause, impact, actions: [{what, …}]}")
    verb = command.command(
        areas,
        "postmortem",
        report_incident_errors(write_postmortem),
        "python3 -m ops postmortem last > postmortem.md",
        as_json=True,
    )
    verb.add_argument("incident", help="its id, its number, or `last`")
    command.command(
        areas,
        "alert-drill",
        report_incident_errors(run_alert_drill),
        "python3 -m ops alert-drill",
        dry_run=True,
    )
