"""Commands about incidents: what is open, who has it, what was done, why it happened."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from lib import json_body
from lib.incidents import alerting, fallback
from lib.incidents.fallback import NoStore
from lib.incidents.model import Incident
from lib.incidents.postgres_store import PostgresStore
from lib.incidents.store import IncidentStore
from lib.services import Services
from ops import command, connections
from ops.command import Args, Failed
from ops.incidents import alert_drill, lifecycle, postmortem

incident_commands = command.group("incident", "list, acknowledge, annotate and close incidents")


NEXT_STATES = ("contain", "resolve", "review", "closed")
SELECT_BROKEN_SEALS = "select incident_id, seq from broken_timelines()"


def parse_action(text: str) -> dict[str, str]:
    """`what | owner | 2026-12-01`."""
    parts = [part.strip() for part in text.split("|")]
    if len(parts) != 3 or not all(parts):
        raise click.BadParameter("an action is: what | owner | YYYY-MM-DD")
    try:
        date.fromisoformat(parts[2])
    except ValueError:
        raise click.BadParameter(f"{parts[2]} is not a date (YYYY-MM-DD)") from None
    return dict(zip(("what", "owner", "due"), parts, strict=True))


@incident_commands.command("list", examples=("python3 -m ops incident list --days 30",))
@click.option("--days", type=int, default=14, help="how far back", show_default=True)
def list_incidents(services: Services, args: Args) -> int:
    """Incidents of the last days, newest first. Exit 1 while one is open."""
    since = datetime.now(UTC) - timedelta(days=args.days)
    incidents = _in_store(services, lambda store: store.list_recent(since))
    if args.json:
        command.print_json([incident.to_document() for incident in incidents])
    else:
        columns = ("number", "id", "severity", "state", "began", "title")
        rows = [(i.number, i.id, i.severity, i.state, i.started_at, i.title) for i in incidents]
        command.print_table(columns, rows, empty=f"no incident in the last {args.days} days")
    return 1 if any(incident.is_open for incident in incidents) else 0


@incident_commands.command("show", examples=("python3 -m ops incident show last",))
@command.argument("incident", help="its id, its number, or `last`")
def show(services: Services, args: Args) -> int:
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
    _print_timeline(incident, rows)
    if is_sealed:
        print(_describe_integrity(broken))
    return 1 if broken else 0


def _describe_integrity(broken: list[int]) -> str:
    if not broken:
        return "Timeline integrity check passed"
    return f"Timeline integrity check FAILED at events {', '.join(map(str, broken))}"


def _print_timeline(incident: Incident, rows: list[tuple[Any, ...]]) -> None:
    print(f"{incident.id}  {incident.severity}  {incident.state}  {incident.title}")
    for description in incident.descriptions.values():
        print(f"  {description}")
    for seq, at, kind, actor, facts, note in rows:
        text = note if note is not None else json.dumps(facts, ensure_ascii=False)
        moment = command.format_time(at, seconds=True)
        print(f"{seq:>4}  {moment}  {kind:<12}  {actor:<10}  {text}")


def _broken_events(services: Services, incident: Incident) -> list[int]:
    """The numbers of its events whose seals are broken."""
    rows = services.database.run(lambda c: c.execute(SELECT_BROKEN_SEALS).fetchall())
    return [seq for incident_id, seq in rows if incident_id == incident.id]


def _in_store[R](services: Services, operation: Callable[[IncidentStore], R]) -> R:
    """Says so where it is not Postgres that was asked."""
    failures: dict[str, Exception] = {}

    def run(store: IncidentStore) -> R:
        result = operation(store)
        if not isinstance(store, PostgresStore):
            reason = connections.explain_missing(failures["Postgres"])
            print(f"Postgres cannot be used ({reason}); using {store.name}.", file=sys.stderr)
        return result

    try:
        return fallback.use_first_available(services, datetime.now(UTC), run, failures)
    except NoStore:
        reasons = [
            f"{name} cannot be used: {connections.explain_missing(error)}"
            for name, error in failures.items()
        ]
        raise Failed("; ".join(reasons)) from None


@incident_commands.command("ack", examples=("python3 -m ops incident ack last",))
@command.argument("incident", help="its id, its number, or `last`")
@command.by_option
def acknowledge(services: Services, args: Args) -> int:
    """Acknowledge an incident: reminders stop, Slack shows your name."""
    started = datetime.now(UTC)
    incident = _in_store(services, lambda store: store.acknowledge(args.incident, args.by))
    who, at = incident.acknowledged_by or args.by, incident.acknowledged_at
    name, since = f"{incident.id} ({incident.title})", command.format_time(at)
    if at is not None and at < started:
        line = f"{name} was already acknowledged by {who} at {since}"
    else:
        line = f"{who} acknowledged {name} at {since}"
    return _notify_and_print(services, incident, args, line)


@incident_commands.command(
    "note",
    examples=(
        "python3 -m ops incident note last pool restarted",
        "python3 -m ops incident note last - < note.txt",
    ),
)
@command.argument("incident", help="its id, its number, or `last`")
@command.by_option
@command.argument("words", nargs=-1, required=True, help="the line; - for standard input")
def add_note(services: Services, args: Args) -> int:
    """Enter a line in the timeline. No personal data: name a lead by its id."""
    note = sys.stdin.read().strip() if args.words == ["-"] else " ".join(args.words)
    incident = _in_store(services, lambda store: store.add_note(args.incident, args.by, note))
    return _notify_and_print(services, incident, args, f"Note added to {incident.id}")


@incident_commands.command("step", examples=("python3 -m ops incident step last contain",))
@command.argument("incident", help="its id, its number, or `last`")
@command.by_option
@command.argument("state", type=click.Choice(NEXT_STATES))
@click.option("--note", help="a line for the timeline")
def transition(services: Services, args: Args) -> int:
    """Change the state: contain, resolve, review, closed. A Sev1 is closed only with its RCA."""
    run, now = services.database.run, datetime.now(UTC)
    incident = lifecycle.transition(run, args.incident, args.state, args.by, now, args.note)
    line = f"{incident.id} is now in the state `{incident.state}`"
    return _notify_and_print(services, incident, args, line)


@incident_commands.command(
    "rca",
    examples=(
        "python3 -m ops incident rca last --cause 'the pool ran out' --impact '12 leads late'"
        " --action 'raise the limit | ops | 2026-12-01'",
    ),
)
@command.argument("incident", help="its id, its number, or `last`")
@command.by_option
@click.option("--cause", help="what caused it")
@click.option("--impact", help="what it did to leads and visitors")
@click.option("--action", multiple=True, type=parse_action, metavar="WHAT|OWNER|DATE",
              help="what is done, by whom, until when; may be repeated")  # fmt: skip
@click.option("--file", help="the same as JSON: {cause, impact, actions: [{what, …}]}")
def save_rca(services: Services, args: Args) -> int:
    """Keep the root cause analysis: cause, impact, and actions with an owner and a date.

    Exit 1 while it is incomplete.
    """
    rca = {"cause": args.cause, "impact": args.impact, "actions": args.action}
    if args.file:
        try:
            rca, repeated_keys = json_body.parse(Path(args.file).read_bytes())
        except (ValueError, RecursionError) as error:
            raise Failed(f"{args.file} is not JSON: {error}", status=2) from None
        if repeated_keys:
            print(f"{args.file} holds a key twice: {', '.join(repeated_keys)}", file=sys.stderr)
            return 2
    run, now = services.database.run, datetime.now(UTC)
    is_complete = lifecycle.set_rca(run, args.incident, rca, args.by, now)
    lines = ["the root cause analysis is stored"]
    if not is_complete:
        lines.append("it is incomplete: it needs a cause, an impact, and an action with what, "
                     "owner and due date; until then a Sev1 cannot be closed")  # fmt: skip
    command.print_result(args, {"complete": is_complete}, *lines)
    return 0 if is_complete else 1


@command.root.command("postmortem", examples=("python3 -m ops postmortem last > postmortem.md",))
@command.argument("incident", help="its id, its number, or `last`")
def write_postmortem(services: Services, args: Args) -> int:
    """Render the post-mortem as Markdown: facts filled in, TODO where a person must write."""
    data = postmortem.load(services, args.incident)
    if args.json:
        command.print_json(postmortem.as_dict(data))
    else:
        sys.stdout.write(postmortem.render(data))
    return 0


@command.root.command("alert-drill", examples=("python3 -m ops alert-drill",), dry_run=True)
def run_alert_drill(services: Services, args: Args) -> int:
    """Send a test alert through the whole chain to Slack, and note the drill with its seconds.

    Exit 1 when the alert did not come through.
    """
    return alert_drill.run(services, args)


def _notify_and_print(services: Services, incident: Incident, args: Args, line: str) -> int:
    stats = alerting.notify(services, datetime.now(UTC))
    if args.json:
        command.print_json(incident.to_document())
        return 0
    print(line)
    if stats.reason is None:
        print("Slack message updated")
    else:
        print(f"Slack message not updated ({stats.reason}); retried every minute")
    return 0
