"""Mails on their way: claim, send, say what happened. A mail is delivered once.

Two things make that so: a lease, which lets one worker at a time try, and Resend's idempotency
key, which makes a second try of a mail already taken a no-op for 24 hours. Past that an attempt
whose outcome is unknown is never repeated: the mail is parked as a dead letter for a person.

An attempt is counted, and the next one put off, when a mail is claimed: one that kills its worker
each time is taken last and ends as a dead letter too. Sales' mails are taken before
acknowledgements. Nobody sends faster than lib/leads/send_rate.py lets all together.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from lib.interfaces import RunQuery, Services
from lib.leads import send_rate
from lib.leads.emails import Email
from lib.problems import IdempotencyConflict, NotConfigured, PermanentMailError, TransientMailError

type SendEmail = Callable[..., str]
"""`Mailer.send`: a letter and its idempotency key -> the provider's id."""

LEASE_DURATION = timedelta(seconds=60)  # a try takes 20 at most
BACKOFF = tuple(
    timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 6 * 60, 24 * 60)
)  # contract: 1 m, 5 m, 15 m, 1 h, 6 h, 24 h
# Resend keeps a key for 24 h. A last try is made early enough for a late cron; none after the end.
IDEMPOTENCY_KEY_TTL = timedelta(hours=23)
LAST_SAFE_RETRY = timedelta(hours=23, minutes=50)
MAX_PAUSE_S = 5.0
ADDRESS_REFUSED = "address_refused"  # the end of an acknowledgement to no address
UNEXPECTED_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
WORKER_LOST = "worker_lost"
MISSING_API_KEY = "missing_api_key"  # as Resend says it


class ClaimedEmail(NamedTuple):
    """A mail that is ours until its lease ends. attempt counts from 1 and fences late writers."""

    lead_id: UUID
    attempt: int
    first_attempt_at: datetime
    uncertain: bool
    email: Email


class DeliveryStats:
    """What one run did, in mails.

    refused: acknowledgements that Resend takes for no address of theirs. pause_s: for how long
    nobody may send, if so. fault: the first unexpected error, whose mail is tried again later.
    """

    sent: int = 0
    delayed: int = 0
    dead: int = 0
    refused: int = 0
    pause_s: float = 0.0
    error: Exception | None = None


# A claimed mail is uncertain until its attempt is written down: its worker may be killed.
CLAIM_DUE = """
update outbox as o set
  leased_until = %(until)s,
  attempts = o.attempts + 1,
  first_attempt_at = coalesce(o.first_attempt_at, %(now)s),
  next_attempt_at = least(
    %(now)s::timestamptz + (%(waits)s::interval[])[least(o.attempts + 1, %(most)s::integer - 1)],
    greatest(coalesce(o.first_attempt_at, %(now)s) + %(key_life)s::interval,
      %(until)s::timestamptz)),
  uncertain = true
from (
  select id, uncertain from outbox
  where sent_at is null and dead_at is null and next_attempt_at <= %(now)s
    and (leased_until is null or leased_until <= %(now)s) and attempts < %(most)s::integer
  order by kind desc, next_attempt_at, created_at
  limit %(limit)s
  for update skip locked
) as due
where o.id = due.id
returning o.lead_id, o.attempts, o.first_attempt_at, due.uncertain,
  o.kind, o.sender, o.recipients, o.reply_to, o.subject, o.body_text, o.body_html
"""

# Nothing was heard of the worker of the last attempt.
MARK_ABANDONED_DEAD = """
update outbox set dead_at = %(now)s, leased_until = null, last_error = %(error)s
where sent_at is null and dead_at is null and attempts >= %(most)s::integer
  and leased_until <= %(now)s
"""

MARK_SENT = """
update outbox as o set sent_at = %(now)s, provider_id = told.provider_id, leased_until = null,
  last_error = null, dead_at = null
from unnest(%(leads)s::uuid[], %(kinds)s::text[], %(provider_ids)s::text[])
  as told (lead_id, kind, provider_id)
where o.lead_id = told.lead_id and o.kind = told.kind and o.sent_at is null
"""

# A key's life begins with the first attempt that Resend may have taken.
RESCHEDULE = """
update outbox set next_attempt_at = %(next)s, leased_until = null,
  last_error = coalesce(%(error)s, last_error),
  uncertain = %(uncertain)s, attempts = %(attempts)s,
  first_attempt_at = case when %(uncertain)s then first_attempt_at end
where lead_id = %(lead_id)s and kind = %(kind)s and attempts = %(attempt)s
  and sent_at is null and dead_at is null
"""

MARK_DEAD = """
update outbox set dead_at = %(now)s, leased_until = null, last_error = %(error)s,
  uncertain = %(uncertain)s
where lead_id = %(lead_id)s and kind = %(kind)s and attempts = %(attempt)s
  and sent_at is null and dead_at is null
"""


def claimed_on_insert(lead_id: UUID, letters: Iterable[Email], now: datetime) -> list[ClaimedEmail]:
    """The mails of a lead just stored: written as already claimed by who stored it."""
    return [ClaimedEmail(lead_id, 1, now, False, letter) for letter in letters]


