"""Commands about a person's requests: see what is held, erase it, keep to the 72 hours.

An address or a number on the command line stays in the shell's history: give `-` instead, and it
is read from standard input, one line each, the address before the number.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lib.leads import submission
from lib.leads.submission import Person
from lib.privacy import data_subject, erasure
from lib.privacy import replay as privacy_replay
from lib.privacy import requests as privacy_requests
from lib.privacy.data_subject import Subject
from lib.problems import NotConfigured
from lib.services import Services
from ops import command


def _read_person(args: argparse.Namespace, *, certain: bool = False) -> Person | None:
    """Who is meant; None, having said why, when nobody can be.

    certain: neither can be who may be somebody else.
    """
    given = {name: getattr(args, name) for name in ("email", "phone") if getattr(args, name)}
    for name, value in given.items():
        if value == "-":
            given[name] = sys.stdin.readline().rstrip("\r\n")
        else:
            print(f"note: --{name} is in the shell's history; use --{name} - to type it in",
                  file=sys.stderr)  # fmt: skip
    try:
        return submission.parse_person(given, certain=certain)
    except submission.ValidationError as faulty:
        for name, messages in faulty.details("en").items():
            where = "" if name == "_" else f"--{name}: "
            print(f"{where}{' '.join(messages)}", file=sys.stderr)
        return None


def _parse_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("without a time zone")
    return moment


def show_held_data(services: Services, args: argparse.Namespace) -> int:
    """Everything held on a person. Changes nothing. Exit 1: Redis was down."""
    person = _read_person(args)
    if person is None:
        return 2
    found = data_subject.export_all(services, data_subject.from_person(person), datetime.now(UTC))
    if args.json:
        command.print_json({**found, "other_readings": person.other_phones})
    else:
        _print_held_data(found)
    if person.other_phones:
        print(f"--phone is read as {person.phone}; it may mean {', '.join(person.other_phones)}:"
              " write it with + and its country's code", file=sys.stderr)  # fmt: skip
    for request in found["requests"]:
        if request["kind"] == "access" and request["finished_at"] is None:
            print(f"request {request['receipt']} is open: once this is handed over,"
                  f" `ops subject answered {request['receipt']}`", file=sys.stderr)  # fmt: skip
    return 1 if found["not_searched"] else 0


def finish_access_request(services: Services, args: argparse.Namespace) -> int:
    """Close a request to see what is held, once it was handed over."""
    if not privacy_requests.finish_access_request(
        services.database.run, args.receipt, datetime.now(UTC)
    ):
        print(f"{args.receipt} is no open request for access", file=sys.stderr)
        return 1
    print("noted")
    return 0


def _print_held_data(found: dict[str, Any]) -> None:
    for place in (
        "leads",
        "mails",
        "spam",
        "incident_notes",
        *data_subject.SEALED_LEAD_STORES,
        "requests",
    ):
        print(f"{place}: {len(found[place])}")
        for row in found[place]:
            shown = {name: value for name, value in row.items() if value not in (None, "")}
            print("  " + json.dumps(shown, ensure_ascii=False, default=str))
    if found["related_leads"]:
        print(f"{found['related_leads']} more leads share the number or the address alone: ask")
    for place, words in found["elsewhere"].items():
        print(f"{place}: {words}")
    for place in found["not_searched"]:
        print(f"NOT SEARCHED, Redis is down: {place}", file=sys.stderr)


def erase_person(services: Services, args: argparse.Namespace) -> int:
    """Erase a person everywhere, once you have seen whom; prints the receipt.

    Exit 1 while a place waits for Redis, or when you do not agree.
    """
    person = _read_person(args, certain=True)
    if person is None:
        return 2
    if not services.erasure_keys and not args.dry_run:
        raise NotConfigured("ERASURE_KEY", "is not set")
    whom = data_subject.with_legacy_numbers(services, data_subject.from_person(person))
    lines = privacy_requests.dry_run_lines(data_subject.count_all(services, whom))
    if args.dry_run and args.json:
        command.print_json({"dry_run": True, "places": lines})
        return 0
    # The receipt alone goes to standard output.
    with contextlib.nullcontext() if args.dry_run else contextlib.redirect_stdout(sys.stderr):
        command.print_table(("place", "found", "what"), [_dry_run_row(line) for line in lines])
        _print_matching_leads(services, whom)
    if args.dry_run:
        print("dry run: nothing was erased")
        return 0
    if not args.yes and not _confirm():
        print("nothing was erased", file=sys.stderr)
        return 1
    request = erasure.erase(
        services, whom, datetime.now(UTC), asked_by="command", received_at=args.received_at
    )
    return _print_receipt(services, request, as_json=args.json)


# The same condition as lib/privacy/data_subject.py's. How many there are in all is counted there.
SELECT_LEADS = """
select ref, contact_name, city, created_at from leads
where (email = any(%(emails)s::text[]) or phone_whatsapp = any(%(phones)s::text[])) and not canary
order by created_at desc limit 20
"""


def _print_matching_leads(services: Services, whom: Subject) -> None:
    """Enough to see whether it is the right person, and no more."""
    rows = services.database.run(
        lambda c: c.execute(SELECT_LEADS, whom.sql_parameters()).fetchall()
    )
    shown = [(ref, " ".join(f"{word[0]}***" for word in name.split()), city,
              at.astimezone(UTC).isoformat(timespec="minutes"))
             for ref, name, city, at in rows]  # fmt: skip
    command.print_table(("ref", "name", "city", "received"), shown)


def _confirm() -> bool:
    print("Erase this person everywhere? It cannot be undone. Type yes: ",
          end="", file=sys.stderr, flush=True)  # fmt: skip
    return sys.stdin.readline().strip().lower() == "yes"


def _dry_run_row(line: dict[str, Any]) -> tuple[str, Any, str]:
    return line["place"], "?" if line["count"] is None else line["count"], line["note"]


def _print_receipt(services: Services, request: Any, *, as_json: bool) -> int:
    receipt = privacy_requests.load_receipt(services.database.run, request)
    if receipt is None:
        print(f"there is no request {request}", file=sys.stderr)
        return 1
    if as_json:
        command.print_json(receipt)
    else:
        done = receipt["finished_at"] or "not yet"
        print(f"{receipt['receipt']}  due {receipt['due_at']}  finished {done}")
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
    marks = data_subject.from_person(person).tombstone_hashes(services.erasure_keys)
    if not marks:
        print("ERASURE_KEY is not set (see .env.example, or use --local)", file=sys.stderr)
        return 2
    received_at = args.received_at or datetime.now(UTC)
    receipt = privacy_requests.register(services.database.run, args.kind, marks, received_at)
    due_at = received_at + privacy_requests.DEADLINE
    if args.json:
        command.print_json({"receipt": receipt, "due_at": due_at})
    else:
        print(f"{receipt}  due {due_at.isoformat()}")
    return 0


def list_requests(services: Services, args: argparse.Namespace) -> int:
    """Requests that are not finished, the most urgent first. Exit 1 when one is overdue."""
    now = datetime.now(UTC)
    found = privacy_requests.list_due(services.database.run, now, within=timedelta(days=3650))
    if args.json:
        command.print_json([{"receipt": due.receipt, "kind": due.kind, "due_at": due.due_at,
                             "places": due.places} for due in found])  # fmt: skip
    else:
        rows = [(due.receipt, due.kind, due.due_at.isoformat(timespec="minutes"),
                 "OVERDUE" if due.due_at <= now else "", ", ".join(due.places) or "unanswered")
                for due in found]  # fmt: skip
        command.print_table(("receipt", "kind", "due", "", "still to do"), rows)
    return 1 if any(due.due_at <= now for due in found) else 0


def show_receipt(services: Services, args: argparse.Namespace) -> int:
    """A request's receipt, with a line per place."""
    return _print_receipt(services, args.receipt, as_json=args.json)


