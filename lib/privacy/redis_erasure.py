"""Erase people in Redis: decrypt every sealed lead there, and delete what is theirs.

A pass runs right after the rows are deleted, and again SECOND_PASS_AFTER later, when no process
can still hold a copy that it read before. A pass may be repeated or interrupted; a step stays
`waiting` until a whole pass has succeeded.
"""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import batched, chain
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from lib.interfaces import RedisExecute, Services
from lib.leads import admission, queue, tombstones
from lib.leads.lead import Lead
from lib.leads.repository import erasure_hashes
from lib.privacy import data_subject
from lib.privacy.requests import FINISH_ERASURE_REQUESTS
from lib.problems import CacheDown, NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection

SECOND_PASS_AFTER = timedelta(minutes=2)  # twice the longest life of a function
STORES = ("queue", "set_aside", "journal", "ledger", "door")
MAX_REQUESTS = 20  # in one pass

SELECT_PENDING = """
select id from erasure_requests
where sweep_at is not null and (id = %(id)s::uuid or %(id)s::uuid is null and sweep_at <= %(now)s)
order by sweep_at limit %(limit)s
"""

SELECT_TOMBSTONES = """
select t.mark, t.erased_at, r.id
from erasure_requests as r, unnest(r.marks) as mark (mark)
  join erasure_tombstones as t using (mark)
where r.id = any(%(ids)s::uuid[])
"""

SELECT_REMAINS = """
select request_id, lead_id::text, identity, coalesce(content_identity, identity), text_sha256,
  host(client)
from erasure_remains
where request_id = any(%(ids)s::uuid[])
"""

COMPLETE_STEPS = """
update erasure_steps as s set count = s.count + deleted.n, state = 'done', done_at = %(now)s
from jsonb_to_recordset(%(deleted)s::jsonb) as deleted (id uuid, place text, n integer)
where s.request_id = deleted.id and s.place = deleted.place
"""

# After the second pass nothing of a lead is left but its tombstones.
SCHEDULE_REPEAT = """
update erasure_requests
set sweep_at = case when answered_at + %(second_pass_after)s <= %(now)s then null
  else answered_at + %(second_pass_after)s end
where id = any(%(ids)s::uuid[])
"""

DELETE_REMAINS = """
delete from erasure_remains as r using erasure_requests as q
where q.id = r.request_id and q.sweep_at is null and q.id = any(%(ids)s::uuid[])
"""


class Remains(NamedTuple):
    """What finds an erased lead's other keys in Redis."""

    request_id: UUID
    lead_id: str
    identity: str
    content_identity: str
    text_sha256: str
    ip_address: str | None


class Tombstone(NamedTuple):
    erased_at: datetime
    request_id: UUID


def purge_redis(services: Services, now: datetime, only: UUID | None = None) -> int:
    """Run a pass for the requests that are due, or for one; how many. Redis down: they wait.

    Raises DatabaseDown.
    """
    run = services.database.run
    values = {"id": only, "now": now, "limit": MAX_REQUESTS}
    ids = [row[0] for row in run(lambda c: c.execute(SELECT_PENDING, values).fetchall())]
    if not ids:
        return 0
    rows, remains = run(lambda c: (c.execute(SELECT_TOMBSTONES, {"ids": ids}).fetchall(),
                                   c.execute(SELECT_REMAINS, {"ids": ids}).fetchall()))  # fmt: skip
    remains = [Remains(*row) for row in remains]
    _delete_clients(services, remains)
    erased = {mark: Tombstone(at, request_id) for mark, at, request_id in rows}
    try:
        deleted = _delete_matching(services, erased, remains)
    except (CacheDown, NotConfigured):
        return 0
    run(lambda connection: _record(connection, ids, deleted, now))
    return len(ids)


def _delete_clients(services: Services, remains: list[Remains]) -> None:
    """What Postgres counted of their addresses, by which rate limits are kept."""
    addresses = {lead.ip_address for lead in remains if lead.ip_address is not None}
    key = services.rate_limit_key
    values = {"clients": [admission.client_hash(key, address) for address in addresses]}
    services.database.run(lambda c: c.execute(admission.DELETE_CLIENTS, values) and None)


