"""Commands about people's requests: see what is held, erase it, keep the 72 hours.

An address or a number on the command line stays in the shell's history: give `-` instead, and it
is read from standard input, one line each, the address before the number.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from lib.leads import submission, tombstones
from lib.leads.submission import Person
from lib.privacy import data_subject, erasure, requests
from lib.problems import NotConfigured
from lib.services import Services
from ops import command
from ops.command import Args, Failed
from ops.privacy import register, tombstone_replay
from ops.progress import Waiting

subject_commands = command.group("subject", "a person's requests: show, erase, 72 hours")


MAX_LEADS_SHOWN = 20  # before an erasure


def _read_person(args: Args, *, certain: bool = False) -> Person | None:
    """Who is meant; None, and the reason on standard error, when it is nobody.

    certain: a number or an address that may also mean someone else is refused.
    """
    values = {name: getattr(args, name) for name in ("email", "phone") if getattr(args, name)}
    for name, value in values.items():
        if value == "-":
            values[name] = sys.stdin.readline().rstrip("\r\n")
        else:
            print(f"note: --{name} is in the shell's history; use --{name} - to type it in",
                  file=sys.stderr)  # fmt: skip
    try:
        return submission.parse_person(values, certain=certain)
    except submission.ValidationError as error:
        for name, messages in error.details("en").items():
            prefix = "" if name == "_" else f"--{name}: "
            print(f"{prefix}{' '.join(messages)}", file=sys.stderr)
        return None


@subject_commands.command(
    "show",
    examples=(
        "python3 -m ops subject show --email -",
        "python3 -m ops subject show --email - --phone - --json > held.json",
    ),
)
@click.option("--email", help="their address; - to read it from standard input")
@click.option("--phone", help="their number, as anybody writes it; - as above")
def show_held_data(services: Services, args: Args) -> int:
    """Everything held on a person. Changes nothing. Exit 1: Redis cannot be used."""
    person = _read_person(args)
    if person is None:
        return 2
    data = data_subject.export_all(services, data_subject.from_person(person), datetime.now(UTC))
    if args.json:
        command.print_json({**data, "other_readings": person.other_phones})
    else:
        _print_held_data(data)
    if person.other_phones:
        print(f"--phone is read as {person.phone}; it may mean {', '.join(person.other_phones)}:"
              " write it with + and its country's code", file=sys.stderr)  # fmt: skip
    for request in data["requests"]:
        if request["kind"] == "access" and request["finished_at"] is None:
            print(f"request {request['receipt']} is open: once this is handed over,"
                  f" `ops subject answered {request['receipt']}`", file=sys.stderr)  # fmt: skip
    return 1 if data["not_searched"] else 0


def _print_held_data(data: dict[str, Any]) -> None:
    for store in (*data_subject.COUNTED_STORES, "requests"):
        print(f"{store}: {len(data[store])}")
        for row in data[store]:
            values = {name: value for name, value in row.items() if value not in (None, "")}
            print("  " + json.dumps(values, ensure_ascii=False, default=str))
    if data["related_leads"]:
        print(f"{data['related_leads']} more leads share only the number or the address: ask "
              "whether they are theirs too")  # fmt: skip
    for store, instruction in data["elsewhere"].items():
        print(f"{store}: {instruction}")
    for store in data["not_searched"]:
        print(f"NOT SEARCHED, Redis cannot be used: {store}", file=sys.stderr)


@subject_commands.command("answered", examples=("python3 -m ops subject answered ACCESS-…",))
@command.argument("receipt")
def finish_access_request(services: Services, args: Args) -> int:
    """Close a request to see what is held, once it was handed over. Exit 1: it is not open."""
    if not register.finish_access_request(services.database.run, args.receipt, datetime.now(UTC)):
        print(f"{args.receipt} is no open request for access", file=sys.stderr)
        return 1
    line = f"{args.receipt} is closed: it was answered"
    command.print_result(args, {"receipt": args.receipt, "answered": True}, line)
    return 0


@subject_commands.command(
    "erase",
    examples=(
        "python3 -m ops subject erase --email - --dry-run",
        "python3 -m ops subject erase --phone - --received-at 2026-11-23T09:00:00+07:00",
    ),
    dry_run=True,
    confirms=True,
)
@click.option("--email", help="their address; - to read it from standard input")
@click.option("--phone", help="their number, as anybody writes it; - as above")
@click.option("--received-at", type=command.Moment(), help="when they asked (default: now)")
def erase_person(services: Services, args: Args) -> int:
    """Erase a person everywhere, once you have seen whom; prints the receipt.

    Exit 1 while a place waits for Redis, or when you do not agree.
    """
    person = _read_person(args, certain=True)
    if person is None:
        return 2
    if not services.erasure_keys and not args.dry_run:
        raise NotConfigured("ERASURE_KEY", "is not set")
    subject, now = data_subject.from_person(person), datetime.now(UTC)
    data = data_subject.export_all(services, subject, now)
    lines = requests.dry_run_lines(data_subject.count(data))
    if args.dry_run and args.json:
        command.print_json({"dry_run": True, "places": lines})
        return 0
    # Only the receipt goes to standard output.
    with contextlib.nullcontext() if args.dry_run else contextlib.redirect_stdout(sys.stderr):
        _print_dry_run(lines, data["leads"])
    if args.dry_run:
        print("dry run: nothing was erased")
        return 0
    if not _confirm(args):
        return 1
    request_id = erasure.erase(
        services, subject, datetime.now(UTC), asked_by="command", received_at=args.received_at
    )
    return _print_receipt(services, request_id, as_json=args.json)


def _print_dry_run(lines: list[dict[str, Any]], leads: list[dict[str, Any]]) -> None:
    """Counts, and as much of the newest leads as shows whether it is the right person."""
    counts = [(line["place"], "?" if line["count"] is None else line["count"], line["note"])
              for line in lines]  # fmt: skip
    command.print_table(("place", "found", "what"), counts)
    newest_first = leads[: -MAX_LEADS_SHOWN - 1 : -1]
    rows = [
        (
            lead["ref"],
            " ".join(f"{word[0]}***" for word in lead["contact_name"].split()),
            lead["city"],
            command.format_time(lead["created_at"]),
        )
        for lead in newest_first
    ]
    command.print_table(("ref", "name", "city", "received"), rows, empty="no lead of theirs")


def _confirm(args: Args) -> bool:
    """As command.confirm; the answer may follow the address on standard input."""
    if args.yes:
        return True
    answer = command.ask("Erase this person everywhere? It cannot be undone. (yes/no)")
    if answer == "yes":
        return True
    if not answer and not sys.stdin.isatty():
        raise Failed("nothing was erased: there is no terminal to ask at; add --yes", status=2)
    print("nothing was erased", file=sys.stderr)
    return False


def _describe_progress(receipt: dict[str, Any]) -> str:
    if receipt["finished_at"]:
        return f"finished {command.format_time(receipt['finished_at'])}"
    return f"open, due {command.format_time(receipt['due_at'])}"


def _print_receipt(services: Services, request: Any, *, as_json: bool) -> int:
    receipt = requests.load_receipt(services.database.run, request)
    if receipt is None:
        print(f"there is no request {request}", file=sys.stderr)
        return 1
    if as_json:
        command.print_json(receipt)
    else:
        print(f"{receipt['receipt']}  {_describe_progress(receipt)}")
        rows = [(line["place"], line["state"], line["count"], command.format_time(line["due_at"]),
                 line["note"]) for line in receipt["places"]]  # fmt: skip
        command.print_table(("place", "state", "count", "due", "what"), rows)
        for line in receipt["places"]:
            if line["ids"]:
                print(f"{line['place']}: {' '.join(line['ids'])}")
    return 1 if any(line["state"] == "waiting" for line in receipt["places"]) else 0


@subject_commands.command(
    "register", examples=("python3 -m ops subject register --kind access --email -",)
)
@click.option("--email", help="their address; - to read it from standard input")
@click.option("--phone", help="their number, as anybody writes it; - as above")
@click.option("--received-at", type=command.Moment(), help="when they asked (default: now)")
@click.option(
    "--kind",
    type=click.Choice(("erasure", "access")),
    default="erasure",
    help="what they ask for",
    show_default=True,
)
def register_request(services: Services, args: Args) -> int:
    """Start the clock of a request that came by mail or phone; prints its receipt number."""
    person = _read_person(args, certain=True)
    if person is None:
        return 2
    hashes = data_subject.from_person(person).tombstone_hashes(services.erasure_keys)
    if not hashes:
        raise NotConfigured("ERASURE_KEY", "is not set")
    received_at = args.received_at or datetime.now(UTC)
    receipt = register.register(services.database.run, args.kind, hashes, received_at)
    due_at = received_at + requests.DEADLINE
    if args.json:
        command.print_json({"receipt": receipt, "due_at": due_at})
    else:
        print(f"{receipt}  due {command.format_time(due_at)}")
    return 0


@subject_commands.command("requests", examples=("python3 -m ops subject requests",))
def list_requests(services: Services, args: Args) -> int:
    """Requests that are not finished, the most urgent first. Exit 1 when one is overdue."""
    now = datetime.now(UTC)
    open_requests = requests.list_due(services.database.run, now, within=timedelta(days=3650))
    if args.json:
        command.print_json([asdict(request) for request in open_requests])
    else:
        rows = [
            (
                request.receipt,
                request.kind,
                request.due_at,
                "OVERDUE" if request.due_at <= now else "",
                ", ".join(request.places) or "unanswered",
            )
            for request in open_requests
        ]
        columns = ("receipt", "kind", "due", "", "still to do")
        command.print_table(columns, rows, empty="no request is open")
    return 1 if any(request.due_at <= now for request in open_requests) else 0


@subject_commands.command("receipt", examples=("python3 -m ops subject receipt ERASE-…",))
@command.argument("receipt")
def show_receipt(services: Services, args: Args) -> int:
    """A request's receipt, with a line per place. Exit 1 while a place waits, or there is none."""
    return _print_receipt(services, args.receipt, as_json=args.json)


