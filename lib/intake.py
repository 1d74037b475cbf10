"""Taking a lead: the ladder it is kept on, rung by rung, and what is done once it is kept.

Postgres; else the sealed queue in Redis; else a mail to sales that carries the lead; else the
caller is told, truthfully, that it is kept nowhere. Only a server that is down sends a lead to
the next rung: one that Postgres refuses for what it says would be refused for ever.

The whole answer fits in 8 s whatever stalls: the door 1.3, the challenge 0.9, Postgres 3.5, the
queue 1.3 unless the door was shut already, the mail 2 x MAIL_TIMEOUT_S.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from lib import backlog, copies, gate, leads, letters
from lib.gate import Busy, Entered, Limits, Seen, Turned
from lib.leads import Desk, Lead
from lib.letters import Letter
from lib.problems import (
    CacheDown,
    ChallengeDown,
    DatabaseDown,
    InProgress,
    KeyReused,
    MailDelayed,
    MailRefused,
    MailTaken,
    NotConfigured,
    NotPersisted,
    RateLimited,
)

MAIL_TIMEOUT_S = 1.0


class Database(Protocol):
    @property
    def poison(self) -> tuple[type[Exception], ...]: ...
    def run(self, work: Callable[[Any], Any], *, budget_s: float = ...) -> Any: ...
    def ahead(self) -> None: ...
    def ping(self, *, budget_s: float = ...) -> None: ...


class Cache(Protocol):
    def run(self, *command: str | int | float) -> Any: ...
    def run_all(self, *commands: tuple[str | int | float, ...]) -> list[Any]: ...
    def ping(self) -> None: ...


class Mailer(Protocol):
    def send(self, letter: Letter, idempotency_key: str, *, timeout_s: float = ...) -> str: ...


class Challenge(Protocol):
    def passed(self, token: str, address: str | None, attempt: str) -> bool: ...


class Means(Protocol):
    """What keeping a lead takes. Each may raise NotConfigured, which counts as down."""

    @property
    def database(self) -> Database: ...
    @property
    def cache(self) -> Cache: ...
    @property
    def mailer(self) -> Mailer: ...
    @property
    def vault(self) -> backlog.Vault: ...
    @property
    def erasure_keys(self) -> tuple[bytes, ...]: ...
    @property
    def turnstile(self) -> Challenge | None: ...


class Kept(NamedTuple):
    """A lead as kept, on which rung, and the mails to send now.

    decision: stored, stored_before, queued, mailed, spam. lost_rungs: what was down, and for
    want of which variable.
    """

    lead: Lead
    decision: str
    letters: tuple[Letter, ...] = ()
    lost_rungs: tuple[str, ...] = ()

    @property
    def alarming(self) -> bool:
        """Neither stored nor queued: a person must know at once."""
        return self.decision == "mailed"


DOWN = (CacheDown, DatabaseDown, MailDelayed, MailRefused, NotConfigured)


def expect(means: Means) -> None:
    """A submission is at the door: have a connection to Postgres coming while Redis is asked."""
    with suppress(NotConfigured):  # which `keep` will say
        means.database.ahead()


def enter(means: Means, lead: Lead, limits: Limits, member: str, now: datetime) -> Entered | Seen:
    """Let a submission in, or recognise it.

    Raises InProgress, KeyReused, RateLimited. Redis down lets everybody in.
    """
    try:
        command = means.cache.run
    except NotConfigured as fault:
        return Entered(flooded=False, repeats=0, uncounted=str(fault))
    answer = gate.enter(
        command,
        identity=lead.identity,
        text_sha256=lead.text_sha256,
        client=gate.client_of(lead.ip_address),
        member=member,
        limits=limits,
        now=now,
    )
    if isinstance(answer, Seen) and lead.keyed and answer.body_sha256 != lead.body_sha256:
        raise KeyReused
    if isinstance(answer, Busy) and lead.keyed:
        raise InProgress
    if isinstance(answer, Turned):
        reset_at_s = int(now.timestamp()) + answer.wait_s
        raise RateLimited(
            limit=answer.limit, remaining=0, wait_s=answer.wait_s, reset_at_s=reset_at_s
        )
    if isinstance(answer, Busy):
        # A double click: Postgres lets one of the two through.
        return Entered(flooded=False, repeats=0)
    if answer is None:
        return Entered(flooded=False, repeats=0, uncounted="redis is down")
    return answer


def challenge(means: Means, lead: Lead, token: str) -> str | None:
    """Why a lead is kept for review by the page's challenge; None if it passed or there is none."""
    if means.turnstile is None:
        return None
    if not token:
        return "unchallenged"
    try:
        passed = means.turnstile.passed(token, lead.ip_address, str(lead.id))
    except ChallengeDown:
        return "challenge_down"
    return None if passed else "challenge_failed"


