"""Commands about leads: what was kept where, what waits, and whether one still gets through."""

import argparse
import email
import email.policy
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from lib import backlog, canary, copies, leads, ledger, letters, maintenance
from lib.problems import Erased, Unreadable
from lib.services import Services
from lib.submission import Submission
from ops import command, desk

CANARY_WAIT_S = 30.0


# ------------------------------------------------------------------ leads


def leads_import(services: Services, args: argparse.Namespace) -> int:
    """Store the leads that mails carried while neither Postgres nor Redis could be reached."""
    data = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    settings = services.settings
    readers = leads.Desk(settings.mail_from, settings.mail_sales_to)
    sealed = {copy for text in _texts(data) for copy in letters.copies_in(text)}
    found = [(copy, _unsealed(services, copy)) for copy in sorted(sealed)]
    for _, lead in found:
        if lead is None:
            print("unreadable: not sealed with a key in LEADS_ENCRYPTION_KEY, or damaged")
        elif args.dry_run:
            print(f"would store {lead.id} {lead.ref}")
        else:
            now = datetime.now(UTC)
            try:
                stored = leads.store(
                    services.database.run,
                    lead,
                    readers,
                    now=now,
                    deliver_now=False,
                    erasure_keys=services.erasure_keys,
                ).lead
            except Erased:
                print(f"not stored {lead.id} {lead.ref}: its person was erased since")
                continue
            print(f"stored {stored.id} {stored.ref}")
    unreadable = sum(lead is None for _, lead in found)
    print(f"{len(found)} in the file, {unreadable} unreadable")
    return 1 if unreadable or not found else 0


def _texts(data: bytes) -> Iterator[str]:
    """Every text in a file: of the mails in it, as they read; of a file without any, as it is."""
    mails = [
        email.message_from_bytes(mail, policy=email.policy.default)
        for mail in re.split(rb"^From .*\n", data, flags=re.MULTILINE)
    ]
    parts = [part for mail in mails if "Content-Type" in mail for part in mail.walk()]
    if not parts:
        yield data.decode("utf-8", "replace")
    for part in parts:
        if part.get_content_maintype() == "text":
            yield str(part.get_content())


def _unsealed(services: Services, sealed: str) -> leads.Lead | None:
    try:
        return copies.from_json(services.vault.open(sealed))
    except Unreadable:
        return None


SPAM = "select id, ref, received_at, reason, submission->>'business_name' from spam"
ONE_SPAM = """
select id, ref, received_at, locale, submission, host(ip_address), user_agent from spam
where id = %(id)s
"""
FORGET_SPAM = "delete from spam where id = %(id)s"


def spam_list(services: Services, args: argparse.Namespace) -> int:
    """What was kept for review, newest first."""
    query = f"{SPAM} order by received_at desc limit %(limit)s"
    rows = services.database.run(
        lambda c: c.execute(query, {"limit": args.limit}).fetchall(), budget_s=10
    )
    command.table(("id", "ref", "received", "reason", "business"), rows)
    return 0


def spam_restore(services: Services, args: argparse.Namespace) -> int:
    """Make a lead of it: stored under its own id and reference, and everybody mailed."""
    settings, run = services.settings, services.database.run
    row = run(lambda c: c.execute(ONE_SPAM, {"id": args.id}).fetchone())
    if row is None:
        print(f"no submission {args.id} is kept for review", file=sys.stderr)
        return 1
    lead_id, ref, received_at, locale, submission, address, agent = row
    submission.pop("company", None)
    made = leads.make(
        Submission.model_construct(**submission),
        key=f"spam:{lead_id}",
        locale=locale,
        now=received_at,
        ip_address=address,
        user_agent=agent,
    )
    lead = leads.seen_before(made, lead_id, ref)
    readers = leads.Desk(settings.mail_from, settings.mail_sales_to)
    stored = leads.store(
        run,
        lead,
        readers,
        now=datetime.now(UTC),
        deliver_now=False,
        erasure_keys=services.erasure_keys,
    ).lead
    run(lambda c: c.execute(FORGET_SPAM, {"id": args.id}))
    print(f"restored {stored.id} {stored.ref}; its mails leave with the next round")
    return 0


# ------------------------------------------------------------------ what waits


DEAD_MAILS = """
select o.id, o.lead_id, l.ref, o.kind, o.attempts, o.uncertain, o.dead_at, o.last_error
from outbox as o join leads as l on l.id = o.lead_id
where o.dead_at is not null order by o.dead_at desc limit %(limit)s
"""
RERUN = """
update outbox set dead_at = null, attempts = 0, first_attempt_at = null, uncertain = false,
  leased_until = null, next_attempt_at = now()
where dead_at is not null and (%(all)s or id = any(%(ids)s::uuid[]))
returning id
"""


