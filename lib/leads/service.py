"""Accepts a lead: stores it in the first store that takes it, and records it after the answer.

Postgres; else the sealed queue in Redis; else a mail to sales that carries the lead; else the
caller learns that it is stored nowhere. Each store decides itself whether it accepts the lead
(`accept_lead` in Postgres, lib/leads/admission.py in Redis). Any error of a store sends the lead to
the next one, an error of our own included: what Postgres refuses for a renamed column is a lead all
the same. The rule a newcomer would break: no lead is left to a mail, or refused, before every store
was really asked; an open circuit breaker only moves it back.

The whole answer fits in 8 s whatever stalls: the challenge 0.9, Postgres 3.5, the queue 1.3, the
mail 2 x MAIL_TIMEOUT_S. Redis is asked for earlier records first only after an outage, and then not
again where Postgres was slow too.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from lib.interfaces import RedisCommand, Services
from lib.leads import admission, emails, queue, repository, send_rate, spam
from lib.leads.admission import Admission, IdempotencyRecord, RateLimits, StoreFailure
from lib.leads.lead import Lead, Recipients
from lib.leads.repository import Terms
from lib.problems import (
    CacheDown,
    DatabaseDown,
    IdempotencyConflict,
    IntakeClosed,
    NotConfigured,
    NotPersisted,
    PermanentMailError,
    Problem,
    TransientMailError,
)

MAIL_TIMEOUT_S = 1.0
LAST_QUEUE_START_S = 4.2  # Postgres' budget, and a little
MAX_QUEUE_ATTEMPTS = 3

OUTAGE_ERRORS = (
    CacheDown, DatabaseDown, IntakeClosed, TransientMailError, PermanentMailError, NotConfigured,
)  # fmt: skip
"""What a store fails with in an outage; anything else is reported."""


class Conditions(NamedTuple):
    """What a visitor's lead has to meet.

    screen: the lead with `spam` or `review`, by how often its text came within a day.
    use_database: false while intake is known to be closed: Postgres is not asked, not even last,
    for a restore may undo what it is given now. bypass_maintenance: true for an operator.
    """

    limits: RateLimits = admission.UNLIMITED
    screen: Callable[[Lead, int], Lead] = lambda lead, _repeats: lead
    use_database: bool = True
    bypass_maintenance: bool = False


def persist(
    services: Services, lead: Lead, recipients: Recipients, conditions: Conditions | None = None
) -> Admission:
    """Store a lead in the first store that takes it.

    Raises IdempotencyKeyReused, RateLimited; NotPersisted when no store took it: it may be sent
    again as it is.
    """
    conditions = conditions or Conditions()
    started, failures = time.monotonic(), list[StoreFailure]()
    if _queue_hint.may_hold_leads:
        with suppress(CacheDown, NotConfigured):
            decision = admission.find_record(services.cache.pipeline, lead)
            decision.raise_refusal(lead.created_at)
            if decision.name == "duplicate":
                return _as_duplicate(lead, decision.stored)
            if decision.name == "earlier":
                lead = decision.stored.identify(lead)
    lead = conditions.screen(lead, 0)
    stores: dict[str, Store] = {"database": _insert} if conditions.use_database else {}
    stores = {**_closed_breakers_first(services, {**stores, "queue": _enqueue}), "mail": _mail}
    for name, store in stores.items():
        if name == "queue" and time.monotonic() - started > LAST_QUEUE_START_S:
            failures.append(StoreFailure(name, CacheDown()))
            continue
        try:
            admitted = store(services, lead, recipients, conditions)
            return admitted._replace(failures=tuple(failures))
        except Problem:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the next store may take the lead
            failures.append(StoreFailure(name, error))
    raise NotPersisted(failures=tuple(failures))


type Store = Callable[[Services, Lead, Recipients, Conditions], Admission]


def _closed_breakers_first(services: Services, stores: dict[str, Store]) -> dict[str, Store]:
    def is_open(store: str) -> bool:
        # One that was never used is not loaded for it: it was never down.
        service = services.__dict__.get("database" if store == "database" else "cache")
        return service is not None and bool(service.breaker.is_open)

    return dict(sorted(stores.items(), key=lambda store: is_open(store[0])))


def _insert(
    services: Services, lead: Lead, recipients: Recipients, conditions: Conditions
) -> Admission:
    run = partial(services.database.run, even_if_open=True)
    terms = Terms(
        admission.client_hash(services.rate_limit_key, lead.ip_address),
        *conditions.limits,
        max_repeats=None if lead.spam else spam.MAX_REPEATS,
        bypass_maintenance=conditions.bypass_maintenance,
    )
    insert = partial(
        repository.insert, run, recipients=recipients, now=lead.created_at,
        deliver_now=not send_rate.has_backlog(), erasure_keys=(),
    )  # fmt: skip
    admitted: Admission = insert(lead, terms=terms)
    if admitted.decision == "repeated_text":
        lead = conditions.screen(lead, spam.MAX_REPEATS + 1)
        admitted = insert(lead, terms=terms._replace(max_repeats=None))
    return admitted


def _enqueue(
    services: Services, lead: Lead, _recipients: Recipients, conditions: Conditions
) -> Admission:
    pipeline = partial(services.cache.pipeline, even_if_open=True)
    queued, cipher = lead._replace(arrival="queue"), services.cipher
    max_repeats, knows_earlier = None if lead.spam else spam.MAX_REPEATS, False
    for _ in range(MAX_QUEUE_ATTEMPTS):
        for_review = queued._replace(review=queued.review or (None if queued.spam else "flood"))
        sealed = queue.seal(cipher, queued), queue.seal(cipher, for_review)
        decision = admission.decide(
            pipeline, queued, sealed, conditions.limits, queue=queue.QUEUE,
            max_repeats=max_repeats, knows_earlier=knows_earlier,
        )  # fmt: skip
        if decision.name == "queued":
            decision = queue.confirm(pipeline, cipher, queued, sealed, decision.stored)
        decision.raise_refusal(lead.created_at)
        if decision.name == "queued":
            _queue_hint.may_hold_leads = True
            return Admission(queued, "queued")
        if decision.name == "duplicate":
            return _as_duplicate(lead, decision.stored)
        if decision.name == "earlier":
            queued, knows_earlier = decision.stored.identify(queued), True
        else:
            max_repeats = None
            queued = conditions.screen(queued, spam.MAX_REPEATS + 1)
    raise CacheDown


def _as_duplicate(lead: Lead, record: IdempotencyRecord) -> Admission:
    """As the same submission was answered before."""
    arrival = "direct" if record.status == 200 else "queue"
    return Admission(record.identify(lead)._replace(arrival=arrival), "duplicate")


class _QueueHint:
    """Whether, as far as this instance knows, the queue holds leads that Postgres has not."""

    may_hold_leads = False


_queue_hint = _QueueHint()


def _mail(
    services: Services, lead: Lead, recipients: Recipients, _conditions: Conditions
) -> Admission:
    if lead.spam is not None:
        raise PermanentMailError("spam")  # nobody is mailed for spam
    mailed = lead._replace(arrival="mail")
    email = repository.render_emails(mailed, recipients)[0]
    with suppress(NotConfigured):  # without a key sales still read the lead; no command does
        email = emails.attach_sealed_lead(email, services.cipher.encrypt(mailed.to_json()))
    with suppress(IdempotencyConflict):  # then an earlier attempt's copy is out
        services.mailer.send(email, f"sales/{lead.id}", timeout_s=MAIL_TIMEOUT_S)
    return Admission(mailed, "mailed")


def record_accepted(services: Services, admitted: Admission, submitted: Lead) -> None:
    """After the answer: write the idempotency records, the journal and the ledger.

    Raises CacheDown or NotConfigured; the worker writes later what is missing here.
    """
    if admitted.decision == "duplicate":
        return
    lead = admitted.lead
    record = IdempotencyRecord(
        lead.id, lead.ref, lead.status, submitted.body_sha256, submitted.keyed
    )
    identities = {submitted.identity, submitted.content_identity}  # the same words without a key
    commands: list[RedisCommand] = [
        admission.remember_command(identity, record) for identity in identities
    ]
    if admitted.decision == "corrected":
        corrected = submitted._replace(id=lead.id, ref=lead.ref)
        commands += queue.journal_commands(services.cipher, corrected, correction=True)
    elif admitted.decision in ("stored", "queued", "mailed") and not lead.canary:
        commands += queue.journal_commands(services.cipher, lead)
    *_, waiting = services.cache.pipeline(*commands, ("HLEN", queue.QUEUE))
    _queue_hint.may_hold_leads = bool(waiting)