def keep(means: Means, lead: Lead, desk: Desk, *, spam: str | None, closed: bool = False) -> Kept:
    """Keep a lead on the first rung that takes it. spam: why it is kept for review instead.

    closed: Postgres is under maintenance and is not tried, not even last: what it is given now
    may be undone by a restore.

    Raises NotPersisted when none did; it may then be sent again as it is.
    """
    lost: list[str] = []
    for name, rung in (("database", _store), ("queue", _queue), ("mail", _mail))[closed:]:
        try:
            return rung(means, lead, desk, spam)._replace(lost_rungs=tuple(lost))
        except DOWN as fault:
            lost.append(f"{name}: {fault}" if isinstance(fault, NotConfigured) else name)
    raise NotPersisted(lost=tuple(lost))


def _store(means: Means, lead: Lead, desk: Desk, spam: str | None) -> Kept:
    if spam is not None:
        leads.keep_as_spam(means.database.run, lead, spam, ())
        return Kept(lead, "spam")
    stored, written = leads.store(
        means.database.run, lead, desk, now=lead.created_at, deliver_now=True, erasure_keys=()
    )
    return Kept(stored, "stored" if written else "stored_before", tuple(written))


def _queue(means: Means, lead: Lead, _desk: Desk, spam: str | None) -> Kept:
    queued = lead._replace(arrival="queue", spam=spam)
    backlog.put(means.cache.run_all, means.vault, queued)
    return Kept(queued, "queued")


def _mail(means: Means, lead: Lead, desk: Desk, spam: str | None) -> Kept:
    if spam is not None:
        # Nobody is mailed for spam. It is sent again, or it is not missed.
        raise MailRefused("spam")
    mailed = lead._replace(arrival="mail")
    letter = leads.mails(mailed, desk)[0]
    with suppress(NotConfigured):  # without a key sales still read the lead; no command does
        letter = letters.with_copy(letter, means.vault.seal(copies.to_json(mailed)))
    with suppress(MailTaken):  # then an earlier attempt's copy is out
        means.mailer.send(letter, f"sales/{lead.id}", timeout_s=MAIL_TIMEOUT_S)
    return Kept(mailed, "mailed")


def settle(means: Means, kept: Kept, original: Lead) -> None:
    """After the answer: remember it at the door, in the journal and in the ledger.

    Raises CacheDown or NotConfigured; a drain enters later what is missing here.
    """
    lead = kept.lead
    status = 200 if kept.decision == "spam" else lead.status
    seen = Seen(lead.id, lead.ref, status, original.body_sha256)
    commands: list[tuple[str | int | float, ...]] = [gate.settled(original.identity, seen)]
    if kept.decision in ("stored", "queued", "mailed") and not lead.canary:
        commands += backlog.journal(means.vault, lead)
    means.cache.run_all(*commands)


def leave(means: Means, lead: Lead, member: str) -> None:
    """After a refusal: what was kept nowhere may come again at once, and does not count."""
    means.cache.run_all(*gate.left(lead.identity, gate.client_of(lead.ip_address), member))
