"""Which faults are on when: a calm phase, a fault, a calm phase, the next fault."""

from collections.abc import Iterator
from dataclasses import dataclass

from dev.faults.known_faults import Fault

FAULTS = (
    Fault("database", "refuse"),
    Fault("redis", "refuse"),
    Fault("schema", "renamed_column", {"table": "leads"}),
    Fault("resend", "rate_limit"),
    Fault("database", "stall"),
    Fault("schema", "revoked_insert", {"table": "outbox"}),
    Fault("database", "slow", {"delay_s": 0.2}),
    Fault("upstash", "fail"),
    Fault("schema", "failing_trigger", {"table": "leads"}),
    Fault("resend", "stall"),
)
PHASE_S = 15.0


@dataclass(frozen=True, slots=True)
class Phase:
    """fault: None while all is whole."""

    from_s: float
    to_s: float
    fault: Fault | None

    @property
    def name(self) -> str:
        return "calm" if self.fault is None else str(self.fault)


def phases(seconds: float) -> Iterator[Phase]:
    """Calm first and last. Shorter runs have shorter phases only below one fault."""
    count = max(3, int(seconds / PHASE_S) | 1)
    length_s = seconds / count
    for number in range(count):
        fault = FAULTS[number // 2 % len(FAULTS)] if number % 2 else None
        yield Phase(number * length_s, (number + 1) * length_s, fault)
