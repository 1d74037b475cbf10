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
            given = request.json()
            if set(given) - set(SWITCHES) or given.get("lie", "") not in ("", *vercel_project.LIES):
                return as_json({"error": f"known: {SWITCHES}; lies: {vercel_project.LIES}"}, 400)
            for name, value in given.items():
                setattr(self.project, name, value)
        return as_json({name: getattr(self.project, name) for name in SWITCHES})

    def _answer(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return _refused(403, "forbidden")
        query = {name: each[-1] for name, each in parse_qs(urlsplit(request.target).query).items()}
        body = request.parsed_body()
        given = body if isinstance(body, dict) else {}
        if request.path == PURGE and request.method == "POST":
            return self._purge(given, query)
        for method, path, does in ROUTES:
            found = re.fullmatch(path, request.path)
            if method == request.method and found:
                try:
                    with self.project.lock:
                        return does(Asked(self.project, found.groups(), query, given))
                except Refusal as refusal:
                    return _refused(refusal.status, refusal.code, refusal.message)
        return _refused(404, "not_found")

    def _purge(self, given: dict[str, Any], query: dict[str, str]) -> Response:
        tags = given.get("tags")
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


class Asked(NamedTuple):
    """names: what the path's pattern caught."""

    project: Project
    names: tuple[str, ...]
    query: dict[str, str]
    given: dict[str, Any]


def _list(asked: Asked) -> Response:
    chosen = [
        one
        for one in vercel_project.newest_first(asked.project.deployments)
        if asked.query.get("target", one.target) == one.target
        and one.created < int(asked.query.get("until", 2**53))
        and asked.query.get("projectId", asked.project.id) in (asked.project.id, asked.project.name)
    ]
    limit = min(int(asked.query.get("limit", "20")), 100)
    listed, rest = chosen[:limit], chosen[limit:]
    ends = {
        "count": len(listed),
        "next": listed[-1].created if rest else None,
        "prev": listed[0].created if listed else None,
    }
    return as_json(
        {"pagination": ends, "deployments": [_shown(asked.project, one) for one in listed]}
    )


def _get(asked: Asked) -> Response:
    one = asked.project.find(asked.names[0])
    return as_json({**_shown(asked.project, one), "id": one.id, "aliasFinal": None})


def _create(asked: Asked) -> Response:
    if not asked.given.get("name") or not asked.given.get("deploymentId"):
        raise Refusal(400, "bad_request", "Missing required property `name`, or nothing to deploy")
    target = asked.given.get("target") or "preview"
    made = asked.project.redeploy(
        asked.given["deploymentId"], target, asked.given.get("meta") or {}
    )
    return as_json({**_shown(asked.project, made), "id": made.id})


def _project(asked: Asked) -> Response:
    _named(asked.project, asked.names[0])
    current = {**_shown(asked.project, asked.project.current), "id": asked.project.current.id}
    return as_json(
        {
            "id": asked.project.id,
            "name": asked.project.name,
            "accountId": "team_local",
            "targets": {"production": current},
            "lastAliasRequest": asked.project.last_alias_request,
        }
    )


def _rollback(asked: Asked) -> Response:
    _named(asked.project, asked.names[0])
    asked.project.rollback(asked.names[1])
    return Response(201)


def _promote(asked: Asked) -> Response:
    _named(asked.project, asked.names[0])
    asked.project.promote(asked.names[1])
    return Response(201)


def _variables(asked: Asked) -> Response:
    _named(asked.project, asked.names[0])
    return as_json({"envs": [_written(one) for one in asked.project.variables.values()]})


def _keep(asked: Asked) -> Response:
    _named(asked.project, asked.names[0])
    if not all(isinstance(asked.given.get(name), str) for name in ("key", "value", "type")):
        raise Refusal(400, "bad_request", "Missing required property")
    made = asked.project.keep(asked.given, upsert=asked.query.get("upsert") == "true")
    return as_json({"created": _written(made), "failed": []}, 201)


def _change(asked: Asked) -> Response:
    _named(asked.project, asked.names[0])
    return as_json(
        _written(asked.project.change(asked.project.variable(asked.names[1]), asked.given))
    )


def _drop(asked: Asked) -> Response:
    _named(asked.project, asked.names[0])
    return as_json(_written(asked.project.drop(asked.names[1])))


ROUTES: tuple[tuple[str, str, Callable[[Asked], Response]], ...] = (
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


def _named(project: Project, given: str) -> None:
    if given not in (project.id, project.name):
        raise Refusal(404, "not_found", "Project not found")


def _shown(project: Project, one: Deployment) -> dict[str, Any]:
    """A deployment as the list has it; GET adds its id."""
    candidate = one.promoted and one.state == "READY" and one is not project.current
    return {
        "uid": one.id,
        "name": project.name,
        "projectId": project.id,
        "url": f"{project.name}-{one.id[-9:]}.vercel.app",
        "created": one.created,
        "createdAt": one.created,
        "source": one.source,
        "state": one.state,
        "readyState": one.state,
        "readySubstate": "PROMOTED" if one.promoted else "STAGED",
        "type": "LAMBDAS",
        "creator": {"uid": "local", "username": "local"},
        "target": one.target if one.target == "production" else None,
        "inspectorUrl": None,
        "isRollbackCandidate": candidate,
        "aliasAssigned": one is project.current,
        "meta": {"githubCommitSha": one.commit, **one.meta},
    }


def _written(one: Variable) -> dict[str, Any]:
    """A variable as it is listed: a sensitive value is never told."""
    value = "" if one.type == "sensitive" else one.value
    return {
        "id": one.id,
        "key": one.key,
        "value": value,
        "type": one.type,
        "target": one.target,
        "createdAt": one.created,
        "updatedAt": one.updated,
    }


def _refused(status: int, code: str, message: str | None = None) -> Response:
    return as_json({"error": {"code": code, "message": message or code}}, status)
