"""Commands about leads: dead letters, the reconciliation, the canary; and the verbs of `leads`."""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from lib import maintenance
from lib.leads import canary, queue, reconciliation
from lib.leads.outbox import ADDRESS_REFUSED
from lib.services import Services
from ops import command
from ops.leads import mailed_leads, queries

CANARY_WAIT_S = 30.0

LIST_DEAD_EMAILS = """
select o.id, o.lead_id, l.ref, o.kind, o.attempts, o.uncertain, o.dead_at, o.last_error
from outbox as o join leads as l on l.id = o.lead_id
where o.dead_at is not null and o.last_error is distinct from %(address_refused)s
order by o.dead_at desc limit %(limit)s
"""
LIST_REFUSED_EMAILS = """
select o.id, l.ref, o.dead_at
from outbox as o join leads as l on l.id = o.lead_id
where o.dead_at is not null and o.last_error = %(address_refused)s
order by o.dead_at desc limit %(limit)s
"""
# With the sender and recipients of today: a wrong address of ours may be why it failed.
RETRY_DEAD = """
update outbox set dead_at = null, attempts = 0, first_attempt_at = null, uncertain = false,
  leased_until = null, next_attempt_at = now(), sender = %(sender)s,
  recipients = case when kind = 'acknowledgement' then recipients else %(sales)s::text[] end
where dead_at is not null
  and (%(all)s and last_error is distinct from %(address_refused)s or id = any(%(ids)s::uuid[]))
returning id
"""
MARK_SENT_BY_HAND = """
update outbox set sent_at = now(), dead_at = null, leased_until = null, last_error = 'told_by_hand'
where dead_at is not null and id = any(%(ids)s::uuid[])
returning id
"""


def list_dead_letters(services: Services, args: argparse.Namespace) -> int:
    """Mails given up, and leads no drain could store. Exit 1 when there are any.

    Acknowledgements to an address that the mail service does not take are listed too, and no fault.
    """
    values = {"limit": args.limit, "address_refused": ADDRESS_REFUSED}
    dead = command.fetch_rows(services, LIST_DEAD_EMAILS, **values)
    refused = command.fetch_rows(services, LIST_REFUSED_EMAILS, **values)
    names = ("id", "lead", "ref", "kind", "attempts", "uncertain", "dead since", "error")
    command.print_table(names, [tuple(row.values()) for row in dead])
    if refused:
        print("\nacknowledgements to an address that the mail service does not take:")
        command.print_table(("id", "ref", "since"), [tuple(row.values()) for row in refused])
    leads = services.cache.execute("HKEYS", queue.DEAD_LETTERS)
    for lead_id in leads:
        print(f"set aside: lead {lead_id}")
    return 1 if dead or leads else 0


def retry_dead_letters(services: Services, args: argparse.Namespace) -> int:
    """Let dead letters be tried again, as new mails: an uncertain one may arrive twice.

    They leave from MAIL_FROM, and those to sales go to MAIL_SALES_TO, as both are now.
    """
    if not args.all and not args.ids:
        print("name the mails to be tried again, or say --all", file=sys.stderr)
        return 2
    settings = services.settings
    values = {"all": args.all, "ids": args.ids, "address_refused": ADDRESS_REFUSED,
              "sender": settings.mail_from, "sales": list(settings.mail_sales_to)}  # fmt: skip
    rows = command.fetch_rows(services, RETRY_DEAD, **values)
    print(f"{len(rows)} mails are due again")
    if args.all:
        for lead_id, sealed in services.cache.execute("HGETALL", queue.DEAD_LETTERS).items():
            services.cache.execute("HSETNX", queue.QUEUE, lead_id, sealed)
            services.cache.execute("HDEL", queue.DEAD_LETTERS, lead_id)
            print(f"lead {lead_id} is queued again")
    return 0


def mark_sent_by_hand(services: Services, args: argparse.Namespace) -> int:
    """Note that sales were told otherwise of what these dead letters say: they count as sent."""
    rows = command.fetch_rows(services, MARK_SENT_BY_HAND, ids=args.ids)
    print(f"{len(rows)} mails are noted as told by hand")
    return 0 if len(rows) == len(set(args.ids)) else 1


def show_reconciliation(services: Services, args: argparse.Namespace) -> int:
    """Accepted, stored, told: three counts that must meet. Exit 1 when they do not."""
    report = reconciliation.reconcile(
        services.cache.pipeline, services.database.run, datetime.now(UTC)
    )
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        for name, value in asdict(report).items():
            print(f"{name:>10}  {', '.join(value) or '-' if isinstance(value, tuple) else value}")
        print("balanced" if report.balanced else "NOT BALANCED")
    return 0 if report.balanced else 1


def send_canary(services: Services, args: argparse.Namespace) -> int:
    """Send a synthetic lead to the live site, find it stored and mailed, and take it away."""
    settings, now = services.settings, datetime.now(UTC)
    body = json.dumps(canary.payload(now)).encode()
    headers = {
        "Content-Type": "application/json",
        canary.HEADER: canary.sign(settings.canary_secret, body, now),
    }
    if args.past_maintenance:
        headers[maintenance.BYPASS_HEADER] = settings.maintenance_bypass_token
    site = args.site or settings.site_url
    request = urllib.request.Request(f"{site}/api/leads", body, headers)  # noqa: S310 - our own site
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            status, answer = response.status, json.load(response)
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    print(f"answered {status} after {time.monotonic() - started:.2f} s: {answer['id']}")
    run, lead_id = services.database.run, UUID(answer["id"])
    try:
        result = canary.find(run, lead_id)
        while not result.delivered and time.monotonic() - started < CANARY_WAIT_S:
            time.sleep(0.2)
            result = canary.find(run, lead_id)
    finally:
        canary.remove(run, services.cache.pipeline, lead_id)
    print(f"stored: {result.stored}; mails sent: {result.sent} of {result.emails}; "
          f"{time.monotonic() - started:.2f} s")  # fmt: skip
    print("removed")
    return 0 if result.delivered else 1


# ------------------------------------------------------------------ the command line


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "leads", "list, search, show; import from mail copies")
    queries.add_commands(verbs)
    mailed_leads.add_commands(verbs)

    verbs = command.group(areas, "dead", "mails given up, leads set aside")
    command.add_limit(command.command(verbs, "list", list_dead_letters, "python3 -m ops dead list"))
    parser = command.command(verbs, "rerun", retry_dead_letters, "python3 -m ops dead rerun --all")
    parser.add_argument("ids", type=UUID, nargs="*", help="ids of `dead list`")
    parser.add_argument("--all", action="store_true", help="everything, leads set aside too")
    parser = command.command(verbs, "told", mark_sent_by_hand, "python3 -m ops dead told 7d0c…")
    parser.add_argument("ids", type=UUID, nargs="+", help="ids of `dead list`")

    command.command(
        areas, "ledger", show_reconciliation, "python3 -m ops ledger --json", as_json=True
    )
    parser = command.command(areas, "canary", send_canary, "python3 -m ops canary")
    parser.add_argument("--site", help="another address than SITE_URL")
    parser.add_argument(
        "--past-maintenance", action="store_true", help="even while a window is open"
    )
