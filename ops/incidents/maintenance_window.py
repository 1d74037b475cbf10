"""Open and close the maintenance window: in Redis for the functions, in Postgres for its leads.

The rule a newcomer would break: a window always ends by itself, within a day.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta

from lib.maintenance import KEY, MODES, MaintenanceWindow

MAX_DURATION = timedelta(hours=24)

OPEN_IN_POSTGRES = """
insert into maintenance_window (mode, until) values (%(mode)s, %(until)s)
on conflict (one) do update set mode = excluded.mode, until = excluded.until
"""

CLOSE_IN_POSTGRES = "delete from maintenance_window"


def open_in_redis(execute: Callable[..., object], window: MaintenanceWindow, now: datetime) -> None:
    """Open a window, which ends at `until` whatever happens. Raises CacheDown, ValueError."""
    if window.mode not in MODES:
        raise ValueError("no such mode")
    if window.until is None or not now < window.until <= now + MAX_DURATION:
        raise ValueError("a window ends, within a day")
    seconds = int((window.until - now).total_seconds()) + 1
    document = {key: str(value) for key, value in window._asdict().items()}
    execute("SET", KEY, json.dumps(document), "EX", seconds)


def close_in_redis(execute: Callable[..., object]) -> bool:
    """Close the window; whether there was one. Raises CacheDown."""
    return bool(execute("DEL", KEY))


def open_in_postgres(run: Callable[..., object], window: MaintenanceWindow) -> None:
    """Close Postgres to visitors' leads until the window ends. Raises DatabaseDown."""
    values = {"mode": window.mode, "until": window.until}
    run(lambda connection: connection.execute(OPEN_IN_POSTGRES, values) and None)


def close_in_postgres(run: Callable[..., object]) -> None:
    """Let Postgres take leads again. Raises DatabaseDown."""
    run(lambda connection: connection.execute(CLOSE_IN_POSTGRES) and None)
