"""The platform's own switches over HTTP: state, logs, crons, processes, and the page of them all.

A form of that page (home_page.py) is answered with the page again, a program with JSON.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs

from dev.edge.http_server import Request, Response, as_json
from dev.platform import home_page
from dev.vendors.fake_vendor import FakeVendor
from dev.vendors.fault_switch import InvalidFault


class Controlled(Protocol):
    """What the control server needs of the platform."""

    def state(self) -> dict[str, Any]: ...
    def logs(self, since: int = 0) -> list[dict[str, Any]]: ...
    def forget_logs(self) -> None: ...
    def cron(self, name: str) -> Response: ...
    def restart_functions(self) -> None: ...
    def functions(self) -> list[dict[str, Any]]: ...
    def crons(self) -> Iterable[Mapping[str, str]]: ...
    def stand_ins(self) -> Mapping[str, FakeVendor]: ...


def app(platform: Controlled) -> Callable[[Request], Response]:
    """GET / /state /logs?since=N /functions; DELETE /logs; POST /cron[/NAME] /switch
    /functions/restart."""

    def answer(request: Request) -> Response:
        path = request.path.strip("/")
        if request.method == "GET":
            response = _read(platform, request, path)
        else:
            response = _change(platform, request, path)
        return response or as_json({"error": f"no {request.method} {request.path} here"}, 404)

    return answer


def _read(platform: Controlled, request: Request, path: str) -> Response | None:
    match path:
        case "":
            return _home(platform, "")
        case "state":
            return as_json(platform.state())
        case "logs":
            return _logs(platform, request)
        case "functions":
            return as_json(platform.functions())
    return None


def _change(platform: Controlled, request: Request, path: str) -> Response | None:
    match (request.method, *path.split("/")):
        case ("DELETE", "logs"):
            platform.forget_logs()
            return as_json([])
        case ("POST", "functions", "restart"):
            platform.restart_functions()
            if _is_form(request):
                return _home(platform, "The next requests are cold starts.")
            return as_json(platform.functions())
        case ("POST", "switch"):
            return _home(platform, _switch(platform, _fields(request)))
        case ("POST", "cron", *rest):
            response = _cron(platform, request, "/".join(rest))
            return _home(platform, response.text) if _is_form(request) else response
    return None


def _home(platform: Controlled, notice: str) -> Response:
    switches = {name: vendor.fault() for name, vendor in platform.stand_ins().items()}
    return home_page.home(platform.state(), platform.crons(), switches, notice)


def _is_form(request: Request) -> bool:
    return request.headers.get("Content-Type", "") == "application/x-www-form-urlencoded"


def _fields(request: Request) -> dict[str, str]:
    fields = parse_qs(request.body.decode(errors="replace"))
    return {name: values[-1] for name, values in fields.items()}


def _switch(platform: Controlled, fields: Mapping[str, str]) -> str:
    """Set a stand-in's fault; the outcome in a sentence."""
    vendor = platform.stand_ins().get(fields.get("vendor", ""))
    if vendor is None:
        return "There is no such vendor."
    times, mode = fields.get("times", ""), fields.get("mode", "")
    try:
        vendor.switch(mode, times=int(times) if times else None)
    except InvalidFault as error:
        return f"Nothing was changed: {error}"
    except ValueError:
        return f"Nothing was changed: times is a number, not {times!r}"
    return f"{vendor.name}: {mode}"


def _logs(platform: Controlled, request: Request) -> Response:
    query = parse_qs(request.target.partition("?")[2])
    try:
        since = int(query.get("since", ["0"])[0])
    except ValueError:
        return as_json({"error": "since is a line number"}, 400)
    return as_json(platform.logs(since))


def _cron(platform: Controlled, request: Request, name: str) -> Response:
    if not name:
        try:
            fields = _fields(request) if _is_form(request) else request.json()
            name = str(fields["path"])
        except (ValueError, KeyError, TypeError):
            return as_json({"error": 'name the cron: /cron/NAME, or {"path": "/api/…"}'}, 400)
    try:
        answer = platform.cron(name)
    except LookupError as fault:
        return as_json({"error": str(fault)}, 404)
    try:
        body = json.loads(answer.text)
    except ValueError:
        body = answer.text
    return as_json({"status": answer.status, "body": body})
