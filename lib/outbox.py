"""Mails on their way: claim, send, say what happened. A mail is delivered once.

Two things make that so: a lease, which lets one worker at a time try, and Resend's idempotency
key, which makes a second try of a mail already taken a no-op for 24 hours. Past that an attempt
whose outcome is unknown is never repeated: the mail is parked as a dead letter for a person.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from lib.letters import Letter
from lib.problems import MailDelayed, MailRefused, MailTaken

if TYPE_CHECKING:
    from psycopg import Connection

type Run = Callable[[Callable[["Connection[Any]"], Any]], Any]
type Send = Callable[..., str]
"""`Mailer.send`: a letter and its idempotency key -> the provider's id."""

LEASE = timedelta(seconds=60)  # a try takes 10 at most
RETRY_AFTER = tuple(
    timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 6 * 60, 24 * 60)
)  # contract: 1 m, 5 m, 15 m, 1 h, 6 h, 24 h
# Resend keeps a key for 24 h. A last try is made early enough for a late cron; none after the end.
KEY_LIFE = timedelta(hours=23)
KEY_END = timedelta(hours=23, minutes=50)
LONGEST_PAUSE_S = 5.0


class Claimed(NamedTuple):
    """A mail that is ours until its lease ends. attempt counts from 1 and fences late writers."""

    lead_id: UUID
    attempt: int
    first_attempt_at: datetime
    uncertain: bool
    letter: Letter


class Tally:
    """What one run did, in mails. pause_s: how long the service asked us to wait, if it did."""

    sent: int = 0
    delayed: int = 0
    dead: int = 0
    pause_s: float = 0.0


# A claimed mail is uncertain until its attempt is written down: its worker may be killed.
CLAIM = """
update outbox as o set
  leased_until = %(until)s,
  attempts = o.attempts + 1,
  first_attempt_at = coalesce(o.first_attempt_at, %(now)s),
  uncertain = true
from (
  select id, uncertain from outbox
  where sent_at is null and dead_at is null and next_attempt_at <= %(now)s
    and (leased_until is null or leased_until <= %(now)s)
  order by next_attempt_at
  limit %(limit)s
  for update skip locked
) as due
where o.id = due.id
returning o.lead_id, o.attempts, o.first_attempt_at, due.uncertain,
  o.kind, o.sender, o.recipients, o.reply_to, o.subject, o.body_text, o.body_html
"""

MARK_SENT = """
update outbox as o set sent_at = %(now)s, provider_id = told.provider_id, leased_until = null,
  last_error = null, dead_at = null
from unnest(%(leads)s::uuid[], %(kinds)s::text[], %(provider_ids)s::text[])
  as told (lead_id, kind, provider_id)
where o.lead_id = told.lead_id and o.kind = told.kind and o.sent_at is null
"""

MARK_DELAYED = """
update outbox set next_attempt_at = %(next)s, leased_until = null, last_error = %(error)s,
  uncertain = %(uncertain)s, attempts = %(attempts)s
where lead_id = %(lead_id)s and kind = %(kind)s and attempts = %(attempt)s
  and sent_at is null and dead_at is null
"""

MARK_DEAD = """
update outbox set dead_at = %(now)s, leased_until = null, last_error = %(error)s,
  uncertain = %(uncertain)s
where lead_id = %(lead_id)s and kind = %(kind)s and attempts = %(attempt)s
  and sent_at is null and dead_at is null
"""


def at_birth(lead_id: UUID, letters: Iterable[Letter], now: datetime) -> list[Claimed]:
    """The mails of a lead just stored: written as already claimed by who stored it."""
    return [Claimed(lead_id, 1, now, False, letter) for letter in letters]


def claim(run: Run, now: datetime, limit: int = 1) -> list[Claimed]:
    """Up to `limit` mails that are due and nobody's.

    One at a time by default: the last of many would outlive its lease when Resend is slow.
    """
    values = {"now": now, "until": now + LEASE, "limit": limit}
    rows = run(lambda connection: connection.execute(CLAIM, values).fetchall())
    return [
        Claimed(lead_id, attempt, first, uncertain, Letter(kind, sender, tuple(to), *content))
        for lead_id, attempt, first, uncertain, kind, sender, to, *content in rows
    ]


