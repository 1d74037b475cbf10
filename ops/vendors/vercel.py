"""Vercel's REST API: a project's deployments, where its domains lead, its variables.

As documented (read 2026-11-24): v6 list, v13 get and redeploy, v1 rollback, v10 promote, v9 and
v10 variables; never tried on a live project. A rollback, a promotion or a redeployment whose
answer was lost is looked for before anybody asks again.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from lib.problems import NotConfigured
from lib.settings import Settings
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
    """state: QUEUED, BUILDING, READY, ERROR, CANCELED …; staged: built, but never served."""

    id: str
    name: str
    commit: str
    created_at: datetime
    state: str
    is_staged: bool
    is_rollback_candidate: bool
    meta: dict[str, str]

    @classmethod
    def parse(cls, given: dict[str, Any]) -> Self:
        meta = given.get("meta") or {}
        return cls(
            given.get("id") or given["uid"],
            given.get("name", ""),
            meta.get("githubCommitSha", ""),
            datetime.fromtimestamp((given.get("createdAt") or given["created"]) / 1000, UTC),
            given.get("readyState") or given.get("state", ""),
            given.get("readySubstate") == "STAGED",
            bool(given.get("isRollbackCandidate")),
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

    def __init__(self, settings: Settings) -> None:
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
        asked = {"projectId": self.project, "target": PRODUCTION, "limit": limit}
        listed = self._api.request_with_retries("GET", "/v6/deployments", asked)["deployments"]
        return [Deployment.parse(one) for one in listed]

    def deployment(self, deployment_id: str) -> Deployment:
        return Deployment.parse(
            self._api.request_with_retries("GET", f"/v13/deployments/{deployment_id}")
        )

    def production(self) -> tuple[str, AliasChange | None]:
        """The deployment the domains lead to, and the last move."""
        found = self._api.request_with_retries("GET", f"/v9/projects/{self.project}")
        current = (found.get("targets") or {}).get(PRODUCTION) or {}
        asked = found.get("lastAliasRequest")
        if not asked:
            return current.get("id", ""), None
        at = datetime.fromtimestamp(asked["requestedAt"] / 1000, UTC)
        move = AliasChange(asked["toDeploymentId"], asked["jobStatus"], at)
        return current.get("id", ""), move

    # -------------------------------------------------------------- moving the domains

    def rollback(self, deployment_id: str, reason: str) -> None:
        """Ask that the domains lead there; it happens later. Raises Refused."""
        path = f"/v1/projects/{self.project}/rollback/{deployment_id}"
        self._request_alias_change(path, deployment_id, {"description": reason[:200]})

    def promote(self, deployment_id: str) -> None:
        """Ask that the domains lead there, and to every later deployment. Raises Refused."""
        self._request_alias_change(
            f"/v10/projects/{self.project}/promote/{deployment_id}", deployment_id, {}
        )

    def _request_alias_change(self, path: str, deployment_id: str, query: dict[str, str]) -> None:
        asked_at = datetime.now(UTC)
        try:
            self._api.request("POST", path, query, {})
        except ApiError as refused:
            if refused.status not in TRANSIENT_STATUSES:
                raise
            _, move = self.production()  # the answer was lost: was the request?
            if (
                move is None
                or move.deployment_id != deployment_id
                or move.requested_at
                < asked_at.replace(microsecond=asked_at.microsecond // 1000 * 1000)
            ):
                raise

    def redeploy(self, earlier: Deployment, mark: str) -> Deployment:
        """Build that commit again with the variables of now; `mark` finds it if cut off."""
        body = {
            "name": earlier.name,
            "deploymentId": earlier.id,
            "target": PRODUCTION,
            "meta": {"action": "redeploy", "alfaMark": mark},
        }
        if (made := self.find_redeployment(mark)) is None:
            try:
                return Deployment.parse(
                    self._api.request("POST", "/v13/deployments", {"forceNew": "1"}, body)
                )
            except ApiError as refused:
                if refused.status:
                    raise
                if (made := self.find_redeployment(mark)) is None:
                    raise
        return made

    def find_redeployment(self, mark: str) -> Deployment | None:
        for one in self.deployments():
            if one.meta.get("alfaMark") == mark and one.state not in ("ERROR", "CANCELED"):
                return one
        return None

    # -------------------------------------------------------------- variables

    def get_variable(self, key: str) -> str | None:
        """What production's next deployment gets; None when it is not set, "?" where Vercel tells
        no value (only those of type plain are told)."""
        listed = self._api.request_with_retries("GET", f"/v10/projects/{self.project}/env")["envs"]
        for one in listed:
            if one["key"] == key and PRODUCTION in one["target"]:
                return str(one.get("value", "")) if one.get("type") == "plain" else "?"
        return None

    def set_variable(self, key: str, value: str, *, kind: str = "sensitive") -> None:
        """Give production's functions a value from their next deployment on; safe to repeat.

        kind: of a new variable; `plain` for one that is no secret and may be read again.
        """
        listed = self._api.request_with_retries("GET", f"/v10/projects/{self.project}/env")["envs"]
        known = [one for one in listed if one["key"] == key and PRODUCTION in one["target"]]
        if not known:
            body = {"key": key, "value": value, "type": kind, "target": [PRODUCTION]}
            path = f"/v10/projects/{self.project}/env"
            self._api.request_with_retries("POST", path, {"upsert": "true"}, body)
            return
        for one in known:
            path = f"/v9/projects/{self.project}/env/{one['id']}"
            self._api.request_with_retries("PATCH", path, {}, {"value": value})

    def variables_changed_since(self, moment: datetime) -> dict[str, datetime]:
        """Production's variables that were set after it. Vercel does not list removed ones."""
        listed = self._api.request_with_retries("GET", f"/v10/projects/{self.project}/env")["envs"]
        changed = {
            one["key"]: datetime.fromtimestamp(one["updatedAt"] / 1000, UTC)
            for one in listed
            if PRODUCTION in one["target"]
        }
        return {key: at for key, at in sorted(changed.items()) if at > moment}

    def delete_variable(self, key: str) -> None:
        """Take it from production's functions, from their next deployment on; safe to repeat."""
        listed = self._api.request_with_retries("GET", f"/v10/projects/{self.project}/env")["envs"]
        for one in listed:
            if one["key"] == key and PRODUCTION in one["target"]:
                self._api.request_with_retries(
                    "DELETE", f"/v9/projects/{self.project}/env/{one['id']}"
                )
