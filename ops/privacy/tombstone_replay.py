"""After a restore: tombstones erase again whom the backup brought back.

The restored table of tombstones is as old as the backup, so the copy in Redis is added to it first,
and any other copy that is given. Only what was received up to a tombstone's time is deleted: a
person who wrote again afterwards stays.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import batched
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg

from lib.leads import submission, tombstones
from lib.privacy import erasure, redis_erasure
from lib.privacy.data_subject import Subject
from lib.privacy.erasure import ErasureOrder
from lib.problems import CacheDown, NotConfigured
from lib.services import Services
from ops.steps import CouldNotVerify

READ_BATCH = 5000  # rows
WRITE_BATCH = 1000  # tombstones
STATEMENT_BUDGET_S = 20.0

type Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """tombstones: known in the end. in_redis: whether the copy in Redis could be read.

    leads, spam, notes: erased again. receipt: of the request that this is recorded as; None when
    there are no tombstones.
    """

    tombstones: int
    in_redis: bool
    leads: int = 0
    spam: int = 0
    notes: int = 0
    receipt: str | None = None


UPSERT_TOMBSTONES = """
insert into erasure_tombstones as existing (mark, erased_at)
select * from unnest(%(marks)s::text[], %(times)s::timestamptz[])
on conflict (mark) do update set erased_at = greatest(existing.erased_at, excluded.erased_at)
"""

# An address, and a number as people write them, in a text.
EMAIL_PATTERN = re.compile(r"[^\s<>()\[\],;:\"']+@[^\s<>()\[\],;:\"']+")
PHONE_PATTERN = re.compile(r"\+?\(?\d(?:[^\w\n,;]{0,3}\d){7,}")

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


class Tombstones(NamedTuple):
    keys: tuple[bytes, ...]
    erased_at: dict[str, datetime]  # by hash

    def cover(
        self, lead_id: UUID | None, email: str | None, phone: str | None, received_at: datetime
    ) -> bool:
        """Whether an erasure covers what this person sent then, or this single lead."""
        hashes = tombstones.hashes(self.keys, email=email, phone=phone, lead_id=lead_id)
        return any(
            mark in self.erased_at and received_at <= self.erased_at[mark] for mark in hashes
        )

    def cover_note(self, note: str, noted_at: datetime) -> bool:
        """Whether the note names an address or a number that an erasure covers."""
        for field, pattern in (("email", EMAIL_PATTERN), ("phone", PHONE_PATTERN)):
            for text in pattern.findall(note):
                try:
                    person = submission.parse_person({field: text.strip(".")})
                except submission.ValidationError:
                    continue
                phones = (person.phone, *person.other_phones)
                if any(self.cover(None, person.email, phone, noted_at) for phone in phones):
                    return True
        return False


def reapply(
    services: Services,
    now: datetime,
    copies: Iterable[tuple[str, datetime]] = (),
    progress: Callable[[str], None] = lambda _words: None,
) -> ReplayResult:
    """Erase again everybody who has a tombstone. Safe to repeat.

    copies: further tombstones, hash and time. progress: called with what is compared now.
    Raises NotConfigured without ERASURE_KEY, DatabaseDown. Redis down: its
    tombstones are missing, and `in_redis` says so.
    """
    if not services.erasure_keys:
        raise NotConfigured("ERASURE_KEY", "is not set")
    run = services.database.run
    in_redis_copies, in_redis = _load_from_redis(services)
    _upsert(services, [*in_redis_copies, *copies])
    erased_at = tombstones.load_all(run)
    if not erased_at:
        return ReplayResult(0, in_redis)
    all_tombstones = Tombstones(services.erasure_keys, erased_at)
    leads = _find_covered(services, SELECT_LEADS, all_tombstones, "leads", progress)
    spam = _find_covered(services, SELECT_SPAM, all_tombstones, "spam", progress)
    rows = run(lambda c: c.execute(SELECT_NOTES).fetchall(), budget_s=STATEMENT_BUDGET_S)
    notes = [
        (incident, seq) for incident, seq, at, note in rows if all_tombstones.cover_note(note, at)
    ]
    order = ErasureOrder(uuid4(), Subject(), list(erased_at), "restore", now, now)
    run(lambda connection: _delete(connection, order, leads, spam, notes),
        budget_s=STATEMENT_BUDGET_S)  # fmt: skip
    if in_redis:
        tombstones.copy_to_redis(services.cache.execute, erased_at)
    redis_erasure.purge_redis(services, now, order.id)
    receipt = order.sql_parameters()["receipt"]
    return ReplayResult(len(erased_at), in_redis, len(leads), len(spam), len(notes), receipt)


def reapply_after_restore(services: Services, now: datetime) -> str:
    """The step of a restore or a drill; what was erased again. Raises CouldNotVerify."""
    result = reapply(services, now)
    if not result.in_redis:
        raise CouldNotVerify("Redis cannot be used, and has the newest tombstones")
    return (
        f"{result.tombstones} tombstones; erased again: {result.leads} leads, {result.spam} for"
        f" review, {result.notes} notes"
    )


def _load_from_redis(services: Services) -> tuple[list[tuple[str, datetime]], bool]:
    try:
        pairs = services.cache.execute("ZRANGE", tombstones.REDIS_KEY, 0, -1, "WITHSCORES")
    except (CacheDown, NotConfigured):
        return [], False
    return [(mark, datetime.fromtimestamp(float(at), UTC)) for mark, at in pairs], True


def _upsert(services: Services, copies: list[tuple[str, datetime]]) -> None:
    latest: dict[str, datetime] = {}  # one statement may not meet a row twice
    for mark, at in copies:
        latest[mark] = max(latest.get(mark, at), at)
    for batch in batched(latest.items(), WRITE_BATCH):
        values = {"marks": [mark for mark, _ in batch], "times": [at for _, at in batch]}
        services.database.run(partial(_execute, statement=UPSERT_TOMBSTONES, values=values))


def _execute(connection: Connection, *, statement: str, values: dict[str, Any]) -> Any:
    return connection.execute(statement, values)


def _iter_rows(services: Services, statement: str) -> Iterator[Any]:
    after = UUID(int=0)
    while True:
        values = {"after": after, "limit": READ_BATCH}
        select = partial(_execute, statement=statement, values=values)
        rows = services.database.run(select, budget_s=STATEMENT_BUDGET_S).fetchall()
        yield from rows
        if len(rows) < READ_BATCH:
            return
        after = rows[-1][0]


def _find_covered(
    services: Services,
    statement: str,
    known: Tombstones,
    table: str,
    progress: Callable[[str], None],
) -> list[UUID]:
    """Ids of the rows that an erasure covers."""
    ids = []
    for number, row in enumerate(_iter_rows(services, statement), 1):
        if number % 500 == 0:
            progress(f"{number:,} rows of {table} compared")
        if known.cover(*row):
            ids.append(row[0])
    return ids


def _delete(
    connection: Connection,
    order: ErasureOrder,
    leads: list[UUID],
    spam: list[UUID],
    notes: list[tuple[str, int]],
) -> None:
    values = order.sql_parameters() | {"leads": leads, "spam": spam}
    counts = {"leads": len(leads), "spam": len(spam), "incident_notes": len(notes)}
    with connection.transaction():
        if not erasure.open_request(connection, values):
            return
        connection.execute(DELETE_LEADS, values)
        connection.execute(DELETE_SPAM, values)
        for incident, seq in notes:
            connection.execute(CLEAR_NOTE, {"incident": incident, "seq": seq})
        erasure.record_answer(connection, values, erasure.own_steps(order, counts))
