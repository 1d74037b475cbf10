"""Maintenance mode: the open window, and an instance's cache of it.

| mode | leads | products | jobs | who touches Postgres |
| --- | --- | --- | --- | --- |
| intake | taken, queued, 202 | copies | wait | nobody |
| read_only | taken, queued, 202 | as always | wait | readers |

Postgres has a copy of the window, which accept_lead checks: no instance writes a lead there in
maintenance, and none needs a trip to know. Where Postgres has no copy (ops could not write it), an
instance reads the window from Redis after its first answer.

The variable MAINTENANCE_MODE holds for a whole deployment and comes first; a window in Redis takes
effect within seconds and always ends by itself. Redis down: the last reading holds, until its end.
The rule a newcomer would break: nothing here may delay or refuse a lead.
"""

import json
import time
from datetime import datetime
from typing import NamedTuple

KEY = "maintenance"
MODES = ("intake", "read_only")
MAX_AGE_S = 5.0
BYPASS_HEADER = "X-Maintenance-Bypass"


class MaintenanceWindow(NamedTuple):
    """An open window. until: None where the variable holds it open. reason, by: for operators."""

    mode: str
    since: datetime | None = None
    until: datetime | None = None
    reason: str = ""
    by: str = ""

    @property
    def allows_reads(self) -> bool:
        """Whether Postgres may be read."""
        return self.mode == "read_only"


def parse_window(text: object, now: datetime) -> MaintenanceWindow | None:
    """The window in Redis' value; None when there is none, it is over, or it cannot be parsed."""
    if not isinstance(text, str) or not text:
        return None
    try:
        document = json.loads(text)
        since, until = (datetime.fromisoformat(document[name]) for name in ("since", "until"))
        window = MaintenanceWindow(
            document["mode"], since, until, document["reason"], document["by"]
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return window if window.mode in MODES and until > now else None


class WindowCache:
    """What this instance last read of the window; shared by its threads."""

    def __init__(self) -> None:
        self._reading: tuple[object, float] = (None, float("-inf"))

    def update(self, value: object) -> None:
        """Remember what Redis just held under KEY."""
        self._reading = (value, time.monotonic())

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._reading[1] < MAX_AGE_S

    def current(self, variable: str, now: datetime) -> MaintenanceWindow | None:
        """The open window, without asking Redis. variable: the value of MAINTENANCE_MODE."""
        if variable in MODES:
            return MaintenanceWindow(variable, reason="MAINTENANCE_MODE", by="deployment")
        return parse_window(self._reading[0], now)
