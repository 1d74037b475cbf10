"""Commands about leads that exist only in an e-mail: list, import, dismiss."""

import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from lib.leads import mailed_leads, repository
from lib.leads.lead import Lead, Recipients
from lib.problems import (
    CacheDown,
    DecryptionError,
    ErasedSubject,
    IdempotencyKeyReused,
    NotConfigured,
)
from lib.services import Services
from ops import command
from ops.command import Args
from ops.leads import mailbox
from ops.leads.queries import leads_commands

PROGRESS_EVERY_FILES = 100

FIND_LEAD = "select id from leads where id = %(id)s"

DISMISS = """
update mailed_leads set dismissed_at = %(now)s, dismissed_by = %(by)s, reason = %(reason)s
where (ref = %(which)s or lead_id::text = %(which)s) and dismissed_at is null
returning lead_id, ref
"""

# Imported under the id of an earlier submission of the same words.
CLOSE_IMPORTED = """
update mailed_leads set dismissed_at = %(now)s, dismissed_by = 'import', reason = %(reason)s
where lead_id = %(lead_id)s and dismissed_at is null
"""
DELETE_MAILED_LEAD = "delete from mailed_leads where lead_id = %(lead_id)s"


# ------------------------------------------------------------------ list, dismiss


@leads_commands.command("mailed", examples=("python3 -m ops leads mailed",))
def list_open(services: Services, args: Args) -> int:
    """Leads accepted while neither Postgres nor Redis took them. Exit 1 while one is open.

    Each is a mail in the sales mailbox. `leads import` closes it; `leads dismiss` where there is
    nothing to import.
    """
    leads = _list_everywhere(services)
    if args.json:
        command.print_json([{**lead._asdict(), "marks": None} for lead in leads])
    else:
        rows = [(lead.ref, lead.lead_id, lead.accepted_at) for lead in leads]
        command.print_table(("ref", "id", "accepted"), rows, empty="no lead exists only in a mail")
        if leads:
            print(f"{len(leads)} leads exist only in a mail: `ops leads import` stores them")
    return 1 if leads else 0


@leads_commands.command(
    "dismiss",
    examples=("python3 -m ops leads dismiss ALFA-7KQ2M --reason 'entered by hand as ALFA-9RWXQ'",),
    confirms=True,
)
@command.argument("lead", help="its ref or its id, as `leads mailed` names it")
@click.option("--reason", required=True, help="why; no names, no numbers of people")
@command.by_option
def dismiss(services: Services, args: Args) -> int:
    """Close the entry of a lead that cannot or need not be imported, with a reason."""
    which, reason = args.lead.strip(), args.reason.strip()
    if not reason:
        print("--reason is empty: say why in words", file=sys.stderr)
        return 2
    if not command.confirm(args, f"Close the entry of {which}? No further reminders will be sent."):
        return 1
    _import_from_redis(services)
    values = {"which": which, "by": args.by, "reason": reason, "now": datetime.now(UTC)}
    rows = command.fetch_rows(services, DISMISS, **values)
    lines = [f"dismissed {row['lead_id']} {row['ref']}" for row in rows]
    command.print_result(args, {"dismissed": rows}, *lines)
    if not rows:
        print(f"no open entry of {which}: see `ops leads mailed`", file=sys.stderr)
    return 0 if rows else 1


def _list_everywhere(services: Services) -> list[mailed_leads.MailedLead]:
    """Those in Postgres, and those that the watch has not moved there from Redis yet."""
    leads = {lead.lead_id: lead for lead in mailed_leads.list_open(services.database.run)}
    with suppress(CacheDown, NotConfigured):
        for lead in mailed_leads.list_in_redis(services.cache.pipeline):
            leads.setdefault(lead.lead_id, lead)
    return list(leads.values())


def _import_from_redis(services: Services) -> None:
    """The entries that the monitor has not moved to Postgres yet."""
    with suppress(CacheDown, NotConfigured):
        mailed_leads.import_from_redis(services, datetime.now(UTC))


# ------------------------------------------------------------------ import


@leads_commands.command(
    "import",
    examples=(
        "python3 -m ops leads import mails.eml",
        "python3 -m ops leads import --dry-run sales.mbox saved.htm Maildir/",
    ),
    dry_run=True,
)
@command.argument(
    "files", nargs=-1, required=True, metavar="FILE", help="a saved mail, mailbox or folder, or -"
)
def import_leads(services: Services, args: Args) -> int:
    """Store the leads that mails carried while neither Postgres nor Redis could be reached.

    Takes mails, mailboxes (mbox, Maildir), folders, pages and texts saved from a mail program;
    twice does no harm. Exit 0: every lead found is stored, or was; 1: a copy cannot be read and no
    other copy of its lead was found, a lead was refused, or there is none at all; 2: a file cannot
    be read.
    """
    importer = _Importer(services, args)
    unread = 0
    for name in args.files:
        try:
            importer.import_path(name)
        except OSError as error:
            print(f"{name}: {error.strerror or type(error).__name__}", file=sys.stderr)
            unread += 1
    if unread and unread == len(args.files):
        return 2
    return max(importer.print_summary(), 2 if unread else 0)


