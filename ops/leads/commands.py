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
from lib.leads import canary, mailed_leads, queue, reconciliation, repository, serialization
from lib.leads.outbox import ADDRESS_REFUSED
from lib.leads.repository import Lead
from lib.leads.submission import Submission
from lib.problems import Erased, KeyReused, Unreadable
from lib.services import Services
from ops import command
from ops.leads import mailbox, queries
from ops.leads import mailed_leads as lead_mailed_leads

CANARY_WAIT_S = 30.0


# ------------------------------------------------------------------ leads


KNOWN = "select id::text from leads where id = any(%(ids)s::uuid[])"


def leads_import(services: Services, args: argparse.Namespace) -> int:
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
            importer.take(name)
        except OSError as fault:
            print(f"{name}: {fault.strerror or type(fault).__name__}", file=sys.stderr)
            unread += 1
    if unread and unread == len(args.files):
        return 2
    return max(importer.finish(), 2 if unread else 0)


class _Importer:
    """Stores what files carry, and says of each what was found."""

    def __init__(self, services: Services, *, dry_run: bool) -> None:
        self._services = services
        self._dry_run = dry_run
        self._refs: set[str] = set()  # of leads found whole
        self._damaged: list[tuple[str, mailbox.Damaged]] = []
        self._files = 0
        self._failed = 0

    def take(self, name: str) -> None:
        if name == "-":
            self._take("standard input", sys.stdin.buffer.read())
            return
        for path in mailbox.files_in(Path(name)):
            self._take(str(path), path.read_bytes())

    def _take(self, name: str, data: bytes) -> None:
        found = mailbox.read(data, self._unsealed)
        self._files += 1
        self._refs |= found.refs
        self._damaged += [(name, one) for one in found.damaged]
        lines = [self._store(lead) for lead in found.leads.values()]
        already = sum(line.startswith("already") for line in lines)
        new = len(lines) - already
        lines += [_said_of(one) for one in found.damaged]
        counted = (f"{new} new, {already} already there, {len(found.damaged)} unreadable"
                   if lines else "no copies")  # fmt: skip
        print("\n".join([f"{name}: {counted}", *(f"  {line}" for line in lines)]))

    def _store(self, lead: Lead) -> str:
        if self._dry_run:
            ids = {"ids": [str(lead.id)]}
            there = self._services.database.run(lambda c: c.execute(KNOWN, ids).fetchone())
            return f"{'already there' if there else 'would store'} {lead.id} {lead.ref}"
        settings = self._services.settings
        try:
            stored = repository.store(
                self._services.database.run,
                lead,
                repository.Desk(settings.mail_from, settings.mail_sales_to),
                now=datetime.now(UTC),
                deliver_now=False,
                erasure_keys=self._services.erasure_keys,
            )
        except Erased:
            mailed_leads.imported(self._services.database.run, lead, None, datetime.now(UTC))
            return f"not stored {lead.id} {lead.ref}: its person was erased since"
        except KeyReused:
            self._failed += 1
            return f"not stored {lead.id} {lead.ref}: its key was used with other words"
        except self._services.database.faults as fault:
            self._failed += 1
            return f"not stored {lead.id} {lead.ref}: Postgres refused it ({type(fault).__name__})"
        mailed_leads.imported(self._services.database.run, lead, stored.lead, datetime.now(UTC))
        said = {"stored_before": "already there", "corrected": "corrected"}
        word = said.get(stored.decision, "stored")
        return f"{word} {stored.lead.id} {stored.lead.ref}"

    def _unsealed(self, sealed: str) -> Lead | None:
        try:
            return serialization.from_json(self._services.vault.open(sealed))
        except Unreadable:
            return None

    def finish(self) -> int:
        """The summary, and the exit status."""
        lost = [(name, one) for name, one in self._damaged if one.cut or one.ref not in self._refs]
        print(f"{self._files} files: {len(self._refs)} leads, {len(self._damaged)} unreadable "
              f"copies, {len(lost)} of them of no lead found whole")  # fmt: skip
        return 1 if lost or self._failed or not self._refs else 0


