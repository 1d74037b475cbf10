"""The outbox: e-mails are claimed under a lease, sent, and marked. Each is delivered once.

Two things ensure that: the lease, which lets one worker at a time try, and Resend's idempotency
key, which makes a repeated request a no-op for 24 hours. After that, an attempt whose outcome is
unknown is never repeated: the e-mail becomes a dead letter for a person.

An attempt is counted, and the next one scheduled, when an e-mail is claimed: one that kills its
worker each time is taken last and becomes a dead letter too. E-mails to sales are claimed before
acknowledgements. All workers share the rate limit of lib/leads/send_rate.py.
"""

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from lib.interfaces import RunQuery, Services
from lib.leads import send_rate
from lib.leads.emails import Email
from lib.problems import IdempotencyConflict, NotConfigured, PermanentMailError, TransientMailError

type SendEmail = Callable[..., str]
"""`Mailer.send`: an e-mail and its idempotency key -> the provider's id."""

LEASE_DURATION = timedelta(seconds=60)  # an attempt takes 20 at most
BACKOFF = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 6 * 60, 24 * 60))
# Resend keeps a key for 24 h. The last retry is scheduled early enough for a late cron.
IDEMPOTENCY_KEY_TTL = timedelta(hours=23)
LAST_SAFE_RETRY = timedelta(hours=23, minutes=50)
SHORT_WAIT_S = 0.05
MAX_PAUSE_S = 5.0  # a longer pause is left to the next worker
ADDRESS_REFUSED = "address_refused"  # an acknowledgement to an address that Resend does not take
WORKER_LOST = "worker_lost"
MISSING_API_KEY = "missing_api_key"  # Resend's name
UNEXPECTED_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class ClaimedEmail(NamedTuple):
    """An e-mail leased to us. attempt counts from 1 and fences off workers that lost the lease."""

    lead_id: UUID
    attempt: int
    first_attempt_at: datetime
    uncertain: bool
    email: Email


class DeliveryStats:
    """What one worker did, in e-mails.

    refused: acknowledgements to an address that Resend does not take. pause_s: for how long nobody
    may send. error: the first unexpected one; its e-mail is retried.
    """

    sent: int = 0
    delayed: int = 0
    dead: int = 0
    refused: int = 0
    pause_s: float = 0.0
    error: Exception | None = None

    def as_dict(self) -> dict[str, int]:
        return {"sent": self.sent, "delayed": self.delayed, "dead": self.dead,
                "refused": self.refused}  # fmt: skip


class Transport(NamedTuple):
    """tolerated: errors of the rate limit's table that must not stop sending."""

    send: SendEmail
    per_second: float
    tolerated: tuple[type[Exception], ...] = ()


def get_transport(services: Services) -> Transport:
    """The mailer; without an API key, one that delays every e-mail."""
    tolerated = services.database.all_errors
    try:
        return Transport(services.mailer.send, services.settings.mail_per_second, tolerated)
    except NotConfigured:
        return Transport(_delay_without_api_key, 1, tolerated)


def _delay_without_api_key(_email: Email, _key: str) -> str:
    wait_s = LEASE_DURATION.total_seconds()
    raise TransientMailError(MISSING_API_KEY, may_be_sent=False, retry_after_s=wait_s)


# A claimed e-mail is uncertain until its outcome is stored: its worker may be killed.
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

# The worker of the last attempt died.
MARK_ABANDONED_DEAD = """
update outbox set dead_at = %(now)s, leased_until = null, last_error = %(error)s
where sent_at is null and dead_at is null and attempts >= %(most)s::integer
  and leased_until <= %(now)s
"""

MARK_SENT = """
update outbox as o set sent_at = %(now)s, provider_id = outcome.provider_id, leased_until = null,
  last_error = null, dead_at = null
from unnest(%(leads)s::uuid[], %(kinds)s::text[], %(provider_ids)s::text[])
  as outcome (lead_id, kind, provider_id)
where o.lead_id = outcome.lead_id and o.kind = outcome.kind and o.sent_at is null
"""

# An idempotency key's TTL begins with the first attempt that Resend may have taken.
RESCHEDULE = """
update outbox set next_attempt_at = %(next)s, leased_until = null,
  last_error = coalesce(%(error)s, last_error),
  uncertain = %(uncertain)s, attempts = %(attempts)s,
  first_attempt_at = case when %(uncertain)s then first_attempt_at end
where lead_id = %(lead_id)s and kind = %(kind)s and attempts = %(attempt)s
  and sent_at is null and dead_at is null
"""