@subject_commands.command("done", examples=("python3 -m ops subject done ERASE-… sales_mailbox",))
@command.argument("receipt")
@command.argument("place", type=click.Choice(("sales_mailbox", "resend", "sentry")))
def complete_step(services: Services, args: Args) -> int:
    """Record that an instruction was carried out: the mailbox searched, the vendor asked.

    Exit 1 when there is no such open instruction.
    """
    run = services.database.run
    if not register.complete_step(run, args.receipt, args.place, datetime.now(UTC)):
        print(f"{args.receipt} has no open instruction for {args.place}", file=sys.stderr)
        return 1
    line = f"recorded: {args.place} is done for {args.receipt}"
    command.print_result(args, {"receipt": args.receipt, "place": args.place, "done": True}, line)
    return 0


@subject_commands.command(
    "tombstones", examples=("python3 -m ops subject tombstones > tombstones.jsonl",)
)
def export_tombstones(services: Services, args: Args) -> int:
    """Every tombstone, a JSON line each, to be kept beside the backups. No personal data.

    With --json as one document, which `subject replay` does not read.
    """
    rows = [
        {"mark": mark, "erased_at": erased_at.isoformat()}
        for mark, erased_at in tombstones.load_all(services.database.run).items()
    ]
    if args.json:
        command.print_json(rows)
        return 0
    for row in rows:
        print(json.dumps(row))
    if not rows:
        print("there is no tombstone: nobody was erased", file=sys.stderr)
    return 0