def complete_step(services: Services, args: argparse.Namespace) -> int:
    """Say that an instruction was followed: the mailbox searched, the vendor asked."""
    run = services.database.run
    if not privacy_requests.complete_step(run, args.receipt, args.place, datetime.now(UTC)):
        print(f"{args.receipt} has no instruction for {args.place} to follow", file=sys.stderr)
        return 1
    print("noted")
    return 0


def export_tombstones(services: Services, _args: argparse.Namespace) -> int:
    """Every tombstone, a JSON line each, to be kept beside the backups. No personal data."""
    for mark, at in privacy_replay.all_tombstones(services).items():
        print(json.dumps({"mark": mark, "erased_at": at.isoformat()}))
    return 0


def reapply_tombstones(services: Services, args: argparse.Namespace) -> int:
    """After a restore: erase again whom it brought back. Exit 1 when Redis could not be asked."""
    given = list(_read_tombstones(args.file)) if args.file else []
    replayed = privacy_replay.reapply(services, datetime.now(UTC), given)
    if args.json:
        command.print_json({name: getattr(replayed, name) for name in replayed.__slots__})
    else:
        again = f"{replayed.leads} leads, {replayed.spam} of spam, {replayed.notes} notes"
        print(f"{replayed.tombstones} tombstones: {again} erased again")
    if not replayed.in_redis:
        print("Redis is down: tombstones that only it has are missing; run this again",
              file=sys.stderr)  # fmt: skip
    return 0 if replayed.in_redis else 1


