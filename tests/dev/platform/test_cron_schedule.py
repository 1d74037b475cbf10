"""The crons of vercel.json, called on schedule as Vercel does."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from dev.platform.cron_schedule import InvalidSchedule, Schedule, Scheduler, due
from tests.conftest import eventually

SATURDAY = datetime(2026, 11, 28, 18, 17, tzinfo=UTC)


@pytest.mark.parametrize(
    "expression",
    ["* * * * *", "17 18 * * *", "*/17 * * * *", "1-20 18 28 11 *", "0,17 9/3 * * *", "17 * * * 6"],
)
def test_a_schedule_is_due_in_its_minutes(expression: str) -> None:
    assert Schedule.parse(expression).is_due(SATURDAY)
    assert Schedule.parse(expression).is_due(SATURDAY + timedelta(seconds=59))


@pytest.mark.parametrize(
    "expression",
    ["18 18 * * *", "*/4 * * * *", "17 18 * 12 *", "17 18 27 * *", "17 * * * 0", "17 1-17/2 * * *"],
)
def test_a_schedule_is_not_due_in_other_minutes(expression: str) -> None:
    assert not Schedule.parse(expression).is_due(SATURDAY)


@pytest.mark.parametrize(
    "expression",
    [
        "* * * *",
        "60 * * * *",
        "* * * * MON",
        "* * * * 7",
        "* * 1 * 1",
        "*/0 * * * *",
        "5-1 * * * *",
    ],
)
def test_a_schedule_that_vercel_refuses_is_refused(expression: str) -> None:
    with pytest.raises(InvalidSchedule):
        Schedule.parse(expression)


def test_the_due_crons_are_those_of_this_minute() -> None:
    crons = [
        {"path": "/api/cron/a", "schedule": "* * * * *"},
        {"path": "/api/cron/b", "schedule": "0 0 * * *"},
    ]
    assert due(crons, SATURDAY) == ["/api/cron/a"]


def clock_before_a_minute() -> Callable[[], datetime]:
    """A clock that is a tenth of a second before SATURDAY's minute now."""
    start = time.monotonic()
    return lambda: SATURDAY + timedelta(seconds=time.monotonic() - start - 0.1)


def test_a_due_cron_is_called_once_in_its_minute_though_another_one_hangs() -> None:
    calls: list[str] = []
    is_over = threading.Event()

    def call(path: str) -> None:
        calls.append(path)
        is_over.wait()

    crons = [
        {"path": "/api/cron/a", "schedule": "17 * * * *"},
        {"path": "/api/cron/b", "schedule": "17 18 * * *"},
        {"path": "/api/cron/c", "schedule": "0 0 * * *"},
    ]
    scheduler = Scheduler(lambda: crons, call, pytest.fail, clock_before_a_minute())
    try:
        eventually(lambda: len(calls) == 2)
    finally:
        is_over.set()
        scheduler.close()
    assert sorted(calls) == ["/api/cron/a", "/api/cron/b"]


def test_a_broken_schedule_is_reported() -> None:
    reported: list[str] = []
    crons = [{"path": "/api/cron/a", "schedule": "every day"}]
    scheduler = Scheduler(lambda: crons, pytest.fail, reported.append, clock_before_a_minute())
    try:
        eventually(lambda: reported)
    finally:
        scheduler.close()
    assert "every day" in reported[0]
