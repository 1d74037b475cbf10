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
from ops.keys.key_file import NEW, RETIRING
from ops.keys.key_types import ACCEPTED, REFUSED, Kind, asked
from ops.keys.rotation_store import Book, Page
from ops.progress import Wait
from ops.vendors.http import Refused
from ops.vendors.vercel import Vercel

POLL_S = 0.5
DEAD_STATES = ("ERROR", "CANCELED", "DELETED", "BLOCKED")


def plan(kind: Kind, *, leak: bool) -> list[str]:
    """The names of the steps, in order."""
    if not kind.two_deployments:
        rest = ["create", "set", "deploy", "verify"]
        return ["revoke", *rest, "probe"] if leak else [*rest, "revoke", "probe"]
    if leak and not kind.reseals:
        return ["create", "revoke", "redeploy", "reverify", "probe"]
    sealed = ["reseal"] if kind.reseals else []
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
    book: Book
    kind: Kind
    say: Callable[[str], None]
    pepper: str
    drain_s: float
    wait_s: float
    page: Page
    agree: Callable[[list[str]], bool]

    def run(self) -> Page:
        """The finished page. Raises Refused, in words; what was done so far stays."""
        steps: list[str] = self.page.facts["plan"]
        done = steps.index(self.page.step) + 1 if self.page.step else 0
        if {"deploy", "redeploy"} & {*steps[done:]}:
            self._agree_to_other_changes()
        for name in steps[done:]:
            self.say(f"{name} …")
            started = time.monotonic()
            words = getattr(self, f"_{name}")()
            self.page.step = name
            self.book.keep(self.page)
            self.say(f"{name}: {words} ({time.monotonic() - started:.1f} s)")
        self._finish()
        return self.page

    # -------------------------------------------------------------- the steps

    def _create(self) -> str:
        kind, name = self.kind, self.kind.key.name
        held = kind.file.read()
        new = held.get(name, "") if name + RETIRING in held else ""
        if not new or new == kind.old or new == kind.kept(kind.old):
            new = kind.create(f"alfa-api-{self.page.id}")
            if not new:
                words = (
                    f"make the new {name}, put it into the file as {name}{NEW}=…, run this again"
                )
                raise Refused(0, "by_hand", words)
            kind.file.keep({name: kind.kept(new), name + RETIRING: kind.old, name + NEW: None})
        self.page.new_fingerprint = self._mark(self._new())
        tried = kind.probe(self._new()) if not kind.two_deployments else None
        if tried is not None and tried.outcome == REFUSED:
            raise Refused(0, "new_refused", f"the new key is refused ({tried.words})")
        return f"{self.page.old_fingerprint} -> {self.page.new_fingerprint}"

    def _set(self) -> str:
        overlap = self.kind.overlap(self._new())
        for name, value in overlap.items():
            self.vercel.set_variable(name, value)
        return f"{', '.join(overlap)} at Vercel"

    def _deploy(self) -> str:
        return self._deployed("deploy")

    def _redeploy(self) -> str:
        return self._deployed("redeploy")

    def _verify(self) -> str:
        return self._verified(gone=False)

    def _reverify(self) -> str:
        return self._verified(gone=True)

    def _reseal(self) -> str:
        self._drain()
        return f"{self.kind.reseal(self._new())} leads sealed anew"  # type: ignore[attr-defined]

    def _revoke(self) -> str:
        if self.kind.two_deployments:
            for name, value in self.kind.alone(self._new()).items():
                if value is None:
                    self.vercel.drop_variable(name)
                else:
                    self.vercel.set_variable(name, value)
            return "taken out of Vercel's variables"
        if self.page.reason != "leak":
            self._drain()
        if isinstance_by_hand(self.kind):
            self._wait_for_a_person()
        self.kind.revoke()
        self.page.revoked_at = datetime.now(UTC)
        return f"{self.page.old_fingerprint} at its vendor"

    def _probe(self) -> str:
        """The old key must fail now: whatever else this finds, it says so loudly."""
        tried = self.kind.probe(self.kind.old)
        self.page.facts["probe"] = f"{tried.outcome}: {tried.words}"
        if tried.outcome == REFUSED or not self.kind.key.probe:
            return f"the old key is refused: {tried.words}" if self.kind.key.probe else tried.words
        if tried.outcome == ACCEPTED:
            steps: list[str] = self.page.facts["plan"]
            again = "reseal" if "reseal" in steps else "revoke"
            place = steps.index(again)
            self.page.step = steps[place - 1] if place else ""
            self.book.keep(self.page)
            facts = {"key": self.page.name, "fingerprint": self.page.old_fingerprint}
            self._note("old_key_still_works", facts)
            raise Refused(0, "still_works", f"THE OLD KEY STILL WORKS: {tried.words}; run it again")
        raise Refused(0, "unknown", f"COULD NOT PROBE the old key: {tried.words}; run it again")

    def _finish(self) -> None:
        self.page.finished_at = datetime.now(UTC)
        self.page.revoked_at = self.page.revoked_at or self.page.finished_at
        self.book.keep(self.page)
        self.kind.file.keep({self.kind.key.name + RETIRING: None})
        unsafe = self.book.unsafe(self.page)
        self.say(f"done: {unsafe} deployments that used the old key are unsafe to roll back to")
        facts = {"key": self.page.name, "old": self.page.old_fingerprint,
                 "new": self.page.new_fingerprint, "reason": self.page.reason}  # fmt: skip
        self._note("key_rotated", facts)

    # -------------------------------------------------------------- deploying, and seeing it

    def _deployed(self, phase: str) -> str:
        """Build what serves again, with the variables of now, and wait until it serves."""
        serving, _ = self.vercel.serving()
        if self.page.facts.get(phase) is None:
            self._agree_to_other_changes()
            earlier = self.vercel.deployment(serving)
            made = self.vercel.redeploy(earlier, f"rotation-{self.page.id}-{phase}")
            self.page.facts[phase] = made.id
            self.page.deployed_at = made.created_at
            self.book.keep(self.page)
        target: str = self.page.facts[phase]
        end, wait = time.monotonic() + self.wait_s, Wait()
        while (state := self.vercel.deployment(target)).state != "READY":
            if state.state in DEAD_STATES:
                self.page.facts[phase] = None
                self.book.keep(self.page)
                raise Refused(0, "build", f"{target} is {state.state}: see its log, run this again")
            self._tick(end, f"{target} is still {state.state}", wait)
        if state.staged:  # after a rollback Vercel builds, and does not serve
            self.vercel.promote(target)
        in_a_row = 0
        while in_a_row < rollback.SURE_AFTER:
            seen = rollback.answering(self.services.settings.site_url)
            in_a_row = in_a_row + 1 if seen == target else 0
            if seen != target:
                words = f"{target} is built, but {seen or 'nothing'} answers"
                self._tick(end, words, wait)
        self.page.facts["serves_since"] = datetime.now(UTC).isoformat()
        return f"{target} serves"

    def _agree_to_other_changes(self) -> None:
        """A deployment takes every variable as it is then, not this key alone: say which others
        were set since the one that serves was built. Raises Refused when they are not wanted."""
        serving, _ = self.vercel.serving()
        built_at = self.vercel.deployment(serving).created_at
        ours = {self.kind.key.name, self.kind.key.previous}
        agreed: dict[str, str] = self.page.facts.setdefault("agreed", {})
        changed = {
            name: at.isoformat(" ", "seconds")
            for name, at in self.vercel.changed_since(built_at).items()
            if name not in ours and agreed.get(name) != at.isoformat(" ", "seconds")
        }
        if not changed:
            return
        if not self.agree([f"{name}, set {at}" for name, at in changed.items()]):
            words = f"{', '.join(changed)} would change too: nothing was deployed, run this again"
            raise Refused(0, "other_changes", words)
        agreed.update(changed)
        self.book.keep(self.page)

    def _verified(self, *, gone: bool) -> str:
        """Every deployment that is heard of since then uses the new key; gone: and it alone."""
        since = datetime.fromisoformat(self.page.facts["serves_since"])
        target = self.page.facts["redeploy" if gone else "deploy"]
        end, wait = time.monotonic() + self.wait_s, Wait()
        while True:
            self._ask_the_watch()
            seen = self.book.seen(self.page.name, since)
            late = sorted(
                one
                for one, marks in seen.items()
                if self.page.new_fingerprint not in marks
                or (gone and self.page.old_fingerprint in marks)
            )
            if target in seen and not late:
                return f"{', '.join(sorted(seen))} use the new key"
            what = f"{', '.join(late)} still use the old key" if late else f"{target} is silent"
            self._tick(end, f"{what}: is the watch running?", wait)

    def _ask_the_watch(self) -> None:
        """The watch says which keys its deployment uses; where crons are rare, we call it."""
        settings, held = self.services.settings, self.kind.file.read()
        for token in dict.fromkeys((held.get("CRON_SECRET"), settings.cron_secret)):
            if token:
                bearer = {"Authorization": f"Bearer {token}"}
                asked("GET", f"{settings.site_url}/api/cron/watch", headers=bearer)

    def _drain(self) -> None:
        """Requests that began on the old deployment may still be under way."""
        since = self.page.facts.get("serves_since")
        if since is not None:
            over = datetime.fromisoformat(since) + timedelta(seconds=self.drain_s)
            wait = Wait()
            while (left_s := (over - datetime.now(UTC)).total_seconds()) > 0:
                wait.show(f"requests on the old deployment may finish, {left_s:.0f} s left")
                time.sleep(min(left_s, POLL_S))

    def _wait_for_a_person(self) -> None:
        tried = self.kind.probe(self.kind.old)
        if tried.outcome == ACCEPTED or not self.kind.key.probe:
            self.say(f"revoke the old {self.kind.key.name} at its vendor now, then press Enter")
            input()

    def _tick(self, end: float, words: str, wait: Wait) -> None:
        wait.show(words)
        if time.monotonic() > end:
            raise Refused(0, "timeout", f"{words}; what was done stays, run this again")
        time.sleep(POLL_S)

    # -------------------------------------------------------------- words and marks

    def _new(self) -> str:
        """The new value, from the operator's file."""
        held = self.kind.file.read().get(self.kind.key.name, "")
        return held.partition(",")[0] if self.kind.reseals else held

    def _mark(self, value: str) -> str:
        return secrets.fingerprint(self.pepper, value)

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        notes.note_on_incident(self.services, event, facts, "", datetime.now(UTC))


def isinstance_by_hand(kind: Kind) -> bool:
    """Whether a person revokes it."""
    return kind.key.overlap == secrets.BY_HAND and type(kind).revoke is Kind.revoke
