"""After a restore: tombstones erase again whom the backup brought back.

The restored table of tombstones is as old as the backup, so those kept in Redis, and any that are
given (of receipts, logs or another copy), come first. Only what was taken up to a tombstone's
moment goes: whoever wrote again afterwards stays.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from lib.interfaces import Services
from lib.leads import submission
from lib.privacy import redis_erasure, tombstones
from lib.privacy.erasure import INSERT_REQUEST, INSERT_STEPS, MARK_ANSWERED, SET_REQUEST_ID
from lib.privacy.redis_erasure import REDIS_STORES, TOMBSTONES_KEY
from lib.privacy.requests import DEADLINE, receipt_number
from lib.problems import CacheDown, NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection

READ_BATCH = 5000  # rows read at a time
STATEMENT_BUDGET_S = 20.0  # a statement's
WRITE_BATCH = 1000  # tombstones written at a time

type Tombstones = dict[str, datetime]
"""Tombstones: when, by mark."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """tombstones: known in the end. in_redis: whether Redis could be asked for its copies.

    leads, spam, notes: erased again. receipt: of the request that this stands as in the register;
    None when there are no tombstones at all.
    """

    tombstones: int
    in_redis: bool
    leads: int = 0
    spam: int = 0
    notes: int = 0
    receipt: str | None = None


UPSERT_TOMBSTONES = """
insert into erasure_tombstones as held (mark, erased_at)
select * from unnest(%(marks)s::text[], %(times)s::timestamptz[])
on conflict (mark) do update set erased_at = greatest(held.erased_at, excluded.erased_at)
"""

SELECT_TOMBSTONES = "select mark, erased_at from erasure_tombstones"

SELECT_LEADS = """
select id, email, phone_whatsapp, created_at from leads
where id > %(after)s and not canary order by id limit %(limit)s
"""

SELECT_SPAM = """
select id, submission ->> 'email', submission ->> 'phone_whatsapp', received_at from spam
where id > %(after)s order by id limit %(limit)s
"""

SELECT_NOTES = "select incident_id, seq, at, note from incident_events where note is not null"

DELETE_LEADS = "delete from leads where id = any(%(leads)s::uuid[])"
DELETE_SPAM = "delete from spam where id = any(%(spam)s::uuid[])"
CLEAR_NOTE = """
update incident_events set note = null where incident_id = %(incident)s and seq = %(seq)s
"""


def reapply(
    means: Services, now: datetime, given: Iterable[tuple[str, datetime]] = ()
) -> ReplayResult:
    """Erase again everybody who has a tombstone. Safe to repeat.

    given: further tombstones, as `known` gives them. Raises NotConfigured without ERASURE_KEY,
    DatabaseDown. Redis down: its tombstones are missing, and `in_redis` says so.
    """
    keys = means.erasure_keys
    if not keys:
        raise NotConfigured("ERASURE_KEY", "is not set")
    copies, in_redis = _load_from_redis(means)
    _store(means, [*copies, *given])
    buried = all_tombstones(means)
    if not buried:
        return ReplayResult(0, in_redis)
    run, request = means.database.run, uuid4()
    found = {
        "leads": [
            row[0] for row in _iter_rows(means, SELECT_LEADS) if _is_erased(buried, keys, *row)
        ],
        "spam": [
            row[0] for row in _iter_rows(means, SELECT_SPAM) if _is_erased(buried, keys, *row)
        ],
    }
    notes = [
        (incident, seq)
        for incident, seq, at, note in run(
            lambda c: c.execute(SELECT_NOTES).fetchall(), budget_s=STATEMENT_BUDGET_S
        )
        if _mentions_erased_person(note, at, buried, keys)
    ]
    receipt = receipt_number("erasure", request, now)
    values = {"id": request, "receipt": receipt, "kind": "erasure", "asked_by": "restore",
              "marks": list(buried), "received_at": now, "due_at": now + DEADLINE, "now": now,
              **found}  # fmt: skip
    run(lambda connection: _delete(connection, values, notes), budget_s=STATEMENT_BUDGET_S)
    if in_redis:
        publish_tombstones(means)
    redis_erasure.purge_redis(means, now, request)
    return ReplayResult(len(buried), in_redis, len(found["leads"]), len(found["spam"]),
                    len(notes), receipt)  # fmt: skip


def all_tombstones(means: Services) -> Tombstones:
    """Every tombstone of the table: to be kept with a backup, or elsewhere. Raises DatabaseDown."""
    rows = means.database.run(
        lambda c: c.execute(SELECT_TOMBSTONES).fetchall(), budget_s=STATEMENT_BUDGET_S
    )
    return {mark: at.astimezone(UTC) for mark, at in rows}


def publish_tombstones(means: Services) -> int:
    """Bring Redis' copies up to date with the table; how many there are. Raises CacheDown too."""
    buried = all_tombstones(means)
    redis_erasure.publish_tombstones(means, {mark: at.timestamp() for mark, at in buried.items()})
    return len(buried)