class _Importer:
    """Stores the leads of files, and prints the result of each file."""

    def __init__(self, services: Services, args: Args) -> None:
        self._services = services
        self._args = args
        self._dry_run = args.dry_run
        self._results: list[dict[str, object]] = []  # of each file
        self._refs: set[str] = set()  # of leads whose copy was read
        self._damaged: list[mailbox.DamagedCopy] = []
        self._files = 0
        self._failed = 0

    def import_path(self, name: str) -> None:
        if name == "-":
            self._import_data("standard input", sys.stdin.buffer.read())
        else:
            for path in mailbox.list_files(Path(name)):
                self._import_data(str(path), path.read_bytes())

    def _import_data(self, name: str, data: bytes) -> None:
        contents = mailbox.parse_file(data, self._decrypt)
        self._files += 1
        if self._files % PROGRESS_EVERY_FILES == 0:
            print(f"{self._files} files read …", file=sys.stderr, flush=True)
        self._refs |= contents.refs
        self._damaged += contents.damaged
        lines = [self._store(lead) for lead in contents.leads.values()]
        existing = sum(line.startswith("already") for line in lines)
        counts = f"{len(lines) - existing} new, {existing} already there"
        lines += [_describe_damage(copy) for copy in contents.damaged]
        summary = f"{counts}, {len(contents.damaged)} unreadable" if lines else "no copies"
        self._results.append({"file": name, "summary": summary, "copies": lines})
        if not self._args.json:
            print(f"{name}: {summary}", *(f"  {line}" for line in lines), sep="\n", flush=True)

    def _decrypt(self, sealed: str) -> Lead | None:
        try:
            return Lead.from_json(self._services.cipher.decrypt(sealed))
        except DecryptionError:
            return None

    def _store(self, lead: Lead) -> str:
        database, settings = self._services.database, self._services.settings
        name = f"{lead.id} {lead.ref}"
        if self._dry_run:
            exists = command.fetch_rows(self._services, FIND_LEAD, id=lead.id)
            return f"{'already there' if exists else 'would store'} {name}"
        try:
            stored = repository.insert(
                database.run,
                lead,
                Recipients(settings.mail_from, settings.mail_sales_to),
                now=datetime.now(UTC),
                deliver_now=False,
                erasure_keys=self._services.erasure_keys,
            )
        except ErasedSubject:
            self._close_entry(lead, None)
            return f"not stored {name}: the person was erased since"
        except IdempotencyKeyReused:
            self._failed += 1
            return f"not stored {name}: its idempotency key was used with other contents"
        except database.all_errors as error:
            self._failed += 1
            return f"not stored {name}: Postgres refused it ({type(error).__name__})"
        self._close_entry(lead, stored.lead)
        results = {"stored_before": "already there", "corrected": "corrected"}
        return f"{results.get(stored.decision, 'stored')} {stored.lead.id} {stored.lead.ref}"

    def _close_entry(self, lead: Lead, stored: Lead | None) -> None:
        """stored: perhaps under an earlier id; None: its person was erased. A lead stored under
        its own id closes its entry by being there."""
        values = {"lead_id": lead.id, "now": datetime.now(UTC),
                  "reason": stored and f"is lead {stored.id}"}  # fmt: skip
        if stored is None:
            self._services.database.run(lambda c: c.execute(DELETE_MAILED_LEAD, values) and None)
        elif stored.id != lead.id:
            self._services.database.run(lambda c: c.execute(CLOSE_IMPORTED, values) and None)

    def print_summary(self) -> int:
        """The exit status."""
        lost = [copy for copy in self._damaged if copy.truncated or copy.ref not in self._refs]
        command.print_result(
            self._args,
            {"files": self._results, "leads": sorted(self._refs),
             "unreadable": len(self._damaged), "lost": len(lost), "failed": self._failed},
            f"{self._files} files: {len(self._refs)} leads, {len(self._damaged)} unreadable "
            f"copies; no readable copy was found of {len(lost)} of those",
        )  # fmt: skip
        return 1 if lost or self._failed or not self._refs else 0


def _describe_damage(copy: mailbox.DamagedCopy) -> str:
    name = copy.ref or "a lead without a reference"
    if copy.truncated:
        return f"{name}: damaged copy (truncated)"
    return f"{name}: damaged copy, or not sealed with a key in LEADS_ENCRYPTION_KEY"
