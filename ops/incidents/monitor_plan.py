"""What UptimeRobot should watch, what it does watch, and the steps from one to the other.

The rule a newcomer would break: only monitors whose name begins with our mark and our site are
ours. Any other is never changed and never removed, whatever it watches.
"""

import tomllib
from dataclasses import asdict, dataclass, field
from html import unescape
from typing import Any, Literal
from urllib.parse import urlsplit

from lib.problems import NotConfigured
from lib.settings import Settings
from ops.vendors.uptimerobot import Fields

HIDDEN = "(hidden)"
CASE_SENSITIVE = 0  # as it is read, and changed; created by its name

type Action = Literal["create", "change", "start", "remove", "leave"]


@dataclass(frozen=True, slots=True)
class Difference:
    field: str
    held: Any
    wanted: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to be done to bring UptimeRobot to the file."""

    action: Action
    name: str
    id: int | None = None
    differences: tuple[Difference, ...] = ()
    fields: Fields = field(default_factory=dict)  # what is sent; it may hold a secret

    def to_json(self) -> Fields:
        """The step without what is sent."""
        return {key: value for key, value in asdict(self).items() if key != "fields"}


# ------------------------------------------------------------------ what should be


def name_prefix(site_url: str) -> str:
    """What the names of our monitors of this site begin with."""
    return f"[ops {urlsplit(site_url).netloc}] "


def load_declared(settings: Settings, text: str) -> tuple[list[Fields], list[str]]:
    """The monitors of the file in the API's fields; and the settings for want of which some are
    left out."""
    file = tomllib.loads(text)
    monitors, missing = [], []
    for told in file["monitor"]:
        try:
            monitors.append(_to_api_fields(settings, file["defaults"] | told))
        except NotConfigured:
            missing.append(told["bearer"])
    return monitors, missing


def _to_api_fields(settings: Settings, told: Fields) -> Fields:
    fields: Fields = {
        "friendlyName": name_prefix(settings.site_url) + told["name"],
        "type": "KEYWORD" if "keyword" in told else "HTTP",
        "url": settings.site_url + told["path"],
        "interval": told["interval_s"],
        "timeout": told["timeout_s"],
        "httpMethodType": "GET",  # HEAD when left out, and HEAD has no body to search
        "followRedirections": False,
        "successHttpResponseCodes": ["2xx"],  # 3xx too, when left out
    }
    if "keyword" in told:
        fields |= {
            "keywordType": "ALERT_NOT_EXISTS",
            "keywordCaseType": CASE_SENSITIVE,
            "keywordValue": told["keyword"],
        }
    if "bearer" in told:
        token = getattr(settings, told["bearer"].lower())
        fields["customHttpHeaders"] = {"Authorization": f"Bearer {token}"}
    return fields


# ------------------------------------------------------------------ what is, and the way there


def differences(held: Fields, wanted: Fields) -> tuple[Difference, ...]:
    """Where a monitor is not as declared; headers' values are hidden."""
    found = []
    for name, value in wanted.items():
        there = held.get(name)
        if _normalize(name, there, value) == _normalize(name, value, value):
            continue
        secret = name == "customHttpHeaders"
        found.append(
            Difference(
                name,
                (HIDDEN if there else None) if secret else there,
                HIDDEN if secret else value,
            )
        )
    if not held.get("assignedAlertContacts"):
        found.append(Difference("assignedAlertContacts", "nobody", "everybody"))
    return tuple(found)


def _normalize(name: str, value: Any, wanted: Any) -> Any:
    """A value as it is compared: texts come back with HTML's escapes, lists in any order, headers
    with names in small letters and more of them than were sent."""
    if name == "customHttpHeaders":
        ours = {key.lower() for key in wanted}
        there = {key.lower(): str(text) for key, text in (value or {}).items()}
        return {key: text for key, text in there.items() if key in ours}
    if isinstance(value, list):
        return sorted(value)
    return unescape(unescape(value)) if isinstance(value, str) else value


def plan(held: list[Fields], wanted: list[Fields], kept: set[str], prefix: str) -> list[Step]:
    """The steps from what UptimeRobot holds to what is wanted. Nothing foreign is in them.

    kept: names that are declared, but can not be compared just now.
    """
    ours: dict[str, list[Fields]] = {}
    for monitor in sorted(held, key=lambda monitor: monitor["id"]):
        name = unescape(unescape(monitor["friendlyName"]))
        if name.startswith(prefix):
            ours.setdefault(name, []).append(monitor)
    steps = [
        step
        for fields in wanted
        for step in _steps_for_monitor(fields, ours.pop(fields["friendlyName"], []))
    ]
    for name, rest in ours.items():
        if name not in kept:
            steps += [Step("leave", name, monitor["id"]) for monitor in rest]
    return steps


def _steps_for_monitor(wanted: Fields, held: list[Fields]) -> list[Step]:
    name = wanted["friendlyName"]
    if not held:
        return [Step("create", name, fields=wanted)]
    first, *doubles = held
    steps = [Step("remove", name, double["id"]) for double in doubles]
    if differing := differences(first, wanted):
        steps.append(Step("change", name, first["id"], differing, wanted))
    if first.get("status") == "PAUSED":
        steps.append(Step("start", name, first["id"]))
    return steps
