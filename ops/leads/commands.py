"""Commands about leads: what was kept where, what waits, and whether one still gets through."""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from lib import maintenance
from lib.leads import canary, mailed_leads, queue, reconciliation, repository
from lib.leads.lead import Lead, Recipients
from lib.leads.outbox import ADDRESS_REFUSED
from lib.leads.submission import Submission
from lib.problems import DecryptionError, ErasedSubject, IdempotencyKeyReused
from lib.services import Services
from ops import command
from ops.leads import mailbox, queries
from ops.leads import mailed_leads as lead_mailed_leads

CANARY_WAIT_S = 30.0


# ------------------------------------------------------------------ leads


FIND_LEAD = "select id::text from leads where id = any(%(ids)s::uuid[])"


def import_leads(services: Services, args: argparse.Namespace) -> int:
    """Store the leads that mails carried while neither Postgres nor Redis could be reached.

    Takes mails, mailboxes (mbox, Maildir), folders, pages and texts saved from a mail program;
    twice does no harm. Exit 0: every lead found is stored, or was; 1: a copy cannot be read and no
    other copy of its lead was found, a lead was refused, or there is none at all; 2: a file cannot
    be read.
    """
    importer = _Importer(services, dry_run=args.dry_run)
    unread = 0
    for name in args.files:
        try:
            importer.import_path(name)
        except OSError as fault:
            print(f"{name}: {fault.strerror or type(fault).__name__}", file=sys.stderr)
            unread += 1
    if unread and unread == len(args.files):
        return 2
    return max(importer.print_summary(), 2 if unread else 0)


class _Importer:
    """Stores what files carry, and says of each what was found."""

    def __init__(self, services: Services, *, dry_run: bool) -> None:
        self._services = services
        self._dry_run = dry_run
        self._refs: set[str] = set()  # of leads found whole
        self._damaged: list[tuple[str, mailbox.DamagedCopy]] = []
        self._files = 0
        self._failed = 0

    def import_path(self, name: str) -> None:
        if name == "-":
            self._import_data("standard input", sys.stdin.buffer.read())
            return
        for path in mailbox.list_files(Path(name)):
            self._import_data(str(path), path.read_bytes())

    def _import_data(self, name: str, data: bytes) -> None:
        found = mailbox.parse_file(data, self._decrypt)
        self._files += 1
        self._refs |= found.refs
        self._damaged += [(name, one) for one in found.damaged]
        lines = [self._store(lead) for lead in found.leads.values()]
        already = sum(line.startswith("already") for line in lines)
        new = len(lines) - already
        lines += [_describe_damage(one) for one in found.damaged]
        counted = (f"{new} new, {already} already there, {len(found.damaged)} unreadable"
                   if lines else "no copies")  # fmt: skip
        print("\n".join([f"{name}: {counted}", *(f"  {line}" for line in lines)]))

    def _store(self, lead: Lead) -> str:
        if self._dry_run:
            ids = {"ids": [str(lead.id)]}
            there = self._services.database.run(lambda c: c.execute(FIND_LEAD, ids).fetchone())
            return f"{'already there' if there else 'would store'} {lead.id} {lead.ref}"
        settings = self._services.settings
        try:
            stored = repository.insert(
                self._services.database.run,
                lead,
                Recipients(settings.mail_from, settings.mail_sales_to),
                now=datetime.now(UTC),
                deliver_now=False,
                erasure_keys=self._services.erasure_keys,
            )
        except ErasedSubject:
            mailed_leads.record_import(self._services.database.run, lead, None, datetime.now(UTC))
            return f"not stored {lead.id} {lead.ref}: its person was erased since"
        except IdempotencyKeyReused:
            self._failed += 1
            return f"not stored {lead.id} {lead.ref}: its key was used with other words"
        except self._services.database.all_errors as fault:
            self._failed += 1
            return f"not stored {lead.id} {lead.ref}: Postgres refused it ({type(fault).__name__})"
        mailed_leads.record_import(
            self._services.database.run, lead, stored.lead, datetime.now(UTC)
        )
        said = {"stored_before": "already there", "corrected": "corrected"}
        word = said.get(stored.decision, "stored")
        return f"{word} {stored.lead.id} {stored.lead.ref}"

    def _decrypt(self, sealed: str) -> Lead | None:
        try:
            return Lead.from_json(self._services.cipher.decrypt(sealed))
        except DecryptionError:
            return None

    def print_summary(self) -> int:
        """The summary, and the exit status."""
        lost = [
            (name, one) for name, one in self._damaged if one.truncated or one.ref not in self._refs
        ]
        print(f"{self._files} files: {len(self._refs)} leads, {len(self._damaged)} unreadable "
              f"copies, {len(lost)} of them of no lead found whole")  # fmt: skip
        return 1 if lost or self._failed or not self._refs else 0


