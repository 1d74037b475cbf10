"""The query parameters of GET /api/rum: parsed strictly, every error reported by name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from lib import query_parameters
from lib.problems import Invalid
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
"""Parameter -> a key of ERROR_MESSAGES."""


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


def parse(parameters: Mapping[str, Sequence[str]], now: datetime, locale: str) -> Query:
    """Raises Invalid, naming every wrong parameter in the language `locale`."""
    parameters = query_parameters.drop_empty(parameters)
    errors: FieldErrors = {name: "unknown" for name in parameters if name not in PARAMETERS}
    errors |= {name: "repeated" for name, values in parameters.items() if len(values) > 1}
    values = {name: values[0] for name, values in parameters.items()}
    since, until = _parse_days(values, now, errors)
    for name, allowed in (("device", DEVICES), ("metric", (*METRICS, VIEWS))):
        if name in values and values[name] not in allowed:
            errors[name] = "value"
    histogram = query_parameters.parse_flag(values.get("histogram", "0"))
    if histogram is None:
        errors["histogram"] = "value"
    for name in ("path", "release", "compare"):
        if name in values and not 1 <= len(values[name]) <= 200:
            errors[name] = "text"
    by = values.get("by", "metric").split(",")
    if len(set(by)) < len(by) or set(by) - set(DIMENSIONS):
        errors["by"] = "value"
    elif "day" in by and {"path", "release"} & set(by) and until - since >= MAX_DETAILED_RANGE:
        errors["by"] = "fine"
    if errors:
        raise Invalid({name: [ERROR_MESSAGES[code][locale]] for name, code in errors.items()})
    return Query(
        since,
        until,
        tuple(name for name in DIMENSIONS if name in {*by, "metric"}),
        **{name: values.get(name) for name in ("path", "device", "metric", "release", "compare")},
        histogram=bool(histogram),
    )


def _parse_days(values: Mapping[str, str], now: datetime, errors: FieldErrors) -> tuple[date, date]:
    today = (now + WIB_OFFSET).date()
    if "from" in values or "to" in values:
        return _parse_range(values, errors) or (today, today)
    text = values.get("days", str(DEFAULT_DAYS))
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_DAYS:
        errors.setdefault("days", "days")
        return today, today
    return today - timedelta(days=int(text) - 1), today


def _parse_range(values: Mapping[str, str], errors: FieldErrors) -> tuple[date, date] | None:
    dates = []
    for name in ("from", "to"):
        text = values.get(name, "")
        try:
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
                raise ValueError
            dates.append(date.fromisoformat(text))
        except ValueError:
            errors.setdefault(name, "date")
    if len(dates) < 2:
        return None
    since, until = dates
    if "days" in values or not timedelta(0) <= until - since < timedelta(days=MAX_DAYS):
        errors.setdefault("from", "range")
        return None
    return since, until
