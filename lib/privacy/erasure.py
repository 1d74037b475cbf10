"""Erasing a person: the rows at once, every other place by a step that somebody finishes.

One transaction deletes the rows, leaves tombstones and writes down what is left to do; it locks
`leads` against writers, so that a drain comes either before it and is deleted, or after it and
meets the tombstone. What follows may die anywhere: the next round finds the steps that wait.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from lib.leads import mailed_leads
from lib.leads.service import Means
from lib.privacy import redis_erasure, tombstones
from lib.privacy.data_subject import Subject, with_older_forms
from lib.privacy.requests import DUE, receipt_of
from lib.problems import NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection

type Run = Callable[..., Any]

LOGS_KEPT = timedelta(days=90)  # the handbook
BACKUPS_KEPT = timedelta(days=90)  # longer than any of ours or Supabase's
ROWS_BUDGET_S = 10.0
BY_HAND_AT_A_TIME = 200  # leads deleted in SQL that one request stands for

OPEN = """
select id from erasure_requests
where kind = 'erasure' and answered_at is null and marks && %(marks)s::text[]
order by received_at limit 1
"""

# No insert into these tables begins, or is still open, while the rows are deleted.
LOCK = "lock table leads, spam in share row exclusive mode"

REGISTER = """
insert into erasure_requests (id, receipt, kind, asked_by, marks, received_at, due_at)
values (%(id)s, %(receipt)s, %(kind)s, %(asked_by)s, %(marks)s, %(received_at)s, %(due_at)s)
on conflict (id) do nothing
"""

ANSWERED = "select answered_at is not null from erasure_requests where id = %(id)s for update"

ATTRIBUTE = "select set_config('alfa.erasure', %(id)s::text, true)"

MAILS = """
select count(*) from outbox as o join leads as l on l.id = o.lead_id
where (l.email = any(%(emails)s::text[]) or l.phone_whatsapp = any(%(phones)s::text[])
    or l.id = any(%(ids)s::uuid[]))
  and l.created_at <= %(until)s::timestamptz and not l.canary
"""

REMOVE = """
delete from leads
where (email = any(%(emails)s::text[]) or phone_whatsapp = any(%(phones)s::text[])
    or id = any(%(ids)s::uuid[]))
  and created_at <= %(until)s::timestamptz and not canary
returning id::text, ref, created_at
"""

# What the spam box left in Redis is found by these: its ids, texts and senders' addresses.
SPAM_REMAINS = """
insert into erasure_remains (
  lead_id, request_id, ref, identity, text_sha256, client, provider_ids, deleted_at)
select s.id, %(id)s::uuid, s.ref, '',
  -- As lib/leads/repository.py names a text.
  encode(sha256(convert_to('4:text' || char_length(said) || ':' || said, 'UTF8')), 'hex'),
  s.ip_address, '{}', %(now)s::timestamptz
from spam as s, lateral (select coalesce(s.submission ->> 'message', s.id::text) as said) as t
where (s.submission ->> 'email' = any(%(emails)s::text[])
    or s.submission ->> 'phone_whatsapp' = any(%(phones)s::text[]))
  and s.received_at <= %(until)s::timestamptz
on conflict (lead_id) do nothing
"""

BESIDE = """
select spam, notes from erase_beside_leads(
  %(emails)s::text[], %(spoken)s::text[], %(words)s::text[], %(until)s::timestamptz)
"""

BURY = """
insert into erasure_tombstones as held (mark, erased_at)
select mark, %(erased_at)s::timestamptz from unnest(%(marks)s::text[]) as mark
on conflict (mark) do update set erased_at = greatest(held.erased_at, excluded.erased_at)
"""

MAIL_IDS = """
select coalesce(array_agg(id), '{}') from erasure_remains, unnest(provider_ids) as id
where request_id = %(id)s
"""

STEPS = """
insert into erasure_steps (request_id, place, state, count, due_at, done_at, facts)
select %(id)s, place, state, count, due_at, done_at, facts
from jsonb_to_recordset(%(steps)s::jsonb) as step (
  place text, state text, count integer, due_at timestamptz, done_at timestamptz, facts jsonb)
on conflict (request_id, place) do nothing
"""

ANSWER = """
update erasure_requests set answered_at = %(now)s, sweep_at = %(now)s,
  marks = array(select distinct unnest(marks || %(marks)s::text[]))
where id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class Order:
    """What one transaction erases.

    ids: single leads, with or without their persons. until: nothing newer; None for everything
    there is. received_at: when the person asked.
    """

    id: UUID
    subject: Subject
    marks: list[str]
    asked_by: str
    received_at: datetime
    now: datetime
    ids: tuple[str, ...] = ()
    until: datetime | None = None
    counted: int = 0  # rows that somebody else has deleted already

    @property
    def values(self) -> dict[str, Any]:
        return {
            **self.subject.values(),
            "id": self.id,
            "ids": list(self.ids),
            "marks": self.marks,
            "until": self.until or "infinity",
            "kind": "erasure",
            "asked_by": self.asked_by,
            "receipt": receipt_of("erasure", self.id, self.received_at),
            "received_at": self.received_at,
            "due_at": self.received_at + DUE,
            "now": self.now,
        }


