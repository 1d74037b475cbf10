"""Counts of unsent e-mails for the monitor: dead letters, waiting, and why Resend takes none."""

from datetime import datetime
from typing import NamedTuple

from lib.interfaces import RunQuery
from lib.leads.outbox import ADDRESS_REFUSED

# Resend's error names, and ours (lib/mail.py), that stop every e-mail.
BLOCKING_ERRORS = (
    "missing_api_key",
    "invalid_api_key",
    "restricted_api_key",
    "suspended_api_key",
    "daily_quota_exceeded",
    "monthly_quota_exceeded",
    "sender_refused",
    "not_found",
    "method_not_allowed",
)

# An acknowledgement to an address that Resend does not take is no dead letter to look at.
COUNT_UNSENT = """
select
  count(*) filter (where dead_at is not null
    and not (kind = 'acknowledgement' and last_error = %(address_refused)s)),
  count(*) filter (where dead_at is not null
    and kind = 'acknowledgement' and last_error = %(address_refused)s),
  min(created_at) filter (where dead_at is null
    and created_at < %(now)s::timestamptz - interval '1 minute'),
  count(*) filter (where dead_at is null and last_error = any(%(stopped)s::text[])),
  min(created_at) filter (where dead_at is null and last_error = any(%(stopped)s::text[])),
  (array_agg(last_error order by next_attempt_at desc)
    filter (where dead_at is null and last_error = any(%(stopped)s::text[])))[1]
from outbox where sent_at is null
"""


class DeliveryStatus(NamedTuple):
    """dead: dead letters, for a person to look at. refused: acknowledgements to an address that
    Resend does not take. waiting_since: when the oldest waiting one was created. blocked_by: why
    Resend takes no e-mail (BLOCKING_ERRORS); `blocked` wait for it, since `blocked_since`.
    """

    dead: int = 0
    refused: int = 0
    waiting_since: datetime | None = None
    blocked: int = 0
    blocked_since: datetime | None = None
    blocked_by: str | None = None


def load(run: RunQuery, now: datetime) -> DeliveryStatus:
    """Raises DatabaseDown."""
    values = {"now": now, "address_refused": ADDRESS_REFUSED, "stopped": list(BLOCKING_ERRORS)}
    return DeliveryStatus(
        *run(lambda connection: connection.execute(COUNT_UNSENT, values).fetchone())
    )
