"""The rate limit of e-mails to Resend, for all instances together: send slots, and a common pause.

It is kept in Postgres, beside the outbox. Where its table cannot be used (renamed, a missing
right), e-mails are sent all the same, each worker at its own interval: no e-mail is lost to it.
"""

import time
from datetime import datetime, timedelta
from typing import Any

from lib import log
from lib.interfaces import RunQuery
from lib.problems import DatabaseDown

INTERVAL_MARGIN = 1.2  # network delays may bring two requests closer together
MAX_WAIT = timedelta(seconds=4)  # with a longer wait, the e-mail is left to the next worker
BACKLOG_HINT_S = 1.0

# Reserves consecutive slots in one row. A `next_at` far ahead was written by a wrong clock.
# own: the caller has the e-mails; else slots are reserved only while an e-mail is due.
RESERVE_SLOTS = """
insert into mail_pace as pace (next_at)
select %(now)s::timestamptz + %(taken)s::interval
where %(own)s::boolean or exists (
  select from outbox
  where sent_at is null and dead_at is null and next_attempt_at <= %(now)s::timestamptz
    and (leased_until is null or leased_until <= %(now)s::timestamptz))
on conflict (one) do update set next_at = %(taken)s::interval + case
    when pace.next_at > %(now)s::timestamptz + interval '1 minute' then %(now)s::timestamptz
    else greatest(pace.next_at, %(now)s::timestamptz) end
  where coalesce(pace.held_until, '-infinity') <= %(now)s::timestamptz
    and (pace.next_at <= %(now)s::timestamptz + %(ahead)s::interval
      or pace.next_at > %(now)s::timestamptz + interval '1 minute')
returning next_at - %(taken)s::interval
"""

# The end of a pause during which an e-mail is, or becomes, due.
PAUSED_UNTIL = """
select held_until from mail_pace
where held_until > %(now)s::timestamptz and exists (
  select from outbox
  where sent_at is null and dead_at is null and next_attempt_at <= held_until
    and (leased_until is null or leased_until <= held_until))
"""

PAUSE = """
insert into mail_pace as pace (next_at, held_until, held_for)
values (%(now)s, %(until)s, %(reason)s)
on conflict (one) do update set held_for = excluded.held_for,
  held_until = greatest(coalesce(pace.held_until, '-infinity'), excluded.held_until)
"""

# Asked by who has waited for a slot. Another worker may have been told to pause meanwhile; and an
# acknowledgement lets e-mails to sales go first that nobody sends yet.
MAY_STILL_SEND = """
select
  not exists (select from mail_pace where held_until > %(now)s::timestamptz)
  and not (%(kind)s::text = 'acknowledgement' and exists (
    select from outbox
    where kind = 'sales' and sent_at is null and dead_at is null
      and next_attempt_at <= %(now)s::timestamptz
      and (leased_until is null or leased_until <= %(now)s::timestamptz)))
"""


class _Backlog:
    """Until when (time.monotonic), as far as this instance knows, no new e-mail gets a slot."""

    ends_at = 0.0


_backlog = _Backlog()


def has_backlog() -> bool:
    """Whether a lead's e-mails were refused a slot here within the last BACKLOG_HINT_S seconds.

    Those of the next lead are left to the worker then, without a lease that is given back unused.
    """
    return time.monotonic() < _backlog.ends_at


class RateLimit:
    """tolerated: what a statement may fail with at no e-mail's cost (`Database.all_errors`)."""

    def __init__(
        self, run: RunQuery, per_second: float, tolerated: tuple[type[Exception], ...]
    ) -> None:
        self._run = run
        self._tolerated = tolerated
        self.interval_s = INTERVAL_MARGIN / per_second

    def reserve(
        self, now: datetime, slots: int, *, own: bool, within: timedelta = MAX_WAIT
    ) -> float | None:
        """Seconds until the first of consecutive slots; None: do not send now.

        None while sending is paused, when the next free slot is too far off, and, unless the
        e-mails are the caller's own, when none is due.
        """
        values = {
            "now": now,
            "taken": timedelta(seconds=self.interval_s) * slots,
            "own": own,
            "ahead": min(MAX_WAIT, within),
        }
        try:
            row = self._fetch_one(RESERVE_SLOTS, values)
        except DatabaseDown:
            if own:
                return 0.0  # the e-mail is at hand, and marked as sent once Postgres is back
            raise
        except self._tolerated as error:
            log.write("mail_pace_unknown", "error", **log.exception_fields(error))
            return self.interval_s
        if row is not None:
            return max(0.0, float((row[0] - now).total_seconds()))
        if own:
            _backlog.ends_at = time.monotonic() + BACKLOG_HINT_S
        return None

    def may_still_send(self, now: datetime, kind: str) -> bool:
        """Whether an e-mail of this kind may take the slot that it has waited for."""
        try:
            row = self._fetch_one(MAY_STILL_SEND, {"now": now, "kind": kind})
        except DatabaseDown:
            return True  # the e-mail is at hand
        except self._tolerated as error:
            log.write("mail_pace_unknown", "error", **log.exception_fields(error))
            return True
        return bool(row[0])

    def pause(self, now: datetime, pause_s: float, reason: str) -> None:
        """Stop all sending for pause_s seconds. Where that fails, each worker learns by itself."""
        values = {"now": now, "until": now + timedelta(seconds=pause_s), "reason": reason}
        try:
            self._run(lambda connection: connection.execute(PAUSE, values))
        except DatabaseDown:
            return
        except self._tolerated as error:
            log.write("mail_pace_unknown", "error", **log.exception_fields(error))

    def pause_left_s(self, now: datetime) -> float | None:
        """Seconds until waiting e-mails may be sent again; None where none is paused."""
        row = self._fetch_one(PAUSED_UNTIL, {"now": now})
        return None if row is None else float((row[0] - now).total_seconds())

    def _fetch_one(self, statement: str, values: dict[str, object]) -> Any:
        return self._run(lambda connection: connection.execute(statement, values).fetchone())


def sleep(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)
