"""Commands about leads that a person must look at: in review, or in the spam table.

In review, after a flood or an unchecked challenge, a lead is stored but its e-mails are not written
yet. Spam is no lead until it is restored.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from lib.leads import repository
from lib.leads.lead import Lead, Recipients
from lib.leads.submission import Submission
from lib.services import Services
from ops import command

# refs: null for all. Of two columns with one name, the last counts.
LIST_WAITING = """
select *, host(ip_address) as ip_address,
  encode(identity, 'hex') as identity, encode(body_sha256, 'hex') as body_sha256
from leads
where review <> 'dismissed' and (%(refs)s::text[] is null or ref = any(%(refs)s::text[]))
order by created_at
limit %(limit)s
"""

# Compare and set: whoever comes second releases nothing.
RELEASE_LEAD = """
with lead as (
  update leads set review = null where id = %(id)s and review <> 'dismissed' returning id
), mail as (
  insert into outbox (lead_id, kind, sender, recipients, reply_to, subject, body_text, body_html,
    created_at, next_attempt_at)
  select lead.id, m.kind, m.sender, m.recipients, m.reply_to, m.subject, m.body_text, m.body_html,
    %(now)s, %(now)s
  from lead, jsonb_to_recordset(%(emails)s::jsonb) as m (
    kind text, sender text, recipients text[], reply_to text,
    subject text, body_text text, body_html text
  )
)
select id from lead
"""

DISMISS_LEADS = """
update leads set review = 'dismissed'
where review <> 'dismissed' and ref = any(%(refs)s::text[])
returning ref
"""

LIST_SPAM = """
select id, ref, received_at, reason, submission->>'business_name' from spam
order by received_at desc limit %(limit)s
"""
GET_SPAM = """
select id, ref, received_at, locale, submission, host(ip_address) as ip_address, user_agent
from spam
where id = %(id)s
"""
DELETE_SPAM = "delete from spam where id = %(id)s"


# ------------------------------------------------------------------ review


def list_waiting(services: Services, args: argparse.Namespace) -> int:
    """Leads that no mail was written for yet, oldest first. Exit 1 when there are any."""
    names = ("ref", "received (UTC)", "why", "business", "phone", "city")
    rows = [
        (row["ref"], f"{row['created_at'].astimezone(UTC):%Y-%m-%d %H:%M}", row["review"],
         row["business_name"], row["phone_whatsapp"], row["city"])
        for row in command.fetch_rows(services, LIST_WAITING, refs=None, limit=args.limit)
    ]  # fmt: skip
    if args.json:
        command.print_json([dict(zip(names, row, strict=True)) for row in rows])
    elif rows:
        command.print_table(names, rows)
    else:
        print("no lead waits for review")
    return 1 if rows else 0


def release(services: Services, args: argparse.Namespace) -> int:
    """Have sales and the visitors mailed, as for any lead."""
    if not args.all and not args.refs:
        print("name the leads to be released, or say --all", file=sys.stderr)
        return 2
    refs = None if args.all else args.refs
    rows = command.fetch_rows(services, LIST_WAITING, refs=refs, limit=None)
    for row in rows:
        if args.dry_run:
            print(f"would release {row['ref']}")
        elif _release(services, Lead.from_columns(row)):
            print(f"released {row['ref']}; its mails leave with the next round")
    missing = _print_missing(args.refs, rows)
    print(f"{len(rows)} leads")
    return 1 if missing else 0


def dismiss(services: Services, args: argparse.Namespace) -> int:
    """Keep them as leads that nobody is mailed about: they were none."""
    rows = command.fetch_rows(services, DISMISS_LEADS, refs=args.refs)
    for row in rows:
        print(f"dismissed {row['ref']}")
    return 1 if _print_missing(args.refs, rows) else 0


def _print_missing(refs: list[str], rows: list[dict[str, Any]]) -> set[str]:
    missing = set(refs) - {row["ref"] for row in rows}
    for ref in sorted(missing):
        print(f"{ref} does not wait for review", file=sys.stderr)
    return missing


def _release(services: Services, lead: Lead) -> bool:
    """Whether it was still waiting."""
    emails = repository.render_emails(lead, _recipients(services))
    columns = json.dumps([email.to_columns() for email in emails])
    values = {"id": lead.id, "now": datetime.now(UTC), "emails": columns}
    return bool(command.fetch_rows(services, RELEASE_LEAD, **values))


def _recipients(services: Services) -> Recipients:
    return Recipients(services.settings.mail_from, services.settings.mail_sales_to)


# ------------------------------------------------------------------ spam


def list_spam(services: Services, args: argparse.Namespace) -> int:
    """What was kept for review, newest first."""
    rows = command.fetch_rows(services, LIST_SPAM, limit=args.limit)
    names = ("id", "ref", "received", "reason", "business")
    command.print_table(names, [tuple(row.values()) for row in rows])
    return 0


def restore_spam(services: Services, args: argparse.Namespace) -> int:
    """Make a lead of it: stored under its own id and reference, and everybody mailed."""
    rows = command.fetch_rows(services, GET_SPAM, id=args.id)
    if not rows:
        print(f"no submission {args.id} is kept for review", file=sys.stderr)
        return 1
    [row] = rows
    row["submission"].pop("company", None)
    lead = Lead.from_submission(
        Submission.from_stored(**row["submission"]),
        key=f"spam:{row['id']}",
        locale=row["locale"],
        now=row["received_at"],
        ip_address=row["ip_address"],
        user_agent=row["user_agent"],
    )
    stored = repository.insert(
        services.database.run,
        lead._replace(id=row["id"], ref=row["ref"]),
        _recipients(services),
        now=datetime.now(UTC),
        deliver_now=False,
        erasure_keys=services.erasure_keys,
    ).lead
    services.database.run(lambda c: c.execute(DELETE_SPAM, {"id": args.id}))
    print(f"restored {stored.id} {stored.ref}; its mails leave with the next round")
    return 0


# ------------------------------------------------------------------ the command line


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "review", "leads that wait for a person's look")
    command.add_limit(
        command.command(verbs, "list", list_waiting, "python3 -m ops review list", as_json=True)
    )
    parser = command.command(
        verbs, "release", release, "python3 -m ops review release --all", dry_run=True
    )
    parser.add_argument("refs", nargs="*", metavar="REF", help="references of `review list`")
    parser.add_argument("--all", action="store_true", help="everything that waits")
    parser = command.command(verbs, "dismiss", dismiss, "python3 -m ops review dismiss ALFA-7KQ2M")
    parser.add_argument("refs", nargs="+", metavar="REF", help="references of `review list`")

    verbs = command.group(areas, "spam", "what was kept for review")
    command.add_limit(command.command(verbs, "list", list_spam, "python3 -m ops spam list"))
    parser = command.command(verbs, "restore", restore_spam, "python3 -m ops spam restore 7d0c…")
    parser.add_argument("id", type=UUID)
