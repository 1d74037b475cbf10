"""How mails stand, for the watch: given up, waiting, and why the mail service takes none."""

from datetime import datetime
from typing import NamedTuple

from lib.interfaces import RunQuery
from lib.leads.outbox import ADDRESS_REFUSED

# Resend's names, and ours: see lib/mail.py. What one of these says of a mail, it says of all.
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

# An acknowledgement that its own visitor's address ended is nobody's fault.
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
    """Counts of mails that are not sent.

    dead: given up, for a person to look at. refused: acknowledgements to an address that Resend
    does not take. waiting_since: the oldest that waits, tried or not. stopped_by: why Resend takes
    no mail at all, as its last answers say (STOPPED), for `stopped` mails, since `stopped_since`.
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
