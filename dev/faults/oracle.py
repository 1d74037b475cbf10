"""Posts leads with unique marks, breaks things, heals, drains, and says what became of each.

The promise under test: an accepted lead is stored exactly once and each of its mails delivered
exactly once, whatever failed meanwhile; a refused one is stored at most once; every answer comes
inside its budget; nothing about a person reaches logs or error reports.
"""

import itertools
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import httpx

from dev.edge import runtime
from dev.faults.invariant_report import InvariantReport, check_invariants
from dev.faults.known_faults import Fault
from dev.faults.lead_attempt import Answer, LeadAttempt
from dev.faults.test_site import LEADS, SiteUnderTest
from lib.leads.queue import DEAD_LETTERS, QUEUE

SEALED_LEAD_MARKER = "-----BEGIN ALFA LEAD-----"
BUDGET_S = 8.0
LOAD_ALLOWANCE_S = 1.0  # for a machine that is busy with other work
SETTLE_S = 60.0

type Import = Callable[[SiteUnderTest, list[dict[str, Any]]], str]
"""Import the leads these mails carry; what went wrong, or nothing."""


@dataclass(frozen=True, slots=True)
class ClientBehavior:
    """How a caller behaves: tries with one key, like the browser's form; keyed=False sends none."""

    attempts: int = 1
    pause_s: float = 0.3
    sends_key: bool = True
    timeout_s: float = 20.0


# A key whose request was killed counts as in progress for some seconds more.
PATIENT_CLIENT = ClientBehavior(attempts=12)


