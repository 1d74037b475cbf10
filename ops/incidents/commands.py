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
from lib.incidents import alerting, store
from lib.incidents.model import Incident, IncidentError
from lib.services import Services
from ops import command
from ops.incidents import postmortem, records

NEXT_STATES = ("contain", "resolve", "review", "closed")
SELECT_BROKEN_SEALS = "select incident_id, seq from broken_timelines()"


def list_incidents(services: Services, args: argparse.Namespace) -> int:
    """Incidents of the last days, newest first. Exit 1 while one is open."""
    since = datetime.now(UTC) - timedelta(days=args.days)
    held = _record(services).recent(since)
    if args.json:
        command.print_json([one.to_document() for one in held])
    else:
        names = ("number", "id", "severity", "state", "began", "title")
        command.print_table(names, [_row(one) for one in held])
    return 1 if any(one.is_open for one in held) else 0


def _row(one: Incident) -> tuple[Any, ...]:
    began = f"{one.started_at:%Y-%m-%d %H:%M}"
    return (one.number, one.id, one.severity, one.state, began, one.title)


def show(services: Services, args: argparse.Namespace) -> int:
    """One incident with its timeline, whose seals are checked. Exit 1 if one is broken."""
    record = _record(services)
    incident = record.find(args.incident)
    lines = record.timeline(incident)
    sealed = isinstance(record, records.InPostgres)
    broken = _broken_events(services, incident) if sealed else []
    if args.json:
        names = ("seq", "at", "kind", "actor", "facts", "note")
        events = [dict(zip(names, line, strict=True)) for line in lines]
        command.print_json({**incident.to_document(), "events": events, "broken_at": broken})
        return 1 if broken else 0
    print(f"{incident.id}  {incident.severity}  {incident.state}  {incident.title}")
    for what in incident.descriptions.values():
        print(f"  {what}")
    for seq, at, kind, actor, facts, note in lines:
        told = note if note is not None else json.dumps(facts, ensure_ascii=False)
        print(f"{seq:>4}  {at:%Y-%m-%d %H:%M:%S}  {kind:<12}  {actor:<10}  {told}")
    if sealed:
        print(f"BROKEN at event {broken}" if broken else "the timeline is whole")
    return 1 if broken else 0


def _broken_events(services: Services, incident: Incident) -> list[int]:
    """The numbers of its events whose seals are broken."""
    rows = services.database.run(lambda c: c.execute(SELECT_BROKEN_SEALS).fetchall())
    return [seq for incident_id, seq in rows if incident_id == incident.id]


def _record(services: Services) -> records.Record:
    record = records.of(services)
    if not isinstance(record, records.InPostgres):
        print(f"Postgres cannot be asked: this is what {record.name} holds", file=sys.stderr)
    return record


def acknowledge(services: Services, args: argparse.Namespace) -> int:
    """Say that you have it: reminders stop, and Slack shows your name."""
    held = _record(services).acknowledge(args.incident, args.by, datetime.now(UTC))
    return _notify_and_print(services, held, args)


def add_note(services: Services, args: argparse.Namespace) -> int:
    """Enter a line in the timeline. No personal data: name a lead by its id."""
    words = sys.stdin.read().strip() if args.words == ["-"] else " ".join(args.words)
    held = _record(services).note(args.incident, args.by, datetime.now(UTC), words)
    return _notify_and_print(services, held, args)


def transition(services: Services, args: argparse.Namespace) -> int:
    """Move it on: contain, resolve, review, closed. A Sev1 is closed only with its RCA."""
    run, now = services.database.run, datetime.now(UTC)
    moved = store.transition(run, args.incident, args.state, args.by, now, args.note)
    return _notify_and_print(services, moved, args)


def save_rca(services: Services, args: argparse.Namespace) -> int:
    """Keep the root cause analysis: cause, impact, and actions with an owner and a date."""
    given = {"cause": args.cause, "impact": args.impact, "actions": args.action}
    if args.file:
        given, repeated = json_body.parse(Path(args.file).read_bytes())
        if repeated:
            print(f"{args.file} holds a key twice: {', '.join(repeated)}", file=sys.stderr)
            return 2
    now = datetime.now(UTC)
    complete = store.set_rca(services.database.run, args.incident, given, args.by, now)
    print("complete" if complete else "kept, but not complete: cause, impact, and every action "
          "with what, owner and due date")  # fmt: skip
    return 0 if complete else 1


def write_postmortem(services: Services, args: argparse.Namespace) -> int:
    """Render the post-mortem as Markdown: facts filled in, TODO where a person must write."""
    found = postmortem.load(services, args.incident)
    if args.json:
        command.print_json(postmortem.as_dict(found))
    else:
        sys.stdout.write(postmortem.render(found))
    return 0


def run_alert_drill(services: Services, args: argparse.Namespace) -> int:
    """Send a test alert through the whole chain to Slack, and note the drill with its seconds."""
    return postmortem.run_alert_drill(services, dry_run=args.dry_run)


def _notify_and_print(services: Services, incident: Incident, args: argparse.Namespace) -> int:
    tally = alerting.notify(services, datetime.now(UTC))
    if args.json:
        command.print_json(incident.to_document())
    else:
        told = "Slack knows"
        if tally.reason is not None:
            told = f"Slack did not take it ({tally.reason}) and hears of it later"
        print(f"{incident.id} is in {incident.state}; {told}")
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
