"""Erase a person: request, rows in Postgres, copies in Redis, receipt.

One transaction deletes the rows, writes tombstones and records every other store as a step. It
locks `leads` against writers, so a queued lead is stored either before it, and deleted, or after
it, and refused because of its tombstone. A process may die after the transaction: `run_pending`,
called by the cron jobs, finishes the steps that wait.
"""

import json
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

from lib import log
from lib.interfaces import Context, Services
from lib.leads import mailed_leads, tombstones
from lib.privacy import redis_erasure, requests
from lib.privacy.data_subject import Subject, with_legacy_numbers
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

IS_ANSWERED = "select answered_at is not null from erasure_requests where id = %(id)s for update"

# The trigger on leads takes a deletion without it for one by hand.
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

# Ids, hashed texts and senders' addresses: what finds the traces of spam in Redis.
INSERT_SPAM_REMAINS = """
insert into erasure_remains (
  lead_id, request_id, ref, identity, text_sha256, client, provider_ids, deleted_at)
select s.id, %(id)s::uuid, s.ref, '',
  -- As lib/leads/repository.py hashes a text.
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
insert into erasure_tombstones as existing (mark, erased_at)
select mark, %(erased_at)s::timestamptz from unnest(%(marks)s::text[]) as mark
on conflict (mark) do update set erased_at = greatest(existing.erased_at, excluded.erased_at)
"""

SELECT_MAIL_IDS = """
select coalesce(array_agg(id), '{}') from erasure_remains, unnest(provider_ids) as id
where request_id = %(id)s
"""

INSERT_STEPS = """
insert into erasure_steps (request_id, place, state, count, due_at, done_at, facts)
select %(id)s, place, state, coalesce(count, 0), due_at, done_at, coalesce(facts, '{}')
from jsonb_to_recordset(%(steps)s::jsonb) as step (
  place text, state text, count integer, due_at timestamptz, done_at timestamptz, facts jsonb)
on conflict (request_id, place) do nothing
"""

MARK_ANSWERED = """
update erasure_requests set answered_at = %(now)s, sweep_at = %(now)s,
  marks = array(select distinct unnest(marks || %(marks)s::text[]))
where id = %(id)s
"""


class ErasureOrder(NamedTuple):
    """What one transaction erases.

    lead_ids: single leads, with or without their persons. created_until: no lead newer than this;
    None for all there are. received_at: when the person asked.
    """

    id: UUID
    subject: Subject
    tombstone_hashes: list[str]
    asked_by: str
    received_at: datetime
    now: datetime
    lead_ids: tuple[str, ...] = ()
    created_until: datetime | None = None
    already_deleted: int = 0  # leads that a DELETE by hand removed

    def sql_parameters(self) -> dict[str, Any]:
        return {
            **requests.to_row(
                "erasure", self.id, self.asked_by, self.tombstone_hashes, self.received_at
            ),
            **self.subject.sql_parameters(),
            "ids": list(self.lead_ids),
            "until": self.created_until or "infinity",
            "now": self.now,
        }


def erase(
    services: Services,
    subject: Subject,
    now: datetime,
    *,
    asked_by: str,
    received_at: datetime | None = None,
) -> UUID:
    """Erase a person everywhere; the request's id. Answers their open request if there is one.

    Raises NotConfigured without ERASURE_KEY, DatabaseDown. Redis down leaves its steps waiting.
    """
    if not services.erasure_keys:
        raise NotConfigured("ERASURE_KEY", "is not set")
    run = services.database.run
    subject = with_legacy_numbers(services, subject)
    hashes = subject.tombstone_hashes(services.erasure_keys)
    row = run(lambda c: c.execute(FIND_OPEN_REQUEST, {"marks": hashes}).fetchone())
    order = ErasureOrder(
        row[0] if row else uuid4(), subject, hashes, asked_by, received_at or now, now
    )
    run(partial(delete_rows, order=order), budget_s=TRANSACTION_BUDGET_S)
    redis_erasure.purge_redis(services, now, order.id)
    return order.id


def delete_rows(connection: "Connection[Any]", order: ErasureOrder) -> None:
    """The one transaction. Safe to repeat, also when its first reply was lost."""
    values = order.sql_parameters()
    with connection.transaction():
        connection.execute(LOCK_TABLES)
        if not open_request(connection, values):
            return
        mails = _scalar(connection, COUNT_MAILS, values)
        leads = connection.execute(DELETE_LEADS, values).fetchall()
        connection.execute(mailed_leads.DELETE_OF_PERSON, values)
        lead_ids = [row[0] for row in leads] + list(order.lead_ids)
        refs = [row[1] for row in leads]
        connection.execute(INSERT_SPAM_REMAINS, values)
        values["words"] = lead_ids + refs
        spam, notes = connection.execute(DELETE_RELATED, values).fetchone() or (0, 0)
        # An instance with a fast clock may have dated a lead later than now.
        values["erased_at"] = max([order.created_until or order.now, *(row[2] for row in leads)])
        connection.execute(INSERT_TOMBSTONES, values)
        counts = {
            "leads": len(leads) + order.already_deleted,
            "mails": mails,
            "spam": spam,
            "incident_notes": notes,
            "caches": 0,
        }
        instructions = {
            "sales_mailbox": refs,
            "resend": _scalar(connection, SELECT_MAIL_IDS, values),
            "sentry": lead_ids,
        }
        steps = [*own_steps(order, counts), *_external_steps(order, instructions)]
        record_answer(connection, values, steps)


