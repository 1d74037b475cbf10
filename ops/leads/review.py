"""Leads that wait for a person's look before sales are told: after a flood, or while nobody could
check the page's challenge. They are leads like any other; only their mails were not written yet.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

from lib.leads import repository
from lib.leads.lead import Lead, Recipients
from lib.services import Services
from ops import command

BUDGET_S = 20.0

# All of them, or those of the given references.
LIST_WAITING = """
select to_jsonb(l) || jsonb_build_object('ip_address', host(l.ip_address),
  'identity', encode(l.identity, 'hex'), 'body_sha256', encode(l.body_sha256, 'hex'))
from leads as l
where l.review <> 'dismissed' and (%(refs)s::text[] is null or l.ref = any(%(refs)s::text[]))
order by l.created_at
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
  from lead, jsonb_to_recordset(%(letters)s::jsonb) as m (
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


def list_waiting(services: Services, args: argparse.Namespace) -> int:
    """Leads that no mail was written for yet, oldest first. Exit 1 when there are any."""
    rows = _select_waiting(services, None, args.limit)
    names = ("ref", "received (UTC)", "why", "business", "phone", "city")
    shown = [
        (row["ref"], row["created_at"][:16].replace("T", " "), row["review"],
         row["business_name"], row["phone_whatsapp"], row["city"])
        for row in rows
    ]  # fmt: skip
    if args.json:
        command.print_json([dict(zip(names, row, strict=True)) for row in shown])
    elif shown:
        command.print_table(names, shown)
    else:
        print("no lead waits for review")
    return 1 if rows else 0


def release(services: Services, args: argparse.Namespace) -> int:
    """Have sales and the visitors mailed, as for any lead."""
    if not args.all and not args.refs:
        print("name the leads to be released, or say --all", file=sys.stderr)
        return 2
    rows = _select_waiting(services, None if args.all else args.refs, None)
    desk = Recipients(services.settings.mail_from, services.settings.mail_sales_to)
    for row in rows:
        if args.dry_run:
            print(f"would release {row['ref']}")
        elif _release(services, Lead.from_columns(row), desk):
            print(f"released {row['ref']}; its mails leave with the next round")
    missing = set(args.refs) - {row["ref"] for row in rows}
    for ref in sorted(missing):
        print(f"{ref} does not wait for review", file=sys.stderr)
    print(f"{len(rows)} leads")
    return 1 if missing else 0


def dismiss(services: Services, args: argparse.Namespace) -> int:
    """Keep them as leads that nobody is mailed about: they were none."""
    values = {"refs": args.refs}
    rows = services.database.run(
        lambda c: c.execute(DISMISS_LEADS, values).fetchall(), budget_s=BUDGET_S
    )
    for (ref,) in rows:
        print(f"dismissed {ref}")
    for ref in sorted(set(args.refs) - {row[0] for row in rows}):
        print(f"{ref} does not wait for review", file=sys.stderr)
    return 0 if len(rows) == len(set(args.refs)) else 1


def _select_waiting(
    services: Services, refs: list[str] | None, limit: int | None
) -> list[dict[str, Any]]:
    values = {"refs": refs, "limit": limit}
    rows = services.database.run(
        lambda c: c.execute(LIST_WAITING, values).fetchall(), budget_s=BUDGET_S
    )
    return [row[0] for row in rows]


def _release(services: Services, lead: Lead, desk: Recipients) -> bool:
    """Whether it was ours to release."""
    values = {
        "id": str(lead.id),
        "now": datetime.now(UTC),
        "letters": json.dumps(
            [letter.to_columns() for letter in repository.render_emails(lead, desk)]
        ),
    }
    return bool(
        services.database.run(
            lambda c: c.execute(RELEASE_LEAD, values).fetchone(), budget_s=BUDGET_S
        )
    )


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "review", "leads that wait for a person's look")
    verb = command.command(verbs, "list", list_waiting, "python3 -m ops review list", as_json=True)
    command.add_limit(verb)
    verb = command.command(
        verbs, "release", release, "python3 -m ops review release --all", dry_run=True
    )
    verb.add_argument("refs", nargs="*", metavar="REF", help="references of `review list`")
    verb.add_argument("--all", action="store_true", help="everything that waits")
    verb = command.command(verbs, "dismiss", dismiss, "python3 -m ops review dismiss ALFA-7KQ2M")
    verb.add_argument("refs", nargs="+", metavar="REF", help="references of `review list`")
