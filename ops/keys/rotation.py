"""The steps of a rotation, each safe to repeat: killed anywhere and run again, it goes on.

    create -> set -> deploy -> verify -> revoke -> probe
    create -> set -> deploy -> verify -> (reseal) -> revoke -> redeploy -> reverify -> probe

The first where a vendor revokes, the second where revoking is a deployment without the old key.
After a leak the old key is revoked first. Finished steps are in `key_rotations`; the new value is
written to the operator's file before anything else gets it, and to no record.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lib.monitoring import secrets
from ops import command
from ops.incidents import notes
from ops.keys import env_file
from ops.keys.inventory import Secret
from ops.keys.key_file import NEW_SUFFIX, RETIRING_SUFFIX
from ops.keys.key_types import ACCEPTED, REFUSED, KeyType, bearer, request
from ops.keys.rotation_store import RotationRecord, RotationStore
from ops.progress import Waiting
from ops.settings import OperatorServices
from ops.vendors import redeployment
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel


def plan_steps(key_type: KeyType, *, leak: bool) -> list[str]:
    """The names of the steps, in order."""
    first = ["create", "set", "deploy", "verify"]
    last = ["revoke", "redeploy", "reverify", "probe"]
    if not key_type.needs_two_deployments:
        return ["revoke", *first, "probe"] if leak else [*first, "revoke", "probe"]
    if key_type.reencrypts:
        return [*first, "reseal", *last]
    return ["create", *last] if leak else [*first, *last]


def open_record(
    services: OperatorServices, vercel: Vercel, store: RotationStore, key_type: KeyType, reason: str
) -> RotationRecord:
    """The record of the rotation to run: an unfinished one, or a new one. Raises ApiError."""
    pepper, name = services.settings.key_fingerprint_pepper, key_type.key.name

    def fingerprint(value: str) -> str:
        return secrets.fingerprint(pepper, _first(key_type, value))

    record = store.find_open(name)
    if record is None:
        record = _begin(vercel, store, key_type, reason, fingerprint)
    else:
        _find_old_value(record, key_type, fingerprint)
        if reason == "leak" and record.reason != "leak":
            _revoke_next(record, key_type)
            store.update(record)
    key_type.facts = record.facts
    return record


def _begin(
    vercel: Vercel,
    store: RotationStore,
    key_type: KeyType,
    reason: str,
    fingerprint: Callable[[str], str],
) -> RotationRecord:
    """The value here must be the one that production reports: the environment's, or, where a shell
    has not read the file again, the file's."""
    name, file = key_type.key.name, key_type.file
    serving, _ = vercel.production()
    reported = store.fingerprints_by_deployment(name, datetime.fromtimestamp(0, UTC)).get(serving)
    for value in (key_type.old, file.read().get(name, "")):
        if value and (not reported or fingerprint(value) in reported):
            break
    else:
        words = f"production uses {', '.join(sorted(reported or ()))}, and the value here is "
        raise ApiError(0, "other_key", words + fingerprint(key_type.old))
    key_type.old = value
    env_file.quote(name, value)  # the file must be able to hold it while it is being retired
    file.update({name + RETIRING_SUFFIX: None})  # of a rotation that died at its very end
    key_type.prepare(store.last_facts(name))
    facts = {**key_type.facts, "plan": plan_steps(key_type, leak=reason == "leak")}
    return store.begin(name, reason, fingerprint(value), facts, datetime.now(UTC))


def _find_old_value(
    record: RotationRecord, key_type: KeyType, fingerprint: Callable[[str], str]
) -> None:
    """It is in the file, from the moment there is a new one."""
    retiring = key_type.file.read().get(key_type.key.name + RETIRING_SUFFIX)
    for value in (retiring, key_type.old):
        if value and fingerprint(value) == record.old_fingerprint:
            key_type.old = value
            return
    words = (
        f"a rotation from {record.old_fingerprint} is in progress; the old value is in neither"
        f" {key_type.file} nor the environment"
    )
    raise ApiError(0, "other_key", words)


def _revoke_next(record: RotationRecord, key_type: KeyType) -> None:
    """A planned rotation turns out to be a leak: the vendor revokes at once."""
    remaining = record.remaining_steps()
    if not key_type.needs_two_deployments and "revoke" in remaining:
        finished = record.facts["plan"][: -len(remaining)]
        others = [step for step in remaining if step != "revoke"]
        record.facts["plan"] = [*finished, "revoke", *others]
    record.reason = "leak"


def _first(key_type: KeyType, value: str) -> str:
    """The key that encrypts, of a list; else the value itself."""
    return value.partition(",")[0] if key_type.reencrypts else value


def other_changes(vercel: Vercel, key: Secret, agreed: dict[str, str]) -> dict[str, datetime]:
    """Other variables that were set since the deployment that serves was built: the next one
    brings them along. agreed: those that were confirmed, and when they were set."""
    serving, _ = vercel.production()
    changed = vercel.variables_changed_since(vercel.deployment(serving).created_at)
    return {
        name: at
        for name, at in changed.items()
        if name not in (key.name, key.previous_variable) and agreed.get(name) != at.isoformat()
    }