def open_request(connection: "Connection[Any]", values: dict[str, Any]) -> bool:
    """Record the request of a transaction, and mark its deletions; whether it is unanswered."""
    connection.execute(requests.INSERT_REQUEST, values)
    connection.execute(SET_REQUEST_ID, values)
    return connection.execute(IS_ANSWERED, values).fetchone() == (False,)


def record_answer(
    connection: "Connection[Any]", values: dict[str, Any], steps: list[dict[str, Any]]
) -> None:
    connection.execute(INSERT_STEPS, values | {"steps": json.dumps(steps, default=str)})
    connection.execute(MARK_ANSWERED, values)


def own_steps(order: ErasureOrder, counts: dict[str, int]) -> list[dict[str, Any]]:
    """Postgres is done, by how many rows; Redis waits for a pass."""
    due_at = order.received_at + requests.DEADLINE
    done: list[dict[str, Any]] = [
        {"place": store, "state": "done", "count": rows, "done_at": order.now}
        for store, rows in counts.items()
    ]
    return done + [
        {"place": store, "state": "waiting", "due_at": due_at} for store in redis_erasure.STORES
    ]


def _external_steps(
    order: ErasureOrder, ids_by_store: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """What a person must do by the deadline, and what ends by age."""
    steps: list[dict[str, Any]] = []
    for store, ids in ids_by_store.items():
        # The mailbox may hold leads that the tables do not: older ones, and those of an outage.
        if ids or store == "sales_mailbox":
            unique = sorted(set(ids))
            steps.append({"place": store, "state": "instruction", "count": len(unique),
                          "due_at": order.received_at + requests.DEADLINE,
                          "facts": {"ids": unique}})  # fmt: skip
        else:
            steps.append({"place": store, "state": "done", "done_at": order.now})
    for store, retention in (("logs", LOG_RETENTION), ("backups", BACKUP_RETENTION)):
        steps.append({"place": store, "state": "expires", "due_at": order.now + retention})
    return steps


def _scalar(connection: "Connection[Any]", statement: str, values: dict[str, Any]) -> Any:
    return (connection.execute(statement, values).fetchone() or (0,))[0]


# ------------------------------------------------------------------ a DELETE by hand, in SQL

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


def adopt_manual_deletes(services: Services, now: datetime) -> int:
    """Make a request, with tombstones, of what each DELETE by hand removed; how many requests.

    Deletes again what was stored between that DELETE and now. Raises NotConfigured while there is
    something to adopt and no ERASURE_KEY.
    """
    run, keys, adopted = services.database.run, services.erasure_keys, 0
    limit = {"limit": MANUAL_DELETE_BATCH}
    while rows := run(lambda c: c.execute(SELECT_MANUAL_DELETES, limit).fetchall()):
        if not keys:
            raise NotConfigured("ERASURE_KEY", "is not set, and rows were deleted by hand")
        order = _order_for_manual_delete(rows, keys, now)
        run(partial(_delete_and_adopt, order=order), budget_s=TRANSACTION_BUDGET_S)
        adopted += 1
    return adopted


def _order_for_manual_delete(
    rows: list[Any], keys: tuple[bytes, ...], now: datetime
) -> ErasureOrder:
    lead_ids, emails, phones, (deleted_at, *_) = zip(*rows, strict=True)
    subject = Subject(
        tuple(sorted(set(filter(None, emails)))), tuple(sorted(set(filter(None, phones))))
    )
    hashes = subject.tombstone_hashes(keys)
    for lead_id in lead_ids:
        hashes += tombstones.hashes(keys, lead_id=lead_id)
    return ErasureOrder(
        uuid4(), subject, hashes, "sql", deleted_at, now,
        lead_ids=lead_ids, created_until=deleted_at, already_deleted=len(lead_ids),
    )  # fmt: skip


def _delete_and_adopt(connection: "Connection[Any]", order: ErasureOrder) -> None:
    with connection.transaction():
        delete_rows(connection, order)
        connection.execute(ADOPT_MANUAL_DELETES, {"id": order.id, "ids": list(order.lead_ids)})


def run_pending(services: Services, now: datetime) -> dict[str, int]:
    """What a cron job does: adopt DELETEs by hand, and search Redis for the requests that are due.

    Raises DatabaseDown; NotConfigured as adopt_manual_deletes.
    """
    adopted = adopt_manual_deletes(services, now)
    return {"taken_over": adopted, "swept": redis_erasure.purge_redis(services, now)}


def run_pending_or_log(context: Context) -> dict[str, int] | None:
    """run_pending; None, and a line in the log, where it is not configured."""
    try:
        return run_pending(context.services, context.now)
    except NotConfigured as error:
        log.not_configured(error, context.request_id)
        return None