def _read_tombstones(file: str) -> Iterator[tuple[str, datetime]]:
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    for line in filter(None, text.splitlines()):
        kept = json.loads(line)
        yield kept["mark"], datetime.fromisoformat(kept["erased_at"])


def _add_person_arguments(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    made.add_argument("--email", help="their address; - to read it from standard input")
    made.add_argument("--phone", help="their number, as anybody writes it; - as above")
    return made


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "subject", "a person's requests: show, erase, 72 hours")
    verb = command.command(
        verbs,
        "show",
        show_held_data,
        "python3 -m ops subject show --email -",
        "python3 -m ops subject show --email - --phone - --json > held.json",
        as_json=True,
    )
    _add_person_arguments(verb)
    verb = command.command(
        verbs,
        "erase",
        erase_person,
        "python3 -m ops subject erase --email - --dry-run",
        "python3 -m ops subject erase --phone - --received-at 2026-11-23T09:00:00+07:00",
        dry_run=True,
        as_json=True,
    )
    _add_person_arguments(verb)
    verb.add_argument("--yes", action="store_true", help="do not ask; say so only after a dry run")
    verb.add_argument("--received-at", type=_parse_time, help="when they asked (default: now)")
    verb = command.command(
        verbs,
        "register",
        register_request,
        "python3 -m ops subject register --kind access --email -",
        as_json=True,
    )
    _add_person_arguments(verb)
    verb.add_argument("--kind", choices=("erasure", "access"), default="erasure")
    verb.add_argument("--received-at", type=_parse_time, help="when they asked (default: now)")
    command.command(
        verbs, "requests", list_requests, "python3 -m ops subject requests", as_json=True
    )
    verb = command.command(
        verbs, "receipt", show_receipt, "python3 -m ops subject receipt ERASE-…", as_json=True
    )
    verb.add_argument("receipt")
    verb = command.command(
        verbs, "answered", finish_access_request, "python3 -m ops subject answered ACCESS-…"
    )
    verb.add_argument("receipt")
    verb = command.command(
        verbs, "done", complete_step, "python3 -m ops subject done ERASE-… sales_mailbox"
    )
    verb.add_argument("receipt")
    verb.add_argument("place", choices=("sales_mailbox", "resend", "sentry"))
    command.command(
        verbs,
        "tombstones",
        export_tombstones,
        "python3 -m ops subject tombstones > tombstones.jsonl",
    )
    verb = command.command(
        verbs,
        "replay",
        reapply_tombstones,
        "python3 -m ops subject replay",
        "python3 -m ops subject replay tombstones.jsonl",
        as_json=True,
    )
    verb.add_argument("file", nargs="?", help="kept tombstones as well; - for standard input")