def deliver(run: Run, send: Send, clock: Callable[[], datetime], budget_s: float) -> Tally:
    """Send what is due until nothing is, or for budget_s seconds. Any number may run at once."""
    tally = Tally()
    end = time.monotonic() + budget_s
    while time.monotonic() < end:
        mine = claim(run, clock())
        if not mine:
            break
        attempt(run, send, mine, clock, tally)
        time.sleep(min(tally.pause_s, LONGEST_PAUSE_S))
        tally.pause_s = 0.0
    return tally


def attempt(
    run: Run, send: Send, mails: Sequence[Claimed], clock: Callable[[], datetime], tally: Tally
) -> None:
    """Try each mail once and write down what came of it, of all that were sent at once.

    Killed between the sending and the writing, the lease ends and the same key is used again.
    """
    sent: list[tuple[Claimed, str | None]] = []
    try:
        for mail in mails:
            _try(run, send, mail, clock, tally, sent)
    finally:
        if sent:
            _mark_sent(run, sent, clock())


def _try(
    run: Run,
    send: Send,
    mail: Claimed,
    clock: Callable[[], datetime],
    tally: Tally,
    sent: list[tuple[Claimed, str | None]],
) -> None:
    if mail.uncertain and clock() >= mail.first_attempt_at + KEY_END:
        _bury(run, mail, "uncertain", True, clock(), tally)
        return
    try:
        provider_id = send(mail.letter, f"{mail.letter.kind}/{mail.lead_id}")
    except MailTaken:
        # Sales had this lead as the mail copy of an outage, under the same key.
        sent.append((mail, None))
        tally.sent += 1
    except MailRefused as refusal:
        _bury(run, mail, refusal.reason, mail.uncertain, clock(), tally)
    except MailDelayed as delay:
        _postpone(run, mail, delay, clock(), tally)
    else:
        sent.append((mail, provider_id))
        tally.sent += 1


def _mark_sent(run: Run, sent: list[tuple[Claimed, str | None]], now: datetime) -> None:
    values = {
        "now": now,
        "leads": [mail.lead_id for mail, _ in sent],
        "kinds": [mail.letter.kind for mail, _ in sent],
        "provider_ids": [provider_id for _, provider_id in sent],
    }
    run(lambda connection: connection.execute(MARK_SENT, values))


def _postpone(run: Run, mail: Claimed, delay: MailDelayed, now: datetime, tally: Tally) -> None:
    uncertain = mail.uncertain or delay.uncertain
    attempts = mail.attempt
    if delay.retry_after_s is not None:
        # Told to slow down: nothing was tried, so nothing is counted.
        due: datetime | None = now + timedelta(seconds=delay.retry_after_s)
        attempts -= 1
        tally.pause_s = delay.retry_after_s
    else:
        due = next_attempt(mail, uncertain, now)
    if due is None:
        _bury(run, mail, delay.reason, uncertain, now, tally)
    else:
        facts = {"next": due, "error": delay.reason, "uncertain": uncertain, "attempts": attempts}
        _note(run, MARK_DELAYED, mail, **facts)
        tally.delayed += 1


def _bury(
    run: Run, mail: Claimed, reason: str, uncertain: bool, now: datetime, tally: Tally
) -> None:
    _note(run, MARK_DEAD, mail, now=now, error=reason, uncertain=uncertain)
    tally.dead += 1


def next_attempt(mail: Claimed, uncertain: bool, now: datetime) -> datetime | None:
    """When to try again; None when it must not be tried again by itself."""
    if mail.attempt > len(RETRY_AFTER):
        return None
    # Jitter, so that what failed together does not come back together.
    due = now + RETRY_AFTER[mail.attempt - 1] * random.uniform(1.0, 1.2)  # noqa: S311
    if uncertain and due > mail.first_attempt_at + KEY_LIFE:
        last_call = mail.first_attempt_at + KEY_LIFE
        return last_call if now < last_call - timedelta(minutes=30) else None
    return due


def _note(run: Run, statement: str, mail: Claimed, **values: object) -> None:
    values |= {"lead_id": mail.lead_id, "kind": mail.letter.kind, "attempt": mail.attempt}
    run(lambda connection: connection.execute(statement, values))
