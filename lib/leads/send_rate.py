"""How fast mails are handed to Resend, by all instances together: turns, and pauses for everybody.

Kept in Postgres, where the outbox is. Where it cannot be asked (a missing table, a missing right),
mails leave all the same, one worker's no faster than its own gap: a pace must not cost a mail.
"""

import time
from datetime import datetime, timedelta

from lib import log
from lib.interfaces import RunQuery
from lib.problems import DatabaseDown

# Requests a second of a whole team at Resend: 2 until 2026, 5 since
# (resend.com/docs/api-reference/rate-limit, read 2026-11-28). The lower one suits every account.
REQUESTS_PER_S = 2.0
INTERVAL_MARGIN = 1.2  # turns are late by what a network delays them, and may come closer together
MAX_WAIT = timedelta(seconds=4)  # who would wait longer leaves the mail to the next drain

# A row's worth of turns, `n` of them. A `next_at` far ahead was written by a wrong clock.
# own: the mails are the caller's; else a turn is taken only while a mail is due.
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

# How long mails are held that would be due then.
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


type ErrorTypes = tuple[type[Exception], ...]
"""What a statement may fail with (`Database.faults`)."""


def reserve_slots(
    run: RunQuery,
    now: datetime,
    n: int,
    gap_s: float,
    *,
    own: bool,
    within_s: float,
    faults: ErrorTypes = (),
) -> float | None:
    """Wait seconds until the first of `n` turns in a row, gap_s apart; None: leave it now.

    None when mails are held, when others have taken the next turns already, and, unless the mails
    are the caller's own, when none is due.
    """
    ahead = min(MAX_WAIT, timedelta(seconds=max(0.0, within_s)))
    values = {"now": now, "taken": timedelta(seconds=gap_s) * n, "own": own, "ahead": ahead}
    try:
        row = run(lambda connection: connection.execute(RESERVE_SLOTS, values).fetchone())
    except DatabaseDown:
        if own:
            return 0.0  # the mail is in hand; it is written down when Postgres is back
        raise
    except faults as fault:
        log.write("mail_pace_unknown", "error", **log.exception_fields(fault))
        return gap_s
    return None if row is None else max(0.0, (row[0] - now).total_seconds())


def pause(
    run: RunQuery, now: datetime, pause_s: float, reason: str, faults: ErrorTypes = ()
) -> None:
    """Let nobody send for pause_s seconds. Not written down: others find out by themselves."""
    values = {"now": now, "until": now + timedelta(seconds=pause_s), "reason": reason}
    try:
        run(lambda connection: connection.execute(PAUSE, values))
    except DatabaseDown:
        return
    except faults as fault:
        log.write("mail_pace_unknown", "error", **log.exception_fields(fault))


def pause_left_s(run: RunQuery, now: datetime) -> float | None:
    """Seconds until mails that wait may be sent again; None when none is held.

    After `take_turns`, which could be asked.
    """
    row = run(lambda connection: connection.execute(PAUSED_UNTIL, {"now": now}).fetchone())
    return None if row is None else float((row[0] - now).total_seconds())


def min_interval_s(per_second: float) -> float:
    return INTERVAL_MARGIN / per_second


def sleep(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)
