"""`python3 -m ops`: the commands of every module, run with the variables of an environment."""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from dev.bootstrap import DATA, ROOT
from dev.platform import migrations
from dev.platform.state import State
from lib.problems import CacheDown, DatabaseDown, NotConfigured
from lib.services import Services
from lib.settings import Settings
from ops import command, compliance
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


def migrate(_services: Services, args: argparse.Namespace) -> int:
    """Apply supabase/migrations, recorded where the Supabase CLI records them."""
    applied = migrations.apply(args.dsn, ROOT / "supabase" / "migrations")
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply")
    return 0


def build_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python3 -m ops",
        description="Operators' commands. Variables come from the environment (.env.example); "
        "--local takes those of the platform that `python3 -m dev` runs.",
    )
    made.add_argument("--local", action="store_true", help="act on the local platform")
    areas: Any = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMAND_MODULES:
        module.add_commands(areas)
    verb = command.command(areas, "migrate", migrate, "python3 -m ops migrate --dsn postgresql://…")
    verb.add_argument("--dsn", required=True, help="a direct connection, as the tables' owner")
    return made


def main(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int:
    args = build_parser().parse_args(arguments)
    if args.local:
        state = State(DATA).read()
        if state is None:
            print("no local platform is running: python3 -m dev", file=sys.stderr)
            return 2
        environ = {**state["environment"]}
    services = Services(Settings(environ))
    try:
        status: int = args.run(services, args)
    except OSError as fault:
        print(f"{fault.filename}: {fault.strerror}", file=sys.stderr)
        return 2
    except NotConfigured as fault:
        print(f"{fault} (see .env.example, or use --local)", file=sys.stderr)
        return 2
    except command.Failed as fault:
        print(fault, file=sys.stderr)
        return fault.status
    except (DatabaseDown, CacheDown) as fault:
        print(f"{type(fault).__name__}: it cannot be reached", file=sys.stderr)
        return 1
    finally:
        services.close()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
