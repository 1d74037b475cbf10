"""How many leads came: by day, city or campaign, as a table or a picture.

Days are those of Jakarta (WIB). The rule a newcomer would break: matplotlib is imported for a
picture alone; the other commands start without it.
"""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lib.services import Services
from ops import command
from ops.command import Args, Failed
from ops.leads.queries import leads_commands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A lead that waits for review, or was dismissed, is not counted.
COUNT_BY_DAY = """
select day::date as name, count(l.id) as leads
from generate_series(
  date_trunc('day', now() at time zone 'Asia/Jakarta')
    - (%(days)s::integer - 1) * interval '1 day',
  date_trunc('day', now() at time zone 'Asia/Jakarta'), interval '1 day') as day
left join leads as l on not l.canary and l.review is null
  and l.created_at >= day at time zone 'Asia/Jakarta'
  and l.created_at < (day + interval '1 day') at time zone 'Asia/Jakarta'
group by day order by day
"""

# Spellings of one city are one row, under the spelling that most of them have.
COUNT_BY_CITY = """
select mode() within group (order by city) as name, count(*) as leads
from leads
where not canary and review is null and created_at >=
  ((now() at time zone 'Asia/Jakarta')::date - (%(days)s::integer - 1)) at time zone 'Asia/Jakarta'
group by coalesce(nullif(public.search_key(city), ''), city)
order by leads desc, name
"""

COUNT_BY_CAMPAIGN = """
select coalesce(nullif(utm_campaign, ''), '(none)') as name, count(*) as leads
from leads
where not canary and review is null and created_at >=
  ((now() at time zone 'Asia/Jakarta')::date - (%(days)s::integer - 1)) at time zone 'Asia/Jakarta'
group by 1
order by leads desc, name
"""

STATEMENTS = {"day": COUNT_BY_DAY, "city": COUNT_BY_CITY, "campaign": COUNT_BY_CAMPAIGN}
MAX_DAYS = 3660
MAX_BARS = 20
MAX_LABEL_CHARACTERS = 32


@leads_commands.command(
    "counts",
    examples=(
        "python3 -m ops leads counts --by city --days 90",
        "python3 -m ops leads counts --by day --plot leads.png",
    ),
)
@click.option("--by", type=click.Choice(tuple(STATEMENTS)), default="day", show_default=True,
              help="what a row is")  # fmt: skip
@click.option(
    "--days", type=click.IntRange(1, MAX_DAYS), default=30, show_default=True,
    help="of the last so many days, today included",
)  # fmt: skip
@click.option("--plot", metavar="FILE.png", help="draw a picture too")
def count_leads(services: Services, args: Args) -> int:
    """How many leads came, by day (WIB), city or campaign.

    Spam and leads in review are left out.
    """
    if args.plot and Path(args.plot).suffix.lower() != ".png":
        raise Failed(f"{args.plot}: the picture is a PNG; name a file that ends in .png", status=2)
    rows = command.fetch_rows(services, STATEMENTS[args.by], days=args.days)
    total = sum(row["leads"] for row in rows)
    if args.plot:
        draw(Path(args.plot), args.by, rows, f"{total} leads by {args.by}, last {args.days} days")
    if args.json:
        command.print_json({"by": args.by, "days": args.days, "total": total, "counts": rows})
        return 0
    command.print_table(
        (args.by, "leads", "share"),
        [(_label(row["name"]), row["leads"], f"{row['leads'] / (total or 1):.0%}") for row in rows],
        empty="no lead came",
    )
    print(f"{total} leads in {args.days} days" + (f"; {args.plot}" if args.plot else ""))
    return 0


def _label(name: date | str) -> str:
    return f"{name:%a %d %b %Y}" if isinstance(name, date) else " ".join(name.split())


def draw(file: Path, by: str, rows: list[dict[str, Any]], title: str) -> None:
    """Write the picture, beside its final name first. Raises Failed without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        words = "a picture needs matplotlib: pip install -r dev/requirements.txt"
        raise Failed(words, status=2) from error

    bars = len(rows[:MAX_BARS]) + 1
    size = (10, 4.5) if by == "day" else (10, 1.6 + 0.32 * bars)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    if by == "day":
        _draw_days(axes, rows)
    else:
        _draw_ranking(axes, rows)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    part = file.with_name(f".{file.name}.part")
    try:
        figure.savefig(part, format="png", dpi=150)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _draw_days(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    days: Any = [row["name"] for row in rows]
    axes.bar(days, [row["leads"] for row in rows], width=0.8, color="#4c72b0")
    locator = AutoDateLocator(minticks=3, maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("leads a day (WIB)")


def _draw_ranking(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    """The largest first; the rest is one bar."""
    from matplotlib.ticker import MaxNLocator

    names = [_bar_label(_label(row["name"])) for row in rows[:MAX_BARS]]
    counts = [row["leads"] for row in rows[:MAX_BARS]]
    if others := rows[MAX_BARS:]:
        names.append(f"{len(others)} others")
        counts.append(sum(row["leads"] for row in others))
    bars = axes.barh(range(len(names)), counts, color="#4c72b0")
    # A $ in a name is no formula.
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.bar_label(bars, padding=3)
    axes.margins(x=0.08)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("leads")


def _bar_label(name: str) -> str:
    # Letters that the font lacks would be boxes, each with a warning.
    text = "".join(c if ord(c) < 0x2000 or c in "–—’‘“”…" else "?" for c in name)
    return text if len(text) <= MAX_LABEL_CHARACTERS else f"{text[: MAX_LABEL_CHARACTERS - 1]}…"