def _said_of(damaged: mailbox.Damaged) -> str:
    whose = f" of {damaged.ref}" if damaged.ref else ""
    if damaged.cut:
        return f"unreadable{whose}: the copy has no end, the mail was cut"
    return f"unreadable{whose}: not sealed with a key in LEADS_ENCRYPTION_KEY, or damaged"


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
    made = repository.make(
        Submission.model_construct(**submission),
        key=f"spam:{lead_id}",
        locale=locale,
        now=received_at,
        ip_address=address,
        user_agent=agent,
    )
    lead = repository.seen_before(made, lead_id, ref)
    readers = repository.Desk(settings.mail_from, settings.mail_sales_to)
    stored = repository.store(
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
where o.dead_at is not null and o.last_error is distinct from %(address_refused)s
order by o.dead_at desc limit %(limit)s
"""
REFUSED_MAILS = """
select o.id, l.ref, o.dead_at
from outbox as o join leads as l on l.id = o.lead_id
where o.dead_at is not null and o.last_error = %(address_refused)s
order by o.dead_at desc limit %(limit)s
"""
# Whom it goes to is read anew: a wrong address of ours may be why it was given up.
RERUN = """
update outbox set dead_at = null, attempts = 0, first_attempt_at = null, uncertain = false,
  leased_until = null, next_attempt_at = now(), sender = %(sender)s,
  recipients = case when kind = 'acknowledgement' then recipients else %(sales)s::text[] end
where dead_at is not null
  and (%(all)s and last_error is distinct from %(address_refused)s or id = any(%(ids)s::uuid[]))
returning id
"""
TOLD = """
update outbox set sent_at = now(), dead_at = null, leased_until = null, last_error = 'told_by_hand'
where dead_at is not null and id = any(%(ids)s::uuid[])
returning id
"""


def dead_list(services: Services, args: argparse.Namespace) -> int:
    """Mails given up, and leads no drain could store. Exit 1 when there are any.

    Acknowledgements to an address that the mail service does not take are listed too, and no fault.
    """
    values = {"limit": args.limit, "address_refused": ADDRESS_REFUSED}
    rows, refused = services.database.run(
        lambda c: (c.execute(DEAD_MAILS, values).fetchall(),
                   c.execute(REFUSED_MAILS, values).fetchall()),
        budget_s=10,
    )  # fmt: skip
    names = ("id", "lead", "ref", "kind", "attempts", "uncertain", "dead since", "error")
    command.table(names, rows)
    if refused:
        print("\nacknowledgements to an address that the mail service does not take:")
        command.table(("id", "ref", "since"), refused)
    aside = services.cache.run("HKEYS", queue.DEAD)
    for lead_id in aside:
        print(f"set aside: lead {lead_id}")
    return 1 if rows or aside else 0


def dead_rerun(services: Services, args: argparse.Namespace) -> int:
    """Let dead letters be tried again, as new mails: an uncertain one may arrive twice.

    They leave from MAIL_FROM, and those to sales go to MAIL_SALES_TO, as both are now.
    """
    if not args.all and not args.ids:
        print("name the mails to be tried again, or say --all", file=sys.stderr)
        return 2
    settings = services.settings
    values = {"all": args.all, "ids": args.ids, "address_refused": ADDRESS_REFUSED,
              "sender": settings.mail_from, "sales": list(settings.mail_sales_to)}  # fmt: skip
    rows = services.database.run(lambda c: c.execute(RERUN, values).fetchall(), budget_s=10)
    print(f"{len(rows)} mails are due again")
    if args.all:
        for lead_id, sealed in services.cache.run("HGETALL", queue.DEAD).items():
            services.cache.run("HSETNX", queue.QUEUE, lead_id, sealed)
            services.cache.run("HDEL", queue.DEAD, lead_id)
            print(f"lead {lead_id} is queued again")
    return 0


def dead_told(services: Services, args: argparse.Namespace) -> int:
    """Note that sales were told otherwise of what these dead letters say: they count as sent."""
    rows = services.database.run(
        lambda c: c.execute(TOLD, {"ids": args.ids}).fetchall(), budget_s=10
    )
    print(f"{len(rows)} mails are noted as told by hand")
    return 0 if len(rows) == len(set(args.ids)) else 1


def show_ledger(services: Services, args: argparse.Namespace) -> int:
    """Accepted, stored, told: three counts that must meet. Exit 1 when they do not."""
    now = datetime.now(UTC)
    book = reconciliation.read(services.cache.run_all, services.database.run, now)
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
    queries.declare(verbs)
    lead_mailed_leads.declare(verbs)
    verb = command.verb(
        verbs,
        "import",
        leads_import,
        "python3 -m ops leads import mails.eml",
        "python3 -m ops leads import --dry-run sales.mbox saved.htm Maildir/",
        dry_run=True,
    )
    verb.add_argument(
        "files", nargs="+", metavar="FILE", help="a saved mail, mailbox or folder, or -"
    )

    verbs = command.area(areas, "spam", "what was kept for review")
    command.limited(command.verb(verbs, "list", spam_list, "python3 -m ops spam list"))
    verb = command.verb(verbs, "restore", spam_restore, "python3 -m ops spam restore 7d0c…")
    verb.add_argument("id", type=UUID)

    verbs = command.area(areas, "dead", "mails given up, leads set aside")
    command.limited(command.verb(verbs, "list", dead_list, "python3 -m ops dead list"))
    verb = command.verb(verbs, "rerun", dead_rerun, "python3 -m ops dead rerun --all")
    verb.add_argument("ids", type=UUID, nargs="*", help="ids of `dead list`")
    verb.add_argument("--all", action="store_true", help="everything, leads set aside too")
    verb = command.verb(verbs, "told", dead_told, "python3 -m ops dead told 7d0c…")
    verb.add_argument("ids", type=UUID, nargs="+", help="ids of `dead list`")

    command.verb(areas, "ledger", show_ledger, "python3 -m ops ledger --json", as_json=True)
    verb = command.verb(areas, "canary", send_canary, "python3 -m ops canary")
    verb.add_argument("--site", help="another address than SITE_URL")
    verb.add_argument("--past-maintenance", action="store_true", help="even while a window is open")
