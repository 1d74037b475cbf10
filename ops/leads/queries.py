"""Commands of the sales desk: list, search and show leads."""

import sys
from typing import Any
from uuid import UUID

import click

from lib.leads import reference, submission
from lib.leads.outbox import ADDRESS_REFUSED
from lib.privacy.data_subject import Subject, with_legacy_numbers
from lib.services import Services
from ops import command
from ops.command import Args

leads_commands = command.group("leads", "list, search, waiting, counts, export; import of mails")


MIN_KEY_CHARACTERS = 2
MIN_NUMBER_DIGITS = 4  # fewer, without the country's code, are in too many numbers
TABLE_COLUMNS = ("ref", "received", "business", "contact", "phone", "city", "mails")

# mails: sent of all; ! where one is a dead letter.
# Each filter is null where it is not asked for.
LIST_LEADS = """
select l.ref, l.created_at, l.business_name, l.contact_name, l.phone_whatsapp, l.city, l.salon_type,
  (select count(sent_at) || '/' || count(*) || case when count(dead_at) > 0 then ' !' else '' end
   from outbox as o where o.lead_id = l.id) as mails, l.id
from leads as l
where not l.canary
  and (%(city)s::text is null or public.search_key(l.city) = public.search_key(%(city)s::text))
  and (%(kind)s::text is null or l.salon_type = %(kind)s::text)
  and (%(days)s::integer is null
    or l.created_at > now() - %(days)s::integer * interval '1 day')
order by l.created_at desc, l.id desc
limit %(limit)s
"""

SEARCH_KEY = "select public.search_key(%(text)s::text) as key"

# key: of the text; digits: those of a number, or empty; numbers: a complete one in every form in
# which it may be stored; since: null for all. The expression is that of the index leads_by_words.
SEARCH_LEADS = """
select l.ref, l.created_at, l.business_name, l.contact_name, l.phone_whatsapp, l.city, l.salon_type,
  (select count(sent_at) || '/' || count(*) || case when count(dead_at) > 0 then ' !' else '' end
   from outbox as o where o.lead_id = l.id) as mails, l.id
from leads as l
where not l.canary
  and (%(since)s::timestamptz is null or l.created_at >= %(since)s::timestamptz)
  and (public.lead_search_key(
      public.as_search_text(l.ref), public.as_search_text(l.business_name),
      public.as_search_text(l.contact_name), public.as_search_text(l.phone_whatsapp),
      public.as_search_text(l.city), public.as_search_text(l.email),
      public.as_search_text(l.specialization), public.as_search_text(l.current_brands_used),
      public.as_search_text(l.message)) like '%%' || %(key)s || '%%'
    or %(digits)s <> '' and public.lead_search_key(
      public.as_search_text(l.ref), public.as_search_text(l.business_name),
      public.as_search_text(l.contact_name), public.as_search_text(l.phone_whatsapp),
      public.as_search_text(l.city), public.as_search_text(l.email),
      public.as_search_text(l.specialization), public.as_search_text(l.current_brands_used),
      public.as_search_text(l.message)) like '%%' || %(digits)s || '%%'
    or l.phone_whatsapp = any(%(numbers)s::text[]))
order by l.created_at desc, l.id desc
limit %(limit)s
"""

GET_LEAD = """
select to_jsonb(l) - '{identity,body_sha256,same_until,content_identity,key_span}'::text[] as lead
from leads as l
where l.id = %(id)s::uuid or l.ref = %(ref)s::text
"""

FIND_IN_SPAM = "select id from spam where id = %(id)s::uuid or ref = %(ref)s::text"

LIST_EMAILS = """
select kind, attempts, sent_at, dead_at, next_attempt_at, last_error from outbox
where lead_id = %(id)s order by kind
"""


NEWEST_LEADS = 2000
SINCE_NEWEST = """
select created_at as since from leads order by created_at desc, id desc
offset %(leads)s::integer - 1 limit 1
"""
# A text of two letters is in no index: the newest leads are read first, until there are enough.
BY_TIME_OR_WORDS = "set local enable_seqscan = off; set local enable_bitmapscan = on"
BY_TIME = "set local enable_seqscan = off; set local enable_bitmapscan = off"


@leads_commands.command("list", examples=("python3 -m ops leads list --days 7 --city Medan",))
@command.limit_option
@click.option("--days", type=int, help="of the last so many days")
@click.option("--city", help="of this city, in any spelling")
@click.option("--type", type=click.Choice(("SALON", "BARBER", "BRIDAL", "UNISEX", "OTHER")),
              help="of this kind of salon")  # fmt: skip
def list_leads(services: Services, args: Args) -> int:
    """Leads, newest first. Exit 1 when there is none."""
    values = {"city": args.city, "kind": args.type, "days": args.days, "limit": args.limit + 1}
    return _print_leads(args, command.fetch_rows(services, LIST_LEADS, **values))