@subject_commands.command(
    "replay",
    examples=(
        "python3 -m ops subject replay",
        "python3 -m ops subject replay tombstones.jsonl",
    ),
    confirms=True,
)
@command.argument("file", required=False, help="kept tombstones as well; - for standard input")
def reapply_tombstones(services: Services, args: Args) -> int:
    """After a restore: re-erase persons who came back with it. Exit 1 when Redis cannot be used."""
    copies = list(_read_tombstones(args.file)) if args.file else []
    if not command.confirm(args, "Re-erase persons who came back with a restore?"):
        return 1
    with Waiting("tombstones are applied") as waiting:
        result = tombstone_replay.reapply(services, datetime.now(UTC), copies, waiting.update)
    if args.json:
        command.print_json(asdict(result))
    else:
        counts = f"{result.leads} leads, {result.spam} of spam, {result.notes} notes"
        print(f"{result.tombstones} tombstones: {counts} erased again")
    if not result.in_redis:
        print("Redis cannot be used: tombstones that only it has are missing; run this again",
              file=sys.stderr)  # fmt: skip
    return 0 if result.in_redis else 1


def _read_tombstones(file: str) -> Iterator[tuple[str, datetime]]:
    """Of a file that `subject tombstones` wrote. Raises Failed for a line that is no tombstone."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Failed(f"{file} is no text in UTF-8", status=2) from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            tombstone = json.loads(line)
            mark, erased_at = tombstone["mark"], datetime.fromisoformat(tombstone["erased_at"])
        except (ValueError, LookupError, TypeError):
            erased_at = None
        if erased_at is None or erased_at.tzinfo is None or not isinstance(mark, str):
            words = 'is no tombstone: {"mark": …, "erased_at": a time with its zone} is expected'
            raise Failed(f"{file}, line {number} {words}", status=2)
        yield mark, erased_at
