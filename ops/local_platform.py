"""The platform on this machine (`python3 -m dev`), used as a program: nothing of it is imported."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ops.command import Failed

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".dev"
_COMMAND = (sys.executable, "-m", "dev.cli")


def environment() -> dict[str, str]:
    """The variables of the platform that runs here. Raises Failed when none does."""
    variables: dict[str, str] = json.loads(_output("environment"))
    return variables


@cache
def postgres_folder(major: int) -> Path:
    """PostgreSQL's programs of that major, fetched when they are not here. Raises Failed."""
    return Path(_output("postgres", str(major)).strip())


@contextlib.contextmanager
def throwaway(major: int) -> Iterator[dict[str, Any]]:
    """The state of a platform of its own on that major of PostgreSQL; it and its data go at exit.

    Raises Failed when it does not start. It also ends when this process is killed.
    """
    with subprocess.Popen(  # noqa: S603 - our own program, no shell
        [*_COMMAND, "throwaway", "--postgres", str(major)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as platform:
        if platform.stdin is None or platform.stdout is None:
            raise ValueError("a child without pipes")
        try:
            state = platform.stdout.readline()
            if not state:
                raise Failed("no local platform could be started (see above)")
            yield json.loads(state)
        finally:
            platform.stdin.close()


def _output(*arguments: str) -> str:
    result = subprocess.run(  # noqa: S603 - our own program, no shell
        [*_COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise Failed(result.stderr.strip(), status=2)
    return result.stdout
