"""Commands about leads: dead letters, the reconciliation, the canary; and the verbs of `leads`."""

import json
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

import click

from lib import maintenance
from lib.leads import canary, queue, reconciliation
from lib.leads.canary import CanaryResult
from lib.leads.outbox import ADDRESS_REFUSED
from lib.services import Services
from ops import command, connections
from ops.command import Args
from ops.incidents import site_mode
from ops.settings import OperatorServices

dead_commands = command.group("dead", "dead letters: e-mails and leads that failed permanently")


CANARY_WAIT_S = 30.0
# The fields of a reconciliation, where their names are none for a person.
LEDGER_LABELS = {"told": "sales mailed", "untold": "not mailed yet", "set_aside": "dead letters"}

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


@dead_commands.command("list", examples=("python3 -m ops dead list",))
@command.limit_option
def list_dead_letters(services: Services, args: Args) -> int:
    """E-mails given up, and leads that the worker could not store. Exit 1 when there are any.

    Acknowledgements to an address that the mail service does not take are listed too, and no fault.
    """
    values = {"limit": args.limit + 1, "address_refused": ADDRESS_REFUSED}
    all_dead = command.fetch_rows(services, LIST_DEAD_EMAILS, **values)
    all_refused = command.fetch_rows(services, LIST_REFUSED_EMAILS, **values)
    dead, refused = all_dead[: args.limit], all_refused[: args.limit]
    leads = services.cache.execute("HKEYS", queue.DEAD_LETTERS)
    if args.json:
        command.print_json({"emails": dead, "refused_addresses": refused, "leads": leads})
    else:
        _print_dead_letters(dead, refused, leads)
    if len(all_dead) > len(dead):
        command.print_more(args, "dead letters")
    if len(all_refused) > len(refused):
        command.print_more(args, "refused acknowledgements")
    return 1 if dead or leads else 0


def _print_dead_letters(
    dead: list[dict[str, Any]], refused: list[dict[str, Any]], lead_ids: list[str]
) -> None:
    names = ("id", "ref", "kind", "attempts", "given up", "error")
    rows = [
        (row["id"], row["ref"], row["kind"],
         f"{row['attempts']}, one may have arrived" if row["uncertain"] else row["attempts"],
         row["dead_at"], row["last_error"])
        for row in dead
    ]  # fmt: skip
    command.print_table(names, rows, empty="no mail was given up")
    if refused:
        print("\nacknowledgements to an address that the mail service does not take:")
        command.print_table(("id", "ref", "since"), [tuple(row.values()) for row in refused])
    for lead_id in lead_ids:
        print(f"lead {lead_id}: the worker could not store it; `ops dead rerun --all` retries")


@dead_commands.command("rerun", examples=("python3 -m ops dead rerun --all",), confirms=True)
@command.argument("ids", nargs=-1, required=False, type=UUID, help="ids of `dead list`")
@click.option("--all", is_flag=True, help="everything, leads set aside too")
def retry_dead_letters(services: Services, args: Args) -> int:
    """Let dead letters be tried again, as new mails: an uncertain one may arrive twice.

    They leave from MAIL_FROM, and those to sales go to MAIL_SALES_TO, as both are now.
    """
    if not args.all and not args.ids:
        print("Give mail ids, or --all", file=sys.stderr)
        return 2
    settings = services.settings
    what = "every mail and lead" if args.all else f"{len(args.ids)} mails"
    if not command.confirm(args, f"Try {what} of `ops dead list` again? People are mailed."):
        return 1
    values = {"all": args.all, "ids": args.ids, "address_refused": ADDRESS_REFUSED,
              "sender": settings.mail_from, "sales": list(settings.mail_sales_to)}  # fmt: skip
    rows = command.fetch_rows(services, RETRY_DEAD, **values)
    lead_ids = _queue_again(services) if args.all else []
    command.print_result(
        args,
        {"emails": [row["id"] for row in rows], "leads": lead_ids},
        f"{len(rows)} mails will be sent at the next worker run (within a minute)",
        *(f"lead {lead_id} is queued again" for lead_id in lead_ids),
    )
    return 0


def _queue_again(services: Services) -> list[str]:
    """The ids of the leads that were set aside; the next run of the cron tries to store them."""
    dead: dict[str, str] = services.cache.execute("HGETALL", queue.DEAD_LETTERS)
    for lead_id, sealed in dead.items():
        services.cache.execute("HSETNX", queue.QUEUE, lead_id, sealed)
        services.cache.execute("HDEL", queue.DEAD_LETTERS, lead_id)
    return list(dead)


