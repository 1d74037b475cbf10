"""Commands about leads that a person must look at: in review, or in the spam table.

In review, after a flood or an unchecked challenge, a lead is stored but its e-mails are not written
yet. Spam is no lead until it is restored.
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any

import click

from lib.leads import repository
from lib.leads.lead import Lead, Recipients
from lib.leads.submission import Submission
from lib.problems import ErasedSubject, IdempotencyKeyReused
from lib.services import Services
from ops import command
from ops.command import Args, Failed

review_commands = command.group("review", "leads that wait for review")
spam_commands = command.group("spam", "submissions taken for spam")


SENT_SOON = "its mails will be sent at the next worker run (within a minute)"

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
FIND_SPAM = """
select id, ref, received_at, reason, locale, submission, host(ip_address) as ip_address, user_agent
from spam
where id::text = %(which)s or ref = upper(%(which)s)
"""
DELETE_SPAM = "delete from spam where id = %(id)s"


# ------------------------------------------------------------------ review


@review_commands.command("list", examples=("python3 -m ops review list",))
@command.limit_option
def list_waiting(services: Services, args: Args) -> int:
    """Leads that no mail was written for yet, oldest first. Exit 1 when there are any."""
    names = ("ref", "received", "why", "business", "phone", "city")
    waiting = command.fetch_rows(services, LIST_WAITING, refs=None, limit=args.limit + 1)
    rows = [
        (row["ref"], row["created_at"], row["review"],
         row["business_name"], row["phone_whatsapp"], row["city"])
        for row in waiting[: args.limit]
    ]  # fmt: skip
    if args.json:
        command.print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        command.print_table(names, rows, empty="no lead waits for review")
    if len(waiting) > len(rows):
        command.print_more(args, "leads in review")
    return 1 if rows else 0


@review_commands.command(
    "release", examples=("python3 -m ops review release --all",), dry_run=True, confirms=True
)
@command.argument(
    "refs", nargs=-1, required=False, metavar="REF", help="references of `review list`"
)
@click.option("--all", is_flag=True, help="everything that waits")
def release(services: Services, args: Args) -> int:
    """Have sales and the visitors mailed, as for any lead.

    Exit 1 where a reference is not waiting for review.
    """
    if not args.all and not args.refs:
        print("Give references of leads, or --all", file=sys.stderr)
        return 2
    refs = None if args.all else args.refs
    rows = command.fetch_rows(services, LIST_WAITING, refs=refs, limit=None)
    refs = [row["ref"] for row in rows]
    missing = _print_missing(args.refs, rows)
    if args.dry_run:
        lines = [f"would release {ref}" for ref in refs]
        command.print_result(args, {"would_release": refs}, *lines, f"{len(refs)} leads")
        return 1 if missing else 0
    if rows and not command.confirm(
        args, f"Release {len(rows)} leads ({_first_few(refs)})? Sales and the visitors are mailed."
    ):
        return 1
    released = [row["ref"] for row in rows if _release(services, Lead.from_columns(row))]
    lines = [f"released {ref}; {SENT_SOON}" for ref in released]
    command.print_result(args, {"released": released}, *lines, f"{len(released)} leads")
    return 1 if missing else 0


def _first_few(refs: list[str]) -> str:
    return ", ".join(refs[:5]) + (", …" if len(refs) > 5 else "")


@review_commands.command(
    "dismiss", examples=("python3 -m ops review dismiss ALFA-7KQ2M",), confirms=True
)
@command.argument(
    "refs", nargs=-1, required=True, metavar="REF", help="references of `review list`"
)
def dismiss(services: Services, args: Args) -> int:
    """Dismiss as spam: the leads stay stored, no e-mail is sent.

    Exit 1 where a reference is not waiting for review.
    """
    if not command.confirm(args, f"Dismiss {_first_few(args.refs)}? No e-mail is sent."):
        return 1
    rows = command.fetch_rows(services, DISMISS_LEADS, refs=args.refs)
    dismissed = [row["ref"] for row in rows]
    command.print_result(args, {"dismissed": dismissed}, *(f"dismissed {ref}" for ref in dismissed))
    return 1 if _print_missing(args.refs, rows) else 0


def _print_missing(refs: list[str], rows: list[dict[str, Any]]) -> set[str]:
    missing = set(refs) - {row["ref"] for row in rows}
    for ref in sorted(missing):
        print(f"{ref} is not waiting for review", file=sys.stderr)
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


@spam_commands.command("list", examples=("python3 -m ops spam list",))
@command.limit_option
def list_spam(services: Services, args: Args) -> int:
    """Submissions taken for spam, newest first."""
    all_rows = command.fetch_rows(services, LIST_SPAM, limit=args.limit + 1)
    rows = all_rows[: args.limit]
    if args.json:
        command.print_json(rows)
    else:
        names = ("id", "ref", "received", "reason", "business")
        table = [tuple(row.values()) for row in rows]
        command.print_table(names, table, empty="no submission is in the spam table")
    if len(all_rows) > len(rows):
        command.print_more(args, "submissions")
    return 0


@spam_commands.command("show", examples=("python3 -m ops spam show ALFA-7KQ2M",))
@command.argument("spam", help="its id or its ref, as `spam list` names it")
def show_spam(services: Services, args: Args) -> int:
    """One submission taken for spam, whole, so that a person can judge it before a restore."""
    rows = command.fetch_rows(services, FIND_SPAM, which=args.spam.strip())
    if not rows:
        print(f"there is no {args.spam} in the spam table", file=sys.stderr)
        return 1
    [row] = rows
    if args.json:
        command.print_json(row)
        return 0
    fields = {**row, **row["submission"], "received_at": command.format_time(row["received_at"])}
    del fields["submission"]
    for name, value in fields.items():
        if value not in (None, ""):
            print(f"{name:>20}  {str(value).replace(chr(10), chr(10) + ' ' * 22)}")
    print(f"`ops spam restore {row['id']}` restores it as a lead")
    return 0


@spam_commands.command("restore", examples=("python3 -m ops spam restore 7d0c…",), confirms=True)
@command.argument("spam", help="its id or its ref, as `spam list` names it")
def restore_spam(services: Services, args: Args) -> int:
    """Restore it as a lead: stored under its own id and reference, and everybody mailed."""
    rows = command.fetch_rows(services, FIND_SPAM, which=args.spam.strip())
    if not rows:
        print(f"there is no {args.spam} in the spam table", file=sys.stderr)
        return 1
    [row] = rows
    business = row["submission"].get("business_name", "")
    if not command.confirm(
        args, f"Restore {row['ref']} ({business}) as a lead? Sales and the visitor are mailed."
    ):
        return 1
    stored = _store_spam(services, row)
    services.database.run(lambda c: c.execute(DELETE_SPAM, {"id": row["id"]}))
    line = f"restored {stored.id} {stored.ref}; {SENT_SOON}"
    command.print_result(args, {"id": stored.id, "ref": stored.ref}, line)
    return 0


def _store_spam(services: Services, row: dict[str, Any]) -> Lead:
    row["submission"].pop("company", None)
    lead = Lead.from_submission(
        Submission.from_stored(**row["submission"]),
        key=f"spam:{row['id']}",
        locale=row["locale"],
        now=row["received_at"],
        ip_address=row["ip_address"],
        user_agent=row["user_agent"],
    )
    try:
        return repository.insert(
            services.database.run,
            lead._replace(id=row["id"], ref=row["ref"]),
            _recipients(services),
            now=datetime.now(UTC),
            deliver_now=False,
            erasure_keys=services.erasure_keys,
        ).lead
    except ErasedSubject:
        raise Failed(
            f"{row['ref']} is not restored: this person's data was erased. Nothing was changed."
        ) from None
    except IdempotencyKeyReused:
        raise Failed(
            f"{row['ref']} is not restored: a lead was restored from it before, with other "
            "contents. Nothing was changed."
        ) from None
