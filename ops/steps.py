"""Named steps, run in order and timed, each with a verdict of its own.

The rule a newcomer would break: a step that could not be run did not pass. It is COULD NOT VERIFY,
and so is everything that was not reached.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from lib.problems import CacheDown, DatabaseDown, NotConfigured
from ops import connections
from ops.command import Failed

PASS, FAIL, COULD_NOT_VERIFY = "PASS", "FAIL", "COULD NOT VERIFY"


class CouldNotVerify(Exception):
    """What a step should show cannot be shown here; the text says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """run: returns what it did, in words. required: without it the later ones make no sense."""

    name: str
    run: Callable[[], str]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    verdict: str
    words: str
    took_s: float


class Printer:
    """A line on standard error as a step begins, and one on standard output for its outcome."""

    def __init__(self, *, quiet: bool) -> None:
        self._is_quiet = quiet

    def begin(self, name: str) -> None:
        if not self._is_quiet:
            print(f"{name} …", file=sys.stderr, flush=True)

    def __call__(self, outcome: Outcome) -> None:
        if not self._is_quiet:
            took = f"{outcome.took_s:>8.1f} s"
            line = f"{outcome.name:<12}{outcome.verdict:<17}{took}  {outcome.words}"
            print(line, flush=True)


def run_steps(steps: Sequence[Step], show: Printer) -> list[Outcome]:
    """Every step's outcome, shown as it comes; after a required step that failed, none is run."""
    outcomes: list[Outcome] = []
    blocked_by = ""
    for step in steps:
        if blocked_by:
            outcome = Outcome(
                step.name, COULD_NOT_VERIFY, f"not run: step {blocked_by} failed", 0.0
            )
        else:
            outcome = run_step(step, show)
            if step.required and outcome.verdict != PASS:
                blocked_by = step.name
        outcomes.append(outcome)
        show(outcome)
    return outcomes


def run_step(step: Step, show: Printer) -> Outcome:
    """Announces the step, and runs it; the caller shows the outcome."""
    show.begin(step.name)
    started = time.monotonic()
    try:
        verdict, words = PASS, step.run()
    except CouldNotVerify as error:
        verdict, words = COULD_NOT_VERIFY, str(error)
    except (NotConfigured, CacheDown, DatabaseDown) as error:
        words = str(error) if isinstance(error, NotConfigured) else connections.explain(error)
        verdict = COULD_NOT_VERIFY
    except Failed as error:
        verdict, words = FAIL, str(error)
    except (psycopg.Error, OSError) as error:
        verdict, words = FAIL, connections.explain_reason(error)  # never a text that quotes a row
    return Outcome(step.name, verdict, words, round(time.monotonic() - started, 2))


def overall_verdict(outcomes: Sequence[Outcome]) -> str:
    """FAIL when anything failed; PASS only when everything passed."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if FAIL in verdicts:
        return FAIL
    return PASS if verdicts == {PASS} else COULD_NOT_VERIFY
