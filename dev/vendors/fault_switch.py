"""The switch every stand-in carries: how it fails, for how long, and for which requests."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

MODES = ("ok", "fail", "stall", "slow", "rate_limit", "limit", "lose_reply", "reset")


class InvalidFault(ValueError):
    """A switch that cannot be set; the text names the fault."""


@dataclass(frozen=True, slots=True)
class VendorFault:
    """mode is one of MODES; times: affected requests until it falls back to ok (None: for ever);
    match: only requests whose path or body holds this text; name, message: of a `fail`, where the
    vendor's errors have such; per_second: how many requests a `limit` lets through."""

    mode: str = "ok"
    status: int = 500
    delay_s: float = 2.0
    retry_after_s: int = 1
    times: int | None = None
    match: str | None = None
    name: str | None = None
    message: str | None = None
    per_second: int = 2

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidFault(f"mode is one of {', '.join(MODES)}, not {self.mode!r}")
        _number("status", self.status, least=400, most=599)
        _number("delay_s", self.delay_s, least=0, most=3600, whole=False)
        _number("retry_after_s", self.retry_after_s, least=0, most=86_400)
        if self.times is not None:
            _number("times", self.times, least=1, most=1_000_000_000)
        _number("per_second", self.per_second, least=1, most=1_000_000)
        for field in ("match", "name", "message"):
            if not isinstance(getattr(self, field), str | None):
                raise InvalidFault(f"{field} is a text or null")

    @classmethod
    def parse(cls, body: Any) -> "VendorFault":
        """InvalidFault when it is no object of the fields above."""
        if not isinstance(body, Mapping):
            raise InvalidFault("a switch is a JSON object")
        unknown = set(body) - {field.name for field in fields(cls)}
        if unknown:
            raise InvalidFault(f"unknown field: {', '.join(sorted(map(str, unknown)))}")
        if "mode" not in body:
            raise InvalidFault("mode is missing")
        return cls(**body)


class Switch:
    """The current fault; thread-safe. Waiting requests are released when it changes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._fault = VendorFault()
        self._version = 0

    def set(self, fault: VendorFault) -> None:
        with self._changed:
            self._fault = fault
            self._version += 1
            self._changed.notify_all()

    def current(self) -> dict[str, Any]:
        with self._changed:
            return asdict(self._fault)

    def take(self, text: str) -> "tuple[VendorFault, int]":
        """The fault for a request of this path and body, counted; and the switch's version."""
        with self._changed:
            fault = self._fault
            if fault.mode == "ok" or (fault.match is not None and fault.match not in text):
                return VendorFault(), self._version
            if fault.times is not None:
                left = fault.times - 1
                self._fault = replace(fault, times=left) if left else VendorFault()
            return fault, self._version

    def wait(self, version: int, timeout_s: float | None = None) -> None:
        """Until the switch is set anew, or `timeout_s` has passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, timeout_s)


def _number(name: str, value: Any, *, least: float, most: float, whole: bool = True) -> None:
    right = isinstance(value, int) or (isinstance(value, float) and not whole)
    if isinstance(value, bool) or not right or not least <= value <= most:
        raise InvalidFault(f"{name} is a number from {least} to {most}, not {value!r}")