# Claimed and not tried.
RELEASE = """
update outbox as o set next_attempt_at = %(now)s, leased_until = null, attempts = o.attempts - 1,
  uncertain = claim.uncertain,
  first_attempt_at = case when claim.uncertain then o.first_attempt_at end
from unnest(
  %(leads)s::uuid[], %(kinds)s::text[], %(attempts)s::integer[], %(uncertain)s::boolean[]
) as claim (lead_id, kind, attempt, uncertain)
where o.lead_id = claim.lead_id and o.kind = claim.kind and o.attempts = claim.attempt
  and o.sent_at is null and o.dead_at is null
"""

MARK_DEAD = """
update outbox set dead_at = %(now)s, leased_until = null, last_error = %(error)s,
  uncertain = %(uncertain)s
where lead_id = %(lead_id)s and kind = %(kind)s and attempts = %(attempt)s
  and sent_at is null and dead_at is null
"""


def claim(run: RunQuery, now: datetime, limit: int = 1) -> list[ClaimedEmail]:
    """Lease up to `limit` e-mails that are due.

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
    """Dead-letter e-mails each of whose attempts lost its worker; how many."""
    values = {"now": now, "error": WORKER_LOST, "most": len(BACKOFF) + 1}
    count: int = run(lambda connection: connection.execute(MARK_ABANDONED_DEAD, values).rowcount)
    return count


def next_attempt_at(mail: ClaimedEmail, uncertain: bool, now: datetime) -> datetime | None:
    """When to retry, by the backoff and the idempotency key's TTL; None: never by itself."""
    if mail.attempt > len(BACKOFF):
        return None
    # Jitter, so that what failed together is not retried together.
    due = now + BACKOFF[mail.attempt - 1] * random.uniform(1.0, 1.2)  # noqa: S311
    key_expires_at = mail.first_attempt_at + IDEMPOTENCY_KEY_TTL
    if uncertain and due > key_expires_at:
        return key_expires_at if now < key_expires_at - timedelta(minutes=30) else None
    return due


