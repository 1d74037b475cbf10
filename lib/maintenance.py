"""Maintenance mode: the open window, and an instance's cache of it.

| mode | leads | products | jobs | who touches Postgres |
| --- | --- | --- | --- | --- |
| intake | taken, queued, 202 | copies | wait | nobody |
| read_only | taken, queued, 202 | as always | wait | readers |

Postgres has a copy of the window, which its own statement heeds (accept_lead): no lead is written
there while intake is closed, by whatever instance, and no trip is needed to know. Where Postgres
could not be told, an instance knows from Redis, after its first answer.

The variable MAINTENANCE_MODE holds for a whole deployment and comes first; a window in Redis works
within seconds and always ends by itself. Redis down: the last reading holds, until its end. Nothing
here may delay or refuse a lead.
"""

import json
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
    """The window in Redis' value; None when there is none, it is over, or it makes no sense."""
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


def open_window(execute: Callable[..., object], window: MaintenanceWindow, now: datetime) -> None:
    """Open a window, which ends at `until` whatever happens. Raises CacheDown, ValueError."""
    if window.mode not in MODES:
        raise ValueError("no such mode")
    if window.until is None or not now < window.until <= now + MAX_DURATION:
        raise ValueError("a window ends, within a day")
    seconds = int((window.until - now).total_seconds()) + 1
    document = {key: str(value) for key, value in window._asdict().items()}
    execute("SET", KEY, json.dumps(document), "EX", seconds)


def close_window(execute: Callable[..., object]) -> bool:
    """Close the window; whether there was one. Raises CacheDown."""
    return bool(execute("DEL", KEY))


OPEN_IN_POSTGRES = """
insert into maintenance_window (mode, until) values (%(mode)s, %(until)s)
on conflict (one) do update set mode = excluded.mode, until = excluded.until
"""

CLOSE_IN_POSTGRES = "delete from maintenance_window"


def open_in_postgres(run: Callable[..., object], window: MaintenanceWindow) -> None:
    """Close Postgres to visitors' leads until the window ends. Raises DatabaseDown."""
    values = {"mode": window.mode, "until": window.until}
    run(lambda connection: connection.execute(OPEN_IN_POSTGRES, values) and None)


def close_in_postgres(run: Callable[..., object]) -> None:
    """Let Postgres take leads again. Raises DatabaseDown."""
    run(lambda connection: connection.execute(CLOSE_IN_POSTGRES) and None)


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
