"""Commands about leads that exist only in a mail: which are open, and closing one by hand."""

import argparse
import getpass
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from lib.leads import mailed_leads
from lib.problems import CacheDown, NotConfigured
from lib.services import Services
from ops import command


def list_open(services: Services, args: argparse.Namespace) -> int:
    """Leads accepted while neither Postgres nor Redis took them. Exit 1 while one is open.

    Each is a mail in the sales mailbox. `leads import` closes it; `leads dismiss` where there is
    nothing to import.
    """
    now = datetime.now(UTC)
    with suppress(CacheDown, NotConfigured):  # what the watch has not taken over yet
        mailed_leads.import_from_redis(services, now)
    held = mailed_leads.list_open(services.database.run)
    if args.json:
        command.print_json([{**one._asdict(), "marks": None} for one in held])
    else:
        rows = [(one.ref, one.lead_id, f"{one.accepted_at:%Y-%m-%d %H:%M:%S}") for one in held]
        command.print_table(("ref", "id", "accepted"), rows)
        print(f"{len(held)} leads exist only in a mail")
    return 1 if held else 0


def dismiss(services: Services, args: argparse.Namespace) -> int:
    """Close the entry of a lead that cannot or need not be imported; say why."""
    now = datetime.now(UTC)
    with suppress(CacheDown, NotConfigured):
        mailed_leads.import_from_redis(services, now)
    which, reason = args.lead.strip(), args.reason.strip()
    if not reason:
        print("say why, in words: --reason", file=sys.stderr)
        return 2
    closed = mailed_leads.dismiss(services.database.run, which, args.by, reason, now)
    for one in closed:
        print(f"dismissed {one.lead_id} {one.ref}")
    if not closed:
        print(f"no open entry of {which}: see `ops leads mailed`", file=sys.stderr)
    return 0 if closed else 1


def add_commands(verbs: Any) -> None:
    """Beside `leads import`."""
    command.command(verbs, "mailed", list_open, "python3 -m ops leads mailed", as_json=True)
    verb = command.command(
        verbs,
        "dismiss",
        dismiss,
        "python3 -m ops leads dismiss ALFA-7KQ2M --reason 'entered by hand as ALFA-9RWXQ'",
    )
    verb.add_argument("lead", help="its ref or its id, as `leads mailed` names it")
    verb.add_argument("--reason", required=True, help="why; no names, no numbers of people")
    verb.add_argument("--by", default=getpass.getuser(), help="who (default: you)")
