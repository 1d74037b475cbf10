"""One Vercel project on this machine: its variables, its deployments, where its domains lead.

A deployment keeps the variables it was built with. `live` is called with the deployment whose
functions the domains lead to from now on: the platform then really runs them.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LIES = ("rollback_never_arrives", "rollback_fails", "build_fails", "env_is_not_kept")


class Refusal(Exception):
    """An answer of the API that is none of the good ones."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(slots=True)
class Deployment:
    """created: Unix milliseconds. environ: the variables as they were when it was built."""

    id: str
    commit: str
    environ: dict[str, str]
    created: int
    source: str = "git"
    state: str = "READY"
    promoted: bool = False
    target: str = "production"
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Variable:
    id: str
    key: str
    value: str
    type: str
    target: list[str]
    created: int
    updated: int


class Project:
    """id and name as the platform gives them to functions; plan: "pro" or "hobby"."""

    id = "prj_local"
    name = "alfa-beauty"

    def __init__(self, live: Callable[[Deployment], None]) -> None:
        self._live = live
        self.lock = threading.RLock()
        self._timers: list[threading.Timer] = []
        self._first: tuple[dict[str, str], str] = ({}, "")
        self.begin({}, "")

    def begin(self, environ: Mapping[str, str], commit: str) -> None:
        """As new: one deployment, which serves; its variables are the project's."""
        self._first = dict(environ), commit
        self.alias_s, self.build_s, self.plan, self.lie = 0.1, 0.1, "pro", ""
        self.auto_assign = True
        self.last_alias_request: dict[str, Any] | None = None
        now = clock_ms()
        self.variables = {
            key: Variable(made_id("env"), key, value, "sensitive", ["production"], now, now)
            for key, value in environ.items()
        }
        first = Deployment("dpl_local", commit, dict(environ), now, promoted=True)
        self.deployments = [first]
        self.current = first

    def forget(self) -> None:
        """Back to the first deployment, which serves again if another did."""
        with self.lock:
            self.close()
            moved = self.current.id != "dpl_local"
            self.begin(*self._first)
            if moved:
                self._live(self.current)

    def close(self) -> None:
        with self.lock:
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()

    # -------------------------------------------------------------- deployments

    def find(self, deployment_id: str) -> Deployment:
        for deployment in self.deployments:
            if deployment.id == deployment_id:
                return deployment
        raise Refusal(404, "not_found", "Deployment not found")

    def push(self, commit: str, *, meta: Mapping[str, str] | None = None) -> Deployment:
        """What a push of `commit` to the production branch sets off."""
        return self._build(Deployment("", commit, {}, 0, meta=dict(meta or {})))

    def redeploy(self, deployment_id: str, target: str, meta: Mapping[str, str]) -> Deployment:
        """Build an earlier deployment's commit again, with the variables of now."""
        commit = self.find(deployment_id).commit
        deployment = Deployment("", commit, {}, 0, "redeploy", target=target, meta=dict(meta))
        return self._build(deployment)

    def _build(self, deployment: Deployment) -> Deployment:
        deployment.id, deployment.created = made_id("dpl"), clock_ms()
        deployment.environ = {variable.key: variable.value for variable in self.variables.values()}
        deployment.state = "QUEUED"
        self.deployments.append(deployment)
        self._after(self.build_s / 2, lambda: self._building(deployment))
        self._after(self.build_s, lambda: self._built(deployment))
        return deployment

    def _building(self, deployment: Deployment) -> None:
        if deployment.state == "QUEUED":  # else this timer came late
            deployment.state = "BUILDING"

    def _built(self, deployment: Deployment) -> None:
        deployment.state = "ERROR" if self.lie == "build_fails" else "READY"
        if deployment.state == "READY" and self.auto_assign and deployment.target == "production":
            self._serve(deployment)

    # -------------------------------------------------------------- where the domains lead

    def rollback(self, deployment_id: str) -> None:
        target = self.find(deployment_id)
        self._refuse_a_second()
        if not target.promoted or target.state != "READY" or target is self.current:
            text = "This deployment is not a candidate for a rollback"
            raise Refusal(422, "deployment_not_rollback_candidate", text)
        served = [
            deployment
            for deployment in self.deployments
            if deployment.promoted and deployment is not self.current
        ]
        if self.plan == "hobby" and target is not served[-1]:
            text = "To roll back further than the previous production deployment, upgrade to pro"
            raise Refusal(402, "rollback_not_allowed", text)
        self._move(target, "rollback", auto_assign=False)

    def promote(self, deployment_id: str) -> None:
        target = self.find(deployment_id)
        self._refuse_a_second()
        if target.state != "READY":
            raise Refusal(422, "deployment_not_ready", "This deployment is not ready")
        self._move(target, "promote", auto_assign=True)

    def _refuse_a_second(self) -> None:
        alias_request = self.last_alias_request
        if alias_request and alias_request["jobStatus"] in ("pending", "in-progress"):
            raise Refusal(409, "conflict", "Another request of this kind is in progress")

    def _move(self, target: Deployment, kind: str, *, auto_assign: bool) -> None:
        alias_request = {
            "fromDeploymentId": self.current.id,
            "toDeploymentId": target.id,
            "jobStatus": "in-progress",
            "requestedAt": clock_ms(),
            "type": kind,
        }
        self.last_alias_request = alias_request
        lie = self.lie if kind == "rollback" else ""

        def arrive() -> None:
            alias_request["jobStatus"] = "failed" if lie == "rollback_fails" else "succeeded"
            if not lie:
                self.auto_assign = auto_assign
                self._serve(target)

        self._after(self.alias_s, arrive)

    def _serve(self, target: Deployment) -> None:
        target.promoted = True
        self.current = target
        self._live(target)

    def _after(self, delay_s: float, work: Callable[[], None]) -> None:
        def run() -> None:
            with self.lock:
                if timer in self._timers:  # else it was cancelled while it waited
                    self._timers.remove(timer)
                    work()

        timer = threading.Timer(delay_s, run)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    # -------------------------------------------------------------- variables

    def keep(self, fields: Mapping[str, Any], *, upsert: bool) -> Variable:
        known = self.variables.get(fields["key"])
        if known is not None and not upsert:
            text = f"A variable with the name `{fields['key']}` already exists"
            raise Refusal(400, "ENV_CONFLICT", text)
        now = clock_ms()
        variable = known or Variable(made_id("env"), fields["key"], "", "", [], now, now)
        self.variables[variable.key] = variable
        return self.change(variable, fields)

    def change(self, known: Variable, fields: Mapping[str, Any]) -> Variable:
        if self.lie != "env_is_not_kept":
            known.value = fields.get("value", known.value)
        known.type = fields.get("type", known.type)
        known.target = fields.get("target", known.target)
        known.updated = clock_ms()
        return known

    def variable(self, variable_id: str) -> Variable:
        for variable in self.variables.values():
            if variable.id == variable_id:
                return variable
        raise Refusal(404, "not_found", "The environment variable was not found")

    def drop(self, variable_id: str) -> Variable:
        known = self.variable(variable_id)
        with contextlib.suppress(KeyError):
            del self.variables[known.key]
        return known


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


def made_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"


def newest_first(deployments: Iterable[Deployment]) -> list[Deployment]:
    return sorted(deployments, key=lambda deployment: deployment.created, reverse=True)
