"""`python3 -m dev audit`: tools that others wrote, on the source, the history, the build, a site.

Each part prints its figures and each of its findings. Nothing but the advisory service of the
dependencies is asked over a network; the site is a new one on this machine.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg

from dev import tools
from dev.audit import dependencies, secret_scan, source_code, sql_injection
from dev.audit.outcome import NOT_ASKED, Outcome, worst

_PINNED = Path(__file__).with_name("tools.txt")


def main(root: Path, parts: Sequence[str]) -> int:
    """0: clean; 1: a finding; 2: none, but a part could not look."""
    if unknown := set(parts) - set(PARTS):
        print(f"no part {', '.join(sorted(unknown))}: {', '.join(PARTS)}", file=sys.stderr)
        return NOT_ASKED
    try:
        programs = ensure()
        outcomes = []
        for name in parts or PARTS:
            for outcome in PARTS[name](programs, root):
                print(outcome, flush=True)
                outcomes.append(outcome)
    except (tools.Missing, source_code.ToolFailed) as fault:
        print(fault, file=sys.stderr)
        return NOT_ASKED
    return worst(outcomes)


def ensure() -> Path:
    """The folder of the tools' executables, installed at their first use. tools.Missing."""
    return tools.ensure_python_tools(_PINNED, "audit")


def _source(programs: Path, root: Path) -> list[Outcome]:
    return [source_code.run_bandit(programs, root), source_code.run_own_rules(programs, root)]


def _secrets(programs: Path, root: Path) -> list[Outcome]:
    from dev.build import vercel_build

    output = vercel_build.build_once(root)
    places = [
        secret_scan.tree(root),
        secret_scan.folder("public/", output / "static"),
        secret_scan.built_functions(output),
        secret_scan.history(root),
    ]
    return secret_scan.run(programs, places)


def _dependencies(programs: Path, root: Path) -> list[Outcome]:
    return [dependencies.run(programs, root / "requirements.txt")]


def _injection(programs: Path, root: Path) -> list[Outcome]:
    from dev.conformance import new_platform
    from dev.platform.seed import load_seed

    catalogue = json.loads((root / "supabase" / "seed" / "catalogue.json").read_text("utf-8"))
    with new_platform(root) as platform:
        with psycopg.connect(platform.superuser_database_url, autocommit=True) as connection:
            load_seed(connection, catalogue)
        return [sql_injection.run(programs, platform.url, platform.environment)]


PARTS: dict[str, Callable[[Path, Path], list[Outcome]]] = {
    "source": _source,
    "secrets": _secrets,
    "dependencies": _dependencies,
    "injection": _injection,
}
