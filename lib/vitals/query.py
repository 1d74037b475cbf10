"""What GET /api/rum is asked: its parameters, strictly, every fault by its name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from lib import query_parameters
from lib.vitals.samples import DEVICES, METRICS, VIEWS

DIMENSIONS = ("day", "path", "device", "metric", "release")
PARAMETERS = (
    "days", "from", "to", "path", "device", "metric", "release", "by", "compare", "histogram",
)  # fmt: skip
MAX_DAYS, DEFAULT_DAYS = 400, 28
LATEST = "latest"
MAX_DETAILED_RANGE = timedelta(
    days=90
)  # longer, and finer than a metric a day, an answer would take seconds
WIB_OFFSET = timedelta(hours=7)

ERROR_MESSAGES = {
    "unknown": {"id": "Parameter tidak dikenal.", "en": "Unknown parameter."},
    "repeated": {"id": "Hanya boleh satu.", "en": "Give it once."},
    "days": {"id": "Bilangan 1 sampai 400.", "en": "A number from 1 to 400."},
    "date": {"id": "Tanggal seperti 2026-11-23.", "en": "A date like 2026-11-23."},
    "range": {
        "id": "Dari dan sampai, berurutan, paling lama 400 hari, tanpa days.",
        "en": "Both, in order, at most 400 days, and without days.",
    },
    "value": {"id": "Nilai tidak dikenal.", "en": "Not one of the values."},
    "fine": {
        "id": "Per hari dan halaman atau rilis: paling lama 90 hari.",
        "en": "By day and path or release: at most 90 days.",
    },
    "text": {"id": "Teks 1 sampai 200 karakter.", "en": "A text of 1 to 200 characters."},
}

type FieldErrors = dict[str, str]
"""Parameter -> a key of FAULTS."""


class ValidationError(Exception):
    def __init__(self, faults: FieldErrors) -> None:
        super().__init__(faults)
        self.errors = faults

    def details(self, locale: str) -> dict[str, list[str]]:
        return {name: [ERROR_MESSAGES[kind][locale]] for name, kind in self.errors.items()}


@dataclass(frozen=True, slots=True)
class Query:
    """since, until: days, both included. by: dimensions, `metric` always among them."""

    since: date
    until: date
    by: tuple[str, ...]
    path: str | None = None
    device: str | None = None
    metric: str | None = None
    release: str | None = None
    compare: str | None = None
    histogram: bool = False

    def filters(self) -> dict[str, str | None]:
        return {name: getattr(self, name) for name in DIMENSIONS[1:]}


def parse(given: Mapping[str, Sequence[str]], now: datetime) -> Query:
    """The parameters' meaning. Raises Faulty, naming every fault."""
    given = query_parameters.drop_empty(given)
    faults: FieldErrors = {name: "unknown" for name in given if name not in PARAMETERS}
    faults |= {name: "repeated" for name, texts in given.items() if len(texts) > 1}
    one = {name: texts[0] for name, texts in given.items()}
    since, until = _parse_days(one, now, faults)
    for name, known in (("device", DEVICES), ("metric", (*METRICS, VIEWS))):
        if name in one and one[name] not in known:
            faults[name] = "value"
    histogram = query_parameters.parse_flag(one.get("histogram", "0"))
    if histogram is None:
        faults["histogram"] = "value"
    for name in ("path", "release", "compare"):
        if name in one and not 1 <= len(one[name]) <= 200:
            faults[name] = "text"
    by = one.get("by", "metric").split(",")
    if len(set(by)) < len(by) or set(by) - set(DIMENSIONS):
        faults["by"] = "value"
    elif "day" in by and {"path", "release"} & set(by) and until - since >= MAX_DETAILED_RANGE:
        faults["by"] = "fine"
    if faults:
        raise ValidationError(faults)
    return Query(
        since,
        until,
        tuple(name for name in DIMENSIONS if name in {*by, "metric"}),
        **{name: one.get(name) for name in ("path", "device", "metric", "release", "compare")},
        histogram=bool(histogram),
    )


def _parse_days(one: Mapping[str, str], now: datetime, faults: FieldErrors) -> tuple[date, date]:
    today = (now + WIB_OFFSET).date()
    if "from" in one or "to" in one:
        return _parse_range(one, faults) or (today, today)
    text = one.get("days", str(DEFAULT_DAYS))
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_DAYS:
        faults.setdefault("days", "days")
        return today, today
    return today - timedelta(days=int(text) - 1), today


def _parse_range(one: Mapping[str, str], faults: FieldErrors) -> tuple[date, date] | None:
    found = []
    for name in ("from", "to"):
        try:
            text = one.get(name, "")
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
                raise ValueError
            found.append(date.fromisoformat(text))
        except ValueError:
            faults.setdefault(name, "date")
    if len(found) < 2:
        return None
    since, until = found
    if "days" in one or not timedelta(0) <= until - since < timedelta(days=MAX_DAYS):
        faults.setdefault("from", "range")
        return None
    return since, until