def claim(run: RunQuery, now: datetime, limit: int = 1) -> list[ClaimedEmail]:
    """Up to `limit` mails that are due and nobody's.

    One at a time by default: the last of many would outlive its lease when Resend is slow.
    """
    values = {"now": now, "until": now + LEASE_DURATION, "limit": limit, "waits": list(BACKOFF),
              "most": len(BACKOFF) + 1, "key_life": IDEMPOTENCY_KEY_TTL}  # fmt: skip
    rows = run(lambda connection: connection.execute(CLAIM_DUE, values).fetchall())
    return [
        ClaimedEmail(lead_id, attempt, first, uncertain, Email(kind, sender, tuple(to), *content))
        for lead_id, attempt, first, uncertain, kind, sender, to, *content in rows
    ]


def mark_abandoned_dead(run: RunQuery, now: datetime) -> int:
    """End mails whose every worker was lost; how many."""
    values = {"now": now, "error": WORKER_LOST, "most": len(BACKOFF) + 1}
    count: int = run(lambda connection: connection.execute(MARK_ABANDONED_DEAD, values).rowcount)
    return count


# ------------------------------------------------------------------ at Resend's pace


class Transport(NamedTuple):
    """How mails leave: by whom, how fast, and what must not stop them (`Database.faults`)."""

    send: SendEmail
    per_second: float = send_rate.REQUESTS_PER_S
    faults: send_rate.ErrorTypes = ()


def get_transport(means: Services) -> Transport:
    """The mailer. Without a key every mail is told so, and waits."""
    try:
        mailer = means.mailer
    except NotConfigured:
        return Transport(_without_api_key, faults=means.database.all_errors)
    return Transport(mailer.send, mailer.per_second, means.database.all_errors)


def _without_api_key(_letter: Email, _key: str) -> str:
    raise TransientMailError(
        MISSING_API_KEY, may_be_sent=False, retry_after_s=LEASE_DURATION.total_seconds()
    )


def send_due(
    run: RunQuery, way: Transport, clock: Callable[[], datetime], budget_s: float
) -> DeliveryStats:
    """Send what is due until nothing is, or for budget_s seconds. Any number may run at once."""
    tally = DeliveryStats()
    end = time.monotonic() + budget_s
    tally.dead += mark_abandoned_dead(run, clock())
    while (left_s := end - time.monotonic()) > 0:
        wait_s = _reserve_slots(run, way, clock(), 1, own=False, within_s=left_s)
        if wait_s is None:
            # A short pause is waited for; a long one is for the next drain.
            held_s = send_rate.pause_left_s(run, clock())
            if held_s is None or held_s > min(MAX_PAUSE_S, left_s):
                break
            send_rate.sleep(held_s)
            continue
        send_rate.sleep(wait_s)
        mine = claim(run, clock())
        if not mine:
            break
        _send_all(run, way, mine, clock, tally)
        tally.pause_s = 0.0
    return tally


def send_new(
    run: RunQuery,
    way: Transport,
    mails: Sequence[ClaimedEmail],
    clock: Callable[[], datetime],
    tally: DeliveryStats,
) -> None:
    """Send the mails of a lead just stored, by whoever stored it, if their turn comes at once.

    Else they are due for the next drain, as if never tried.
    """
    if not mails:
        return
    within_s = send_rate.MAX_WAIT.total_seconds()
    wait_s = _reserve_slots(run, way, clock(), len(mails), own=True, within_s=within_s)
    if wait_s is None:
        for mail in mails:
            _release(run, mail, clock(), tally)
        return
    send_rate.sleep(wait_s)
    _send_all(run, way, mails, clock, tally, gap_s=send_rate.min_interval_s(way.per_second))


def _reserve_slots(
    run: RunQuery, way: Transport, now: datetime, n: int, *, own: bool, within_s: float
) -> float | None:
    gap_s = send_rate.min_interval_s(way.per_second)
    return send_rate.reserve_slots(
        run, now, n, gap_s, own=own, within_s=within_s, faults=way.faults
    )


def send_claimed(
    run: RunQuery,
    send: SendEmail,
    mails: Sequence[ClaimedEmail],
    clock: Callable[[], datetime],
    tally: DeliveryStats,
) -> None:
    """Try each mail once, at no pace, and raise what was unexpected once all is written down."""
    _send_all(run, Transport(send), mails, clock, tally)
    if tally.error is not None:
        raise tally.error


# ------------------------------------------------------------------ one attempt


def _send_all(
    run: RunQuery,
    way: Transport,
    mails: Sequence[ClaimedEmail],
    clock: Callable[[], datetime],
    tally: DeliveryStats,
    *,
    gap_s: float = 0.0,
) -> None:
    """Try each mail once and write down what came of it, of all that were sent at once.

    Killed between the sending and the writing, the lease ends and the same key is used again.
    """
    sent: list[tuple[ClaimedEmail, str | None]] = []
    try:
        for number, mail in enumerate(mails):
            if tally.pause_s:
                _release(run, mail, clock(), tally)
                continue
            send_rate.sleep(gap_s if number else 0.0)
            _send_one(run, way, mail, clock, tally, sent)
    finally:
        if sent:
            _mark_sent(run, sent, clock())