def describe_changes(changes: dict[str, datetime]) -> list[str]:
    return [f"{name}, set {command.format_time(at, seconds=True)}" for name, at in changes.items()]


@dataclass(slots=True)
class Rotation:
    """print: shown before and after each step.

    confirm_changes: whether these changes of other variables, which the next deployment brings
    along, are wanted. drain_s: how long requests on the old deployment may still take before the
    old key is revoked. timeout_s: for a deployment, and for its report of the keys it uses.
    """

    services: OperatorServices
    vercel: Vercel
    store: RotationStore
    key_type: KeyType
    record: RotationRecord
    print: Callable[[str], None]
    confirm_changes: Callable[[list[str]], bool]
    drain_s: float
    timeout_s: float

    def run(self) -> None:
        """Run what is left of the plan. Raises ApiError, in words; what was done so far stays."""
        actions: dict[str, Callable[[], str]] = {
            "create": self._create,
            "set": self._set,
            "deploy": lambda: self._build_and_serve("deploy"),
            "verify": lambda: self._wait_until_used("deploy"),
            "reseal": self._reencrypt,
            "revoke": self._revoke,
            "redeploy": lambda: self._build_and_serve("redeploy"),
            "reverify": lambda: self._wait_until_used("redeploy"),
            "probe": self._probe,
        }
        steps = self.record.remaining_steps()
        if {"deploy", "redeploy"} & {*steps}:
            self._confirm_other_changes()
        for step in steps:
            self.print(f"{step} …")
            started = time.monotonic()
            result = actions[step]()
            self.record.step = step
            self.store.update(self.record)
            self.print(f"{step}: {result} ({time.monotonic() - started:.1f} s)")
        self._finish()

    # -------------------------------------------------------------- the steps

    def _create(self) -> str:
        key_type, name = self.key_type, self.key_type.key.name
        stored = key_type.file.read()
        new = stored.get(name, "") if name + RETIRING_SUFFIX in stored else ""
        if new in ("", key_type.old, key_type.file_value(key_type.old)):
            new = key_type.create(f"alfa-api-{self.record.id}")
            if not new:
                words = f"put it into {key_type.file} as {name}{NEW_SUFFIX}=…"
                words = f"Create the new {name}, {words}, then run this command again"
                raise ApiError(0, "by_hand", words)
            changes = {name: key_type.file_value(new), name + RETIRING_SUFFIX: key_type.old}
            key_type.file.update({**changes, name + NEW_SUFFIX: None})
        new = self._new_value()
        pepper = self.services.settings.key_fingerprint_pepper
        self.record.new_fingerprint = secrets.fingerprint(pepper, new)
        if not key_type.needs_two_deployments:
            probe = key_type.probe(new)
            if probe.outcome == REFUSED:
                raise ApiError(0, "new_refused", f"the new key is refused ({probe.message})")
        return f"{self.record.old_fingerprint} -> {self.record.new_fingerprint}"

    def _set(self) -> str:
        variables = self.key_type.overlap_variables(self._new_value())
        for name, value in variables.items():
            self.vercel.set_variable(name, value)
        return f"{', '.join(variables)} at Vercel"

    def _reencrypt(self) -> str:
        self._wait_for_drain()
        return f"{self.key_type.reencrypt(self._new_value())} leads re-encrypted"

    def _revoke(self) -> str:
        if self.key_type.needs_two_deployments:
            for name, value in self.key_type.final_variables(self._new_value()).items():
                if value is None:
                    self.vercel.delete_variable(name)
                else:
                    self.vercel.set_variable(name, value)
            return "removed from Vercel's variables"
        if self.record.reason != "leak":
            self._wait_for_drain()
        if self.key_type.revoked_by_person:
            self._wait_for_person()
        self.key_type.revoke()
        self.record.revoked_at = datetime.now(UTC)
        return f"{self.record.old_fingerprint} revoked at the vendor"

    def _probe(self) -> str:
        """The old key must fail now; anything else is an error."""
        probe = self.key_type.probe(self.key_type.old)
        self.record.facts["probe"] = f"{probe.outcome}: {probe.message}"
        if not self.key_type.key.revocation_check:
            return probe.message
        if probe.outcome == REFUSED:
            return f"the old key is refused: {probe.message}"
        if probe.outcome != ACCEPTED:
            words = f"COULD NOT PROBE the old key: {probe.message}; run it again"
            raise ApiError(0, "unknown", words)
        steps: list[str] = self.record.facts["plan"]
        repeated = steps.index("reseal" if "reseal" in steps else "revoke")
        self.record.step = steps[repeated - 1] if repeated else ""
        self.store.update(self.record)
        facts = {"key": self.record.name, "fingerprint": self.record.old_fingerprint}
        self._note_on_incidents("old_key_still_works", facts)
        words = f"THE OLD KEY STILL WORKS: {probe.message}; run it again"
        raise ApiError(0, "still_works", words)

    def _finish(self) -> None:
        record, now = self.record, datetime.now(UTC)
        record.finished_at, record.revoked_at = now, record.revoked_at or now
        self.store.update(record)
        self.key_type.file.update({record.name + RETIRING_SUFFIX: None})
        unsafe = self.store.count_unsafe_deployments(record)
        self.print(f"done: {unsafe} deployments that used the old key are unsafe to roll back to")
        facts = {"key": record.name, "old": record.old_fingerprint,
                 "new": record.new_fingerprint, "reason": record.reason}  # fmt: skip
        self._note_on_incidents("key_rotated", facts)

    # -------------------------------------------------------------- deployments

    def _build_and_serve(self, step: str) -> str:
        """Build what serves again, with the variables of now, and wait until it serves."""
        facts = self.record.facts
        if facts.get(step) is None:
            self._confirm_other_changes()
            serving, _ = self.vercel.production()
            mark = f"rotation-{self.record.id}-{step}"
            deployment = self.vercel.redeploy(self.vercel.deployment(serving), mark)
            facts[step], self.record.deployed_at = deployment.id, deployment.created_at
            self.store.update(self.record)
        target: str = facts[step]
        end = time.monotonic() + self.timeout_s
        try:
            redeployment.wait_until_built(self.vercel, target, end)
        except ApiError as error:
            if error.code == "build":  # run again, it builds anew
                facts[step] = None
                self.store.update(self.record)
            raise
        redeployment.wait_until_serving(self.services.settings.site_url, target, end)
        facts["serves_since"] = datetime.now(UTC).isoformat()
        return f"{target} serves"

    def _confirm_other_changes(self) -> None:
        """A deployment takes every variable as it is then, not this key alone: name the others
        that were set since the one that serves was built. Raises ApiError unless confirmed."""
        confirmed: dict[str, str] = self.record.facts.setdefault("agreed", {})
        changes = other_changes(self.vercel, self.key_type.key, confirmed)
        if not changes:
            return
        if not self.confirm_changes(describe_changes(changes)):
            words = f"{', '.join(changes)} would also take effect: nothing was deployed"
            raise ApiError(0, "other_changes", f"{words}, run this again")
        confirmed.update({name: at.isoformat() for name, at in changes.items()})
        self.store.update(self.record)

    def _wait_until_used(self, step: str) -> str:
        """Until every deployment that reports its keys uses the new one; after the second
        deployment, that one alone."""
        since = datetime.fromisoformat(self.record.facts["serves_since"])
        target: str = self.record.facts[step]
        reported: dict[str, set[str]] = {}

        def pending() -> str:
            nonlocal reported
            self._call_monitor()
            reported = self.store.fingerprints_by_deployment(self.record.name, since)
            late = sorted(
                deployment
                for deployment, fingerprints in reported.items()
                if self.record.new_fingerprint not in fingerprints
                or (step == "redeploy" and self.record.old_fingerprint in fingerprints)
            )
            if target in reported and not late:
                return ""
            words = (
                f"{', '.join(late)} still use the old key"
                if late
                else f"{target} has not reported its keys yet"
            )
            return f"{words}; they report when the watch runs there"

        redeployment.wait_for(pending, time.monotonic() + self.timeout_s)
        return f"{', '.join(sorted(reported))} use the new key"

    def _call_monitor(self) -> None:
        """The monitor reports which keys its deployment uses; where crons are rare, we call it."""
        settings, stored = self.services.settings, self.key_type.file.read()
        for token in {stored.get("CRON_SECRET", ""), settings.cron_secret} - {""}:
            request("GET", f"{settings.site_url}/api/cron/watch", headers=bearer(token))

    def _wait_for_drain(self) -> None:
        """Requests that began on the old deployment may still be under way."""
        since = self.record.facts.get("serves_since")
        if since is None:
            return
        end = datetime.fromisoformat(since) + timedelta(seconds=self.drain_s)
        with Waiting("requests on the old deployment finish", self.drain_s) as waiting:
            while (left_s := (end - datetime.now(UTC)).total_seconds()) > 0:
                waiting.update(f"{left_s:.0f} s are left")
                time.sleep(min(left_s, redeployment.POLL_S))

    def _wait_for_person(self) -> None:
        key = self.key_type.key
        if self.key_type.probe(self.key_type.old).outcome == ACCEPTED or not key.revocation_check:
            kept = f"in {self.key_type.file} as {key.name}{RETIRING_SUFFIX}"
            self.print(f"Revoke the old {key.name} ({kept}) at the vendor, then press Enter")
            command.ask("")

    def _new_value(self) -> str:
        """The new value, from the operator's file."""
        return _first(self.key_type, self.key_type.file.read().get(self.key_type.key.name, ""))

    def _note_on_incidents(self, event: str, facts: dict[str, Any]) -> None:
        notes.add_note_to_open(self.services, event, facts, "", datetime.now(UTC))
