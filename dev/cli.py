"""The verbs of `python3 -m dev`, run inside `.venv`."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dev.bootstrap import DATA, ROOT

type Run = Callable[[argparse.Namespace], int]


def _no_arguments(_parser: argparse.ArgumentParser) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Command:
    """run(args) returns the exit status; arguments(parser) declares what it takes."""

    help: str
    run: Run
    arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments


def _up(args: argparse.Namespace) -> int:
    from dev.platform import up  # each verb loads what it needs alone

    return up.run(ROOT, DATA, args.port, quiet=args.quiet, crons=not args.no_crons)


def _up_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", type=int, help="the site's port (default: 3000, or the next free)"
    )
    parser.add_argument("--quiet", action="store_true", help="do not print the functions' logs")
    parser.add_argument(
        "--no-crons", action="store_true", help="do not call the crons of vercel.json on schedule"
    )


def _down(_args: argparse.Namespace) -> int:
    from dev.platform.state import State

    try:
        stopped = State(DATA).stop()
    except TimeoutError as fault:
        print(fault, file=sys.stderr)
        return 1
    print("Stopped." if stopped else "Nothing is running.")
    return 0


def _migrate(args: argparse.Namespace) -> int:
    from dev.platform import up

    return up.migrate(ROOT, DATA, args.dsn)


def _migrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dsn", help="another database than the platform's own")


def _cron(args: argparse.Namespace) -> int:
    from dev.platform import up

    return up.cron(DATA, args.name)


def _cron_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="its path in vercel.json, or the path's last part: deliver")


def _demo(args: argparse.Namespace) -> int:
    from dev.platform import up

    return up.demo(DATA, is_removal=args.remove)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remove", action="store_true", help="delete it again, and nothing else")


def _lighthouse(_args: argparse.Namespace) -> int:
    from dev.pages import lighthouse

    return lighthouse.main(ROOT)


def _pictures(_args: argparse.Namespace) -> int:
    from dev.pages import pictures

    return pictures.main(ROOT)


def _build(args: argparse.Namespace) -> int:
    from dev import tools
    from dev.build import vercel_build

    try:
        print(vercel_build.build(ROOT, args.out))
    except (vercel_build.BuildFailed, tools.Missing) as fault:
        print(fault, file=sys.stderr)
        return 1
    return 0


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    out = DATA / "build"
    parser.add_argument("--out", type=Path, default=out, help="where to (default: .dev/build)")


def _settings(_args: argparse.Namespace) -> int:
    from dev.build import settings_reference

    print(settings_reference.write(ROOT))
    return 0


def _openapi(_args: argparse.Namespace) -> int:
    from dev.build import openapi

    print(openapi.write(ROOT))
    return 0


def _snapshot(args: argparse.Namespace) -> int:
    from dev.build import catalogue_snapshot

    print(catalogue_snapshot.write(ROOT, args.source))
    return 0


def _snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, nargs="?", help="what `ops catalogue export` wrote (default: the seed)"
    )


def _test(args: argparse.Namespace) -> int:
    from dev import testing

    return testing.main(args.arguments)


def _test_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to pytest")


def _prepare(_args: argparse.Namespace) -> int:
    return 0  # `python3 -m dev` has made .venv by now


def _environment(_args: argparse.Namespace) -> int:
    from dev.platform.state import State

    state = State(DATA).read()
    if state is None:
        print("no local platform is running: python3 -m dev", file=sys.stderr)
        return 1
    print(json.dumps(state["environment"]))
    return 0


def _postgres(args: argparse.Namespace) -> int:
    from dev import tools
    from dev.platform import postgres_binaries

    try:
        print(postgres_binaries.ensure(args.major))
    except tools.Missing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _postgres_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("major", type=int)


def _throwaway(args: argparse.Namespace) -> int:
    from dev.platform import up

    return up.run_throwaway(ROOT, args.postgres)


def _throwaway_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--postgres", type=int, required=True, metavar="MAJOR")


def _vendor(_args: argparse.Namespace) -> int:
    from dev.build import browser_libraries

    for path in browser_libraries.write(ROOT):
        print(path)
    return 0


def _bench(args: argparse.Namespace) -> int:
    from dev import bench

    return bench.main(args.arguments)


def _chaos(args: argparse.Namespace) -> int:
    from dev.faults import chaos

    return chaos.main(ROOT, args.seed, args.minutes, args.variant)


def _chaos_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, help="repeats a run's choices (default: a new one)")
    parser.add_argument("--minutes", type=float, default=2.0, help="of trouble (default: 2)")
    parser.add_argument(
        "--variant", help="run code broken on purpose: a name of dev/faults/mutations.py"
    )


def _outages(args: argparse.Namespace) -> int:
    from dev.faults import outages

    return outages.main(ROOT, args.names)


def _outages_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="parts of names, to run these alone")


def _conform(args: argparse.Namespace) -> int:
    from dev import conformance

    return conformance.main(ROOT, args.examples, args.seed)


def _conform_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--examples", type=int, default=10_000, help="requests by schemathesis (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of theirs (default: 1)")


def _audit(args: argparse.Namespace) -> int:
    from dev import audit

    return audit.main(ROOT, args.parts)


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="source, secrets, dependencies, injection (default: all)",
    )


def _load(args: argparse.Namespace) -> int:
    from dev.load import run

    return run.main(ROOT, args.minutes, args.rate, args.out, to_the_wall=args.wall)


def _load_arguments(parser: argparse.ArgumentParser) -> None:
    out = DATA / "load.svg"
    parser.add_argument("--minutes", type=float, default=5.0, help="of traffic (default: 5)")
    parser.add_argument("--rate", type=float, default=1.0, help="times 8 requests a second")
    parser.add_argument(
        "--out", type=Path, default=out, help="the picture (default: .dev/load.svg)"
    )
    parser.add_argument("--wall", action="store_true", help="raise the rate until a promise breaks")


COMMANDS = {
    "up": Command("run the platform until Ctrl-C (what no verb means)", _up, _up_arguments),
    "down": Command("stop a platform left running", _down),
    "migrate": Command("apply supabase/migrations", _migrate, _migrate_arguments),
    "cron": Command("call a cron as Vercel's scheduler does", _cron, _cron_arguments),
    "demo": Command(
        "fill the running platform with a month of leads, mails, incidents, counts and vitals",
        _demo,
        _demo_arguments,
    ),
    "lighthouse": Command("print Lighthouse's scores of the form and the products", _lighthouse),
    "pictures": Command("make the README's pictures anew", _pictures),
    "build": Command("run `vercel build` on a clean copy of the tree", _build, _build_arguments),
    "prepare": Command("make .venv, and nothing else", _prepare),
    "environment": Command("print the running platform's variables as JSON", _environment),
    "postgres": Command(
        "print the folder of a major's programs, fetched when missing",
        _postgres,
        _postgres_arguments,
    ),
    "throwaway": Command(
        "run a platform for another program: its state as a line of JSON on standard output, "
        "until standard input closes",
        _throwaway,
        _throwaway_arguments,
    ),
    "vendor": Command("fetch the pinned libraries that pages load into public/", _vendor),
    "snapshot": Command("write the catalogue that ships", _snapshot, _snapshot_arguments),
    "settings": Command("write docs/settings.md", _settings),
    "openapi": Command("write the schemas of public/openapi.json from the models", _openapi),
    "bench": Command("print a benchmark's figures", _bench, _test_arguments),
    "chaos": Command("break everything by a seed; count every lead", _chaos, _chaos_arguments),
    "outages": Command(
        "stage every outage; print what visitors, Slack and the status page said",
        _outages,
        _outages_arguments,
    ),
    "conform": Command(
        "hold the API to its description: difficult texts, JSON bodies, schemathesis",
        _conform,
        _conform_arguments,
    ),
    "audit": Command(
        "bandit and own rules, secrets, advisories of the dependencies, sqlmap on a new site",
        _audit,
        _audit_arguments,
    ),
    "load": Command(
        "mixed traffic with faults on and off: latencies, errors, memory, every lead counted",
        _load,
        _load_arguments,
    ),
    "test": Command("lint, types and tests; with arguments: pytest alone", _test, _test_arguments),
}


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python3 -m dev",
        description="The platform on one machine: PostgreSQL, Valkey behind Upstash's REST "
        "protocol, stand-ins for Resend, Slack and Sentry, and the functions in "
        "Vercel's own runtime.",
        epilog="Addresses, switches and faults: dev/README.md",
    )
    # The options of `up` are known without its name too.
    _up_arguments(arguments)
    verbs = arguments.add_subparsers(title="verbs", metavar="VERB", dest="verb")
    for name, verb in COMMANDS.items():
        verb.arguments(verbs.add_parser(name, help=verb.help, description=verb.help))
    return arguments


def main(arguments: list[str]) -> int:
    # Taken as they are: argparse would claim options that are meant for pytest or a benchmark.
    for name, run in (("test", _test), ("bench", _bench)):
        if arguments[:1] == [name]:
            return run(argparse.Namespace(arguments=arguments[1:]))
    args = parser().parse_args(arguments)
    return COMMANDS[args.verb or "up"].run(args)


if __name__ == "__main__":
    os.chdir(ROOT)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
