"""Commands about leads that exist only in an e-mail: list, import, dismiss."""

import argparse
import getpass
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
from ops.leads import mailbox

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


def list_open(services: Services, args: argparse.Namespace) -> int:
    """Leads accepted while neither Postgres nor Redis took them. Exit 1 while one is open.

    Each is a mail in the sales mailbox. `leads import` closes it; `leads dismiss` where there is
    nothing to import.
    """
    _import_from_redis(services)
    leads = mailed_leads.list_open(services.database.run)
    if args.json:
        command.print_json([{**lead._asdict(), "marks": None} for lead in leads])
    else:
        rows = [(lead.ref, lead.lead_id, f"{lead.accepted_at:%Y-%m-%d %H:%M:%S}") for lead in leads]
        command.print_table(("ref", "id", "accepted"), rows)
        print(f"{len(leads)} leads exist only in a mail")
    return 1 if leads else 0


def dismiss(services: Services, args: argparse.Namespace) -> int:
    """Close the entry of a lead that cannot or need not be imported; say why."""
    _import_from_redis(services)
    which, reason = args.lead.strip(), args.reason.strip()
    if not reason:
        print("say why, in words: --reason", file=sys.stderr)
        return 2
    values = {"which": which, "by": args.by, "reason": reason, "now": datetime.now(UTC)}
    rows = command.fetch_rows(services, DISMISS, **values)
    for row in rows:
        print(f"dismissed {row['lead_id']} {row['ref']}")
    if not rows:
        print(f"no open entry of {which}: see `ops leads mailed`", file=sys.stderr)
    return 0 if rows else 1


def _import_from_redis(services: Services) -> None:
    """The entries that the monitor has not moved to Postgres yet."""
    with suppress(CacheDown, NotConfigured):
        mailed_leads.import_from_redis(services, datetime.now(UTC))


# ------------------------------------------------------------------ import


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
        except OSError as error:
            print(f"{name}: {error.strerror or type(error).__name__}", file=sys.stderr)
            unread += 1
    if unread and unread == len(args.files):
        return 2
    return max(importer.print_summary(), 2 if unread else 0)


class _Importer:
    """Stores the leads of files, and prints the result of each file."""

    def __init__(self, services: Services, *, dry_run: bool) -> None:
        self._services = services
        self._dry_run = dry_run
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
        self._refs |= contents.refs
        self._damaged += contents.damaged
        lines = [self._store(lead) for lead in contents.leads.values()]
        existing = sum(line.startswith("already") for line in lines)
        counts = f"{len(lines) - existing} new, {existing} already there"
        lines += [_describe_damage(copy) for copy in contents.damaged]
        print(
            f"{name}: {f'{counts}, {len(contents.damaged)} unreadable' if lines else 'no copies'}"
        )
        print("".join(f"  {line}\n" for line in lines), end="")

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
            return f"not stored {name}: its person was erased since"
        except IdempotencyKeyReused:
            self._failed += 1
            return f"not stored {name}: its key was used with other words"
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
        print(f"{self._files} files: {len(self._refs)} leads, {len(self._damaged)} unreadable "
              f"copies, {len(lost)} of them of no lead found whole")  # fmt: skip
        return 1 if lost or self._failed or not self._refs else 0


def _describe_damage(copy: mailbox.DamagedCopy) -> str:
    name = f"unreadable of {copy.ref}" if copy.ref else "unreadable"
    if copy.truncated:
        return f"{name}: the copy has no end, the mail was cut"
    return f"{name}: not sealed with a key in LEADS_ENCRYPTION_KEY, or damaged"


# ------------------------------------------------------------------ the command line


def add_commands(verbs: Any) -> None:
    """Verbs of `leads`."""
    command.command(verbs, "mailed", list_open, "python3 -m ops leads mailed", as_json=True)
    parser = command.command(
        verbs,
        "dismiss",
        dismiss,
        "python3 -m ops leads dismiss ALFA-7KQ2M --reason 'entered by hand as ALFA-9RWXQ'",
    )
    parser.add_argument("lead", help="its ref or its id, as `leads mailed` names it")
    parser.add_argument("--reason", required=True, help="why; no names, no numbers of people")
    parser.add_argument("--by", default=getpass.getuser(), help="who (default: you)")
    parser = command.command(
        verbs,
        "import",
        import_leads,
        "python3 -m ops leads import mails.eml",
        "python3 -m ops leads import --dry-run sales.mbox saved.htm Maildir/",
        dry_run=True,
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a saved mail, mailbox or folder, or -"
    )
