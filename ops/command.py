"""How a command is declared (click), and how it asks and prints (rich).

A module declares its commands on `root` or on a group of its own; ops/cli.py imports the module
when one of them is called. The rule a newcomer would break: a command prints times with
`format_time` and tables with `print_table`, which alone know `--utc`, pipes and widths.
"""

import getpass
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import click

from lib.jakarta import WIB
from lib.services import Services
from ops.settings import OperatorServices, OperatorSettings

QUERY_BUDGET_S = 20.0
MAX_WIDTH = 100
# Of a column whose texts may go on in the next line; in a pipe, where there is room.
MIN_TEXT_WIDTH, MIN_PIPED_TEXT_WIDTH = 8, 24
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)? (WIB|UTC)")

type Args = SimpleNamespace


class Failed(Exception):
    """A command failed; the text is for a person, status is the exit status."""

    def __init__(self, words: str, *, status: int = 1) -> None:
        super().__init__(words)
        self.status = status


# ------------------------------------------------------------------ declaring a command


@dataclass(slots=True)
class Invocation:
    """What the line as a whole says; each of its options may stand anywhere on the line."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    flags: set[str] = field(default_factory=set)


def _set_flag(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and isinstance(context.obj, Invocation):
        context.obj.flags.add(str(parameter.name))


def _flag(name: str, text: str) -> click.Option:
    return click.Option(
        [f"--{name}"], is_flag=True, expose_value=False, callback=_set_flag, help=text
    )


def _line_flags() -> list[click.Parameter]:
    return [
        _flag("local", "act on the platform that `python3 -m dev` runs"),
        _flag("utc", "show times in UTC (default: WIB, Jakarta's)"),
        _flag("json", "print JSON, for a program"),
    ]


class Command(click.Command):
    """A command whose function gets the services and the options, and returns the exit status."""

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), dry_run: bool = False,
        confirms: bool = False, **attributes: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **attributes)
        self.short_help = (self.help or "").strip().partition("\n")[0]
        if "Exit " not in (self.help or ""):
            self.help = f"{self.help or ''}\n\nExit status: see `python3 -m ops --help`."
        if examples:
            self.epilog = "\b\nExample: " + "\n         ".join(examples)
        if dry_run:
            words = "only print what would be done"
            self.params.append(click.Option(["--dry-run"], is_flag=True, help=words))
        if confirms:
            self.params.append(click.Option(["--yes"], is_flag=True, help="do not ask"))
        self.params += _line_flags()

    def invoke(self, context: click.Context) -> Any:
        invocation: Invocation = context.obj
        environ = invocation.environ
        if "local" in invocation.flags:
            local_platform = importlib.import_module("ops.local_platform")
            environ = local_platform.environment()
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in context.params.items()
        }
        args = SimpleNamespace(**values, json="json" in invocation.flags)
        if self.callback is None:
            raise ValueError("a command without a function")
        with closing(OperatorServices(OperatorSettings(environ))) as services:
            return self.callback(services, args)


class Group(click.Group):
    """Commands below a common name; those of `modules` are imported when they are asked for."""

    command_class = Command

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.modules: dict[str, tuple[str, ...]] = {}
        self.params += _line_flags()

    def list_commands(self, context: click.Context) -> list[str]:
        return [*dict.fromkeys([*self.modules, *self.commands])]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        for module in self.modules.get(name, ()):
            importlib.import_module(module)
        return super().get_command(context, name)


Group.group_class = Group

root = Group(
    "ops",
    help="Operators' commands. Variables come from the environment (.env.example); --local takes "
    "those of the platform that `python3 -m dev` runs.\n\nExit status: 0 done, or all is well; "
    "1 something is wrong, or it was refused; 2 wrong usage, a missing variable, or a missing "
    "--yes; 130 interrupted.",
)


def group(name: str, summary: str) -> Group:
    """Commands below a common name: `ops leads import`."""
    commands = Group(name, help=f"{summary[0].upper()}{summary[1:]}.")  # as commands have it
    root.add_command(commands)
    return commands


class Moment(click.ParamType):
    """A time with its zone, in ISO 8601."""

    name = "time"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> datetime:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            self.fail("a time with its zone is needed: 2026-11-24T03:00:00+07:00")
        return at.astimezone(UTC)


class _Argument(click.Argument):
    """An argument with a line of help."""

    def __init__(self, *args: Any, help: str = "", **attributes: Any) -> None:  # noqa: A002
        super().__init__(*args, **attributes)
        self._help = help

    def get_help_record(self, context: click.Context) -> tuple[str, str] | None:
        return (self.make_metavar(context), self._help) if self._help else None


def argument[F: Callable[..., Any]](
    name: str,
    help: str = "",  # noqa: A002 - as click's options name it
    **attributes: Any,
) -> Callable[[F], F]:
    return click.argument(name, cls=_Argument, help=help, **attributes)


limit_option = click.option(
    "--limit", type=int, default=50, show_default=True, help="how many rows"
)
by_option = click.option("--by", default=getpass.getuser, help="who acts (default: you)")


# ------------------------------------------------------------------ asking


def confirm(args: Args, question: str) -> bool:
    """Whether --yes is on the line, or a person at the terminal answers yes.

    Raises Failed where there is nobody to answer.
    """
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise Failed(
            f"{question} Nothing was changed: there is no terminal to ask at; add --yes", status=2
        )
    return confirm_at_terminal(question)


def confirm_at_terminal(question: str) -> bool:
    is_confirmed = ask(f"{question} (yes/no)") == "yes"
    if not is_confirmed:
        print("nothing was changed", file=sys.stderr)
    return is_confirmed


def ask(question: str) -> str:
    """What a person types, in small letters; empty at the end of input. Asked on stderr."""
    print(question, end=" ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower()


# ------------------------------------------------------------------ printing


def _has_flag(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.obj is not None and name in context.obj.flags


def format_time(moment: datetime | str | None, *, seconds: bool = False) -> str:
    """The one way in which a person reads a time: 2026-11-28 21:36 WIB; with --utc in UTC."""
    if not moment:
        return "-"
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    zone, name = (UTC, "UTC") if _has_flag("utc") else (WIB, "WIB")
    return f"{at.astimezone(zone):{'%Y-%m-%d %H:%M:%S' if seconds else '%Y-%m-%d %H:%M'}} {name}"


def format_cell(value: object) -> str:
    return format_time(value) if isinstance(value, datetime) else str(value)


def print_table(
    names: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "nothing to show"
) -> None:
    """Rows under their column names; `empty` where there is none.

    A single word (an id, a reference) and a time are never cut: where they do not fit beside each
    other, a terminal gets one record a row, and a pipe gets more than MAX_WIDTH columns.
    """
    cells = [[format_cell(value) for value in row] for row in rows]
    if not cells:
        print(empty)
        return
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    text_width = MIN_TEXT_WIDTH if is_terminal else MIN_PIPED_TEXT_WIDTH
    columns = zip(names, zip(*cells, strict=True), strict=True)
    widths = [_min_width(name, column, text_width) for name, column in columns]
    min_width = sum(widths) + 2 * (len(names) - 1)
    if is_terminal and min_width > Console().width:
        _print_records(names, cells)
        return
    width = min(MAX_WIDTH, Console().width) if is_terminal else MAX_WIDTH
    _print_columns(names, cells, max(width, min_width))


def _is_unbroken(cells: Sequence[str]) -> bool:
    return all(" " not in cell or _TIME.fullmatch(cell) for cell in cells)


def _min_width(name: str, cells: Sequence[str], text_width: int) -> int:
    from rich.cells import cell_len

    width = max(cell_len(text) for text in (name, *cells))
    return width if _is_unbroken(cells) else min(width, text_width)


def _print_columns(names: Sequence[str], cells: list[list[str]], width: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, name in enumerate(names):
        is_unbroken = _is_unbroken([row[column] for row in cells])
        table.add_column(name, overflow="fold", no_wrap=is_unbroken)
    for row in cells:
        table.add_row(*row)
    console = Console(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as output:
        console.print(table)
    for line in output.get().splitlines():
        print(line.rstrip())


def _print_records(names: Sequence[str], cells: list[list[str]]) -> None:
    indent = max(len(name) for name in names)
    for number, row in enumerate(cells):
        if number:
            print()
        for name, cell in zip(names, row, strict=True):
            print(f"{name:>{indent}}  {cell}")


def print_more(args: Args, what: str) -> None:
    """Where a list was cut at --limit."""
    print(f"There are more {what} than {args.limit}: --limit N shows them.", file=sys.stderr)


def print_json(value: object) -> None:
    """For a program; times as ISO 8601, ids as text."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_to_json))


def _to_json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_result(args: Args, document: object, *lines: str) -> None:
    """The document with --json, the lines without."""
    if args.json:
        print_json(document)
    else:
        for line in lines:
            print(line)


# ------------------------------------------------------------------ asking Postgres


def fetch_rows(services: Services, statement: str, **values: object) -> list[dict[str, Any]]:
    """The rows of a statement, by column name."""
    from psycopg.rows import dict_row

    def query(connection: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (
            connection.cursor(row_factory=dict_row).execute(statement, values).fetchall()
        )
        return rows

    return services.database.run(query, budget_s=QUERY_BUDGET_S)