def _load_from_redis(means: Services) -> tuple[list[tuple[str, datetime]], bool]:
    try:
        pairs = means.cache.execute("ZRANGE", TOMBSTONES_KEY, 0, -1, "WITHSCORES")
    except (CacheDown, NotConfigured):
        return [], False
    return [(mark, datetime.fromtimestamp(float(at), UTC)) for mark, at in pairs], True


def _store(means: Services, buried: list[tuple[str, datetime]]) -> None:
    latest: Tombstones = {}  # a mark may be given twice; one statement may meet a row but once
    for mark, at in buried:
        latest[mark] = max(latest.get(mark, at), at)
    marks = list(latest)
    for start in range(0, len(marks), WRITE_BATCH):
        some = marks[start : start + WRITE_BATCH]
        values = {"marks": some, "times": [latest[mark] for mark in some]}
        means.database.run(partial(_execute, statement=UPSERT_TOMBSTONES, values=values))


def _execute(connection: "Connection[Any]", *, statement: str, values: dict[str, Any]) -> list[Any]:
    cursor = connection.execute(statement, values)
    return cursor.fetchall() if cursor.description else []


def _iter_rows(means: Services, statement: str) -> Iterator[Any]:
    after = UUID(int=0)
    while True:
        values = {"after": after, "limit": READ_BATCH}
        look = partial(_execute, statement=statement, values=values)
        rows = means.database.run(look, budget_s=STATEMENT_BUDGET_S)
        yield from rows
        if len(rows) < READ_BATCH:
            return
        after = rows[-1][0]


def _is_erased(
    buried: Tombstones,
    keys: tuple[bytes, ...],
    lead_id: UUID | None,
    email: str | None,
    phone: str | None,
    at: datetime,
) -> bool:
    marks = tombstones.hashes(keys, email=email, phone=phone, lead_id=lead_id)
    return any(mark in buried and at <= buried[mark] for mark in marks)


EMAIL_PATTERN = re.compile(r"[^\s<>()\[\],;:\"']+@[^\s<>()\[\],;:\"']+")
PHONE_PATTERN = re.compile(r"\+?\(?\d(?:[^\w\n,;]{0,3}\d){7,}")


def _mentions_erased_person(
    note: str, at: datetime, buried: Tombstones, keys: tuple[bytes, ...]
) -> bool:
    for name, pattern in (("email", EMAIL_PATTERN), ("phone", PHONE_PATTERN)):
        for found in pattern.findall(note):
            try:
                person = submission.parse_person({name: found.strip(".")})
            except submission.ValidationError:
                continue
            numbers = (person.phone, *person.other_phones)
            if any(_is_erased(buried, keys, None, person.email, each, at) for each in numbers):
                return True
    return False


def _delete(
    connection: "Connection[Any]", values: dict[str, Any], notes: list[tuple[str, int]]
) -> None:
    counts = {"leads": len(values["leads"]), "spam": len(values["spam"]),
              "incident_notes": len(notes)}  # fmt: skip
    done = {"state": "done", "due_at": None, "done_at": values["now"].isoformat(), "facts": {}}
    waits = {**done, "state": "waiting", "done_at": None, "count": 0,
             "due_at": values["due_at"].isoformat()}  # fmt: skip
    steps = [{**done, "place": place, "count": count} for place, count in counts.items()]
    steps += [{**waits, "place": place} for place in REDIS_STORES]
    with connection.transaction():
        connection.execute(INSERT_REQUEST, values)
        connection.execute(SET_REQUEST_ID, values)
        connection.execute(DELETE_LEADS, values)
        connection.execute(DELETE_SPAM, values)
        for incident, seq in notes:
            connection.execute(CLEAR_NOTE, {"incident": incident, "seq": seq})
        connection.execute(INSERT_STEPS, values | {"steps": json.dumps(steps)})
        connection.execute(MARK_ANSWERED, values)