def _describe_damage(damaged: mailbox.DamagedCopy) -> str:
    whose = f" of {damaged.ref}" if damaged.ref else ""
    if damaged.truncated:
        return f"unreadable{whose}: the copy has no end, the mail was cut"
    return f"unreadable{whose}: not sealed with a key in LEADS_ENCRYPTION_KEY, or damaged"


LIST_SPAM = "select id, ref, received_at, reason, submission->>'business_name' from spam"
GET_SPAM = """
select id, ref, received_at, locale, submission, host(ip_address), user_agent from spam
where id = %(id)s
"""
DELETE_SPAM = "delete from spam where id = %(id)s"


def list_spam(services: Services, args: argparse.Namespace) -> int:
    """What was kept for review, newest first."""
    query = f"{LIST_SPAM} order by received_at desc limit %(limit)s"
    rows = services.database.run(
        lambda c: c.execute(query, {"limit": args.limit}).fetchall(), budget_s=10
    )
    command.print_table(("id", "ref", "received", "reason", "business"), rows)
    return 0


def restore_spam(services: Services, args: argparse.Namespace) -> int:
    """Make a lead of it: stored under its own id and reference, and everybody mailed."""
    settings, run = services.settings, services.database.run
    row = run(lambda c: c.execute(GET_SPAM, {"id": args.id}).fetchone())
    if row is None:
        print(f"no submission {args.id} is kept for review", file=sys.stderr)
        return 1
    lead_id, ref, received_at, locale, submission, address, agent = row
    submission.pop("company", None)
    lead = Lead.from_submission(
        Submission.from_stored(**submission),
        key=f"spam:{lead_id}",
        locale=locale,
        now=received_at,
        ip_address=address,
        user_agent=agent,
    )._replace(id=lead_id, ref=ref)
    readers = Recipients(settings.mail_from, settings.mail_sales_to)
    stored = repository.insert(
        run,
        lead,
        readers,
        now=datetime.now(UTC),
        deliver_now=False,
        erasure_keys=services.erasure_keys,
    ).lead
    run(lambda c: c.execute(DELETE_SPAM, {"id": args.id}))
    print(f"restored {stored.id} {stored.ref}; its mails leave with the next round")
    return 0


# ------------------------------------------------------------------ what waits


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
# Whom it goes to is read anew: a wrong address of ours may be why it was given up.
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
    rows, refused = services.database.run(
        lambda c: (c.execute(LIST_DEAD_EMAILS, values).fetchall(),
                   c.execute(LIST_REFUSED_EMAILS, values).fetchall()),
        budget_s=10,
    )  # fmt: skip
    names = ("id", "lead", "ref", "kind", "attempts", "uncertain", "dead since", "error")
    command.print_table(names, rows)
    if refused:
        print("\nacknowledgements to an address that the mail service does not take:")
        command.print_table(("id", "ref", "since"), refused)
    aside = services.cache.execute("HKEYS", queue.DEAD_LETTERS)
    for lead_id in aside:
        print(f"set aside: lead {lead_id}")
    return 1 if rows or aside else 0


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
    rows = services.database.run(lambda c: c.execute(RETRY_DEAD, values).fetchall(), budget_s=10)
    print(f"{len(rows)} mails are due again")
    if args.all:
        for lead_id, sealed in services.cache.execute("HGETALL", queue.DEAD_LETTERS).items():
            services.cache.execute("HSETNX", queue.QUEUE, lead_id, sealed)
            services.cache.execute("HDEL", queue.DEAD_LETTERS, lead_id)
            print(f"lead {lead_id} is queued again")
    return 0


