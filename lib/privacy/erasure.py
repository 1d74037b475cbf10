"""Erasing a person: the rows at once, every other place by a step that somebody finishes.

One transaction deletes the rows, leaves tombstones and writes down what is left to do; it locks
`leads` against writers, so that a drain comes either before it and is deleted, or after it and
meets the tombstone. What follows may die anywhere: the next round finds the steps that wait.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from lib.interfaces import Services
from lib.leads import mailed_leads
from lib.privacy import redis_erasure, tombstones
from lib.privacy.data_subject import Subject, with_legacy_numbers
from lib.privacy.requests import DEADLINE, receipt_number
from lib.problems import NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection


LOG_RETENTION = timedelta(days=90)  # the handbook
BACKUP_RETENTION = timedelta(days=90)  # longer than any of ours or Supabase's
TRANSACTION_BUDGET_S = 10.0
MANUAL_DELETE_BATCH = 200  # leads deleted in SQL that one request stands for

FIND_OPEN_REQUEST = """
select id from erasure_requests
where kind = 'erasure' and answered_at is null and marks && %(marks)s::text[]
order by received_at limit 1
"""

# No insert into these tables begins, or is still open, while the rows are deleted.
LOCK_TABLES = "lock table leads, spam in share row exclusive mode"

INSERT_REQUEST = """
insert into erasure_requests (id, receipt, kind, asked_by, marks, received_at, due_at)
values (%(id)s, %(receipt)s, %(kind)s, %(asked_by)s, %(marks)s, %(received_at)s, %(due_at)s)
on conflict (id) do nothing
"""

IS_ANSWERED = "select answered_at is not null from erasure_requests where id = %(id)s for update"

SET_REQUEST_ID = "select set_config('alfa.erasure', %(id)s::text, true)"

COUNT_MAILS = """
select count(*) from outbox as o join leads as l on l.id = o.lead_id
where (l.email = any(%(emails)s::text[]) or l.phone_whatsapp = any(%(phones)s::text[])
    or l.id = any(%(ids)s::uuid[]))
  and l.created_at <= %(until)s::timestamptz and not l.canary
"""

DELETE_LEADS = """
delete from leads
where (email = any(%(emails)s::text[]) or phone_whatsapp = any(%(phones)s::text[])
    or id = any(%(ids)s::uuid[]))
  and created_at <= %(until)s::timestamptz and not canary
returning id::text, ref, created_at
"""

# What the spam box left in Redis is found by these: its ids, texts and senders' addresses.
INSERT_SPAM_REMAINS = """
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

DELETE_RELATED = """
select spam, notes from erase_beside_leads(
  %(emails)s::text[], %(spoken)s::text[], %(words)s::text[], %(until)s::timestamptz)
"""

INSERT_TOMBSTONES = """
insert into erasure_tombstones as held (mark, erased_at)
select mark, %(erased_at)s::timestamptz from unnest(%(marks)s::text[]) as mark
on conflict (mark) do update set erased_at = greatest(held.erased_at, excluded.erased_at)
"""

SELECT_MAIL_IDS = """
select coalesce(array_agg(id), '{}') from erasure_remains, unnest(provider_ids) as id
where request_id = %(id)s
"""

INSERT_STEPS = """
insert into erasure_steps (request_id, place, state, count, due_at, done_at, facts)
select %(id)s, place, state, count, due_at, done_at, facts
from jsonb_to_recordset(%(steps)s::jsonb) as step (
  place text, state text, count integer, due_at timestamptz, done_at timestamptz, facts jsonb)
on conflict (request_id, place) do nothing
"""

