"""How a command is declared, and how it prints.

A module of commands has `add_commands(groups)`, which ops/cli.py calls. Exit status: 0 done, or all
is well; 1 something is wrong, or the command was refused; 2 wrong usage, or a variable is missing.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from psycopg.rows import dict_row

from lib.services import Services

QUERY_BUDGET_S = 20.0


class Failed(Exception):
    """A command failed; the text is for a person, status is the exit status."""

    def __init__(self, words: str, *, status: int = 1) -> None:
        super().__init__(words)
        self.status = status


type CommandFunction = Callable[[Services, argparse.Namespace], int]


def group(groups: Any, name: str, summary: str) -> Any:
    """Commands below a common name: `ops leads import`."""
    return groups.add_parser(name, help=summary, description=summary).add_subparsers(
        required=True, metavar="VERB"
    )


def command(
    groups: Any,
    name: str,
    run: CommandFunction,
    *examples: str,
    dry_run: bool = False,
    as_json: bool = False,
) -> argparse.ArgumentParser:
    """A command that calls `run`, whose docstring is its help.

    dry_run, as_json: whether it has --dry-run, --json.
    """
    parser: argparse.ArgumentParser = groups.add_parser(
        name,
        help=(run.__doc__ or "").partition("\n")[0],
        description=run.__doc__,
        epilog="Example: " + "\n         ".join(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if dry_run:
        parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON, for a program")
    parser.set_defaults(run=run)
    return parser


def add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=50, help="rows (default: 50)")


def confirm(question: str) -> bool:
    """Whether a person at the terminal answers yes."""
    try:
        return input(f"{question} (yes/no) ") == "yes"
    except EOFError:
        return False


def print_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows under their column names, for a person."""
    cells = [tuple(names), *(tuple(str(value) for value in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    for row in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def print_json(value: object) -> None:
    """For a program; times and ids as text."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def fetch_rows(services: Services, statement: str, **values: object) -> list[dict[str, Any]]:
    """The rows of a statement, by column name."""

    def query(connection: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (
            connection.cursor(row_factory=dict_row).execute(statement, values).fetchall()
        )
        return rows

    return services.database.run(query, budget_s=QUERY_BUDGET_S)