def _delete_matching(
    services: Services, erased: dict[str, Tombstone], remains: list[Remains]
) -> Counter[tuple[UUID, str]]:
    """How much was deleted, by request and store."""
    execute = services.cache.execute
    tombstones.copy_to_redis(execute, {mark: stone.erased_at for mark, stone in erased.items()})
    latest: dict[UUID, float] = {}
    for erased_at, request_id in erased.values():
        latest[request_id] = max(latest.get(request_id, 0.0), erased_at.timestamp())
    deleted: Counter[tuple[UUID, str]] = Counter()
    for lead in chain(remains, _delete_sealed_leads(services, erased, deleted)):
        accepted_at = execute("ZSCORE", queue.ACCEPTED, lead.lead_id)
        # Not one that was sent again after the erasure.
        if accepted_at is not None and float(accepted_at) <= latest.get(lead.request_id, 0.0):
            deleted[lead.request_id, "ledger"] += int(execute("ZREM", queue.ACCEPTED, lead.lead_id))
        deleted[lead.request_id, "door"] += int(execute("DEL", *_admission_keys(lead)))
    _delete_idempotency_records(execute, remains, deleted)
    return deleted


def _delete_sealed_leads(
    services: Services, erased: dict[str, Tombstone], deleted: Counter[tuple[UUID, str]]
) -> Iterator[Remains]:
    """Delete the copies of erased people, and yield what finds their other keys."""
    for copy in data_subject.sealed_leads(services):
        lead = copy.lead
        if lead is None:
            continue
        request_id = _matching_request(lead, services.erasure_keys, erased)
        if request_id is None or not queue.delete_if_unchanged(services.cache.execute, copy):
            continue
        deleted[request_id, copy.location] += 1
        yield Remains(
            request_id,
            str(lead.id),
            lead.identity,
            lead.content_identity,
            lead.text_sha256,
            lead.ip_address,
        )


def _matching_request(
    lead: Lead, keys: tuple[bytes, ...], erased: dict[str, Tombstone]
) -> UUID | None:
    """The request that erased this lead, if one did."""
    for mark in erasure_hashes(lead, keys):
        tombstone = erased.get(mark)
        if tombstone is not None and lead.created_at <= tombstone.erased_at:
            return tombstone.request_id
    return None


def _admission_keys(lead: Remains) -> set[str]:
    """Idempotency records, repeated text and rate limit: else the same words would be a repeat."""
    keys = {admission.record_key(lead.identity), admission.record_key(lead.content_identity)}
    if lead.text_sha256:
        keys.add(admission.text_key(lead.text_sha256))
    if lead.ip_address is not None:
        keys.add(admission.rate_key(lead.ip_address))
    return keys


def _delete_idempotency_records(
    execute: RedisExecute, remains: list[Remains], deleted: Counter[tuple[UUID, str]]
) -> None:
    """Find records by the lead's id: a row of spam does not say under which key it came."""
    request_ids = {lead.lead_id: lead.request_id for lead in remains}
    if not request_ids:
        return
    for keys in batched(queue.scan_keys(execute, admission.record_key("*")), queue.SCAN_COUNT):
        for key, record in zip(keys, execute("MGET", *keys), strict=True):
            request_id = request_ids.get(_lead_id_in(record))
            if request_id is not None:
                deleted[request_id, "door"] += int(execute("DEL", key))


def _lead_id_in(record: object) -> str:
    try:
        return str(json.loads(str(record))["id"])
    except (ValueError, LookupError, TypeError):
        return ""  # still in flight


def _record(
    connection: "Connection[Any]",
    ids: list[UUID],
    deleted: Counter[tuple[UUID, str]],
    now: datetime,
) -> None:
    rows = [
        {"id": str(request_id), "place": store, "n": deleted[request_id, store]}
        for request_id in ids
        for store in STORES
    ]
    values = {"ids": ids, "now": now, "second_pass_after": SECOND_PASS_AFTER,
              "deleted": json.dumps(rows)}  # fmt: skip
    with connection.transaction():
        for statement in (
            COMPLETE_STEPS, SCHEDULE_REPEAT, DELETE_REMAINS, FINISH_ERASURE_REQUESTS
        ):  # fmt: skip
            connection.execute(statement, values)
