"""Named steps, done in order and timed, each with a verdict of its own.

The rule a newcomer would break: a step that could not be done is not one that passed. It is
COULD NOT VERIFY, and so is everything that was not reached.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from dev.platform.migrations import MigrationFailed
from lib.problems import CacheDown, DatabaseDown, NotConfigured
from ops.command import Failed

PASS, FAIL, COULD_NOT_VERIFY = "PASS", "FAIL", "COULD NOT VERIFY"


class CouldNotVerify(Exception):
    """What a step was to show cannot be shown here; the text says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """work: does it and says what it found. vital: without it the later ones make no sense."""

    name: str
    run: Callable[[], str]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    verdict: str
    words: str
    took_s: float


def run_steps(steps: Sequence[Step], tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Every step's outcome, told as it comes."""
    outcomes: list[Outcome] = []
    stopped = ""
    for step in steps:
        found = Outcome(step.name, COULD_NOT_VERIFY, stopped, 0.0) if stopped else run_step(step)
        if step.required and found.verdict != PASS and not stopped:
            stopped = f"not reached: {step.name}"
        outcomes.append(found)
        tell(found)
    return outcomes


def run_step(step: Step) -> Outcome:
    started = time.monotonic()
    try:
        verdict, words = PASS, step.run()
    except CouldNotVerify as fault:
        verdict, words = COULD_NOT_VERIFY, str(fault)
    except (NotConfigured, CacheDown, DatabaseDown) as fault:
        verdict, words = (
            COULD_NOT_VERIFY,
            str(fault) or f"{type(fault).__name__}: it cannot be reached",
        )
    except (Failed, MigrationFailed) as fault:
        verdict, words = FAIL, str(fault)
    except (psycopg.Error, OSError) as fault:
        # Their words may quote a row.
        verdict, words = FAIL, type(fault).__name__
    return Outcome(step.name, verdict, words, round(time.monotonic() - started, 2))


def overall_verdict(outcomes: Sequence[Outcome]) -> str:
    """FAIL when anything failed; PASS only when everything passed."""
    found = {outcome.verdict for outcome in outcomes}
    if FAIL in found:
        return FAIL
    return PASS if found == {PASS} else COULD_NOT_VERIFY


def print_outcome(outcome: Outcome) -> None:
    """A line for a person, as it comes."""
    took = f"{outcome.took_s:>8.1f} s"
    print(f"{outcome.name:<12}{outcome.verdict:<17}{took}  {outcome.words}", flush=True)
