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

PASS, FAIL, UNKNOWN = "PASS", "FAIL", "COULD NOT VERIFY"


class CouldNotVerify(Exception):
    """What a step was to show cannot be shown here; the text says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """work: does it and says what it found. vital: without it the later ones make no sense."""

    name: str
    work: Callable[[], str]
    vital: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    verdict: str
    words: str
    took_s: float


def walk(steps: Sequence[Step], tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Every step's outcome, told as it comes."""
    outcomes: list[Outcome] = []
    stopped = ""
    for step in steps:
        found = Outcome(step.name, UNKNOWN, stopped, 0.0) if stopped else one(step)
        if step.vital and found.verdict != PASS and not stopped:
            stopped = f"not reached: {step.name}"
        outcomes.append(found)
        tell(found)
    return outcomes


def one(step: Step) -> Outcome:
    started = time.monotonic()
    try:
        verdict, words = PASS, step.work()
    except CouldNotVerify as fault:
        verdict, words = UNKNOWN, str(fault)
    except (NotConfigured, CacheDown, DatabaseDown) as fault:
        verdict, words = UNKNOWN, str(fault) or f"{type(fault).__name__}: it cannot be reached"
    except (Failed, MigrationFailed) as fault:
        verdict, words = FAIL, str(fault)
    except (psycopg.Error, OSError) as fault:
        # Their words may quote a row.
        verdict, words = FAIL, type(fault).__name__
    return Outcome(step.name, verdict, words, round(time.monotonic() - started, 2))


def verdict(outcomes: Sequence[Outcome]) -> str:
    """FAIL when anything failed; PASS only when everything passed."""
    found = {outcome.verdict for outcome in outcomes}
    if FAIL in found:
        return FAIL
    return PASS if found == {PASS} else UNKNOWN


def show(outcome: Outcome) -> None:
    """A line for a person, as it comes."""
    took = f"{outcome.took_s:>8.1f} s"
    print(f"{outcome.name:<12}{outcome.verdict:<17}{took}  {outcome.words}", flush=True)