@dead_commands.command("told", examples=("python3 -m ops dead told 7d0c…",), confirms=True)
@command.argument("ids", nargs=-1, required=True, type=UUID, help="ids of `dead list`")
def mark_sent_by_hand(services: Services, args: Args) -> int:
    """Mark dead letters as handled: sales were informed another way.

    Exit 1 where one of the ids is no dead letter.
    """
    if not command.confirm(args, f"Count {len(args.ids)} mails as sent, and send them no more?"):
        return 1
    rows = command.fetch_rows(services, MARK_SENT_BY_HAND, ids=args.ids)
    line = f"{len(rows)} of {len(set(args.ids))} mails count as sent by hand"
    command.print_result(args, {"sent_by_hand": [row["id"] for row in rows]}, line)
    return 0 if len(rows) == len(set(args.ids)) else 1


@command.root.command("ledger", examples=("python3 -m ops ledger --json",))
def show_reconciliation(services: Services, args: Args) -> int:
    """Leads accepted, leads stored, sales mailed: the counts must agree. Exit 1 if not."""
    report = reconciliation.reconcile(
        services.cache.pipeline, services.database.run, datetime.now(UTC)
    )
    if args.json:
        command.print_json(asdict(report))
    else:
        for name, value in asdict(report).items():
            text = ", ".join(value) or "-" if isinstance(value, tuple) else value
            print(f"{LEDGER_LABELS.get(name, name.replace('_', ' ')):>14}  {text}")
        print(
            "balanced: every accepted lead is stored or waits, and sales are mailed"
            if report.balanced
            else "NOT BALANCED: a lead or a mail is missing"
        )
    return 0 if report.balanced else 1


@command.root.command("canary", examples=("python3 -m ops canary",))
@click.option("--site", help="another address than SITE_URL")
@click.option("--past-maintenance", is_flag=True, help="bypass maintenance")
def send_canary(services: OperatorServices, args: Args) -> int:
    """Send a synthetic lead to the live site, find it stored and mailed, and remove it.

    Under maintenance the lead is queued and not stored: the command says so and ends with 1.
    """
    return run_canary(services, args)


def run_canary(services: OperatorServices, args: Args) -> int:
    started = time.monotonic()
    try:
        status, answer = _post_canary(services, args)
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        reason = connections.explain_reason(error)
        command.print_result(args, {"accepted": False, "reason": reason})
        print(f"the site did not accept the lead: {reason}", file=sys.stderr)
        return 1
    took_s = time.monotonic() - started
    if not args.json:
        print(f"accepted with {status} after {took_s:.2f} s: {answer['id']}", flush=True)
    lead_id = UUID(answer["id"])
    mode = "" if status == HTTPStatus.OK else _maintenance_mode(services)
    try:
        result = _wait_until_delivered(services, lead_id, 0 if mode else CANARY_WAIT_S)
    finally:
        canary.remove(services.database.run, services.cache.pipeline, lead_id)
    if mode:
        print(f"Maintenance ({mode}) is on: the lead was queued as expected. Use --past-maintenance"
              " to test the whole path.", file=sys.stderr)  # fmt: skip
    elif status == HTTPStatus.ACCEPTED:
        print("The lead was queued (202), and maintenance is not on: Postgres did not take it in"
              " time. See `ops check on-call`.", file=sys.stderr)  # fmt: skip
    facts = {"accepted": True, "status": status, "maintenance": mode or "off",
             "stored": result.stored, "mails_sent": result.sent, "mails": result.emails,
             "seconds": round(time.monotonic() - started, 2)}  # fmt: skip
    command.print_result(
        args, facts,
        f"stored: {'yes' if result.stored else 'no'}; mails sent: {result.sent} of {result.emails};"
        f" {facts['seconds']} s", "the synthetic lead is removed",
    )  # fmt: skip
    return 0 if result.delivered else 1


def _post_canary(services: Services, args: Args) -> tuple[int, dict[str, Any]]:
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
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return response.status, json.load(response)


def _maintenance_mode(services: OperatorServices) -> str:
    """The mode that production is in; empty when it is in none."""
    mode = site_mode.load_serving(services, datetime.now(UTC)).mode
    return mode if mode in maintenance.MODES else ""


def _wait_until_delivered(services: Services, lead_id: UUID, wait_s: float) -> CanaryResult:
    """What became of the lead, after wait_s at the latest."""
    deadline = time.monotonic() + wait_s
    result = canary.find(services.database.run, lead_id)
    while not result.delivered and time.monotonic() < deadline:
        time.sleep(0.2)
        result = canary.find(services.database.run, lead_id)
    return result
