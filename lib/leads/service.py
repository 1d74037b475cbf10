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
from typing import NamedTuple

from lib.interfaces import Services
from lib.leads import admission, emails, queue, repository, serialization
from lib.leads.admission import Admitted, IdempotencyRecord, RateLimits, TooMany
from lib.leads.emails import Email
from lib.leads.repository import Lead, Recipients
from lib.problems import (
    CacheDown,
    DatabaseDown,
    IdempotencyConflict,
    IdempotencyKeyReused,
    NotConfigured,
    NotPersisted,
    PermanentMailError,
    Problem,
    RateLimited,
    TransientMailError,
    TurnstileDown,
)

MAIL_TIMEOUT_S = 1.0
DUPLICATE_WAIT_S, DUPLICATE_POLL_S = 1.5, 0.05


class StoreFailure(NamedTuple):
    """A store that did not take the lead, and what it failed with."""

    store: str
    error: Exception

    def __str__(self) -> str:
        name = type(self.error).__name__
        return f"{self.store}: {self.error if isinstance(self.error, NotConfigured) else name}"


class PersistedLead(NamedTuple):
    """A lead as kept, in which store, and the mails to send now.

    decision: stored, stored_before, corrected, queued, mailed, spam. lost: the stores that were
    asked before and did not take it.
    """

    lead: Lead
    decision: str
    emails: tuple[Email, ...] = ()
    failures: tuple[StoreFailure, ...] = ()

    @property
    def needs_alert(self) -> bool:
        """Neither stored nor queued: a person must know at once."""
        return self.decision == "mailed"


OUTAGE_ERRORS = (CacheDown, DatabaseDown, TransientMailError, PermanentMailError, NotConfigured)
"""What a store fails with in an outage; anything else is reported."""


def admit(
    means: Services, lead: Lead, limits: RateLimits, member: str, now: datetime
) -> Admitted | IdempotencyRecord:
    """Let a submission in, or recognise it.

    Raises KeyReused, RateLimited. Redis down lets everybody in.
    """
    try:
        command = means.cache.execute
    except NotConfigured as fault:
        return Admitted(flooded=False, repeats=0, not_counted_because=str(fault))
    answer = admission.admit(
        command,
        identity=lead.identity,
        content_identity=lead.content_identity,
        body_sha256=lead.body_sha256,
        keyed=lead.keyed,
        text_sha256=lead.text_sha256,
        client=admission.client_key(lead.ip_address),
        member=member,
        limits=limits,
        now=now,
    )
    if isinstance(answer, Admitted) and answer.in_flight:
        answer = _await_in_flight(command, lead) or answer
    if (
        isinstance(answer, IdempotencyRecord)
        and lead.keyed
        and answer.body_sha256 != lead.body_sha256
    ):
        raise IdempotencyKeyReused
    if isinstance(answer, TooMany):
        reset_at_s = int(now.timestamp()) + answer.retry_after_s
        raise RateLimited(
            limit=answer.limit, remaining=0, wait_s=answer.retry_after_s, reset_at_s=reset_at_s
        )
    if answer is None:
        return Admitted(flooded=False, repeats=0, not_counted_because="redis is down")
    return answer


def _await_in_flight(command: admission.RunCommand, lead: Lead) -> IdempotencyRecord | None:
    """How the request that is at the same submission is answered; None if that takes too long."""
    end = time.monotonic() + DUPLICATE_WAIT_S
    while time.monotonic() < end:
        time.sleep(DUPLICATE_POLL_S)
        seen = admission.find_record(command, lead.identity)
        if seen is not None:
            # Without a key another body is no repeat: it corrects what was just accepted.
            return seen if lead.keyed or seen.body_sha256 == lead.body_sha256 else None
    return None


def verify_challenge(means: Services, lead: Lead, token: str) -> str | None:
    """Why a lead is kept for review by the page's challenge; None if it passed or there is none."""
    if means.turnstile is None:
        return None
    if not token:
        return "unchallenged"
    try:
        passed = means.turnstile.verify(token, lead.ip_address, str(lead.id))
    except TurnstileDown:
        return "challenge_down"
    return None if passed else "challenge_failed"


def with_earlier_identity(lead: Lead, earlier: IdempotencyRecord | None) -> Lead:
    """The lead under the id and reference that its words had before, unless both had a key."""
    if earlier is None or (lead.keyed and earlier.keyed):
        return lead
    return repository.as_duplicate(lead, earlier.id, earlier.ref)


