"""Commands for the sales desk: its leads listed, searched, shown."""

import argparse
import sys
from datetime import timedelta, timezone
from typing import Any
from uuid import UUID

from lib.leads import reference, submission
from lib.leads.outbox import ADDRESS_REFUSED
from lib.privacy.data_subject import Subject, with_legacy_numbers
from lib.services import Services
from ops import command

WIB = timezone(timedelta(hours=7), "WIB")  # what the desk's clock shows
BUDGET_S = 20.0
LIST_COLUMNS = ("ref", "received (WIB)", "business", "contact", "phone", "city", "kind", "mails")

# `mails`: sent of all; a ! where one was given up.
LIST_LEADS = """
select l.ref, l.created_at, l.business_name, l.contact_name, l.phone_whatsapp, l.city, l.salon_type,
  (select count(sent_at) || '/' || count(*) || case when count(dead_at) > 0 then ' !' else '' end
   from outbox as o where o.lead_id = l.id) as mails, l.id
from leads as l
where not l.canary
  and (%(city)s::text is null or lower(l.city) = lower(%(city)s::text))
  and (%(kind)s::text is null or l.salon_type = %(kind)s::text)
  and (%(days)s::integer is null
    or l.created_at > now() - %(days)s::integer * interval '1 day')
order by l.created_at desc, l.id desc
limit %(limit)s
"""

# A number is looked for by its digits, however either is written; a whole one as it is stored too.
SEARCH_LEADS = """
select l.ref, l.created_at, l.business_name, l.contact_name, l.phone_whatsapp, l.city, l.salon_type,
  (select count(sent_at) || '/' || count(*) || case when count(dead_at) > 0 then ' !' else '' end
   from outbox as o where o.lead_id = l.id) as mails, l.id
from leads as l
where not l.canary and (
  strpos(lower(concat_ws(E'\\n', l.ref, l.business_name, l.contact_name, l.email, l.city,
    l.specialization, l.current_brands_used, l.message)), lower(%(text)s)) > 0
  or (%(digits)s <> '' and strpos(l.phone_whatsapp, %(digits)s) > 0)
  or l.phone_whatsapp = any(%(numbers)s::text[]))
order by l.created_at desc, l.id desc
limit %(limit)s
"""

GET_LEAD = """
select to_jsonb(l) - '{identity,body_sha256,same_until,content_identity,key_span}'::text[]
from leads as l
where l.id = %(id)s::uuid or l.ref = %(ref)s::text
"""

LIST_EMAILS = """
select kind, attempts, sent_at, dead_at, next_attempt_at, last_error from outbox
where lead_id = %(id)s order by kind
"""


def list_leads(services: Services, args: argparse.Namespace) -> int:
    """Leads, newest first."""
    values = {"city": args.city, "kind": args.type, "days": args.days, "limit": args.limit + 1}
    return _print_list(services, LIST_LEADS, values, args)


def search_leads(services: Services, args: argparse.Namespace) -> int:
    """Leads that hold a text: a name, a ref, an address, a number, words of the message."""
    text = args.text
    if text == "-":
        text = sys.stdin.readline().strip()
    if len(text) < 2:
        print("give two characters or more", file=sys.stderr)
        return 2
    plain = not any(c.isalpha() for c in text)
    typed = "".join(str(int(c)) for c in text if c.isdecimal()) if plain else ""
    digits = typed.removeprefix("62").lstrip("0")
    values = {"text": text, "digits": digits if len(digits) >= 4 else "", "limit": args.limit + 1,
              "numbers": _phone_forms(services, text)}  # fmt: skip
    return _print_list(services, SEARCH_LEADS, values, args)


def _phone_forms(services: Services, text: str) -> list[str]:
    """A whole number in every form in which it may be stored."""
    try:
        person = submission.parse_person({"phone": text})
    except submission.ValidationError:
        return []
    meant = Subject(phones=tuple(filter(None, (person.phone, *person.other_phones))))
    return list(with_legacy_numbers(services, meant).phones)


