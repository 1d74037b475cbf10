"""The part of Vercel's API that `vercel deploy` calls: a deployment made of uploaded files.

As CLI 64.0.2 asks it (seen 2026-11-28; never compared with the live one): user, team and project
are read; `POST /v13/deployments` lists every file by its SHA-1 and is refused with those that are
missing; each is sent to `POST /v2/files`; the deployment is asked for again, and is ready.
Further: the variables of `vercel env pull` (`GET /v3/env/pull/{project}/{target}`).
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dev.edge.http_server import Request, Response, Server, as_json

TEAM, PROJECT, NAME = "team_local", "prj_local", "alfa-beauty"
DEPLOYMENT = "dpl_uploaded"


@dataclass(slots=True)
class Uploaded:
    """One deployment as it was asked for. files: path -> content; prebuilt: built by the caller."""

    target: str | None
    prebuilt: bool
    settings: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


class DeployApi:
    """Serves until close(). token: what callers must present; variables: the project's."""

    def __init__(self, token: str, variables: Mapping[str, str] | None = None) -> None:
        self._token = token
        self.variables = dict(variables or {})
        self._lock = threading.Lock()
        self._files: dict[str, bytes] = {}
        self.deployments: list[Uploaded] = []
        self.unknown: list[str] = []
        self._server = Server(self._answer)
        self.url = self._server.url

    def close(self) -> None:
        self._server.close()

    def _answer(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return _refused(403, "forbidden", "Not authorized")
        with self._lock:
            return self._work(request)

    def _work(self, request: Request) -> Response:
        operation = f"{request.method} {request.path}"
        if operation == "POST /v2/files":
            return self._upload(request)
        if operation == "POST /v13/deployments":
            return self._deploy(request)
        if operation in (f"GET /v13/deployments/{DEPLOYMENT}", "GET /v13/deployments/get"):
            return as_json(self._deployment_to_json())
        if operation.startswith(f"GET /v3/env/pull/{PROJECT}"):
            return as_json({"env": self.variables, "buildEnv": {}})
        if operation == f"POST /v10/projects/{PROJECT}/env":
            return self._set(request)
        known = {
            "GET /v2/user": {"user": {"id": "u1", "email": "ops@example.com", "username": "ops",
                                      "version": "northstar", "defaultTeamId": TEAM}},
            f"GET /teams/{TEAM}": {"id": TEAM, "slug": "alfa", "name": "Alfa"},
            f"GET /v9/projects/{PROJECT}": {"id": PROJECT, "name": NAME, "accountId": TEAM,
                                            "framework": None},
            f"GET /v10/projects/{PROJECT}/env": {"envs": []},
            f"GET /projects/{PROJECT}/custom-environments": {"environments": []},
            f"GET /v3/now/deployments/{DEPLOYMENT}/events": [],
            f"GET /v1/deployments/{DEPLOYMENT}/builds": {"builds": []},
        }  # fmt: skip
        if operation in known:
            return as_json(known[operation])
        self.unknown.append(operation)
        return _refused(404, "not_found", f"nothing at {operation}")

    def _set(self, request: Request) -> Response:
        variables = request.json()
        for variable in variables if isinstance(variables, list) else [variables]:
            self.variables[variable["key"]] = variable["value"]
        return as_json({"created": variables, "failed": []}, 201)

    def _upload(self, request: Request) -> Response:
        digest = request.headers.get("x-vercel-digest") or request.headers.get("x-now-digest", "")
        if hashlib.sha1(request.body).hexdigest() != digest:
            return _refused(400, "bad_digest", "The digest is not the file's")
        self._files[digest] = request.body
        return as_json({"urls": []})

    def _deploy(self, request: Request) -> Response:
        body = request.json()
        listed = [file for file in body.pop("files") if "sha" in file]  # else an empty folder
        missing = sorted({file["sha"] for file in listed} - set(self._files))
        if missing:
            words = {"code": "missing_files", "message": "Missing files", "missing": missing}
            return Response(400, json.dumps({"error": words}).encode())
        deployment = Uploaded(body.get("target"), "prebuilt=1" in request.target, body)
        deployment.files = {file["file"]: self._files[file["sha"]] for file in listed}
        self.deployments.append(deployment)
        return as_json(self._deployment_to_json())

    def _deployment_to_json(self) -> dict[str, Any]:
        return {
            "id": DEPLOYMENT, "name": NAME, "url": f"{NAME}-1.vercel.app", "readyState": "READY",
            "status": "READY", "aliasAssigned": 1, "alias": [f"{NAME}.vercel.app"],
            "target": self.deployments[-1].target, "projectId": PROJECT, "ownerId": TEAM,
            "inspectorUrl": f"https://vercel.com/alfa/{NAME}/1", "createdAt": 1, "public": False,
            "routes": None, "regions": ["sin1"], "version": 2, "meta": {},
        }  # fmt: skip


def _refused(status: int, code: str, message: str) -> Response:
    return as_json({"error": {"code": code, "message": message}}, status)
