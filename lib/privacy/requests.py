"""The register of persons' requests: what was asked, what is done, what is due.

Every request has 72 hours (UU PDP 27/2022), counted from when the person asked, not from when an
operator came to it. It is finished when no place waits and every instruction was followed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from lib.interfaces import RunQuery

DEADLINE = timedelta(hours=72)

# Every place, and its word for an operator. Those in Redis are found by a sweep.
DATA_STORES = {
    "leads": "rows of leads",
    "mails": "rendered mails in the outbox; one being sent at this moment may still arrive",
    "spam": "submissions kept for review",
    "incident_notes": "texts of notes in incidents' timelines",
    "queue": "sealed copies waiting for the database",
    "set_aside": "sealed copies no drain could store",
    "journal": "sealed copies of the last 48 hours",
    "ledger": "ids of accepted leads of the last 48 hours",
    "door": "what recognises a repeat or counts a sender (seen, text, rate)",
    "caches": "hold products and vitals alone: nothing of a person",
    "sales_mailbox": "delete the mails about these refs, and others found by address or number",
    "resend": "ask Resend's support to delete these mails, by id or idempotency key",
    "sentry": "search for these lead ids; nothing should be found, as no personal data is sent",
    "logs": "hold ids alone; deleted by age",
    "backups": "beyond use until overwritten: after a restore the tombstones erase again",
}


INSERT_REQUEST = """
insert into erasure_requests (id, receipt, kind, asked_by, marks, received_at, due_at)
values (%(id)s, %(receipt)s, %(kind)s, 'command', %(marks)s, %(received_at)s, %(due_at)s)
"""


def receipt_number(kind: str, request_id: UUID, received_at: datetime) -> str:
    """The number that a person is told: it says the day, and nothing of them."""
    word = {"erasure": "ERASE", "access": "ACCESS"}[kind]
    return f"{word}-{received_at:%Y%m%d}-{request_id.hex[:8]}"


def register(run: RunQuery, kind: str, marks: list[str], received_at: datetime) -> str:
    """Start the clock of a request that is not answered yet; its receipt number."""
    request_id = uuid4()
    receipt = receipt_number(kind, request_id, received_at)
    values = {"id": request_id, "receipt": receipt, "kind": kind, "marks": marks,
              "received_at": received_at, "due_at": received_at + DEADLINE}  # fmt: skip
    run(lambda connection: connection.execute(INSERT_REQUEST, values))
    return receipt


FINISH_ACCESS_REQUEST = """
update erasure_requests set answered_at = %(now)s, finished_at = %(now)s
where kind = 'access' and finished_at is null and receipt = %(receipt)s
returning receipt
"""


def finish_access_request(run: RunQuery, receipt: str, now: datetime) -> bool:
    """Close a request to see what is held, once it was handed over; whether it was open."""
    values = {"receipt": receipt, "now": now}
    return run(lambda c: c.execute(FINISH_ACCESS_REQUEST, values).fetchone()) is not None


SELECT_REQUEST = """
select id, receipt, kind, asked_by, received_at, due_at, answered_at, sweep_at, finished_at
from erasure_requests
where id = %(id)s::uuid or receipt = %(receipt)s::text
"""

SELECT_STEPS = """
select place, state, count, due_at, done_at, coalesce(facts -> 'ids', '[]')
from erasure_steps where request_id = %(id)s
"""


def load_receipt(run: RunQuery, request: UUID | str) -> dict[str, Any] | None:
    """A request and a line per place, as JSON values; None when there is none of that number."""
    asked: dict[str, object] = {"id": None, "receipt": None}
    asked["id" if isinstance(request, UUID) else "receipt"] = request

    def look(connection: Any) -> tuple[Any, list[Any]]:
        row = connection.execute(SELECT_REQUEST, asked).fetchone()
        found = connection.execute(SELECT_STEPS, {"id": row[0]}).fetchall() if row else []
        return row, found

    row, steps = run(look)
    if row is None:
        return None
    number, kind, asked_by, *times = row[1:]
    names = ("received_at", "due_at", "answered_at", "sweep_at", "finished_at")
    order = list(DATA_STORES)
    lines = sorted(
        (_receipt_line(*step) for step in steps), key=lambda line: order.index(line["place"])
    )
    return {
        "receipt": number,
        "kind": kind,
        "asked_by": asked_by,
        **{name: _isoformat(time) for name, time in zip(names, times, strict=True)},
        "places": lines,
    }


def _receipt_line(
    place: str, state: str, count: int, due_at: Any, done_at: Any, ids: list[str]
) -> dict[str, Any]:
    return {
        "place": place,
        "state": state,
        "count": count,
        "due_at": _isoformat(due_at),
        "done_at": _isoformat(done_at),
        "ids": ids,
        "note": DATA_STORES[place],
    }


def dry_run_lines(counts: dict[str, int | None]) -> list[dict[str, Any]]:
    """What a dry run answers: a line per place that was counted."""
    return [
        {"place": place, "count": count, "note": DATA_STORES[place]}
        for place, count in counts.items()
    ]


def _isoformat(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


COMPLETE_STEP = """
update erasure_steps as s set state = 'done', done_at = %(now)s, facts = '{}'
from erasure_requests as r
where r.id = s.request_id and r.receipt = %(receipt)s and s.place = %(place)s
  and s.state = 'instruction'
returning s.place
"""

FINISH_ERASURE_REQUESTS = """
update erasure_requests as r set finished_at = %(now)s
where finished_at is null and answered_at is not null and sweep_at is null and not exists (
  select from erasure_steps as s where s.request_id = r.id and s.state in ('waiting', 'instruction')
)
"""


def complete_step(run: RunQuery, receipt: str, place: str, now: datetime) -> bool:
    """Note that an instruction was followed; whether it was still to be."""
    values = {"receipt": receipt, "place": place, "now": now}

    def note(connection: Any) -> bool:
        with connection.transaction():
            done = connection.execute(COMPLETE_STEP, values).fetchone() is not None
            connection.execute(FINISH_ERASURE_REQUESTS, values)
        return done

    followed: bool = run(note)
    return followed


# What a DELETE by hand left is a request too, before any round has made one of it.
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
    """A request that is not finished. places: where something is still to be done."""

    receipt: str
    kind: str
    due_at: datetime
    places: tuple[str, ...]


def list_due(run: RunQuery, now: datetime, within: timedelta = timedelta(0)) -> list[OpenRequest]:
    """Unfinished requests whose 72 hours end by now, or `within` from now; the oldest first."""
    rows = run(
        lambda connection: connection.execute(
            SELECT_OPEN_REQUESTS, {"until": now + within}
        ).fetchall()
    )
    return [
        OpenRequest(receipt, kind, due_at, tuple(places)) for receipt, kind, due_at, places in rows
    ]
