"""Commands about people's requests: see what is held, erase it, keep the 72 hours.

An address or a number on the command line stays in the shell's history: give `-` instead, and it
is read from standard input, one line each, the address before the number.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lib.leads import submission, tombstones
from lib.leads.submission import Person
from lib.privacy import data_subject, erasure, requests
from lib.problems import NotConfigured
from lib.services import Services
from ops import command
from ops.privacy import register, tombstone_replay

MAX_LEADS_SHOWN = 20  # before an erasure


def _read_person(args: argparse.Namespace, *, certain: bool = False) -> Person | None:
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


def _parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("without a time zone")
    return time


def show_held_data(services: Services, args: argparse.Namespace) -> int:
    """Everything held on a person. Changes nothing. Exit 1: Redis was down."""
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
        print(f"{data['related_leads']} more leads share the number or the address alone: ask")
    for store, instruction in data["elsewhere"].items():
        print(f"{store}: {instruction}")
    for store in data["not_searched"]:
        print(f"NOT SEARCHED, Redis is down: {store}", file=sys.stderr)


def finish_access_request(services: Services, args: argparse.Namespace) -> int:
    """Close a request to see what is held, once it was handed over."""
    if not register.finish_access_request(services.database.run, args.receipt, datetime.now(UTC)):
        print(f"{args.receipt} is no open request for access", file=sys.stderr)
        return 1
    print("noted")
    return 0


def erase_person(services: Services, args: argparse.Namespace) -> int:
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
    if not args.yes and not _confirm():
        print("nothing was erased", file=sys.stderr)
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
            _parse_time(lead["created_at"]).astimezone(UTC).isoformat(timespec="minutes"),
        )
        for lead in newest_first
    ]
    command.print_table(("ref", "name", "city", "received"), rows)


def _confirm() -> bool:
    print("Erase this person everywhere? It cannot be undone. Type yes: ",
          end="", file=sys.stderr, flush=True)  # fmt: skip
    return sys.stdin.readline().strip().lower() == "yes"


def _print_receipt(services: Services, request: Any, *, as_json: bool) -> int:
    receipt = requests.load_receipt(services.database.run, request)
    if receipt is None:
        print(f"there is no request {request}", file=sys.stderr)
        return 1
    if as_json:
        command.print_json(receipt)
    else:
        finished = receipt["finished_at"] or "not yet"
        print(f"{receipt['receipt']}  due {receipt['due_at']}  finished {finished}")
        rows = [(line["place"], line["state"], line["count"], line["due_at"] or "-", line["note"])
                for line in receipt["places"]]  # fmt: skip
        command.print_table(("place", "state", "count", "due", "what"), rows)
        for line in receipt["places"]:
            if line["ids"]:
                print(f"{line['place']}: {' '.join(line['ids'])}")
    return 1 if any(line["state"] == "waiting" for line in receipt["places"]) else 0


def register_request(services: Services, args: argparse.Namespace) -> int:
    """Start the clock of a request that came by mail or phone; prints its receipt number."""
    person = _read_person(args, certain=True)
    if person is None:
        return 2
    hashes = data_subject.from_person(person).tombstone_hashes(services.erasure_keys)
    if not hashes:
        print("ERASURE_KEY is not set (see .env.example, or use --local)", file=sys.stderr)
        return 2
    received_at = args.received_at or datetime.now(UTC)
    receipt = register.register(services.database.run, args.kind, hashes, received_at)
    due_at = received_at + requests.DEADLINE
    if args.json:
        command.print_json({"receipt": receipt, "due_at": due_at})
    else:
        print(f"{receipt}  due {due_at.isoformat()}")
    return 0


def list_requests(services: Services, args: argparse.Namespace) -> int:
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
                request.due_at.isoformat(timespec="minutes"),
                "OVERDUE" if request.due_at <= now else "",
                ", ".join(request.places) or "unanswered",
            )
            for request in open_requests
        ]
        command.print_table(("receipt", "kind", "due", "", "still to do"), rows)
    return 1 if any(request.due_at <= now for request in open_requests) else 0


def show_receipt(services: Services, args: argparse.Namespace) -> int:
    """A request's receipt, with a line per place."""
    return _print_receipt(services, args.receipt, as_json=args.json)