def persist(
    means: Services, lead: Lead, desk: Recipients, *, spam: str | None, closed: bool = False
) -> PersistedLead:
    """Keep a lead in the first store that takes it. spam: why it goes to the spam box instead.

    closed: Postgres is under maintenance and is not tried, not even last: what it is given now
    may be undone by a restore.

    Raises NotPersisted when none did; it may then be sent again as it is. KeyReused.
    """
    lost: list[StoreFailure] = []
    stores = {} if closed else {"database": _insert_in_postgres}
    for name, take in {
        **_closed_breakers_first(means, {**stores, "queue": _enqueue}),
        "mail": _mail_to_sales,
    }.items():
        try:
            return take(means, lead, desk, spam)._replace(failures=tuple(lost))
        except Problem:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, the next store may take the lead
            lost.append(StoreFailure(name, fault))
    raise NotPersisted(failures=tuple(lost))


type _Persist = Callable[[Services, Lead, Recipients, str | None], PersistedLead]


def _closed_breakers_first(means: Services, stores: dict[str, _Persist]) -> dict[str, _Persist]:
    """The stores as given, but those whose circuit breaker is open last."""

    def is_open(name: str) -> bool:
        try:
            return (means.database if name == "database" else means.cache).breaker.is_open
        except NotConfigured:
            return True

    return dict(sorted(stores.items(), key=lambda store: is_open(store[0])))


def _insert_in_postgres(
    means: Services, lead: Lead, desk: Recipients, spam: str | None
) -> PersistedLead:
    run = partial(means.database.run, even_if_open=True)
    if spam is not None:
        repository.insert_spam(run, lead, spam, ())
        return PersistedLead(lead, "spam")
    stored = repository.insert(
        run, lead, desk, now=lead.created_at, deliver_now=True, erasure_keys=()
    )
    return PersistedLead(stored.lead, stored.decision, stored.emails)


def _enqueue(means: Services, lead: Lead, _desk: Recipients, spam: str | None) -> PersistedLead:
    queued = lead._replace(arrival="queue", spam=spam)
    # Remembered with it, for nothing else tells a repeat that comes before this answer is read.
    status = 200 if spam is not None else queued.status
    seen = IdempotencyRecord(queued.id, queued.ref, status, lead.body_sha256, lead.keyed)
    remember = admission.remember_command(lead.identity, seen)
    queue.enqueue(partial(means.cache.pipeline, even_if_open=True), means.cipher, queued, remember)
    return PersistedLead(queued, "queued")


def _mail_to_sales(
    means: Services, lead: Lead, desk: Recipients, spam: str | None
) -> PersistedLead:
    if spam is not None:
        # Nobody is mailed for spam. It is sent again, or it is not missed.
        raise PermanentMailError("spam")
    mailed = lead._replace(arrival="mail")
    letter = repository.render_emails(mailed, desk)[0]
    with suppress(NotConfigured):  # without a key sales still read the lead; no command does
        letter = emails.attach_sealed_lead(
            letter, means.cipher.encrypt(serialization.to_json(mailed))
        )
    with suppress(IdempotencyConflict):  # then an earlier attempt's copy is out
        means.mailer.send(letter, f"sales/{lead.id}", timeout_s=MAIL_TIMEOUT_S)
    return PersistedLead(mailed, "mailed")


def record_accepted(means: Services, kept: PersistedLead, original: Lead) -> None:
    """After the answer: remember the submission, in the idempotency records, journal and ledger.

    Raises CacheDown or NotConfigured; a drain enters later what is missing here.
    """
    lead = kept.lead
    status = 200 if kept.decision == "spam" else lead.status
    seen = IdempotencyRecord(lead.id, lead.ref, status, original.body_sha256, original.keyed)
    commands: list[tuple[str | int | float, ...]] = [
        admission.remember_command(original.identity, seen)
    ]
    if original.keyed:
        # The same words without a key are the same lead.
        commands.append(admission.remember_command(original.content_identity, seen))
    if kept.decision == "corrected":
        commands += queue.journal_commands(
            means.cipher, repository.as_duplicate(original, lead.id, lead.ref), correction=True
        )
    elif kept.decision in ("stored", "queued", "mailed") and not lead.canary:
        commands += queue.journal_commands(means.cipher, lead)
    means.cache.pipeline(*commands)


def release(means: Services, lead: Lead, member: str) -> None:
    """After a refusal: what was kept nowhere may come again at once, and does not count."""
    means.cache.pipeline(
        *admission.release_commands(lead.identity, admission.client_key(lead.ip_address), member)
    )
