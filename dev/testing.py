"""`python3 -m dev test`: lint, format, types, tests. With arguments: pytest alone, with them.

Without arguments the files of tests are shared out among the cores, with a platform for each.
"""

import os
import subprocess
import sys
from pathlib import Path

from dev import tools
from dev.bootstrap import ROOT
from dev.platform import postgres_binaries

_BIN = Path(sys.executable).parent


def main(arguments: list[str]) -> int:
    """The exit status: 0 when everything that ran was content."""
    try:
        tools.ensure_node_packages()
        tools.ensure_browser()
        tools.ensure_pooler()
        tools.ensure_office()
        for major in postgres_binaries.TESTED:
            postgres_binaries.ensure(major)
    except tools.Missing as fault:
        print(fault, file=sys.stderr)
        return 1
    spread = ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"]
    pytest = ("Tests", [sys.executable, "-m", "pytest", *(arguments or spread)])
    lint = [
        ("Lint", [str(_BIN / "ruff"), "check"]),
        ("Format", [str(_BIN / "ruff"), "format", "--check"]),
        ("Types", [str(_BIN / "mypy"), "--strict"]),
    ]
    steps = [pytest] if arguments else [*lint, pytest]
    failed = [title for title, command in steps if not _run(title, command)]
    if failed:
        print(f"\nFailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(title: str, command: list[str]) -> bool:
    print(f"\n== {title} ==", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0
