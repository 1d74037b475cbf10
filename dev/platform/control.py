"""The platform's own switches over HTTP: state, logs, crons, processes."""

import json
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import parse_qs

from dev.edge.http_server import Request, Response, as_json


class Controlled(Protocol):
    """What the control server needs of the platform."""

    def state(self) -> dict[str, Any]: ...
    def logs(self, since: int = 0) -> list[dict[str, Any]]: ...
    def forget_logs(self) -> None: ...
    def cron(self, name: str) -> Response: ...
    def restart_functions(self) -> None: ...
    def functions(self) -> list[dict[str, Any]]: ...


def app(platform: Controlled) -> Callable[[Request], Response]:
    """GET /state /logs?since=N /functions; DELETE /logs; POST /cron[/NAME] /functions/restart."""

    def answer(request: Request) -> Response:
        match (request.method, *request.path.strip("/").split("/")):
            case ("GET", "" | "state"):
                return as_json(platform.state())
            case ("GET", "logs"):
                return _logs(platform, request)
            case ("DELETE", "logs"):
                platform.forget_logs()
                return as_json([])
            case ("GET", "functions"):
                return as_json(platform.functions())
            case ("POST", "functions", "restart"):
                platform.restart_functions()
                return as_json(platform.functions())
            case ("POST", "cron", *rest):
                return _cron(platform, request, "/".join(rest))
        return as_json({"error": f"no {request.method} {request.path} here"}, 404)

    return answer


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
            name = str(request.json()["path"])
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
