"""What a chaos run will do: the same for the same seed, however fast the machine is."""

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from dev.faults import known_faults
from dev.faults.known_faults import Fault
from dev.faults.oracle import ClientBehavior
from dev.faults.test_site import DELIVER, LEADS


@dataclass(frozen=True, slots=True)
class Load:
    """leads are sent together, at_s seconds into the round, by clients of one kind.

    twice: each is sent twice at the same time, as by a double click.
    """

    at_s: float
    leads: int
    client: ClientBehavior
    sent_twice: bool


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """A signal to the processes of `function`, at_s into the round; a frozen one thaws later."""

    at_s: float
    function: str
    signum: signal.Signals
    resume_after_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.signum.name} {self.function} at {self.at_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Phase:
    """Some seconds with the same things broken."""

    number: int
    seconds: float
    faults: tuple[Fault, ...]
    loads: tuple[Load, ...]
    fault_events: tuple[FaultEvent, ...]
    drains_at_s: tuple[float, ...]

    def __str__(self) -> str:
        events = [
            " + ".join(map(str, self.faults)) or "nothing broken",
            *map(str, self.fault_events),
        ]
        return f"{self.number:>3}  {'; '.join(events)}"


CLIENTS = (
    ClientBehavior(attempts=1),
    ClientBehavior(attempts=4, pause_s=0.3),
    ClientBehavior(attempts=4, pause_s=0.2, timeout_s=1.0),  # gives up early and asks again
    ClientBehavior(attempts=1, sends_key=False),
    ClientBehavior(attempts=3, pause_s=0.5, sends_key=False),
)
MAX_FREEZE_S = 2.0


def phases(seed: int) -> Iterator[Phase]:
    """Round after round, for ever."""
    chosen = random.Random(seed)
    number = 0
    while True:
        number += 1
        seconds = chosen.uniform(4, 9)
        yield Phase(
            number,
            seconds,
            _choose_faults(chosen),
            tuple(_loads(chosen, seconds)),
            tuple(_fault_events(chosen, seconds)),
            tuple(chosen.uniform(0, seconds) for _ in range(chosen.choice((0, 1, 1, 2)))),
        )


def _choose_faults(chosen: random.Random) -> tuple[Fault, ...]:
    """At most one fault a group: a switch holds one. Mostly one or two groups."""
    groups = [known_faults.DATABASE, known_faults.REDIS, known_faults.MAIL, known_faults.ALERTS]
    hit = chosen.sample(groups, chosen.choice((0, 1, 1, 2, 2, 2, 3, 4)))
    return tuple(chosen.choice(group) for group in hit)


def _loads(chosen: random.Random, seconds: float) -> Iterator[Load]:
    at_s = 0.0
    while (at_s := at_s + chosen.uniform(0.2, 1.2)) < seconds:
        yield Load(
            at_s, chosen.choice((1, 1, 2, 3, 6)), chosen.choice(CLIENTS), chosen.random() < 0.15
        )


def _fault_events(chosen: random.Random, seconds: float) -> Iterator[FaultEvent]:
    for function, chance in ((LEADS, 0.5), (DELIVER, 0.3)):
        if chosen.random() < chance:
            how = chosen.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP))
            thaw_s = chosen.uniform(0.2, MAX_FREEZE_S)
            yield FaultEvent(chosen.uniform(0.2, seconds), function, how, thaw_s)