def mark_sent_by_hand(services: Services, args: argparse.Namespace) -> int:
    """Note that sales were told otherwise of what these dead letters say: they count as sent."""
    rows = services.database.run(
        lambda c: c.execute(MARK_SENT_BY_HAND, {"ids": args.ids}).fetchall(), budget_s=10
    )
    print(f"{len(rows)} mails are noted as told by hand")
    return 0 if len(rows) == len(set(args.ids)) else 1


def show_reconciliation(services: Services, args: argparse.Namespace) -> int:
    """Accepted, stored, told: three counts that must meet. Exit 1 when they do not."""
    now = datetime.now(UTC)
    book = reconciliation.reconcile(services.cache.pipeline, services.database.run, now)
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
    body = json.dumps(canary.payload(now)).encode()
    request = urllib.request.Request(  # noqa: S310 - our own site
        f"{args.site or settings.site_url}/api/leads",
        data=body,
        headers={
            "Content-Type": "application/json",
            canary.HEADER: canary.sign(settings.canary_secret, body, now),
            **(_bypass_header(services) if args.past_maintenance else {}),
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
        canary.remove(services.database.run, services.cache.pipeline, lead_id)
        print("removed")


def _bypass_header(services: Services) -> dict[str, str]:
    return {maintenance.BYPASS_HEADER: services.settings.maintenance_bypass_token}


def _await_canary(services: Services, lead_id: UUID, started: float) -> int:
    seen = canary.find(services.database.run, lead_id)
    while not seen.delivered and time.monotonic() - started < CANARY_WAIT_S:
        time.sleep(0.2)
        seen = canary.find(services.database.run, lead_id)
    took_s = time.monotonic() - started
    print(f"stored: {seen.stored}; mails sent: {seen.sent} of {seen.emails}; {took_s:.2f} s")
    return 0 if seen.delivered else 1


# ------------------------------------------------------------------ the command line


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "leads", "list, search, show; import from mail copies")
    queries.add_commands(verbs)
    lead_mailed_leads.add_commands(verbs)
    verb = command.command(
        verbs,
        "import",
        import_leads,
        "python3 -m ops leads import mails.eml",
        "python3 -m ops leads import --dry-run sales.mbox saved.htm Maildir/",
        dry_run=True,
    )
    verb.add_argument(
        "files", nargs="+", metavar="FILE", help="a saved mail, mailbox or folder, or -"
    )

    verbs = command.group(areas, "spam", "what was kept for review")
    command.add_limit(command.command(verbs, "list", list_spam, "python3 -m ops spam list"))
    verb = command.command(verbs, "restore", restore_spam, "python3 -m ops spam restore 7d0c…")
    verb.add_argument("id", type=UUID)

    verbs = command.group(areas, "dead", "mails given up, leads set aside")
    command.add_limit(command.command(verbs, "list", list_dead_letters, "python3 -m ops dead list"))
    verb = command.command(verbs, "rerun", retry_dead_letters, "python3 -m ops dead rerun --all")
    verb.add_argument("ids", type=UUID, nargs="*", help="ids of `dead list`")
    verb.add_argument("--all", action="store_true", help="everything, leads set aside too")
    verb = command.command(verbs, "told", mark_sent_by_hand, "python3 -m ops dead told 7d0c…")
    verb.add_argument("ids", type=UUID, nargs="+", help="ids of `dead list`")

    command.command(
        areas, "ledger", show_reconciliation, "python3 -m ops ledger --json", as_json=True
    )
    verb = command.command(areas, "canary", send_canary, "python3 -m ops canary")
    verb.add_argument("--site", help="another address than SITE_URL")
    verb.add_argument("--past-maintenance", action="store_true", help="even while a window is open")