@leads_commands.command(
    "search",
    examples=(
        "python3 -m ops leads search mawar",
        "python3 -m ops leads search -    (typed in, so that it stays out of the shell's history)",
    ),
)
@command.limit_option
@command.argument("text", help="two letters or digits, or more; - to read it from standard input")
def search_leads(services: Services, args: Args) -> int:
    """Leads that hold a text: a name, a ref, an address, a number, words of the message.

    Case, accents, spaces and punctuation make no difference; a number may be spelled in any way.
    Exit 1 when there is none.
    """
    text = sys.stdin.readline().strip() if args.text == "-" else " ".join(args.text.split())
    [row] = command.fetch_rows(services, SEARCH_KEY, text=text.replace("\0", ""))
    if len(row["key"]) < MIN_KEY_CHARACTERS:
        print("the text to search for needs two letters or digits, or more", file=sys.stderr)
        return 2
    is_number = not any(c.isalpha() for c in text)
    digits = "".join(str(int(c)) for c in text if c.isdecimal()) if is_number else ""
    digits = digits.removeprefix("62").lstrip("0")
    values = {
        "key": row["key"], "digits": digits if len(digits) >= MIN_NUMBER_DIGITS else "",
        "numbers": _phone_forms(services, text), "limit": args.limit + 1,
    }  # fmt: skip
    return _print_leads(args, _search(services, values))


def _search(services: Services, values: dict[str, object]) -> list[dict[str, Any]]:
    """The newest leads first: the index names every lead with a common word, each read again at
    0.15 ms, and under row level security the planner cannot know which words are common."""
    from psycopg.rows import dict_row

    def query(connection: Any) -> list[dict[str, Any]]:
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            newest = cursor.execute(SINCE_NEWEST, {"leads": NEWEST_LEADS}).fetchone()
            if newest:
                cursor.execute(BY_TIME)
                rows = list(cursor.execute(SEARCH_LEADS, values | newest))
                if len(rows) == values["limit"]:
                    return rows
            cursor.execute(BY_TIME_OR_WORDS)
            return list(cursor.execute(SEARCH_LEADS, values | {"since": None}))

    return services.database.run(query, budget_s=command.QUERY_BUDGET_S)


def _phone_forms(services: Services, text: str) -> list[str]:
    """A complete number in every form in which it may be stored."""
    try:
        person = submission.parse_person({"phone": text})
    except submission.ValidationError:
        return []
    phones = tuple(filter(None, (person.phone, *person.other_phones)))
    return list(with_legacy_numbers(services, Subject(phones=phones)).phones)


def _print_leads(args: Args, rows: list[dict[str, Any]]) -> int:
    shown = rows[: args.limit]
    if args.json:
        command.print_json(shown)
    else:
        command.print_table(
            TABLE_COLUMNS, [_table_row(row) for row in shown], empty="no lead matches"
        )
    if len(rows) > len(shown):
        command.print_more(args, "leads")
    return 0 if shown else 1


def _table_row(row: dict[str, Any]) -> tuple[str, ...]:
    texts = [row[name] for name in ("business_name", "contact_name", "phone_whatsapp", "city")]
    clipped = [text if len(text) <= 20 else f"{text[:19]}…" for text in texts]
    return row["ref"], command.format_time(row["created_at"]), *clipped, row["mails"]


def normalize_ref(text: str) -> str | None:
    """`alfa 7kq2m`, `7KQ2M` and the like as ALFA-7KQ2M; None where the text is no reference."""
    word = "".join(c for c in text.upper() if c.isalnum())
    ref = reference.PREFIX + word.removeprefix("ALFA")
    return ref if reference.is_valid(ref) else None


@leads_commands.command("show", examples=("python3 -m ops leads show ALFA-7KQ2M",))
@command.argument("lead", help="its ref or its id")
def show_lead(services: Services, args: Args) -> int:
    """One lead, whole, and what became of its mails. Exit 1 when there is none."""
    ref = normalize_ref(args.lead)
    try:
        key = {"id": None, "ref": ref} if ref else {"id": UUID(args.lead), "ref": None}
    except ValueError:
        print(f"{args.lead} is neither a ref nor an id", file=sys.stderr)
        return 2
    rows = command.fetch_rows(services, GET_LEAD, **key)
    if not rows:
        in_spam = command.fetch_rows(services, FIND_IN_SPAM, **key)
        hint = f"; it is in the spam table: `ops spam show {args.lead}`" if in_spam else ""
        print(f"there is no lead {args.lead}{hint}", file=sys.stderr)
        return 1
    lead = rows[0]["lead"]
    emails = command.fetch_rows(services, LIST_EMAILS, id=lead["id"])
    if args.json:
        command.print_json({**lead, "mails": emails})
        return 0
    for name, value in lead.items():
        if value not in (None, ""):
            text = command.format_time(value) if name.endswith("_at") else str(value)
            print(f"{name:>20}  {text.replace(chr(10), chr(10) + ' ' * 22)}")
    print(f"{'chat':>20}  https://wa.me/{lead['phone_whatsapp'].removeprefix('+')}")
    for email in emails:
        print(f"{'mail':>20}  {email['kind']}: {_describe_email(email)}")
    return 0


def _describe_email(email: dict[str, Any]) -> str:
    if email["sent_at"]:
        return f"sent {command.format_time(email['sent_at'])}"
    if email["dead_at"] and email["last_error"] == ADDRESS_REFUSED:
        return "not sent, the mail service does not take this address"
    if email["dead_at"]:
        return f"GIVEN UP ({email['last_error']}); see `ops dead list`"
    reason = f" ({email['last_error']})" if email["last_error"] else ""
    return f"waits until {command.format_time(email['next_attempt_at'])}{reason}"