def erase(
    means: Means,
    whom: Subject,
    now: datetime,
    *,
    asked_by: str,
    received_at: datetime | None = None,
) -> UUID:
    """Erase a person everywhere; the request's id. An open request of theirs is the one answered.

    Raises NotConfigured without ERASURE_KEY, DatabaseDown. Redis down leaves its steps waiting.
    """
    keys = means.erasure_keys
    if not keys:
        raise NotConfigured("ERASURE_KEY", "is not set")
    whom = with_older_forms(means, whom)
    run, marks = means.database.run, whom.marks(keys)
    waiting = run(lambda c: c.execute(OPEN, {"marks": marks}).fetchone())
    order = Order(
        waiting[0] if waiting else uuid4(), whom, marks, asked_by, received_at or now, now
    )
    run(lambda connection: remove_rows(connection, order), budget_s=ROWS_BUDGET_S)
    redis_erasure.sweep(means, now, order.id)
    return order.id


def remove_rows(connection: "Connection[Any]", order: Order) -> None:
    """The one transaction; safe to repeat, also when its first reply was lost."""
    values = order.values
    with connection.transaction():
        connection.execute(LOCK)
        connection.execute(REGISTER, values)
        if connection.execute(ANSWERED, values).fetchone() == (True,):
            return
        connection.execute(ATTRIBUTE, values)
        mails = _count(connection, MAILS, values)
        gone = connection.execute(REMOVE, values).fetchall()
        connection.execute(mailed_leads.FORGET_PERSON, values)
        values["words"] = [word for row in gone for word in row[:2]] + list(order.ids)
        connection.execute(SPAM_REMAINS, values)
        spam, notes = connection.execute(BESIDE, values).fetchone() or (0, 0)
        # An instance whose clock is ahead of ours may have dated one of them later than now.
        values["erased_at"] = max([order.until or order.now, *(row[2] for row in gone)])
        connection.execute(BURY, values)
        mail_ids = _count(connection, MAIL_IDS, values)
        counts = {
            "leads": len(gone) + order.counted,
            "mails": mails,
            "spam": spam,
            "incident_notes": notes,
        }
        ids = {
            "sales_mailbox": [row[1] for row in gone],
            "resend": mail_ids,
            "sentry": [row[0] for row in gone] + list(order.ids),
        }
        connection.execute(STEPS, values | {"steps": json.dumps(_steps(counts, ids, order))})
        connection.execute(ANSWER, values)


def _count(connection: "Connection[Any]", statement: str, values: dict[str, Any]) -> Any:
    return (connection.execute(statement, values).fetchone() or (0,))[0]


def _steps(
    counts: dict[str, int], ids: dict[str, list[str]], order: Order
) -> list[dict[str, object]]:
    now, due = order.now.isoformat(), (order.received_at + DUE).isoformat()
    steps: list[dict[str, object]] = [
        _step(place, "done", count=count, done_at=now) for place, count in counts.items()
    ]
    steps += [_step(place, "waiting", due_at=due) for place in redis_erasure.IN_REDIS]
    steps.append(_step("caches", "done", done_at=now))
    for place, known in ids.items():
        # The mailbox may hold what the tables do not: older leads, and those of an outage.
        if known or place == "sales_mailbox":
            facts = {"ids": sorted(set(known))}
            steps.append(
                _step(place, "instruction", count=len(set(known)), due_at=due, facts=facts)
            )
        else:
            steps.append(_step(place, "done", done_at=now))
    steps.append(_step("logs", "expires", due_at=(order.now + LOGS_KEPT).isoformat()))
    steps.append(_step("backups", "expires", due_at=(order.now + BACKUPS_KEPT).isoformat()))
    return steps


def _step(place: str, state: str, **more: object) -> dict[str, object]:
    empty: dict[str, object] = {"count": 0, "due_at": None, "done_at": None, "facts": {}}
    return {**empty, "place": place, "state": state, **more}


# ------------------------------------------------------------------ a DELETE by hand

# What one statement deleted, of the oldest such statement.
BY_HAND = """
select lead_id::text, email, phone, deleted_at from erasure_remains
where deleted_at = (select min(deleted_at) from erasure_remains where request_id is null)
  and request_id is null
order by lead_id limit %(limit)s
"""

ADOPT = """
update erasure_remains set request_id = %(id)s, email = null, phone = null
where lead_id = any(%(ids)s::uuid[])
"""


def take_over(means: Means, now: datetime) -> int:
    """Make requests of what was deleted by hand in SQL, tombstones included; how many.

    Also deletes again what a drain stored between that statement and now.
    Raises NotConfigured while something waits and there is no ERASURE_KEY.
    """
    run = means.database.run
    made = 0
    while rows := run(lambda c: c.execute(BY_HAND, {"limit": BY_HAND_AT_A_TIME}).fetchall()):
        keys = means.erasure_keys
        if not keys:
            raise NotConfigured("ERASURE_KEY", "is not set, and rows were deleted by hand")
        run(partial(_adopt, order=_by_hand(rows, keys, now)), budget_s=ROWS_BUDGET_S)
        made += 1
    return made


def _by_hand(rows: list[Any], keys: tuple[bytes, ...], now: datetime) -> Order:
    ids, emails, phones, times = zip(*rows, strict=True)
    whom = Subject(
        tuple(sorted({each for each in emails if each})),
        tuple(sorted({each for each in phones if each})),
    )
    marks = whom.marks(keys) + [
        mark for each in ids for mark in tombstones.marks(keys, lead_id=each)
    ]
    at = times[0]
    return Order(uuid4(), whom, marks, "sql", at, now, ids=ids, until=at, counted=len(ids))


def _adopt(connection: "Connection[Any]", order: Order) -> None:
    with connection.transaction():
        remove_rows(connection, order)
        connection.execute(ADOPT, order.values)


def finish(means: Means, now: datetime) -> dict[str, int]:
    """What a round does: requests of rows deleted by hand, and the sweeps that are due.

    Raises DatabaseDown; NotConfigured as take_over.
    """
    made = take_over(means, now)
    return {"taken_over": made, "swept": redis_erasure.sweep(means, now)}