class Delivery:
    """One worker's run. Any number may run at once, and be killed anywhere."""

    def __init__(self, run: RunQuery, transport: Transport, clock: Callable[[], datetime]) -> None:
        self._run = run
        self._send = transport.send
        self._clock = clock
        self._rate_limit = send_rate.RateLimit(run, transport.per_second, transport.tolerated)
        self.stats = DeliveryStats()

    def send_due(self, budget_s: float) -> DeliveryStats:
        """Send e-mails that are due until none is left, or for budget_s seconds."""
        end = time.monotonic() + budget_s
        self.stats.dead += mark_abandoned_dead(self._run, self._clock())
        while (left_s := end - time.monotonic()) > 0:
            within = timedelta(seconds=left_s)
            wait_s = self._rate_limit.reserve(self._clock(), 1, own=False, within=within)
            if wait_s is None:
                pause_s = self._rate_limit.pause_left_s(self._clock())
                if pause_s is None or pause_s > min(MAX_PAUSE_S, left_s):
                    break
                send_rate.sleep(pause_s)
                continue
            send_rate.sleep(wait_s)
            if not self._may_still_send("sales", wait_s):
                continue
            claimed = claim(self._run, self._clock())
            if not claimed:
                break
            self.send(claimed)
            self.stats.pause_s = 0.0
        return self.stats

    def send_new(self, lead_id: UUID, emails: Sequence[Email], inserted_at: datetime) -> None:
        """Send the e-mails of a lead just inserted, which were leased to us with its row.

        Without a send slot at once they are due for the next worker, as if never tried.
        """
        if not emails:
            return
        claimed = [ClaimedEmail(lead_id, 1, inserted_at, False, email) for email in emails]
        wait_s = self._rate_limit.reserve(self._clock(), len(claimed), own=True)
        if wait_s is None:
            self._release(claimed)
            return
        self.send(claimed, wait_s=wait_s, interval_s=self._rate_limit.interval_s)

    def send(
        self, claimed: Sequence[ClaimedEmail], *, wait_s: float = 0.0, interval_s: float = 0.0
    ) -> None:
        """Try each e-mail once, the first after wait_s, interval_s apart; store the outcomes.

        One that has waited is given back when all are paused meanwhile, or sales' go first.
        Killed before they are stored, the lease ends and the same idempotency key is used again.
        """
        sent: list[tuple[ClaimedEmail, str | None]] = []
        try:
            for number, mail in enumerate(claimed):
                slot_s = interval_s if number else wait_s
                if self.stats.pause_s or not self._wait_for_slot(mail, slot_s):
                    self._release(claimed[number:])
                    break
                self._send_one(mail, sent)
        finally:
            if sent:
                self._mark_sent(sent)

    def _wait_for_slot(self, mail: ClaimedEmail, wait_s: float) -> bool:
        """Whether it may be sent after that."""
        send_rate.sleep(wait_s)
        return self._may_still_send(mail.email.kind, wait_s)

    def _may_still_send(self, kind: str, waited_s: float) -> bool:
        """Asked only after a wait in which others may have been told to pause."""
        if waited_s < SHORT_WAIT_S:
            return True
        return self._rate_limit.may_still_send(self._clock(), kind)

    def _send_one(self, mail: ClaimedEmail, sent: list[tuple[ClaimedEmail, str | None]]) -> None:
        if mail.uncertain and self._clock() >= mail.first_attempt_at + LAST_SAFE_RETRY:
            self._mark_dead(mail, "uncertain", uncertain=True)
            return
        try:
            sent.append((mail, self._send(mail.email, f"{mail.email.kind}/{mail.lead_id}")))
        except IdempotencyConflict:
            # Sales had this lead as the e-mail copy of an outage, under the same key.
            sent.append((mail, None))
        except PermanentMailError as refusal:
            self._handle_refusal(mail, refusal)
        except TransientMailError as delay:
            self._reschedule(mail, delay)
        except UNEXPECTED_ERRORS as error:  # one e-mail's error must not stop the others
            unknown = TransientMailError(f"fault_{type(error).__name__}", may_be_sent=True)
            self._reschedule(mail, unknown)
            self.stats.error = self.stats.error or error

    def _mark_sent(self, sent: list[tuple[ClaimedEmail, str | None]]) -> None:
        self.stats.sent += len(sent)
        values = {
            "now": self._clock(),
            "leads": [mail.lead_id for mail, _ in sent],
            "kinds": [mail.email.kind for mail, _ in sent],
            "provider_ids": [provider_id for _, provider_id in sent],
        }
        self._run(lambda connection: connection.execute(MARK_SENT, values))

    def _reschedule(self, mail: ClaimedEmail, delay: TransientMailError) -> None:
        now, attempts = self._clock(), mail.attempt
        uncertain = mail.uncertain or delay.may_be_sent
        if delay.retry_after_s is None:
            due = next_attempt_at(mail, uncertain, now)
        else:
            due = now + timedelta(seconds=delay.retry_after_s)
            attempts -= 1
            if delay.pauses_all:
                self.stats.pause_s = delay.retry_after_s
                self._rate_limit.pause(now, delay.retry_after_s, delay.reason)
        if due is None:
            self._mark_dead(mail, delay.reason, uncertain=uncertain)
            return
        self._update(
            RESCHEDULE, mail, next=due, error=delay.reason, uncertain=uncertain, attempts=attempts
        )
        self.stats.delayed += 1

    def _release(self, claimed: Sequence[ClaimedEmail]) -> None:
        self.stats.delayed += len(claimed)
        values = {
            "now": self._clock(),
            "leads": [mail.lead_id for mail in claimed],
            "kinds": [mail.email.kind for mail in claimed],
            "attempts": [mail.attempt for mail in claimed],
            "uncertain": [mail.uncertain for mail in claimed],
        }
        self._run(lambda connection: connection.execute(RELEASE, values))

    def _handle_refusal(self, mail: ClaimedEmail, refusal: PermanentMailError) -> None:
        """An acknowledgement is refused for its visitor's address: no dead letter to look at."""
        if mail.email.kind == "acknowledgement":
            self._update(
                MARK_DEAD, mail, now=self._clock(), error=ADDRESS_REFUSED, uncertain=mail.uncertain
            )
            self.stats.refused += 1
        else:
            self._mark_dead(mail, refusal.reason, uncertain=mail.uncertain)

    def _mark_dead(self, mail: ClaimedEmail, reason: str, *, uncertain: bool) -> None:
        self._update(MARK_DEAD, mail, now=self._clock(), error=reason, uncertain=uncertain)
        self.stats.dead += 1

    def _update(self, statement: str, mail: ClaimedEmail, **values: object) -> None:
        values |= {"lead_id": mail.lead_id, "kind": mail.email.kind, "attempt": mail.attempt}
        self._run(lambda connection: connection.execute(statement, values))
