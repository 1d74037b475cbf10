"""Accepts a lead: stores it in the first store that takes it, and records it after the answer.

Postgres; else the sealed queue in Redis; else a mail to sales that carries the lead; else the
caller is told that it is stored nowhere. Any error of a store sends the lead to the next one, an
error of our own included: what Postgres refuses for a renamed column is a lead all the same. The
rule a newcomer would break: no lead is left to a mail, or refused, before every store was really
asked; an open circuit breaker only moves it back.

The whole answer fits in 8 s whatever stalls: the rate limit 1.3, the challenge 0.9, Postgres 3.5,
the queue 1.3 unless Redis was silent before, the mail 2 x MAIL_TIMEOUT_S.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from lib.interfaces import Services
from lib.leads import admission, emails, queue, repository
from lib.leads.admission import IdempotencyRecord
from lib.leads.emails import Email
from lib.leads.lead import Lead, Recipients
from lib.problems import (
    CacheDown,
    DatabaseDown,
    IdempotencyConflict,
    NotConfigured,
    NotPersisted,
    PermanentMailError,
    Problem,
    TransientMailError,
)

MAIL_TIMEOUT_S = 1.0


OUTAGE_ERRORS = (CacheDown, DatabaseDown, TransientMailError, PermanentMailError, NotConfigured)
"""What a store fails with in an outage; anything else is reported."""


class StoreFailure(NamedTuple):
    """A store that did not take the lead, and why."""

    store: str
    error: Exception

    def __str__(self) -> str:
        name = type(self.error).__name__
        return f"{self.store}: {self.error if isinstance(self.error, NotConfigured) else name}"


class PersistedLead(NamedTuple):
    """A lead as stored, and the mails to send now.

    decision: stored, stored_before, corrected, queued, mailed, spam. failures: of the stores that
    were asked before.
    """

    lead: Lead
    decision: str
    emails: tuple[Email, ...] = ()
    failures: tuple[StoreFailure, ...] = ()

    @property
    def needs_alert(self) -> bool:
        """It is neither stored nor queued."""
        return self.decision == "mailed"


def persist(
    services: Services, lead: Lead, recipients: Recipients, *, use_database: bool = True
) -> PersistedLead:
    """Store a lead in the first store that takes it.

    use_database: false under maintenance: Postgres is not asked, not even last, for a restore may
    undo what it is given now. Raises IdempotencyKeyReused; NotPersisted when no store took it: it
    may be sent again as it is.
    """
    stores: dict[str, Store] = {"database": _insert} if use_database else {}
    stores = {**_closed_breakers_first(services, {**stores, "queue": _enqueue}), "mail": _mail}
    failures: list[StoreFailure] = []
    for name, store in stores.items():
        try:
            return store(services, lead, recipients)._replace(failures=tuple(failures))
        except Problem:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the next store may take the lead
            failures.append(StoreFailure(name, error))
    raise NotPersisted(failures=tuple(failures))


type Store = Callable[[Services, Lead, Recipients], PersistedLead]


def _closed_breakers_first(services: Services, stores: dict[str, Store]) -> dict[str, Store]:
    def is_open(name: str) -> bool:
        try:
            return (services.database if name == "database" else services.cache).breaker.is_open
        except NotConfigured:
            return True

    return dict(sorted(stores.items(), key=lambda store: is_open(store[0])))


def _insert(services: Services, lead: Lead, recipients: Recipients) -> PersistedLead:
    run = partial(services.database.run, even_if_open=True)
    if lead.spam is not None:
        repository.insert_spam(run, lead, lead.spam, ())
        return PersistedLead(lead, "spam")
    inserted = repository.insert(
        run, lead, recipients, now=lead.created_at, deliver_now=True, erasure_keys=()
    )
    return PersistedLead(inserted.lead, inserted.decision, inserted.emails)


def _enqueue(services: Services, lead: Lead, _recipients: Recipients) -> PersistedLead:
    queued = lead._replace(arrival="queue")
    # Remembered in the same trip: nothing else recognises a duplicate that comes at once.
    remember = admission.remember_command(lead.identity, _idempotency_record(queued, lead))
    pipeline = partial(services.cache.pipeline, even_if_open=True)
    queue.enqueue(pipeline, services.cipher, queued, remember)
    return PersistedLead(queued, "queued")


def _mail(services: Services, lead: Lead, recipients: Recipients) -> PersistedLead:
    if lead.spam is not None:
        raise PermanentMailError("spam")  # nobody is mailed for spam
    mailed = lead._replace(arrival="mail")
    email = repository.render_emails(mailed, recipients)[0]
    with suppress(NotConfigured):  # without a key sales still read the lead; no command does
        email = emails.attach_sealed_lead(email, services.cipher.encrypt(mailed.to_json()))
    with suppress(IdempotencyConflict):  # then an earlier attempt's copy is out
        services.mailer.send(email, f"sales/{lead.id}", timeout_s=MAIL_TIMEOUT_S)
    return PersistedLead(mailed, "mailed")


def _idempotency_record(stored: Lead, submitted: Lead) -> IdempotencyRecord:
    return IdempotencyRecord(
        stored.id, stored.ref, stored.status, submitted.body_sha256, submitted.keyed
    )


def record_accepted(services: Services, persisted: PersistedLead, submitted: Lead) -> None:
    """After the answer: write the idempotency records, the journal and the ledger.

    Raises CacheDown or NotConfigured; the worker writes later what is missing here.
    """
    lead = persisted.lead
    record = _idempotency_record(lead, submitted)
    identities = {submitted.identity, submitted.content_identity}  # the same words without a key
    commands: list[tuple[str | int | float, ...]] = [
        admission.remember_command(identity, record) for identity in identities
    ]
    if persisted.decision == "corrected":
        corrected = submitted._replace(id=lead.id, ref=lead.ref)
        commands += queue.journal_commands(services.cipher, corrected, correction=True)
    elif persisted.decision in ("stored", "queued", "mailed") and not lead.canary:
        commands += queue.journal_commands(services.cipher, lead)
    services.cache.pipeline(*commands)