def complete_step(services: Services, args: argparse.Namespace) -> int:
    """Say that an instruction was followed: the mailbox searched, the vendor asked."""
    run = services.database.run
    if not register.complete_step(run, args.receipt, args.place, datetime.now(UTC)):
        print(f"{args.receipt} has no instruction for {args.place} to follow", file=sys.stderr)
        return 1
    print("noted")
    return 0


def export_tombstones(services: Services, _args: argparse.Namespace) -> int:
    """Every tombstone, a JSON line each, to be kept beside the backups. No personal data."""
    for mark, erased_at in tombstones.load_all(services.database.run).items():
        print(json.dumps({"mark": mark, "erased_at": erased_at.isoformat()}))
    return 0


def reapply_tombstones(services: Services, args: argparse.Namespace) -> int:
    """After a restore: erase again whom it brought back. Exit 1 when Redis could not be asked."""
    copies = list(_read_tombstones(args.file)) if args.file else []
    result = tombstone_replay.reapply(services, datetime.now(UTC), copies)
    if args.json:
        command.print_json(asdict(result))
    else:
        counts = f"{result.leads} leads, {result.spam} of spam, {result.notes} notes"
        print(f"{result.tombstones} tombstones: {counts} erased again")
    if not result.in_redis:
        print("Redis is down: tombstones that only it has are missing; run this again",
              file=sys.stderr)  # fmt: skip
    return 0 if result.in_redis else 1


def _read_tombstones(file: str) -> Iterator[tuple[str, datetime]]:
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    for line in filter(None, text.splitlines()):
        tombstone = json.loads(line)
        yield tombstone["mark"], datetime.fromisoformat(tombstone["erased_at"])


def _add_person_arguments(parser: argparse.ArgumentParser, *, received_at: bool = False) -> None:
    parser.add_argument("--email", help="their address; - to read it from standard input")
    parser.add_argument("--phone", help="their number, as anybody writes it; - as above")
    if received_at:
        parser.add_argument(
            "--received-at", type=_parse_time, help="when they asked (default: now)"
        )


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "subject", "a person's requests: show, erase, 72 hours")
    show = command.command(
        verbs,
        "show",
        show_held_data,
        "python3 -m ops subject show --email -",
        "python3 -m ops subject show --email - --phone - --json > held.json",
        as_json=True,
    )
    _add_person_arguments(show)
    erase = command.command(
        verbs,
        "erase",
        erase_person,
        "python3 -m ops subject erase --email - --dry-run",
        "python3 -m ops subject erase --phone - --received-at 2026-11-23T09:00:00+07:00",
        dry_run=True,
        as_json=True,
    )
    _add_person_arguments(erase, received_at=True)
    erase.add_argument("--yes", action="store_true", help="do not ask; say so only after a dry run")
    example = "python3 -m ops subject register --kind access --email -"
    new = command.command(verbs, "register", register_request, example, as_json=True)
    _add_person_arguments(new, received_at=True)
    new.add_argument("--kind", choices=("erasure", "access"), default="erasure")
    example = "python3 -m ops subject requests"
    command.command(verbs, "requests", list_requests, example, as_json=True)
    example = "python3 -m ops subject receipt ERASE-…"
    receipt = command.command(verbs, "receipt", show_receipt, example, as_json=True)
    receipt.add_argument("receipt")
    example = "python3 -m ops subject answered ACCESS-…"
    answered = command.command(verbs, "answered", finish_access_request, example)
    answered.add_argument("receipt")
    example = "python3 -m ops subject done ERASE-… sales_mailbox"
    done = command.command(verbs, "done", complete_step, example)
    done.add_argument("receipt")
    done.add_argument("place", choices=("sales_mailbox", "resend", "sentry"))
    example = "python3 -m ops subject tombstones > tombstones.jsonl"
    command.command(verbs, "tombstones", export_tombstones, example)
    replay = command.command(
        verbs,
        "replay",
        reapply_tombstones,
        "python3 -m ops subject replay",
        "python3 -m ops subject replay tombstones.jsonl",
        as_json=True,
    )
    replay.add_argument("file", nargs="?", help="kept tombstones as well; - for standard input")
