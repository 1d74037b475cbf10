"""`python3 -m dev conform`: difficult texts and JSON bodies as leads, and schemathesis on it all.

The site and its databases are new ones on this machine. The outcome of every request is compared
with what the document promises, never with what the code does.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dev import tools
from dev.conformance import difficult_text, fuzzing, json_bodies
from dev.conformance.lead_sender import Findings, LeadSender
from dev.platform.local_platform import Platform

UNLIMITED = {
    "LEADS_PER_MINUTE": "1000000",
    "LEADS_PER_HOUR": "1000000",
    "LEADS_CEILING_PER_MINUTE": "1000000",
    "MAIL_PER_SECOND": "1000",
}
"""One client sends everything."""


def main(root: Path, examples: int, seed: int) -> int:
    """Print the figures and every finding; 1 when there is one."""
    try:
        fuzzing.ensure()
        strings = difficult_text.strings()
    except tools.Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    with _sender(root) as sender:
        parts: dict[str, Callable[[], Findings]] = {
            f"{len(strings)} texts as JSON": partial(difficult_text.run, sender, strings),
            f"{len(strings)} texts as a form": partial(
                difficult_text.run, sender, strings, as_form=True
            ),
            "JSON bodies": partial(json_bodies.run, sender),
        }
        faults: list[str] = []
        for title, run in parts.items():
            started = time.monotonic()
            findings = run()
            faults += findings.faults
            print(f"{title}: {findings} in {time.monotonic() - started:.0f} s", flush=True)
    for fault in faults:
        print(f"  {fault}")
    with new_platform(root) as platform:
        report = fuzzing.run(root, platform.url, platform.environment, examples, seed)
    print(fuzzing.render(report))
    return 1 if faults or report["failures"] or not report["complete"] else 0


@contextlib.contextmanager
def new_platform(root: Path) -> Iterator[Platform]:
    """A platform of its own, gone afterwards, on which nobody sends too much."""
    with (
        tempfile.TemporaryDirectory(prefix="conform-") as data,
        Platform(root, Path(data), environ=UNLIMITED, durable=False) as platform,
    ):
        yield platform


@contextlib.contextmanager
def _sender(root: Path) -> Iterator[LeadSender]:
    with (
        new_platform(root) as platform,
        LeadSender(platform.url, platform.superuser_database_url) as sender,
    ):
        yield sender
