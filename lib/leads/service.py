"""Taking a lead: the stores it is kept in, one after the other, and what is done once it is kept.

Postgres; else the sealed queue in Redis; else a mail to sales that carries the lead; else the
caller is told, truthfully, that it is kept nowhere. Whatever a store fails with, an error of our
own included, sends the lead to the next one: what Postgres refuses for a renamed column or a
missing right is a lead all the same. The rule a newcomer would break: no lead is left to a mail,
or refused, before every store was really asked; an open circuit breaker only moves it back.

The whole answer fits in 8 s whatever stalls: the rate limit 1.3, the challenge 0.9, Postgres 3.5,
the queue 1.3 unless Redis was silent before, the mail 2 x MAIL_TIMEOUT_S.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Protocol

from lib.leads import admission, emails, queue, repository, serialization
from lib.leads.admission import Entered, Limits, Seen, Turned
from lib.leads.emails import Letter
from lib.leads.repository import Desk, Lead
from lib.problems import (
    CacheDown,
    ChallengeDown,
    DatabaseDown,
    KeyReused,
    MailDelayed,
    MailRefused,
    MailTaken,
    NotConfigured,
    NotPersisted,
    Problem,
    RateLimited,
)

MAIL_TIMEOUT_S = 1.0
TWIN_WAIT_S, TWIN_LOOK_S = 1.5, 0.05


class Breaker(Protocol):
    @property
    def open(self) -> bool: ...


class Database(Protocol):
    @property
    def breaker(self) -> Breaker: ...
    @property
    def faults(self) -> tuple[type[Exception], ...]: ...
    def run(
        self, work: Callable[[Any], Any], *, budget_s: float = ..., even_if_open: bool = ...
    ) -> Any: ...
    def ahead(self) -> None: ...
    def ping(self, *, budget_s: float = ...) -> None: ...


class Cache(Protocol):
    @property
    def breaker(self) -> Breaker: ...
    def run(self, *command: str | int | float) -> Any: ...
    def run_all(
        self, *commands: tuple[str | int | float, ...], even_if_open: bool = ...
    ) -> list[Any]: ...
    def ping(self) -> None: ...


class Mailer(Protocol):
    @property
    def per_second(self) -> float: ...
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
    def vault(self) -> queue.Vault: ...
    @property
    def erasure_keys(self) -> tuple[bytes, ...]: ...
    @property
    def turnstile(self) -> Challenge | None: ...


class Lost(NamedTuple):
    """A store that did not take the lead, and what it failed with."""

    store: str
    fault: Exception

    def __str__(self) -> str:
        name = type(self.fault).__name__
        return f"{self.store}: {self.fault if isinstance(self.fault, NotConfigured) else name}"


class Kept(NamedTuple):
    """A lead as kept, in which store, and the mails to send now.

    decision: stored, stored_before, corrected, queued, mailed, spam. lost: the stores that were
    asked before and did not take it.
    """

    lead: Lead
    decision: str
    letters: tuple[Letter, ...] = ()
    lost: tuple[Lost, ...] = ()

    @property
    def alarming(self) -> bool:
        """Neither stored nor queued: a person must know at once."""
        return self.decision == "mailed"


DOWN = (CacheDown, DatabaseDown, MailDelayed, MailRefused, NotConfigured)
"""What a store fails with in an outage; anything else is reported."""


def expect(means: Means) -> None:
    """Have a connection to Postgres coming while Redis is asked."""
    with suppress(NotConfigured):  # which `keep` will say
        means.database.ahead()


def enter(means: Means, lead: Lead, limits: Limits, member: str, now: datetime) -> Entered | Seen:
    """Let a submission in, or recognise it.

    Raises KeyReused, RateLimited. Redis down lets everybody in.
    """
    try:
        command = means.cache.run
    except NotConfigured as fault:
        return Entered(flooded=False, repeats=0, uncounted=str(fault))
    answer = admission.enter(
        command,
        identity=lead.identity,
        content_identity=lead.content_identity,
        body_sha256=lead.body_sha256,
        keyed=lead.keyed,
        text_sha256=lead.text_sha256,
        client=admission.client_of(lead.ip_address),
        member=member,
        limits=limits,
        now=now,
    )
    if isinstance(answer, Entered) and answer.in_work:
        answer = _await_twin(command, lead) or answer
    if isinstance(answer, Seen) and lead.keyed and answer.body_sha256 != lead.body_sha256:
        raise KeyReused
    if isinstance(answer, Turned):
        reset_at_s = int(now.timestamp()) + answer.wait_s
        raise RateLimited(
            limit=answer.limit, remaining=0, wait_s=answer.wait_s, reset_at_s=reset_at_s
        )
    if answer is None:
        return Entered(flooded=False, repeats=0, uncounted="redis is down")
    return answer


def _await_twin(command: admission.Command, lead: Lead) -> Seen | None:
    """How the request that is at the same submission is answered; None if that takes too long."""
    end = time.monotonic() + TWIN_WAIT_S
    while time.monotonic() < end:
        time.sleep(TWIN_LOOK_S)
        seen = admission.find(command, lead.identity)
        if seen is not None:
            # Without a key another body is no repeat: it corrects what was just accepted.
            return seen if lead.keyed or seen.body_sha256 == lead.body_sha256 else None
    return None


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


def same_words(lead: Lead, earlier: Seen | None) -> Lead:
    """The lead under the id and reference that its words had before, unless both had a key."""
    if earlier is None or (lead.keyed and earlier.keyed):
        return lead
    return repository.seen_before(lead, earlier.id, earlier.ref)


def keep(means: Means, lead: Lead, desk: Desk, *, spam: str | None, closed: bool = False) -> Kept:
    """Keep a lead in the first store that takes it. spam: why it goes to the spam box instead.

    closed: Postgres is under maintenance and is not tried, not even last: what it is given now
    may be undone by a restore.

    Raises NotPersisted when none did; it may then be sent again as it is. KeyReused.
    """
    lost: list[Lost] = []
    stores = {} if closed else {"database": _store}
    for name, take in {**_up_first(means, {**stores, "queue": _queue}), "mail": _mail}.items():
        try:
            return take(means, lead, desk, spam)._replace(lost=tuple(lost))
        except Problem:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, the next store may take the lead
            lost.append(Lost(name, fault))
    raise NotPersisted(lost=tuple(lost))


type _Take = Callable[[Means, Lead, Desk, str | None], Kept]


def _up_first(means: Means, stores: dict[str, _Take]) -> dict[str, _Take]:
    """The stores as given, but those whose circuit breaker is open last."""

    def is_open(name: str) -> bool:
        try:
            return (means.database if name == "database" else means.cache).breaker.open
        except NotConfigured:
            return True

    return dict(sorted(stores.items(), key=lambda store: is_open(store[0])))


def _store(means: Means, lead: Lead, desk: Desk, spam: str | None) -> Kept:
    run = partial(means.database.run, even_if_open=True)
    if spam is not None:
        repository.keep_as_spam(run, lead, spam, ())
        return Kept(lead, "spam")
    stored = repository.store(
        run, lead, desk, now=lead.created_at, deliver_now=True, erasure_keys=()
    )
    return Kept(stored.lead, stored.decision, stored.letters)


def _queue(means: Means, lead: Lead, _desk: Desk, spam: str | None) -> Kept:
    queued = lead._replace(arrival="queue", spam=spam)
    # Remembered with it, for nothing else tells a repeat that comes before this answer is read.
    status = 200 if spam is not None else queued.status
    seen = Seen(queued.id, queued.ref, status, lead.body_sha256, lead.keyed)
    remember = admission.settled(lead.identity, seen)
    queue.put(partial(means.cache.run_all, even_if_open=True), means.vault, queued, remember)
    return Kept(queued, "queued")


def _mail(means: Means, lead: Lead, desk: Desk, spam: str | None) -> Kept:
    if spam is not None:
        # Nobody is mailed for spam. It is sent again, or it is not missed.
        raise MailRefused("spam")
    mailed = lead._replace(arrival="mail")
    letter = repository.mails(mailed, desk)[0]
    with suppress(NotConfigured):  # without a key sales still read the lead; no command does
        letter = emails.with_copy(letter, means.vault.seal(serialization.to_json(mailed)))
    with suppress(MailTaken):  # then an earlier attempt's copy is out
        means.mailer.send(letter, f"sales/{lead.id}", timeout_s=MAIL_TIMEOUT_S)
    return Kept(mailed, "mailed")


def settle(means: Means, kept: Kept, original: Lead) -> None:
    """After the answer: remember the submission, in the idempotency records, journal and ledger.

    Raises CacheDown or NotConfigured; a drain enters later what is missing here.
    """
    lead = kept.lead
    status = 200 if kept.decision == "spam" else lead.status
    seen = Seen(lead.id, lead.ref, status, original.body_sha256, original.keyed)
    commands: list[tuple[str | int | float, ...]] = [admission.settled(original.identity, seen)]
    if original.keyed:
        # The same words without a key are the same lead.
        commands.append(admission.settled(original.content_identity, seen))
    if kept.decision == "corrected":
        commands += queue.journal(
            means.vault, repository.seen_before(original, lead.id, lead.ref), correction=True
        )
    elif kept.decision in ("stored", "queued", "mailed") and not lead.canary:
        commands += queue.journal(means.vault, lead)
    means.cache.run_all(*commands)


def leave(means: Means, lead: Lead, member: str) -> None:
    """After a refusal: what was kept nowhere may come again at once, and does not count."""
    means.cache.run_all(
        *admission.left(lead.identity, admission.client_of(lead.ip_address), member)
    )