MARK_ANSWERED = """
update erasure_requests set answered_at = %(now)s, sweep_at = %(now)s,
  marks = array(select distinct unnest(marks || %(marks)s::text[]))
where id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class ErasureOrder:
    """What one transaction erases.

    ids: single leads, with or without their persons. until: nothing newer; None for everything
    there is. received_at: when the person asked.
    """

    id: UUID
    subject: Subject
    tombstone_hashes: list[str]
    asked_by: str
    received_at: datetime
    now: datetime
    lead_ids: tuple[str, ...] = ()
    created_until: datetime | None = None
    already_deleted: int = 0  # rows that somebody else has deleted already

    @property
    def sql_parameters(self) -> dict[str, Any]:
        return {
            **self.subject.sql_parameters(),
            "id": self.id,
            "ids": list(self.lead_ids),
            "marks": self.tombstone_hashes,
            "until": self.created_until or "infinity",
            "kind": "erasure",
            "asked_by": self.asked_by,
            "receipt": receipt_number("erasure", self.id, self.received_at),
            "received_at": self.received_at,
            "due_at": self.received_at + DEADLINE,
            "now": self.now,
        }


def erase(
    means: Services,
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
    whom = with_legacy_numbers(means, whom)
    run, marks = means.database.run, whom.tombstone_hashes(keys)
    waiting = run(lambda c: c.execute(FIND_OPEN_REQUEST, {"marks": marks}).fetchone())
    order = ErasureOrder(
        waiting[0] if waiting else uuid4(), whom, marks, asked_by, received_at or now, now
    )
    run(lambda connection: delete_rows(connection, order), budget_s=TRANSACTION_BUDGET_S)
    redis_erasure.purge_redis(means, now, order.id)
    return order.id


def delete_rows(connection: "Connection[Any]", order: ErasureOrder) -> None:
    """The one transaction; safe to repeat, also when its first reply was lost."""
    values = order.sql_parameters
    with connection.transaction():
        connection.execute(LOCK_TABLES)
        connection.execute(INSERT_REQUEST, values)
        if connection.execute(IS_ANSWERED, values).fetchone() == (True,):
            return
        connection.execute(SET_REQUEST_ID, values)
        mails = _scalar(connection, COUNT_MAILS, values)
        gone = connection.execute(DELETE_LEADS, values).fetchall()
        connection.execute(mailed_leads.DELETE_OF_PERSON, values)
        values["words"] = [word for row in gone for word in row[:2]] + list(order.lead_ids)
        connection.execute(INSERT_SPAM_REMAINS, values)
        spam, notes = connection.execute(DELETE_RELATED, values).fetchone() or (0, 0)
        # An instance whose clock is ahead of ours may have dated one of them later than now.
        values["erased_at"] = max([order.created_until or order.now, *(row[2] for row in gone)])
        connection.execute(INSERT_TOMBSTONES, values)
        mail_ids = _scalar(connection, SELECT_MAIL_IDS, values)
        counts = {
            "leads": len(gone) + order.already_deleted,
            "mails": mails,
            "spam": spam,
            "incident_notes": notes,
        }
        ids = {
            "sales_mailbox": [row[1] for row in gone],
            "resend": mail_ids,
            "sentry": [row[0] for row in gone] + list(order.lead_ids),
        }
        connection.execute(
            INSERT_STEPS, values | {"steps": json.dumps(_build_steps(counts, ids, order))}
        )
        connection.execute(MARK_ANSWERED, values)


def _scalar(connection: "Connection[Any]", statement: str, values: dict[str, Any]) -> Any:
    return (connection.execute(statement, values).fetchone() or (0,))[0]


def _build_steps(
    counts: dict[str, int], ids: dict[str, list[str]], order: ErasureOrder
) -> list[dict[str, object]]:
    now, due = order.now.isoformat(), (order.received_at + DEADLINE).isoformat()
    steps: list[dict[str, object]] = [
        _build_step(place, "done", count=count, done_at=now) for place, count in counts.items()
    ]
    steps += [_build_step(place, "waiting", due_at=due) for place in redis_erasure.REDIS_STORES]
    steps.append(_build_step("caches", "done", done_at=now))
    for place, known in ids.items():
        # The mailbox may hold what the tables do not: older leads, and those of an outage.
        if known or place == "sales_mailbox":
            facts = {"ids": sorted(set(known))}
            steps.append(
                _build_step(place, "instruction", count=len(set(known)), due_at=due, facts=facts)
            )
        else:
            steps.append(_build_step(place, "done", done_at=now))
    steps.append(_build_step("logs", "expires", due_at=(order.now + LOG_RETENTION).isoformat()))
    steps.append(
        _build_step("backups", "expires", due_at=(order.now + BACKUP_RETENTION).isoformat())
    )
    return steps


def _build_step(place: str, state: str, **more: object) -> dict[str, object]:
    empty: dict[str, object] = {"count": 0, "due_at": None, "done_at": None, "facts": {}}
    return {**empty, "place": place, "state": state, **more}


# ------------------------------------------------------------------ a DELETE by hand

# What one statement deleted, of the oldest such statement.
SELECT_MANUAL_DELETES = """
select lead_id::text, email, phone, deleted_at from erasure_remains
where deleted_at = (select min(deleted_at) from erasure_remains where request_id is null)
  and request_id is null
order by lead_id limit %(limit)s
"""

ADOPT_MANUAL_DELETES = """
update erasure_remains set request_id = %(id)s, email = null, phone = null
where lead_id = any(%(ids)s::uuid[])
"""


def adopt_manual_deletes(means: Services, now: datetime) -> int:
    """Make requests of what was deleted by hand in SQL, tombstones included; how many.

    Also deletes again what a drain stored between that statement and now.
    Raises NotConfigured while something waits and there is no ERASURE_KEY.
    """
    run = means.database.run
    made = 0
    while rows := run(
        lambda c: c.execute(SELECT_MANUAL_DELETES, {"limit": MANUAL_DELETE_BATCH}).fetchall()
    ):
        keys = means.erasure_keys
        if not keys:
            raise NotConfigured("ERASURE_KEY", "is not set, and rows were deleted by hand")
        run(
            partial(_delete_and_adopt, order=_order_for_manual_delete(rows, keys, now)),
            budget_s=TRANSACTION_BUDGET_S,
        )
        made += 1
    return made


def _order_for_manual_delete(
    rows: list[Any], keys: tuple[bytes, ...], now: datetime
) -> ErasureOrder:
    ids, emails, phones, times = zip(*rows, strict=True)
    whom = Subject(
        tuple(sorted({each for each in emails if each})),
        tuple(sorted({each for each in phones if each})),
    )
    marks = whom.tombstone_hashes(keys) + [
        mark for each in ids for mark in tombstones.hashes(keys, lead_id=each)
    ]
    at = times[0]
    return ErasureOrder(
        uuid4(),
        whom,
        marks,
        "sql",
        at,
        now,
        lead_ids=ids,
        created_until=at,
        already_deleted=len(ids),
    )


def _delete_and_adopt(connection: "Connection[Any]", order: ErasureOrder) -> None:
    with connection.transaction():
        delete_rows(connection, order)
        connection.execute(ADOPT_MANUAL_DELETES, order.sql_parameters)


def run_pending(means: Services, now: datetime) -> dict[str, int]:
    """What a round does: requests of rows deleted by hand, and the sweeps that are due.

    Raises DatabaseDown; NotConfigured as take_over.
    """
    made = adopt_manual_deletes(means, now)
    return {"taken_over": made, "swept": redis_erasure.purge_redis(means, now)}
