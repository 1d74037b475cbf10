"""The steps of a rotation, each safe to repeat: killed at any line and run again, it goes on.

    create -> set -> deploy -> verify -> revoke -> probe
    create -> set -> deploy -> verify -> (reseal) -> revoke -> redeploy -> reverify -> probe

The first where a vendor revokes, the second where revoking is a deployment without the old key.
After a leak the old key goes first. What was finished stands in `key_rotations`; the new value
stands in the operator's file alone, before anybody else is given it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lib.monitoring import secrets
from lib.services import Services
from ops.incidents import notes, rollback
from ops.keys import inventory
from ops.keys.key_file import NEW_SUFFIX, RETIRING_SUFFIX
from ops.keys.key_types import ACCEPTED, REFUSED, KeyType, request
from ops.keys.rotation_store import RotationRecord, RotationStore
from ops.progress import WaitMessage
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel

POLL_S = 0.5
FAILED_STATES = ("ERROR", "CANCELED", "DELETED", "BLOCKED")


def plan_steps(kind: KeyType, *, leak: bool) -> list[str]:
    """The names of the steps, in order."""
    if not kind.needs_two_deployments:
        rest = ["create", "set", "deploy", "verify"]
        return ["revoke", *rest, "probe"] if leak else [*rest, "revoke", "probe"]
    if leak and not kind.reencrypts:
        return ["create", "revoke", "redeploy", "reverify", "probe"]
    sealed = ["reseal"] if kind.reencrypts else []
    first = ["create", "set", "deploy", "verify"]
    return [*first, *sealed, "revoke", "redeploy", "reverify", "probe"]


@dataclass(slots=True)
class Rotation:
    """say: told before and after each step.

    agree: whether the changes of these other variables, which the next deployment brings along,
    are wanted. drain_s: how long requests on the old deployment may still take before the old key
    is revoked. wait_s: how long a deployment, and its word of the keys it uses, may take.
    """

    services: Services
    vercel: Vercel
    store: RotationStore
    key_type: KeyType
    print: Callable[[str], None]
    pepper: str
    drain_s: float
    wait_s: float
    record: RotationRecord
    confirm_changes: Callable[[list[str]], bool]

    def run(self) -> RotationRecord:
        """The finished page. Raises Refused, in words; what was done so far stays."""
        steps: list[str] = self.record.facts["plan"]
        done = steps.index(self.record.step) + 1 if self.record.step else 0
        if {"deploy", "redeploy"} & {*steps[done:]}:
            self._confirm_other_changes()
        for name in steps[done:]:
            self.print(f"{name} …")
            started = time.monotonic()
            words = getattr(self, f"_{name}")()
            self.record.step = name
            self.store.update(self.record)
            self.print(f"{name}: {words} ({time.monotonic() - started:.1f} s)")
        self._finish()
        return self.record

    # -------------------------------------------------------------- the steps

    def _create(self) -> str:
        kind, name = self.key_type, self.key_type.key.name
        held = kind.file.read()
        new = held.get(name, "") if name + RETIRING_SUFFIX in held else ""
        if not new or new == kind.old or new == kind.file_value(kind.old):
            new = kind.create(f"alfa-api-{self.record.id}")
            if not new:
                words = (
                    f"make the new {name}, put it into the file as {name}{NEW_SUFFIX}=…,"
                    " run this again"
                )
                raise ApiError(0, "by_hand", words)
            kind.file.update(
                {
                    name: kind.file_value(new),
                    name + RETIRING_SUFFIX: kind.old,
                    name + NEW_SUFFIX: None,
                }
            )
        self.record.new_fingerprint = self._fingerprint(self._new_value())
        tried = kind.probe(self._new_value()) if not kind.needs_two_deployments else None
        if tried is not None and tried.outcome == REFUSED:
            raise ApiError(0, "new_refused", f"the new key is refused ({tried.message})")
        return f"{self.record.old_fingerprint} -> {self.record.new_fingerprint}"

    def _set(self) -> str:
        overlap = self.key_type.overlap_variables(self._new_value())
        for name, value in overlap.items():
            self.vercel.set_variable(name, value)
        return f"{', '.join(overlap)} at Vercel"

    def _deploy(self) -> str:
        return self._wait_until_serving("deploy")

    def _redeploy(self) -> str:
        return self._wait_until_serving("redeploy")

    def _verify(self) -> str:
        return self._wait_until_used(gone=False)

    def _reverify(self) -> str:
        return self._wait_until_used(gone=True)

    def _reseal(self) -> str:
        self._wait_for_drain()
        return f"{self.key_type.reencrypt(self._new_value())} leads sealed anew"  # type: ignore[attr-defined]

    def _revoke(self) -> str:
        if self.key_type.needs_two_deployments:
            for name, value in self.key_type.final_variables(self._new_value()).items():
                if value is None:
                    self.vercel.delete_variable(name)
                else:
                    self.vercel.set_variable(name, value)
            return "taken out of Vercel's variables"
        if self.record.reason != "leak":
            self._wait_for_drain()
        if is_manual(self.key_type):
            self._wait_for_a_person()
        self.key_type.revoke()
        self.record.revoked_at = datetime.now(UTC)
        return f"{self.record.old_fingerprint} at its vendor"

    def _probe(self) -> str:
        """The old key must fail now: whatever else this finds, it says so loudly."""
        tried = self.key_type.probe(self.key_type.old)
        self.record.facts["probe"] = f"{tried.outcome}: {tried.message}"
        if tried.outcome == REFUSED or not self.key_type.key.revocation_check:
            return (
                f"the old key is refused: {tried.message}"
                if self.key_type.key.revocation_check
                else tried.message
            )
        if tried.outcome == ACCEPTED:
            steps: list[str] = self.record.facts["plan"]
            again = "reseal" if "reseal" in steps else "revoke"
            place = steps.index(again)
            self.record.step = steps[place - 1] if place else ""
            self.store.update(self.record)
            facts = {"key": self.record.name, "fingerprint": self.record.old_fingerprint}
            self._note_on_incidents("old_key_still_works", facts)
            raise ApiError(
                0, "still_works", f"THE OLD KEY STILL WORKS: {tried.message}; run it again"
            )
        raise ApiError(0, "unknown", f"COULD NOT PROBE the old key: {tried.message}; run it again")

    def _finish(self) -> None:
        self.record.finished_at = datetime.now(UTC)
        self.record.revoked_at = self.record.revoked_at or self.record.finished_at
        self.store.update(self.record)
        self.key_type.file.update({self.key_type.key.name + RETIRING_SUFFIX: None})
        unsafe = self.store.count_unsafe_deployments(self.record)
        self.print(f"done: {unsafe} deployments that used the old key are unsafe to roll back to")
        facts = {"key": self.record.name, "old": self.record.old_fingerprint,
                 "new": self.record.new_fingerprint, "reason": self.record.reason}  # fmt: skip
        self._note_on_incidents("key_rotated", facts)

    # -------------------------------------------------------------- deploying, and seeing it

    def _wait_until_serving(self, phase: str) -> str:
        """Build what serves again, with the variables of now, and wait until it serves."""
        serving, _ = self.vercel.production()
        if self.record.facts.get(phase) is None:
            self._confirm_other_changes()
            earlier = self.vercel.deployment(serving)
            made = self.vercel.redeploy(earlier, f"rotation-{self.record.id}-{phase}")
            self.record.facts[phase] = made.id
            self.record.deployed_at = made.created_at
            self.store.update(self.record)
        target: str = self.record.facts[phase]
        end, wait = time.monotonic() + self.wait_s, WaitMessage()
        while (state := self.vercel.deployment(target)).state != "READY":
            if state.state in FAILED_STATES:
                self.record.facts[phase] = None
                self.store.update(self.record)
                raise ApiError(
                    0, "build", f"{target} is {state.state}: see its log, run this again"
                )
            self._poll(end, f"{target} is still {state.state}", wait)
        if state.is_staged:  # after a rollback Vercel builds, and does not serve
            self.vercel.promote(target)
        in_a_row = 0
        while in_a_row < rollback.CONSECUTIVE_ANSWERS:
            seen = rollback.serving_deployment(self.services.settings.site_url)
            in_a_row = in_a_row + 1 if seen == target else 0
            if seen != target:
                words = f"{target} is built, but {seen or 'nothing'} answers"
                self._poll(end, words, wait)
        self.record.facts["serves_since"] = datetime.now(UTC).isoformat()
        return f"{target} serves"

    def _confirm_other_changes(self) -> None:
        """A deployment takes every variable as it is then, not this key alone: say which others
        were set since the one that serves was built. Raises Refused when they are not wanted."""
        serving, _ = self.vercel.production()
        built_at = self.vercel.deployment(serving).created_at
        ours = {self.key_type.key.name, self.key_type.key.previous_variable}
        agreed: dict[str, str] = self.record.facts.setdefault("agreed", {})
        changed = {
            name: at.isoformat(" ", "seconds")
            for name, at in self.vercel.variables_changed_since(built_at).items()
            if name not in ours and agreed.get(name) != at.isoformat(" ", "seconds")
        }
        if not changed:
            return
        if not self.confirm_changes([f"{name}, set {at}" for name, at in changed.items()]):
            words = f"{', '.join(changed)} would change too: nothing was deployed, run this again"
            raise ApiError(0, "other_changes", words)
        agreed.update(changed)
        self.store.update(self.record)

    def _wait_until_used(self, *, gone: bool) -> str:
        """Every deployment that is heard of since then uses the new key; gone: and it alone."""
        since = datetime.fromisoformat(self.record.facts["serves_since"])
        target = self.record.facts["redeploy" if gone else "deploy"]
        end, wait = time.monotonic() + self.wait_s, WaitMessage()
        while True:
            self._call_monitor()
            seen = self.store.fingerprints_by_deployment(self.record.name, since)
            late = sorted(
                one
                for one, marks in seen.items()
                if self.record.new_fingerprint not in marks
                or (gone and self.record.old_fingerprint in marks)
            )
            if target in seen and not late:
                return f"{', '.join(sorted(seen))} use the new key"
            what = f"{', '.join(late)} still use the old key" if late else f"{target} is silent"
            self._poll(end, f"{what}: is the watch running?", wait)

    def _call_monitor(self) -> None:
        """The watch says which keys its deployment uses; where crons are rare, we call it."""
        settings, held = self.services.settings, self.key_type.file.read()
        for token in dict.fromkeys((held.get("CRON_SECRET"), settings.cron_secret)):
            if token:
                bearer = {"Authorization": f"Bearer {token}"}
                request("GET", f"{settings.site_url}/api/cron/watch", headers=bearer)

    def _wait_for_drain(self) -> None:
        """Requests that began on the old deployment may still be under way."""
        since = self.record.facts.get("serves_since")
        if since is not None:
            over = datetime.fromisoformat(since) + timedelta(seconds=self.drain_s)
            wait = WaitMessage()
            while (left_s := (over - datetime.now(UTC)).total_seconds()) > 0:
                wait.print(f"requests on the old deployment may finish, {left_s:.0f} s left")
                time.sleep(min(left_s, POLL_S))

    def _wait_for_a_person(self) -> None:
        tried = self.key_type.probe(self.key_type.old)
        if tried.outcome == ACCEPTED or not self.key_type.key.revocation_check:
            self.print(
                f"revoke the old {self.key_type.key.name} at its vendor now, then press Enter"
            )
            input()

    def _poll(self, end: float, words: str, wait: WaitMessage) -> None:
        wait.print(words)
        if time.monotonic() > end:
            raise ApiError(0, "timeout", f"{words}; what was done stays, run this again")
        time.sleep(POLL_S)

    # -------------------------------------------------------------- words and marks

    def _new_value(self) -> str:
        """The new value, from the operator's file."""
        held = self.key_type.file.read().get(self.key_type.key.name, "")
        return held.partition(",")[0] if self.key_type.reencrypts else held

    def _fingerprint(self, value: str) -> str:
        return secrets.fingerprint(self.pepper, value)

    def _note_on_incidents(self, event: str, facts: dict[str, Any]) -> None:
        notes.add_note_to_open(self.services, event, facts, "", datetime.now(UTC))


def is_manual(kind: KeyType) -> bool:
    """Whether a person revokes it."""
    return kind.key.overlap == inventory.MANUAL and type(kind).revoke is KeyType.revoke
