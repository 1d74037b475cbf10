"""The sales desk: leads that nobody has answered yet, and the mark that one is answered.

The rule a newcomer would break: the mark is of sales alone. Mails, queue and retention do not read
it; a lead that its sender corrects after the mark waits again.
"""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from lib.leads import whatsapp
from lib.services import Services
from ops import command
from ops.command import Args
from ops.leads.queries import leads_commands, normalize_ref

# The condition is that of the index leads_unanswered.
LIST_UNANSWERED = """
select ref, created_at, corrected_at, business_name, contact_name, phone_whatsapp, email, city,
  salon_type, chair_count, specialization, current_brands_used, monthly_spend_range, message, locale
from leads
where not canary and review is null and (answered_at is null or corrected_at > answered_at)
  and (%(city)s::text is null or public.search_key(city) = public.search_key(%(city)s::text))
order by created_at, id
limit %(limit)s
"""

COUNT_UNANSWERED = """
select count(*) filter (where review is null) as unanswered,
  count(*) filter (where review is not null) as in_review
from leads
where not canary and review is distinct from 'dismissed'
  and (answered_at is null or corrected_at > answered_at)
  and (%(city)s::text is null or public.search_key(city) = public.search_key(%(city)s::text))
"""

FIND_LEADS = """
select ref, business_name, city, created_at, answered_at, answered_by
from leads where ref = any(%(refs)s::text[]) and not canary
order by created_at
"""

# Compare and set: a mark that stands keeps its time and name. Never before the last correction,
# whose time is of another clock.
MARK_ANSWERED = """
update leads set answered_at = greatest(now(), corrected_at), answered_by = %(by)s
where ref = any(%(refs)s::text[]) and not canary
  and (answered_at is null or corrected_at > answered_at)
returning ref
"""

UNMARK_ANSWERED = """
update leads set answered_at = null, answered_by = null
where ref = any(%(refs)s::text[]) and not canary and answered_at is not null
returning ref
"""

GREETINGS = {
    "id": "Halo {name}, terima kasih telah menghubungi Alfa Beauty ({ref}).",
    "en": "Hello {name}, thank you for contacting Alfa Beauty ({ref}).",
}
INDENT = " " * 12


@leads_commands.command("waiting", examples=("python3 -m ops leads waiting --city Medan",))
@command.limit_option
@click.option("--city", help="of this city, in any spelling")
def list_unanswered(services: Services, args: Args) -> int:
    """Leads that nobody marked as answered, oldest first, with a link that opens the chat.

    Spam is left out, and so is what waits in `review list`.
    """
    rows = command.fetch_rows(services, LIST_UNANSWERED, city=args.city, limit=args.limit)
    [counts] = command.fetch_rows(services, COUNT_UNANSWERED, city=args.city)
    now = datetime.now(UTC)
    leads = [
        {**row, "age_h": round((now - row["created_at"]) / timedelta(hours=1), 1),
         "chat": _chat_link(row)}
        for row in rows
    ]  # fmt: skip
    if args.json:
        command.print_json({"leads": leads, **counts})
        return 0
    for lead in leads:
        print(_describe(lead, now))
    print(f"{len(leads)} of {counts['unanswered']} leads without an answer; "
          "`ops leads done REF` marks one" if leads else "every lead is answered")  # fmt: skip
    if counts["in_review"]:
        print(f"{counts['in_review']} more wait for review: `ops review list`")
    return 0


def _chat_link(row: dict[str, Any]) -> str:
    greeting = GREETINGS[row["locale"]].format(name=row["contact_name"], ref=row["ref"])
    return whatsapp.chat_link(row["phone_whatsapp"], greeting)


def _describe(lead: dict[str, Any], now: datetime) -> str:
    chairs = f"{lead['chair_count']} chairs" if lead["chair_count"] else None
    facts = (lead["city"], lead["salon_type"].lower(), chairs, lead["specialization"],
             lead["current_brands_used"], lead["monthly_spend_range"], lead["email"])  # fmt: skip
    lines = [
        f"{lead['business_name']}, {lead['contact_name']}",
        "; ".join(filter(None, facts)),
        f"https://wa.me/{lead['phone_whatsapp'].removeprefix('+')}",
        *(lead["message"] or "").splitlines(),
    ]
    if lead["corrected_at"]:
        lines.insert(1, f"corrected {command.format_time(lead['corrected_at'])}")
    age = format_age(now - lead["created_at"])
    head = f"{lead['ref']}  {age}, since {command.format_time(lead['created_at'])}"
    return "\n".join([head, *(f"{INDENT}{line}" for line in lines), ""])


def format_age(age: timedelta) -> str:
    """3 d 4 h, 4 h 12 min, 12 min."""
    minutes = max(0, int(age.total_seconds() // 60))
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


@leads_commands.command(
    "done",
    examples=("python3 -m ops leads done ALFA-7KQ2M", "python3 -m ops leads done 7kq2m --undo"),
)
@command.argument("refs", nargs=-1, required=True, metavar="REF", help="references of leads")
@click.option("--undo", is_flag=True, help="take the mark away: they wait again")
@command.by_option
def mark_answered(services: Services, args: Args) -> int:
    """Mark leads as answered; twice is harmless. Exit 1 where a reference is of no lead."""
    refs = {text: normalize_ref(text) or text.strip().upper() for text in args.refs}
    values = {"refs": list(refs.values())}
    if args.undo:
        changed = command.fetch_rows(services, UNMARK_ANSWERED, **values)
    else:
        changed = command.fetch_rows(services, MARK_ANSWERED, **values, by=args.by[:100])
    changed_refs = {row["ref"] for row in changed}
    leads = command.fetch_rows(services, FIND_LEADS, **values)
    missing = [text for text, ref in refs.items() if ref not in {lead["ref"] for lead in leads}]
    document = {"changed": sorted(changed_refs), "leads": leads, "missing": missing}
    lines = [_describe_mark(lead, lead["ref"] in changed_refs) for lead in leads]
    command.print_result(args, document, *lines)
    for text in missing:
        print(f"there is no lead {text}", file=sys.stderr)
    return 1 if missing else 0


def _describe_mark(lead: dict[str, Any], is_changed: bool) -> str:
    name = f"{lead['ref']}  {lead['business_name']}, {lead['city']}"
    if lead["answered_at"] is None:
        return f"{name}: waits again" if is_changed else f"{name}: was not marked as answered"
    since = f"since {command.format_time(lead['answered_at'])} ({lead['answered_by']})"
    return f"{name}: answered" if is_changed else f"{name}: was answered already, {since}"