def _send_one(
    run: RunQuery,
    way: Transport,
    mail: ClaimedEmail,
    clock: Callable[[], datetime],
    tally: DeliveryStats,
    sent: list[tuple[ClaimedEmail, str | None]],
) -> None:
    if mail.uncertain and clock() >= mail.first_attempt_at + LAST_SAFE_RETRY:
        _mark_dead(run, mail, "uncertain", True, clock(), tally)
        return
    try:
        provider_id = way.send(mail.email, f"{mail.email.kind}/{mail.lead_id}")
    except IdempotencyConflict:
        # Sales had this lead as the mail copy of an outage, under the same key.
        sent.append((mail, None))
        tally.sent += 1
    except PermanentMailError as refusal:
        _handle_refusal(run, mail, refusal, clock(), tally)
    except TransientMailError as delay:
        _reschedule(run, way, mail, delay, clock(), tally)
    except UNEXPECTED_ERRORS as fault:  # whatever one mail does, the others leave
        unknown = TransientMailError(f"fault_{type(fault).__name__}", may_be_sent=True)
        _reschedule(run, way, mail, unknown, clock(), tally)
        tally.error = tally.error or fault
    else:
        sent.append((mail, provider_id))
        tally.sent += 1


def _mark_sent(run: RunQuery, sent: list[tuple[ClaimedEmail, str | None]], now: datetime) -> None:
    values = {
        "now": now,
        "leads": [mail.lead_id for mail, _ in sent],
        "kinds": [mail.email.kind for mail, _ in sent],
        "provider_ids": [provider_id for _, provider_id in sent],
    }
    run(lambda connection: connection.execute(MARK_SENT, values))


def _reschedule(
    run: RunQuery,
    way: Transport,
    mail: ClaimedEmail,
    delay: TransientMailError,
    now: datetime,
    tally: DeliveryStats,
) -> None:
    uncertain = mail.uncertain or delay.may_be_sent
    attempts = mail.attempt
    if delay.retry_after_s is not None:
        due: datetime | None = now + timedelta(seconds=delay.retry_after_s)
        attempts -= 1
        if delay.pauses_all:
            tally.pause_s = delay.retry_after_s
            send_rate.pause(run, now, delay.retry_after_s, delay.reason, way.faults)
    else:
        due = next_attempt_at(mail, uncertain, now)
    if due is None:
        _mark_dead(run, mail, delay.reason, uncertain, now, tally)
    else:
        facts = {"next": due, "error": delay.reason, "uncertain": uncertain, "attempts": attempts}
        _update(run, RESCHEDULE, mail, **facts)
        tally.delayed += 1


def _release(run: RunQuery, mail: ClaimedEmail, now: datetime, tally: DeliveryStats) -> None:
    """Give back what was not tried."""
    facts = {"next": now, "error": None, "uncertain": mail.uncertain, "attempts": mail.attempt - 1}
    _update(run, RESCHEDULE, mail, **facts)
    tally.delayed += 1


def _handle_refusal(
    run: RunQuery,
    mail: ClaimedEmail,
    refusal: PermanentMailError,
    now: datetime,
    tally: DeliveryStats,
) -> None:
    """An acknowledgement is refused for the address its visitor gave: that wakes nobody."""
    if mail.email.kind != "acknowledgement":
        _mark_dead(run, mail, refusal.reason, mail.uncertain, now, tally)
        return
    _update(run, MARK_DEAD, mail, now=now, error=ADDRESS_REFUSED, uncertain=mail.uncertain)
    tally.refused += 1


def _mark_dead(
    run: RunQuery,
    mail: ClaimedEmail,
    reason: str,
    uncertain: bool,
    now: datetime,
    tally: DeliveryStats,
) -> None:
    _update(run, MARK_DEAD, mail, now=now, error=reason, uncertain=uncertain)
    tally.dead += 1


def next_attempt_at(mail: ClaimedEmail, uncertain: bool, now: datetime) -> datetime | None:
    """When to try again; None when it must not be tried again by itself."""
    if mail.attempt > len(BACKOFF):
        return None
    # Jitter, so that what failed together does not come back together.
    due = now + BACKOFF[mail.attempt - 1] * random.uniform(1.0, 1.2)  # noqa: S311
    if uncertain and due > mail.first_attempt_at + IDEMPOTENCY_KEY_TTL:
        last_call = mail.first_attempt_at + IDEMPOTENCY_KEY_TTL
        return last_call if now < last_call - timedelta(minutes=30) else None
    return due


def _update(run: RunQuery, statement: str, mail: ClaimedEmail, **values: object) -> None:
    values |= {"lead_id": mail.lead_id, "kind": mail.email.kind, "attempt": mail.attempt}
    run(lambda connection: connection.execute(statement, values))
