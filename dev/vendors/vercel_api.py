"""Vercel's REST API as documented (read 2026-11-24; never compared with the live one).

The CDN's purge by tag, and of one project: deployments (v6 list, v13 get and redeploy), instant
rollback (v1) and promotion (v10), both asynchronous and followed by the project's
`lastAliasRequest` as Vercel's own CLI does, and variables (v9, v10), whose values are sensitive:
written, never read. `/_project` shows and sets what only a test may: plan, delays, a lie.
"""

import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages, vercel_project
from dev.vendors.fake_vendor import Pause
from dev.vendors.vercel_project import Deployment, Project, Refusal, Variable

PURGE = "/v1/edge-cache/invalidate-by-tags"
SWITCHES = ("alias_s", "build_s", "plan", "lie")


class VercelApi:
    name = "Vercel"

    def __init__(
        self, token: str, live: Callable[[Deployment], None] = lambda _deployment: None
    ) -> None:
        self._token = token
        self._lock = threading.Lock()
        self._purged: list[str] = []
        self.project = Project(live)

    def respond(self, request: Request, pause: Pause) -> Response:
        response = self._answer(request)
        pause()
        return response

    def failure(self, request: Request, status: int) -> Response:
        return _refused(status, "internal_server_error")

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        body = {"error": {"code": "rate_limited", "message": "Too many requests"}}
        return as_json(body, 429, retry_after=str(retry_after_s))

    def describe(self, request: Request) -> Any:
        body = request.parsed_body()
        return {**body, "value": "…"} if isinstance(body, dict) and "value" in body else body

    def forget(self) -> None:
        with self._lock:
            self._purged.clear()
        self.project.forget()

    def close(self) -> None:
        self.project.close()

    def page(self, request: Request) -> Response | None:
        if request.path == "/_project":
            return self._switches(request)
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        lead = f"{self.project.current.id} serves; {len(self._purged)} tags purged."
        return pages.page("Vercel's API", lead, ())

    def _switches(self, request: Request) -> Response:
        if request.method == "POST":
            settings = request.json()
            if set(settings) - set(SWITCHES) or settings.get("lie", "") not in (
                "",
                *vercel_project.LIES,
            ):
                return as_json({"error": f"known: {SWITCHES}; lies: {vercel_project.LIES}"}, 400)
            for name, value in settings.items():
                setattr(self.project, name, value)
        return as_json({name: getattr(self.project, name) for name in SWITCHES})

    def _answer(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return _refused(403, "forbidden")
        query = {name: each[-1] for name, each in parse_qs(urlsplit(request.target).query).items()}
        body = request.parsed_body()
        body_fields = body if isinstance(body, dict) else {}
        if request.path == PURGE and request.method == "POST":
            return self._purge(body_fields, query)
        for method, path, does in ROUTES:
            match = re.fullmatch(path, request.path)
            if method == request.method and match:
                try:
                    with self.project.lock:
                        return does(Call(self.project, match.groups(), query, body_fields))
                except Refusal as refusal:
                    return _refused(refusal.status, refusal.code, refusal.message)
        return _refused(404, "not_found")

    def _purge(self, body_fields: dict[str, Any], query: dict[str, str]) -> Response:
        tags = body_fields.get("tags")
        if isinstance(tags, str):
            tags = tags.split(",")
        sound = isinstance(tags, list) and all(
            isinstance(tag, str) and 0 < len(tag) <= 256 for tag in tags
        )
        if not sound or not 1 <= len(tags or ()) <= 16 or "projectIdOrName" not in query:
            return _refused(400, "bad_request")
        with self._lock:
            self._purged += tags or []
        return as_json({}, 200)


class Call(NamedTuple):
    """names: what the path's pattern caught."""

    project: Project
    names: tuple[str, ...]
    query: dict[str, str]
    fields: dict[str, Any]


def _list(call: Call) -> Response:
    chosen = [
        deployment
        for deployment in vercel_project.newest_first(call.project.deployments)
        if call.query.get("target", deployment.target) == deployment.target
        and deployment.created < int(call.query.get("until", 2**53))
        and call.query.get("projectId", call.project.id) in (call.project.id, call.project.name)
    ]
    limit = min(int(call.query.get("limit", "20")), 100)
    listed, rest = chosen[:limit], chosen[limit:]
    ends = {
        "count": len(listed),
        "next": listed[-1].created if rest else None,
        "prev": listed[0].created if listed else None,
    }
    return as_json(
        {
            "pagination": ends,
            "deployments": [_deployment_to_json(call.project, deployment) for deployment in listed],
        }
    )


def _get(call: Call) -> Response:
    deployment = call.project.find(call.names[0])
    return as_json(
        {**_deployment_to_json(call.project, deployment), "id": deployment.id, "aliasFinal": None}
    )


def _create(call: Call) -> Response:
    if not call.fields.get("name") or not call.fields.get("deploymentId"):
        raise Refusal(400, "bad_request", "Missing required property `name`, or nothing to deploy")
    target = call.fields.get("target") or "preview"
    deployment = call.project.redeploy(
        call.fields["deploymentId"], target, call.fields.get("meta") or {}
    )
    return as_json({**_deployment_to_json(call.project, deployment), "id": deployment.id})


def _project(call: Call) -> Response:
    _named(call.project, call.names[0])
    current = {
        **_deployment_to_json(call.project, call.project.current),
        "id": call.project.current.id,
    }
    return as_json(
        {
            "id": call.project.id,
            "name": call.project.name,
            "accountId": "team_local",
            "targets": {"production": current},
            "lastAliasRequest": call.project.last_alias_request,
        }
    )


def _rollback(call: Call) -> Response:
    _named(call.project, call.names[0])
    call.project.rollback(call.names[1])
    return Response(201)


def _promote(call: Call) -> Response:
    _named(call.project, call.names[0])
    call.project.promote(call.names[1])
    return Response(201)


def _variables(call: Call) -> Response:
    _named(call.project, call.names[0])
    return as_json({"envs": [_written(variable) for variable in call.project.variables.values()]})


def _keep(call: Call) -> Response:
    _named(call.project, call.names[0])
    if not all(isinstance(call.fields.get(name), str) for name in ("key", "value", "type")):
        raise Refusal(400, "bad_request", "Missing required property")
    variable = call.project.keep(call.fields, upsert=call.query.get("upsert") == "true")
    return as_json({"created": _written(variable), "failed": []}, 201)


def _change(call: Call) -> Response:
    _named(call.project, call.names[0])
    return as_json(_written(call.project.change(call.project.variable(call.names[1]), call.fields)))


def _drop(call: Call) -> Response:
    _named(call.project, call.names[0])
    return as_json(_written(call.project.drop(call.names[1])))


ROUTES: tuple[tuple[str, str, Callable[[Call], Response]], ...] = (
    ("GET", r"/v6/deployments", _list),
    ("GET", r"/v13/deployments/([^/]+)", _get),
    ("POST", r"/v13/deployments", _create),
    ("GET", r"/v9/projects/([^/]+)", _project),
    ("POST", r"/v1/projects/([^/]+)/rollback/([^/]+)", _rollback),
    ("POST", r"/v10/projects/([^/]+)/promote/([^/]+)", _promote),
    ("GET", r"/v10/projects/([^/]+)/env", _variables),
    ("POST", r"/v10/projects/([^/]+)/env", _keep),
    ("PATCH", r"/v9/projects/([^/]+)/env/([^/]+)", _change),
    ("DELETE", r"/v9/projects/([^/]+)/env/([^/]+)", _drop),
)


def _named(project: Project, name: str) -> None:
    if name not in (project.id, project.name):
        raise Refusal(404, "not_found", "Project not found")


def _deployment_to_json(project: Project, deployment: Deployment) -> dict[str, Any]:
    """A deployment as the list has it; GET adds its id."""
    candidate = (
        deployment.promoted and deployment.state == "READY" and deployment is not project.current
    )
    return {
        "uid": deployment.id,
        "name": project.name,
        "projectId": project.id,
        "url": f"{project.name}-{deployment.id[-9:]}.vercel.app",
        "created": deployment.created,
        "createdAt": deployment.created,
        "source": deployment.source,
        "state": deployment.state,
        "readyState": deployment.state,
        "readySubstate": "PROMOTED" if deployment.promoted else "STAGED",
        "type": "LAMBDAS",
        "creator": {"uid": "local", "username": "local"},
        "target": deployment.target if deployment.target == "production" else None,
        "inspectorUrl": None,
        "isRollbackCandidate": candidate,
        "aliasAssigned": deployment is project.current,
        "meta": {"githubCommitSha": deployment.commit, **deployment.meta},
    }


def _written(variable: Variable) -> dict[str, Any]:
    """A variable as it is listed: a sensitive value is never told."""
    value = "" if variable.type == "sensitive" else variable.value
    return {
        "id": variable.id,
        "key": variable.key,
        "value": value,
        "type": variable.type,
        "target": variable.target,
        "createdAt": variable.created,
        "updatedAt": variable.updated,
    }


def _refused(status: int, code: str, message: str | None = None) -> Response:
    return as_json({"error": {"code": code, "message": message or code}}, status)
