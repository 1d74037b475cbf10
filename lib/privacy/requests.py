"""The register of people's requests: what was asked, what is done, what is due.

Each has DEADLINE (UU PDP 27/2022) from when the person asked, not from when an operator saw it. It
is finished when no step is `waiting` and every `instruction` was followed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from lib.interfaces import RunQuery

DEADLINE = timedelta(hours=72)

# Every store, with an explanation for an operator. Those in Redis are searched by redis_erasure.
DATA_STORES = {
    "leads": "rows of leads",
    "mails": "rendered mails in the outbox; one being sent at this moment may still arrive",
    "spam": "submissions kept for review",
    "incident_notes": "texts of notes in incidents' timelines",
    "queue": "sealed copies waiting for the database",
    "set_aside": "dead letters of the queue",
    "journal": "sealed copies of the last 48 hours",
    "ledger": "ids of accepted leads of the last 48 hours",
    "door": "idempotency records, repeated texts and rate limits (seen, text, rate)",
    "caches": "hold products and vitals alone: nothing of a person",
    "sales_mailbox": "delete the mails about these refs, and others found by address or number",
    "resend": "ask Resend's support to delete these mails, by id or idempotency key",
    "sentry": "search for these lead ids; nothing should be found, as no personal data is sent",
    "logs": "hold ids alone; deleted by age",
    "backups": "beyond use until overwritten: after a restore the tombstones erase again",
}

INSERT_REQUEST = """
insert into erasure_requests (id, receipt, kind, asked_by, marks, received_at, due_at)
values (%(id)s, %(receipt)s, %(kind)s, %(asked_by)s, %(marks)s, %(received_at)s, %(due_at)s)
on conflict (id) do nothing
"""

FINISH_ERASURE_REQUESTS = """
update erasure_requests as r set finished_at = %(now)s
where finished_at is null and answered_at is not null and sweep_at is null and not exists (
  select from erasure_steps as s where s.request_id = r.id and s.state in ('waiting', 'instruction')
)
"""

SELECT_REQUEST = """
select id, receipt, kind, asked_by, received_at, due_at, answered_at, sweep_at, finished_at
from erasure_requests
where id = %(id)s::uuid or receipt = %(receipt)s::text
"""

SELECT_STEPS = """
select place, state, count, due_at, done_at, coalesce(facts -> 'ids', '[]')
from erasure_steps where request_id = %(id)s
"""

# A DELETE by hand in SQL is a request too, before a cron job has recorded it as one.
SELECT_OPEN_REQUESTS = """
select receipt, kind, due_at, array(
    select place from erasure_steps as s
    where s.request_id = r.id and s.state in ('waiting', 'instruction') order by place)
from erasure_requests as r where finished_at is null and due_at <= %(until)s
union all
select 'by hand', 'erasure', min(deleted_at) + interval '72 hours', array['leads']
from erasure_remains where request_id is null
having min(deleted_at) + interval '72 hours' <= %(until)s
order by 3
"""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request that is not finished. places: the stores where something is still to be done."""

    receipt: str
    kind: str
    due_at: datetime
    places: tuple[str, ...]


def receipt_number(kind: str, request_id: UUID, received_at: datetime) -> str:
    """The number that a person is given: it tells the day, and nothing about them."""
    prefix = {"erasure": "ERASE", "access": "ACCESS"}[kind]
    return f"{prefix}-{received_at:%Y%m%d}-{request_id.hex[:8]}"


def to_row(
    kind: str, request_id: UUID, asked_by: str, hashes: list[str], received_at: datetime
) -> dict[str, Any]:
    """The parameters of INSERT_REQUEST."""
    return {
        "id": request_id,
        "receipt": receipt_number(kind, request_id, received_at),
        "kind": kind,
        "asked_by": asked_by,
        "marks": hashes,
        "received_at": received_at,
        "due_at": received_at + DEADLINE,
    }


def load_receipt(run: RunQuery, request: UUID | str) -> dict[str, Any] | None:
    """A request, by id or receipt number, with a line per store; None when there is none."""
    by_id = isinstance(request, UUID)
    key = {"id": request if by_id else None, "receipt": None if by_id else request}

    def select(connection: Any) -> tuple[Any, list[Any]]:
        row = connection.execute(SELECT_REQUEST, key).fetchone()
        return row, connection.execute(SELECT_STEPS, {"id": row and row[0]}).fetchall()

    row, steps = run(select)
    if row is None:
        return None
    _, number, kind, asked_by, *times = row
    names = ("received_at", "due_at", "answered_at", "sweep_at", "finished_at")
    stores = list(DATA_STORES)
    return {
        "receipt": number,
        "kind": kind,
        "asked_by": asked_by,
        **{name: _isoformat(time) for name, time in zip(names, times, strict=True)},
        "places": [
            _receipt_line(*step) for step in sorted(steps, key=lambda s: stores.index(s[0]))
        ],
    }


def _receipt_line(
    store: str,
    state: str,
    count: int,
    due_at: datetime | None,
    done_at: datetime | None,
    ids: list[str],
) -> dict[str, Any]:
    return {
        "place": store,
        "state": state,
        "count": count,
        "due_at": _isoformat(due_at),
        "done_at": _isoformat(done_at),
        "ids": ids,
        "note": DATA_STORES[store],
    }


def _isoformat(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def dry_run_lines(counts: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """What a dry run answers: a line per store that was counted."""
    return [
        {"place": store, "count": count, "note": DATA_STORES[store]}
        for store, count in counts.items()
    ]


def list_due(run: RunQuery, now: datetime, within: timedelta = timedelta(0)) -> list[OpenRequest]:
    """Unfinished requests whose deadline is past, or `within` from now; the oldest first."""
    rows = run(lambda c: c.execute(SELECT_OPEN_REQUESTS, {"until": now + within}).fetchall())
    return [
        OpenRequest(number, kind, due_at, tuple(stores)) for number, kind, due_at, stores in rows
    ]