def dead_list(services: Services, args: argparse.Namespace) -> int:
    """Mails given up, and leads no drain could store. Exit 1 when there are any."""
    rows = services.database.run(
        lambda c: c.execute(DEAD_MAILS, {"limit": args.limit}).fetchall(), budget_s=10
    )
    names = ("id", "lead", "ref", "kind", "attempts", "uncertain", "dead since", "error")
    command.table(names, rows)
    aside = services.cache.run("HKEYS", backlog.DEAD)
    for lead_id in aside:
        print(f"set aside: lead {lead_id}")
    return 1 if rows or aside else 0


def dead_rerun(services: Services, args: argparse.Namespace) -> int:
    """Let dead letters be tried again, as new mails: an uncertain one may arrive twice."""
    if not args.all and not args.ids:
        print("name the mails to be tried again, or say --all", file=sys.stderr)
        return 2
    values = {"all": args.all, "ids": args.ids}
    rows = services.database.run(lambda c: c.execute(RERUN, values).fetchall(), budget_s=10)
    print(f"{len(rows)} mails are due again")
    if args.all:
        for lead_id, sealed in services.cache.run("HGETALL", backlog.DEAD).items():
            services.cache.run("HSETNX", backlog.QUEUE, lead_id, sealed)
            services.cache.run("HDEL", backlog.DEAD, lead_id)
            print(f"lead {lead_id} is queued again")
    return 0


def show_ledger(services: Services, args: argparse.Namespace) -> int:
    """Accepted, stored, told: three counts that must meet. Exit 1 when they do not."""
    now = datetime.now(UTC)
    book = ledger.read(services.cache.run_all, services.database.run, now)
    if args.json:
        print(json.dumps(asdict(book)))
    else:
        for name, value in asdict(book).items():
            shown = ", ".join(value) or "-" if isinstance(value, tuple) else value
            print(f"{name:>10}  {shown}")
        print("balanced" if book.balanced else "NOT BALANCED")
    return 0 if book.balanced else 1


# ------------------------------------------------------------------ the whole path


def send_canary(services: Services, args: argparse.Namespace) -> int:
    """Send a synthetic lead to the live site, find it stored and mailed, and take it away."""
    settings = services.settings
    now = datetime.now(UTC)
    body = json.dumps(canary.form(now)).encode()
    request = urllib.request.Request(  # noqa: S310 - our own site
        f"{args.site or settings.site_url}/api/leads",
        data=body,
        headers={
            "Content-Type": "application/json",
            canary.HEADER: canary.sign(settings.canary_secret, body, now),
            **(_past_maintenance(services) if args.past_maintenance else {}),
        },
    )
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            status, taken = answer.status, json.load(answer)
    except (urllib.error.URLError, TimeoutError, ValueError) as fault:
        print(f"refused: {fault}", file=sys.stderr)
        return 1
    print(f"answered {status} after {time.monotonic() - started:.2f} s: {taken['id']}")
    lead_id = UUID(taken["id"])
    try:
        return _await_canary(services, lead_id, started)
    finally:
        canary.remove(services.database.run, services.cache.run_all, lead_id)
        print("removed")


def _past_maintenance(services: Services) -> dict[str, str]:
    return {maintenance.BYPASS_HEADER: services.settings.maintenance_bypass_token}


def _await_canary(services: Services, lead_id: UUID, started: float) -> int:
    seen = canary.look(services.database.run, lead_id)
    while not seen.arrived and time.monotonic() - started < CANARY_WAIT_S:
        time.sleep(0.2)
        seen = canary.look(services.database.run, lead_id)
    took_s = time.monotonic() - started
    print(f"stored: {seen.stored}; mails sent: {seen.sent} of {seen.mails}; {took_s:.2f} s")
    return 0 if seen.arrived else 1


# ------------------------------------------------------------------ the command line


def declare(areas: Any) -> None:
    verbs = command.area(areas, "leads", "list, search, show; import from mail copies")
    desk.declare(verbs)
    verb = command.verb(
        verbs, "import", leads_import, "python3 -m ops leads import mails.eml", dry_run=True
    )
    verb.add_argument("file", help="a saved mail or mailbox, or - for standard input")

    verbs = command.area(areas, "spam", "what was kept for review")
    command.limited(command.verb(verbs, "list", spam_list, "python3 -m ops spam list"))
    verb = command.verb(verbs, "restore", spam_restore, "python3 -m ops spam restore 7d0c…")
    verb.add_argument("id", type=UUID)

    verbs = command.area(areas, "dead", "mails given up, leads set aside")
    command.limited(command.verb(verbs, "list", dead_list, "python3 -m ops dead list"))
    verb = command.verb(verbs, "rerun", dead_rerun, "python3 -m ops dead rerun --all")
    verb.add_argument("ids", type=UUID, nargs="*", help="ids of `dead list`")
    verb.add_argument("--all", action="store_true", help="everything, leads set aside too")

    command.verb(areas, "ledger", show_ledger, "python3 -m ops ledger --json", as_json=True)
    verb = command.verb(areas, "canary", send_canary, "python3 -m ops canary")
    verb.add_argument("--site", help="another address than SITE_URL")
    verb.add_argument("--past-maintenance", action="store_true", help="even while a window is open")