@dataclass(slots=True)
class Oracle:
    """Everything it offered, and what was answered. One run has one oracle."""

    site: SiteUnderTest
    client: ClientBehavior = field(default_factory=ClientBehavior)
    budget_s: float = BUDGET_S + LOAD_ALLOWANCE_S
    importer: "Import | None" = None
    attempts: list[LeadAttempt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _token: str = field(default_factory=lambda: secrets.token_hex(3))
    _digits: str = field(default_factory=lambda: f"{secrets.randbelow(9000) + 1000}")
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _http: httpx.Client = field(
        default_factory=lambda: httpx.Client(
            trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )
    )

    # ---------------------------------------------------------------- offering

    def new_attempt(
        self, *, keyed: bool | None = None, with_email: bool | None = None
    ) -> LeadAttempt:
        """A lead nobody has seen, not sent yet. Every other one leaves an e-mail address,
        unless it is said which do."""
        number = next(self._numbers)
        keyed = self.client.sends_key if keyed is None else keyed
        attempt = LeadAttempt(
            marker=f"{self._token}x{number:05d}",
            phone=f"812{self._digits}{number:05d}",
            with_email=number % 2 == 0 if with_email is None else with_email,
            key=str(uuid4()) if keyed else None,
        )
        self.attempts.append(attempt)
        return attempt

    def send(self, attempt: LeadAttempt, client: ClientBehavior | None = None) -> Answer:
        """Post it as the client does: again after silence, 409 and 5xx. The last answer."""
        behaviour = client or self.client
        answer = self.post(attempt, behaviour.timeout_s)
        for number in range(1, behaviour.attempts):
            if not answer.is_retryable:
                break
            time.sleep(behaviour.pause_s * number)
            answer = self.post(attempt, behaviour.timeout_s)
        return answer

    def post(self, attempt: LeadAttempt, timeout_s: float = 20.0) -> Answer:
        """One request; its answer is kept with the attempt. Status 0 when there was none."""
        headers = {} if attempt.key is None else {"Idempotency-Key": attempt.key}
        started = time.monotonic()
        owed = self.site.must_accept_leads
        try:
            response = self._http.post(
                f"{self.site.url}/{LEADS}", json=attempt.body(), headers=headers, timeout=timeout_s
            )
            answer = Answer.from_response(response, time.monotonic() - started)
        except httpx.HTTPError as fault:
            answer = Answer(0, None, None, time.monotonic() - started, type(fault).__name__)
        answer = replace(answer, sent_at=started)
        if owed and answer.is_server_error and self.site.must_accept_leads:
            answer = replace(answer, avoidable=True)
        attempt.answers.append(answer)
        return answer

    def submit(self, count: int, client: ClientBehavior | None = None) -> list[LeadAttempt]:
        """So many new leads, all sent at the same time; back when every one is through."""
        made = [
            self.new_attempt(keyed=None if client is None else client.sends_key)
            for _ in range(count)
        ]
        self.send_all(made, client)
        return made

    def send_all(
        self,
        attempts: Iterable[LeadAttempt],
        client: ClientBehavior | None = None,
        *,
        at_once: int = 200,
    ) -> None:
        """All at the same time, or so many; an attempt given twice is sent twice."""
        listed = list(attempts)
        with ThreadPoolExecutor(max_workers=max(1, min(len(listed), at_once))) as pool:
            list(pool.map(lambda attempt: self.send(attempt, client), listed))

    def submit_under_faults(
        self, breaks: Iterable[Fault], count: int, client: ClientBehavior | None = None
    ) -> None:
        """Submit leads while these are broken, after one before, so that connections are warm.

        Back when the work after the answers has met the faults too, for at most 2 s.
        """
        self.submit(1)
        self.site.wait_idle(2)  # its mails are out, and its connections idle
        self.site.apply(breaks)
        self.submit(count, client)
        self.site.wait_idle(2)

    # ---------------------------------------------------------------- healing and judging

    def recover_and_check(self, *, insist: bool = False) -> InvariantReport:
        """Mend all, drain until two drains in a row find nothing, and judge.

        insist: what was not accepted is sent again first, with its key, as a browser does.
        """
        self.site.clear_faults_and_wait()
        self._recover()
        if insist:
            self.send_all(
                [attempt for attempt in self.attempts if not attempt.accepted], PATIENT_CLIENT
            )
        self._drain_until_empty()
        if self._rerun_dead_letters():
            self._drain_until_empty()
        self._import_mailed_leads()
        return check_invariants(self.site, self.attempts, self.problems, self.budget_s)

    def _recover(self, within_s: float = 30.0) -> None:
        """Until a lead is stored at once again: whatever protects us must let go by itself."""
        end = time.monotonic() + within_s
        while self.post(self.new_attempt()).status != 200:
            if time.monotonic() > end:
                self.problems.append(
                    f"no recovery: no 200 in {within_s:.0f} s after all was mended"
                )
                return
            time.sleep(0.3)

    def _drain_until_empty(self) -> None:
        end = time.monotonic() + SETTLE_S
        quiet = 0
        while quiet < 2:
            if time.monotonic() > end:
                self.problems.append(f"drains still find work after {SETTLE_S:.0f} s")
                return
            self.site.wait_idle(10)
            self.site.make_mails_due()
            status, body = self.site.drain()
            quiet = quiet + 1 if status == 200 and is_idle(body) else 0

    def _rerun_dead_letters(self) -> bool:
        """Leads that a drain set aside are queued again, as by `ops dead rerun`."""
        aside = self.site.redis_command("HKEYS", DEAD_LETTERS)
        for lead_id in aside if isinstance(aside, list) else ():
            assert isinstance(lead_id, bytes)
            sealed = self.site.redis_command("HGET", DEAD_LETTERS, lead_id.decode())
            assert isinstance(sealed, bytes)
            self.site.redis_command("HSETNX", QUEUE, lead_id.decode(), sealed.decode())
            self.site.redis_command("HDEL", DEAD_LETTERS, lead_id.decode())
        return bool(aside)

    def _import_mailed_leads(self) -> None:
        """Leads that reached us as a mail alone are imported by hand, as an operator does."""
        carriers = [
            mail
            for mail in self.site.delivered_mails()
            if SEALED_LEAD_MARKER in (mail["text"] or "")
        ]
        if not carriers:
            return
        fault = (self.importer or import_mailed_leads)(self.site, carriers)
        if fault:
            self.problems.append(f"import failed: {fault}")
        self._drain_until_empty()


def is_idle(body: dict[str, Any]) -> bool:
    """Whether a drain's answer says that it found nothing and leaves nothing."""
    queue = body.get("queue", {})
    if queue is None:
        return False  # it could not look
    names = ("journaled", "sent", "delayed", "dead")
    return not any([*queue.values(), *(body.get(name) for name in names)])


def import_mailed_leads(site: SiteUnderTest, mails: list[dict[str, Any]]) -> str:
    """The operators' `leads import` with these mails in a file; its last words when it failed."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n\n".join(mail["text"] for mail in mails))
        file.flush()
        done = subprocess.run(
            # Its module: `-m ops` would first make an environment of its own.
            [sys.executable, "-m", "ops.cli", "leads", "import", file.name],
            cwd=site.root,
            env={**runtime.base_environment(), **site.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return (done.stderr or done.stdout).strip()[-300:] if done.returncode else ""


def run_concurrently(*works: Callable[[], object]) -> None:
    """Run all at the same time and wait for them."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
