"""`python3 -m ops`: the commands of every module, run with the variables of an environment."""

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from lib.problems import CacheDown, DatabaseDown, NotConfigured
from lib.services import Services
from lib.settings import Settings
from ops import command, compliance, local_platform
from ops.incidents import commands, maintenance, metrics, monitors, rollback
from ops.keys import commands as keys
from ops.leads import commands as lead_commands
from ops.leads import review
from ops.privacy import data_subject, retention
from ops.products import commands as product_commands
from ops.recovery import commands as recovery_commands

COMMAND_MODULES = (
    lead_commands,
    review,
    product_commands,
    commands,
    maintenance,
    metrics,
    monitors,
    rollback,
    recovery_commands,
    keys,
    data_subject,
    retention,
    compliance,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m ops",
        description="Operators' commands. Variables come from the environment (.env.example); "
        "--local takes those of the platform that `python3 -m dev` runs.",
    )
    parser.add_argument("--local", action="store_true", help="act on the local platform")
    groups: Any = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMAND_MODULES:
        module.add_commands(groups)
    return parser


def main(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int:
    args = build_parser().parse_args(arguments)
    try:
        if args.local:
            environ = local_platform.environment()
        with closing(Services(Settings(environ))) as services:
            status: int = args.run(services, args)
            return status
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except NotConfigured as error:
        print(f"{error} (see .env.example, or use --local)", file=sys.stderr)
        return 2
    except command.Failed as error:
        print(error, file=sys.stderr)
        return error.status
    except (DatabaseDown, CacheDown) as error:
        print(f"{type(error).__name__}: it cannot be reached", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
