"""Maintenance mode: who switched it on, until when, and what an instance knows of it.

| mode | leads | products | jobs | who touches Postgres |
| --- | --- | --- | --- | --- |
| intake | taken, queued, 202 | copies | wait | nobody |
| read_only | taken, queued, 202 | as always | wait | readers |

Order of resort: the variable MAINTENANCE_MODE, which a deployment is born with; the switch in
Redis, which works within seconds and always ends by itself. Redis unreadable: what was last
known, until its end. The rule a newcomer would break: nothing here may delay or refuse a lead.
"""

import json
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

KEY = "maintenance"
MODES = ("intake", "read_only")
MAX_AGE_S = 5.0
MAX_DURATION = timedelta(hours=24)
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
    """What Redis holds as a switch; None when there is none, it is over, or it is none of ours."""
    if not isinstance(text, str) or not text:
        return None
    try:
        held = json.loads(text)
        since, until = (datetime.fromisoformat(held[name]) for name in ("since", "until"))
        found = MaintenanceWindow(held["mode"], since, until, held["reason"], held["by"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return found if found.mode in MODES and found.until and found.until > now else None


def open_window(run: Callable[..., object], switch: MaintenanceWindow, now: datetime) -> None:
    """Open a window, which ends at `until` whatever happens. Raises CacheDown, ValueError."""
    if switch.mode not in MODES:
        raise ValueError("no such mode")
    if switch.until is None or not now < switch.until <= now + MAX_DURATION:
        raise ValueError("a window ends, within a day")
    seconds = int((switch.until - now).total_seconds()) + 1
    held = {key: str(value) for key, value in switch._asdict().items()}
    run("SET", KEY, json.dumps(held), "EX", seconds)


def close_window(run: Callable[..., object]) -> bool:
    """Close the window; whether there was one. Raises CacheDown."""
    return bool(run("DEL", KEY))


class WindowCache:
    """What this instance last read of the switch; shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text: object = None
        self._read_at = float("-inf")

    def update(self, text: object) -> None:
        """What Redis just said, to whoever asked."""
        with self._lock:
            self._text = text
            self._read_at = time.monotonic()

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._read_at < MAX_AGE_S

    def current(self, variable: str, now: datetime) -> MaintenanceWindow | None:
        """What holds, without asking anybody. variable: what
        MAINTENANCE_MODE says."""
        if variable in MODES:
            return MaintenanceWindow(variable, reason="MAINTENANCE_MODE", by="deployment")
        return parse_window(self._text, now)
