"""UptimeRobot's monitors: those declared in monitors.toml, those there are, and the difference.

The rule a newcomer would break: only monitors whose name begins with our prefix and our site are
ours. Any other is never changed and never removed, whatever it monitors.
"""

import tomllib
from dataclasses import asdict, dataclass, field
from html import unescape
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lib.problems import NotConfigured
from lib.settings import Settings
from ops.vendors.uptimerobot import Fields

FILE = Path(__file__).with_name("monitors.toml")
HIDDEN = "(hidden)"
CASE_SENSITIVE = 0  # as it is read and changed; it is created by its name

type Action = Literal["create", "change", "start", "remove", "leave"]


@dataclass(frozen=True, slots=True)
class Difference:
    field: str
    current: Any
    desired: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One change at UptimeRobot. fields: what is sent; it may hold a secret."""

    action: Action
    name: str
    id: int | None = None
    differences: tuple[Difference, ...] = ()
    fields: Fields = field(default_factory=dict)

    def to_json(self) -> Fields:
        """Without what is sent."""
        return {key: value for key, value in asdict(self).items() if key != "fields"}


@dataclass(frozen=True, slots=True)
class Declaration:
    """monitors: in the API's fields. unconfigured: names of those that need a setting which is
    not set; missing: these settings."""

    monitors: list[Fields]
    unconfigured: set[str]
    missing: list[str]


def name_prefix(site_url: str) -> str:
    return f"[ops {urlsplit(site_url).netloc}] "


def load_declared(settings: Settings) -> Declaration:
    document = tomllib.loads(FILE.read_text(encoding="utf-8"))
    declaration = Declaration([], set(), [])
    for entry in document["monitor"]:
        name = name_prefix(settings.site_url) + entry["name"]
        try:
            fields = _to_api_fields(settings, name, document["defaults"] | entry)
        except NotConfigured:
            declaration.unconfigured.add(name)
            declaration.missing.append(entry["bearer"])
        else:
            declaration.monitors.append(fields)
    return declaration


def _to_api_fields(settings: Settings, name: str, entry: Fields) -> Fields:
    fields: Fields = {
        "friendlyName": name,
        "type": "KEYWORD" if "keyword" in entry else "HTTP",
        "url": settings.site_url + entry["path"],
        "interval": entry["interval_s"],
        "timeout": entry["timeout_s"],
        "httpMethodType": "GET",  # HEAD when left out, and HEAD has no body to search
        "followRedirections": False,
        "successHttpResponseCodes": ["2xx"],  # 3xx too, when left out
    }
    if "keyword" in entry:
        fields |= {
            "keywordType": "ALERT_NOT_EXISTS",
            "keywordCaseType": CASE_SENSITIVE,
            "keywordValue": entry["keyword"],
        }
    if "bearer" in entry:
        token = getattr(settings, entry["bearer"].lower())
        fields["customHttpHeaders"] = {"Authorization": f"Bearer {token}"}
    return fields


def plan(monitors: list[Fields], declaration: Declaration, prefix: str) -> list[Step]:
    """The steps from the account's monitors to the declared ones. Others' are in none."""
    ours: dict[str, list[Fields]] = {}
    for monitor in sorted(monitors, key=lambda monitor: monitor["id"]):
        name = unescape(unescape(monitor["friendlyName"]))
        if name.startswith(prefix):
            ours.setdefault(name, []).append(monitor)
    steps = [
        step
        for declared in declaration.monitors
        for step in _steps_for_monitor(declared, ours.pop(declared["friendlyName"], []))
    ]
    for name, undeclared in ours.items():
        if name not in declaration.unconfigured:
            steps += [Step("leave", name, monitor["id"]) for monitor in undeclared]
    return steps


def _steps_for_monitor(declared: Fields, existing: list[Fields]) -> list[Step]:
    name = declared["friendlyName"]
    if not existing:
        return [Step("create", name, fields=declared)]
    first, *duplicates = existing
    steps = [Step("remove", name, duplicate["id"]) for duplicate in duplicates]
    if changes := differences(first, declared):
        steps.append(Step("change", name, first["id"], changes, declared))
    if first.get("status") == "PAUSED":
        steps.append(Step("start", name, first["id"]))
    return steps


def differences(monitor: Fields, declared: Fields) -> tuple[Difference, ...]:
    """Where a monitor is not as declared; values of headers are hidden."""
    changes = []
    for name, desired in declared.items():
        current = monitor.get(name)
        if _normalize(name, current, desired) == _normalize(name, desired, desired):
            continue
        if name == "customHttpHeaders":
            changes.append(Difference(name, HIDDEN if current else None, HIDDEN))
        else:
            changes.append(Difference(name, current, desired))
    if not monitor.get("assignedAlertContacts"):
        changes.append(Difference("assignedAlertContacts", "nobody", "everybody"))
    return tuple(changes)


def _normalize(name: str, value: Any, declared: Any) -> Any:
    """A value as it is compared: texts come back with HTML's escapes, lists in any order, headers
    with names in small letters and more of them than were sent."""
    if name == "customHttpHeaders":
        names = {key.lower() for key in declared}
        headers = {key.lower(): str(text) for key, text in (value or {}).items()}
        return {key: text for key, text in headers.items() if key in names}
    if isinstance(value, list):
        return sorted(value)
    return unescape(unescape(value)) if isinstance(value, str) else value
