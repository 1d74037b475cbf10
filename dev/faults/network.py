"""What a fault proxy does to the connections through it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from dev.vendors.fault_switch import InvalidFault

MODES = (
    "ok",
    "refuse",
    "reset",
    "stall",
    "slow",
    "drop_reply",
    "garbage",
    "kill",
    "orphan",
)


@dataclass(frozen=True, slots=True)
class NetworkFault:
    """What happens to connections; mode is one of MODES.

    refuse: nobody listens, live connections are cut. reset: every connection gets RST.
    stall: connections open, no byte passes either way; what waits passes when that ends.
    slow: every chunk waits delay_s seconds. garbage: nonsense answers the first bytes.
    drop_reply: bytes holding `match` (letter case aside) reach the server; when it answers,
    the connection is cut instead. times: how often, then ok; None: until switched.
    kill: live connections are cut now, then ok. orphan: live connections are silent for ever,
    as after a router forgot them, while new ones work.
    """

    mode: str = "ok"
    delay_s: float = 0.2
    match: str = ""
    times: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidFault(f"mode is one of {', '.join(MODES)}, not {self.mode!r}")
        if not isinstance(self.delay_s, int | float) or not 0 <= self.delay_s <= 300:
            raise InvalidFault(f"delay_s is a number from 0 to 300, not {self.delay_s!r}")
        if not isinstance(self.match, str) or (self.mode == "drop_reply" and not self.match):
            raise InvalidFault("match is a text, and drop_reply wants one")
        if self.times is not None and (not isinstance(self.times, int) or self.times < 1):
            raise InvalidFault(f"times is a whole number from 1, or null, not {self.times!r}")

    @classmethod
    def parse(cls, given: Any) -> "NetworkFault":
        """InvalidFault when `given` is no object of the fields above."""
        if not isinstance(given, Mapping) or "mode" not in given:
            raise InvalidFault("a switch is a JSON object with a mode")
        unknown = set(given) - {field.name for field in fields(cls)}
        if unknown:
            raise InvalidFault(f"unknown field: {', '.join(sorted(map(str, unknown)))}")
        return cls(**given)

    def after_use(self) -> "NetworkFault":
        """The fault after one more use of it."""
        if self.times is None:
            return self
        return replace(self, times=self.times - 1) if self.times > 1 else NetworkFault()