def _print_list(
    services: Services, statement: str, values: dict[str, Any], args: argparse.Namespace
) -> int:
    rows = services.database.run(
        lambda c: c.execute(statement, values).fetchall(), budget_s=BUDGET_S
    )
    shown = rows[: args.limit]
    if args.json:
        names = ("ref", "created_at", "business_name", "contact_name", "phone_whatsapp", "city",
                 "salon_type", "mails", "id")  # fmt: skip
        command.print_json([dict(zip(names, row, strict=True)) for row in shown])
    else:
        command.print_table(LIST_COLUMNS, [_line(row) for row in shown])
    if len(rows) > len(shown):
        print(f"there are more than {args.limit}: --limit N shows them", file=sys.stderr)
    return 0 if shown else 1


def _line(row: Any) -> tuple[str, ...]:
    ref, at, *words, mails, _ = row
    clipped = [word if len(word) <= 28 else f"{word[:27]}…" for word in words]
    return ref, f"{at.astimezone(WIB):%Y-%m-%d %H:%M}", *clipped, mails


def show_lead(services: Services, args: argparse.Namespace) -> int:
    """One lead, whole, and what became of its mails."""
    asked: dict[str, object] = {"id": None, "ref": None}
    if reference.is_valid(args.lead.upper()):
        asked["ref"] = args.lead.upper()
    else:
        try:
            asked["id"] = UUID(args.lead)
        except ValueError:
            print(f"{args.lead} is neither a ref nor an id", file=sys.stderr)
            return 2

    def look(connection: Any) -> tuple[Any, list[Any]]:
        row = connection.execute(GET_LEAD, asked).fetchone()
        mails = connection.execute(LIST_EMAILS, {"id": row[0]["id"]}).fetchall() if row else []
        return row and row[0], mails

    found, mails = services.database.run(look, budget_s=BUDGET_S)
    if found is None:
        print(f"there is no lead {args.lead}", file=sys.stderr)
        return 1
    names = ("kind", "attempts", "sent_at", "dead_at", "next_attempt_at", "last_error")
    if args.json:
        rows = [dict(zip(names, mail, strict=True)) for mail in mails]
        command.print_json({**found, "mails": rows})
        return 0
    for name, value in found.items():
        if value not in (None, ""):
            print(f"{name:>20}  {str(value).replace(chr(10), chr(10) + ' ' * 22)}")
    print(f"{'chat':>20}  https://wa.me/{found['phone_whatsapp'].removeprefix('+')}")
    for mail in mails:
        print(f"{'mail':>20}  {_describe_email(dict(zip(names, mail, strict=True)))}")
    return 0


def _describe_email(mail: dict[str, Any]) -> str:
    if mail["sent_at"]:
        return f"{mail['kind']}: sent {mail['sent_at']:%Y-%m-%d %H:%M %Z}"
    if mail["dead_at"] and mail["last_error"] == ADDRESS_REFUSED:
        return f"{mail['kind']}: not sent, the mail service does not take this address"
    if mail["dead_at"]:
        return f"{mail['kind']}: GIVEN UP ({mail['last_error']}); see `ops dead list`"
    why = f" ({mail['last_error']})" if mail["last_error"] else ""
    return f"{mail['kind']}: waits until {mail['next_attempt_at']:%Y-%m-%d %H:%M %Z}{why}"


def add_commands(verbs: Any) -> None:
    """Beside `leads import`."""
    verb = command.command(
        verbs,
        "list",
        list_leads,
        "python3 -m ops leads list --days 7 --city Medan",
        as_json=True,
    )
    command.add_limit(verb)
    verb.add_argument("--days", type=int, help="of the last so many days")
    verb.add_argument("--city")
    verb.add_argument("--type", choices=("SALON", "BARBER", "BRIDAL", "UNISEX", "OTHER"))
    verb = command.command(
        verbs,
        "search",
        search_leads,
        "python3 -m ops leads search mawar",
        "python3 -m ops leads search -    (typed in, so that it stays out of the shell's history)",
        as_json=True,
    )
    command.add_limit(verb)
    verb.add_argument("text", help="two characters or more; - to read it from standard input")
    verb = command.command(
        verbs, "show", show_lead, "python3 -m ops leads show ALFA-7KQ2M", as_json=True
    )
    verb.add_argument("lead", help="its ref or its id")
