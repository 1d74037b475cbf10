"""When the crons of vercel.json are due, as Vercel's scheduler reads them.

Five fields in UTC: minute, hour, day of the month, month, day of the week (0 is Sunday). As at
Vercel, names such as MON are refused, and only one of the two days may be given.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import httpx

_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 6),
)


class InvalidSchedule(ValueError):
    """An expression that Vercel would refuse; the text names the field."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The values of each field at which a cron runs."""

    fields: tuple[frozenset[int], ...]

    @classmethod
    def parse(cls, expression: str) -> Self:
        texts = expression.split()
        if len(texts) != len(_FIELDS):
            raise InvalidSchedule(f"{expression!r} has {len(texts)} fields instead of 5")
        if texts[2] != "*" and texts[4] != "*":
            raise InvalidSchedule(f"{expression!r}: only one of the two days may be given")
        return cls(tuple(_values(*field, text) for field, text in zip(_FIELDS, texts, strict=True)))

    def is_due(self, minute: datetime) -> bool:
        """Whether it runs in this minute; `minute` is aware."""
        at = minute.astimezone(UTC)
        parts = (at.minute, at.hour, at.day, at.month, at.isoweekday() % 7)
        return all(part in values for part, values in zip(parts, self.fields, strict=True))


def _values(name: str, least: int, most: int, text: str) -> frozenset[int]:
    values: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, dash, last = span.partition("-")
        try:
            if span == "*":
                start, end = least, most
            else:
                start = int(first)
                end = int(last) if dash else (most if step else start)
            numbers = range(start, end + 1, int(step or 1))
        except ValueError:
            raise InvalidSchedule(f"{text!r} is no {name}") from None
        if not numbers or numbers[0] < least or numbers[-1] > most:
            raise InvalidSchedule(f"{text!r} is no {name}: {least} to {most}")
        values |= set(numbers)
    return frozenset(values)


class Scheduler:
    """Calls every due cron once a minute until close(); each call has a thread of its own.

    crons() is asked each minute, since vercel.json may be edited; call(path) runs one; clock() is
    aware. As at Vercel, a failed call is not repeated, and a slow one does not hold up the next.
    """

    def __init__(
        self,
        crons: Callable[[], Iterable[Mapping[str, Any]]],
        call: Callable[[str], object],
        report: Callable[[str], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._crons = crons
        self._call = call
        self._report = report
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crons", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        minute = _minute_of(self._clock())
        while True:
            # A machine that was suspended skips the minutes it slept.
            minute = max(minute + timedelta(minutes=1), _minute_of(self._clock()))
            if self._stopped.wait((minute - self._clock()).total_seconds()):
                return
            self._fire(minute)

    def _fire(self, minute: datetime) -> None:
        try:
            paths = due(self._crons(), minute)
        except ValueError as error:
            self._report(f"vercel.json: {error}")
            return
        for path in paths:
            threading.Thread(target=self._one_call, args=(path,), daemon=True).start()

    def _one_call(self, path: str) -> None:
        # A platform that stops, or a function killed on purpose: there is nobody to tell.
        with suppress(httpx.HTTPError, LookupError):
            self._call(path)


def due(crons: Iterable[Mapping[str, Any]], minute: datetime) -> list[str]:
    """The paths of the crons that run in this minute. Raises InvalidSchedule."""
    return [
        str(cron["path"]) for cron in crons if Schedule.parse(str(cron["schedule"])).is_due(minute)
    ]


def _minute_of(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)
