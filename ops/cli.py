"""`python3 -m ops`: finds the command, runs it, and says how it ended.

Modules are imported by the command's name: `ops incident ack` loads nothing of backups.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from lib.incidents.model import IncidentError
from lib.problems import CacheDown, DatabaseDown, NotConfigured
from ops import command
from ops.command import Invocation

# What it would warn of, the command says in words.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

# The first word of a command -> the modules that declare it.
root = command.root
root.modules = {
    "check": ("ops.check",),
    "incident": ("ops.incidents.commands",),
    "postmortem": ("ops.incidents.commands",),
    "alert-drill": ("ops.incidents.commands",),
    "maintenance": ("ops.incidents.maintenance",),
    "metrics": ("ops.incidents.metrics",),
    "watch": ("ops.incidents.metrics",),
    "monitors": ("ops.incidents.monitors",),
    "rollback": ("ops.incidents.rollback",),
    "leads": (
        "ops.leads.queries", "ops.leads.mailed_leads", "ops.leads.desk", "ops.leads.counts",
        "ops.leads.spreadsheet",
    ),
    "dead": ("ops.leads.commands",),
    "ledger": ("ops.leads.commands",),
    "canary": ("ops.leads.commands",),
    "review": ("ops.leads.review",),
    "spam": ("ops.leads.review",),
    "catalogue": ("ops.products.commands",),
    "subject": ("ops.privacy.data_subject",),
    "retention": ("ops.privacy.retention",),
    "keys": ("ops.keys.commands",),
    "rotate": ("ops.keys.commands",),
    "backup": ("ops.recovery.commands",),
    "backups": ("ops.recovery.commands",),
    "restore-drill": ("ops.recovery.commands",),
    "restore": ("ops.recovery.restore",),
    "journal": ("ops.recovery.commands",),
    "migrate": ("ops.recovery.commands",),
    "evidence": ("ops.compliance",),
}  # fmt: skip
INTERRUPTED = 130
CLIENTS = ("psycopg", "httpx")  # whose errors mean that a server cannot be used
CONTEXT: dict[str, Any] = {
    "max_content_width": command.MAX_WIDTH,
    "help_option_names": ["-h", "--help"],
}


def main(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """The exit status. Raises SystemExit after --help, and for wrong usage (2)."""
    try:
        # Not root.main, which answers a closed pipe and Ctrl-C in its own way.
        invocation = Invocation(environ)
        with root.make_context("python3 -m ops", arguments, obj=invocation, **CONTEXT) as context:
            status: int = root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:  # --help
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        print(
            "\ninterrupted: what was done so far stays, and the command can be run again",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`) has what it wants; Python would complain when it flushes at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (failure := _print_failure(error)) is None:
            raise
        return failure
    return status


def _print_failure(error: Exception) -> int | None:
    """The exit status; None for an error that is a fault of the program."""
    if isinstance(error, NotConfigured):
        print(f"{error} (see .env.example, or use --local)", file=sys.stderr)
        return 2
    if isinstance(error, IncidentError | command.Failed):
        print(error, file=sys.stderr)
        return error.status if isinstance(error, command.Failed) else 1
    if isinstance(error, OSError) and error.filename:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    library = type(error).__module__.partition(".")[0]
    if not isinstance(error, OSError | DatabaseDown | CacheDown) and library not in CLIENTS:
        return None
    from ops import connections

    print(connections.explain(error), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
