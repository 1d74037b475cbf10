"""Vercel's REST API: a project's deployments, where its domains lead, its variables.

As documented (read 2026-11-24): v6 list, v13 get and redeploy, v1 rollback, v10 promote, v9 and
v10 variables; never tried on a live project. A rollback, a promotion or a redeployment whose
answer was lost is looked for before anybody asks again.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from lib.problems import NotConfigured
from ops.settings import OperatorSettings
from ops.vendors.http import TRANSIENT_STATUSES, ApiError, JsonApi

PAGE_SIZE = 50
PRODUCTION = "production"


STATUS_MEANINGS = {
    401: "the token is not authorized: VERCEL_API_TOKEN",
    402: "the plan does not allow it: Hobby rolls back to the previous deployment alone",
    403: "the token may not: VERCEL_API_TOKEN, VERCEL_TEAM_ID",
    404: "not found: VERCEL_PROJECT_ID, VERCEL_TEAM_ID, or the deployment's id",
    409: "another rollback or promotion is under way: `vercel rollback status`",
    422: "no candidate: it never served production, is not ready, or serves already",
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """state: QUEUED, BUILDING, READY, ERROR, CANCELED …; is_staged: built, but never served."""

    id: str
    name: str
    commit: str
    created_at: datetime
    state: str
    is_staged: bool
    is_rollback_candidate: bool
    meta: dict[str, str]

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """A deployment as v6 lists it, or as v13 shows it."""
        meta = body.get("meta") or {}
        return cls(
            body.get("id") or body["uid"],
            body.get("name", ""),
            meta.get("githubCommitSha", ""),
            datetime.fromtimestamp((body.get("createdAt") or body["created"]) / 1000, UTC),
            body.get("readyState") or body.get("state", ""),
            body.get("readySubstate") == "STAGED",
            bool(body.get("isRollbackCandidate")),
            meta,
        )


@dataclass(frozen=True, slots=True)
class AliasChange:
    """The last rollback or promotion; status: pending, in-progress, succeeded, failed, skipped."""

    deployment_id: str
    status: str
    requested_at: datetime


class Vercel:
    """One project, by its id or name."""

    def __init__(self, settings: OperatorSettings) -> None:
        if not settings.vercel_api_token:
            raise NotConfigured("VERCEL_API_TOKEN", "is not set")
        if not settings.vercel_project_id:
            raise NotConfigured("VERCEL_PROJECT_ID", "is not set")
        self.project = settings.vercel_project_id
        team = settings.vercel_team_id
        self._api = JsonApi(
            "Vercel",
            settings.vercel_api_url,
            token=settings.vercel_api_token,
            query={"teamId": team} if team else {},
            meanings=STATUS_MEANINGS,
        )
        self.close = self._api.close

    # -------------------------------------------------------------- reading

    def deployments(self, limit: int = PAGE_SIZE) -> list[Deployment]:
        """Production's, newest first."""
        query = {"projectId": self.project, "target": PRODUCTION, "limit": limit}
        listed = self._api.request_with_retries("GET", "/v6/deployments", query)["deployments"]
        return [Deployment.parse(body) for body in listed]

    def deployment(self, deployment_id: str) -> Deployment:
        path = f"/v13/deployments/{deployment_id}"
        return Deployment.parse(self._api.request_with_retries("GET", path))

    def production(self) -> tuple[str, AliasChange | None]:
        """The id of the deployment the domains lead to, and the last change of that."""
        project = self._api.request_with_retries("GET", f"/v9/projects/{self.project}")
        current = (project.get("targets") or {}).get(PRODUCTION) or {}
        last = project.get("lastAliasRequest")
        if not last:
            return current.get("id", ""), None
        at = datetime.fromtimestamp(last["requestedAt"] / 1000, UTC)
        return current.get("id", ""), AliasChange(last["toDeploymentId"], last["jobStatus"], at)

    # -------------------------------------------------------------- where the domains lead

    def rollback(self, deployment_id: str, reason: str) -> None:
        """Request that the domains lead there; it happens later. Raises ApiError."""
        path = f"/v1/projects/{self.project}/rollback/{deployment_id}"
        self._request_alias_change(path, deployment_id, {"description": reason[:200]})

    def promote(self, deployment_id: str) -> None:
        """Request that the domains lead there, and to later deployments. Raises ApiError."""
        path = f"/v10/projects/{self.project}/promote/{deployment_id}"
        self._request_alias_change(path, deployment_id, {})

    def _request_alias_change(self, path: str, deployment_id: str, query: dict[str, str]) -> None:
        now = datetime.now(UTC)
        started_at = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as Vercel's times
        try:
            self._api.request("POST", path, query, {})
        except ApiError as error:
            if error.http_status not in TRANSIENT_STATUSES:
                raise
            _, last = self.production()  # the answer was lost: was the request?
            if last is None or last.deployment_id != deployment_id:
                raise
            if last.requested_at < started_at:
                raise

    def redeploy(self, earlier: Deployment, mark: str) -> Deployment:
        """Build that commit again with the variables of now; `mark` finds it if cut off."""
        body = {
            "name": earlier.name,
            "deploymentId": earlier.id,
            "target": PRODUCTION,
            "meta": {"action": "redeploy", "alfaMark": mark},
        }
        existing = self.find_redeployment(mark)
        if existing is not None:
            return existing
        try:
            answer = self._api.request("POST", "/v13/deployments", {"forceNew": "1"}, body)
        except ApiError as error:
            existing = None if error.http_status else self.find_redeployment(mark)
            if existing is None:
                raise
            return existing
        return Deployment.parse(answer)

    def find_redeployment(self, mark: str) -> Deployment | None:
        for deployment in self.deployments():
            failed = deployment.state in ("ERROR", "CANCELED")
            if deployment.meta.get("alfaMark") == mark and not failed:
                return deployment
        return None

    # -------------------------------------------------------------- variables

    def _variables(self, key: str | None = None) -> list[dict[str, Any]]:
        """Production's, or those of one name."""
        listed = self._api.request_with_retries("GET", f"/v10/projects/{self.project}/env")["envs"]
        return [v for v in listed if PRODUCTION in v["target"] and key in (None, v["key"])]

    def get_variable(self, key: str) -> str | None:
        """What production's next deployment gets; None when it is not set, "?" where Vercel shows
        no value (only those of type plain are shown)."""
        for variable in self._variables(key):
            return str(variable.get("value", "")) if variable.get("type") == "plain" else "?"
        return None

    def set_variable(self, key: str, value: str, *, kind: str = "sensitive") -> None:
        """Give production's functions a value from their next deployment on; safe to repeat.

        kind: of a new variable; `plain` for one that is no secret and may be read again.
        """
        existing = self._variables(key)
        if not existing:
            body = {"key": key, "value": value, "type": kind, "target": [PRODUCTION]}
            path = f"/v10/projects/{self.project}/env"
            self._api.request_with_retries("POST", path, {"upsert": "true"}, body)
        for variable in existing:
            path = f"/v9/projects/{self.project}/env/{variable['id']}"
            self._api.request_with_retries("PATCH", path, {}, {"value": value})

    def variables_changed_since(self, time: datetime) -> dict[str, datetime]:
        """Production's variables that were set after it. Vercel does not list removed ones."""
        changed = {
            variable["key"]: datetime.fromtimestamp(variable["updatedAt"] / 1000, UTC)
            for variable in self._variables()
        }
        return {key: at for key, at in sorted(changed.items()) if at > time}

    def delete_variable(self, key: str) -> None:
        """Production's functions lack it from their next deployment on; safe to repeat."""
        for variable in self._variables(key):
            path = f"/v9/projects/{self.project}/env/{variable['id']}"
            self._api.request_with_retries("DELETE", path)
