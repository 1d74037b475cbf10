"""What of an erased person lies in Redis: found by opening every sealed copy, and taken away.

Twice: at once, and again when whatever was on its way during the erasure must have landed. Both
are safe to repeat and to cut off; a step waits until a whole sweep has come through.
"""

import json
from collections import Counter
from datetime import datetime, timedelta
from itertools import batched
from typing import TYPE_CHECKING, Any
from uuid import UUID

from lib.interfaces import Services
from lib.leads import admission, queue
from lib.leads.lead import Lead
from lib.leads.queue import ACCEPTED
from lib.leads.repository import erasure_hashes
from lib.privacy import data_subject
from lib.privacy.requests import FINISH_ERASURE_REQUESTS
from lib.problems import CacheDown, NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection

TOMBSTONES_KEY = "erased"  # sorted set: mark by unix seconds; the tombstones' second copy
SECOND_PASS_AFTER = timedelta(
    minutes=2
)  # a function's whole life and its work after the answer, twice
REDIS_STORES = ("queue", "set_aside", "journal", "ledger", "door")
MAX_REQUESTS = 20  # requests; the rest wait for the next round

SELECT_PENDING = """
select id, sweep_at from erasure_requests
where sweep_at is not null and (id = %(id)s::uuid or %(id)s::uuid is null and sweep_at <= %(now)s)
order by sweep_at limit %(limit)s
"""

SELECT_TOMBSTONES = """
select t.mark, extract(epoch from t.erased_at)::float8, r.id
from erasure_requests as r, unnest(r.marks) as mark (mark)
  join erasure_tombstones as t using (mark)
where r.id = any(%(ids)s::uuid[])
"""

SELECT_REMAINS = """
select request_id, lead_id::text, identity, text_sha256, host(client),
  coalesce(content_identity, identity)
from erasure_remains
where request_id = any(%(ids)s::uuid[])
"""

COMPLETE_STEPS = """
update erasure_steps as s set count = s.count + found.n, state = 'done', done_at = %(now)s
from jsonb_to_recordset(%(found)s::jsonb) as found (id uuid, place text, n integer)
where s.request_id = found.id and s.place = found.place
"""

# Once settled, nothing of a lead is left but its marks.
SCHEDULE_LATER_SWEEP = """
update erasure_requests
set sweep_at = case when answered_at + %(settled)s <= %(now)s then null
  else answered_at + %(settled)s end
where id = any(%(ids)s::uuid[])
"""

DELETE_REMAINS = """
delete from erasure_remains as r using erasure_requests as q
where q.id = r.request_id and q.sweep_at is null and q.id = any(%(ids)s::uuid[])
"""

type Tombstones = dict[str, tuple[float, UUID]]


def purge_redis(means: Services, now: datetime, only: UUID | None = None) -> int:
    """Sweep for the requests that are due, or for one; how many. Redis down: they go on waiting.

    Raises DatabaseDown.
    """
    run = means.database.run
    asked = {"id": only, "now": now, "limit": MAX_REQUESTS}
    due = run(lambda connection: connection.execute(SELECT_PENDING, asked).fetchall())
    ids = [row[0] for row in due]
    if not ids:
        return 0
    rows = run(lambda c: (c.execute(SELECT_TOMBSTONES, {"ids": ids}).fetchall(),
                          c.execute(SELECT_REMAINS, {"ids": ids}).fetchall()))  # fmt: skip
    tombstones: Tombstones = {mark: (at, request) for mark, at, request in rows[0]}
    try:
        publish_tombstones(means, {mark: at for mark, (at, _) in tombstones.items()})
        found = _delete_matching(means, tombstones, rows[1])
    except (CacheDown, NotConfigured):
        return 0
    run(lambda connection: _record(connection, ids, found, now))
    return len(ids)


def publish_tombstones(means: Services, tombstones: dict[str, float]) -> None:
    """Keep tombstones in Redis too: the table is as old as the backup it is restored from."""
    marks = list(tombstones.items())
    for start in range(0, len(marks), 500):
        pairs = [word for mark, at in marks[start : start + 500] for word in (at, mark)]
        means.cache.execute("ZADD", TOMBSTONES_KEY, "GT", *pairs)


def _delete_matching(means: Services, tombstones: Tombstones, remains: list[Any]) -> Counter[Any]:
    """How much was found, by request and place."""
    found: Counter[Any] = Counter()
    for request, lead_id, identity, text_sha256, client, content_identity in remains:
        _delete_ledger_entry(means, found, request, lead_id, tombstones)
        _delete_admission_keys(
            means, found, request, identity, content_identity, text_sha256, client
        )

    def look(copy: queue.SealedLead) -> None:
        lead = copy.lead
        request = None if lead is None else matching_request(means, lead, tombstones)
        if (
            lead is None
            or request is None
            or not queue.delete_if_unchanged(means.cache.execute, copy)
        ):
            return
        found[request, copy.location] += 1
        _delete_ledger_entry(means, found, request, str(lead.id), tombstones)
        _delete_admission_keys(
            means,
            found,
            request,
            lead.identity,
            lead.content_identity,
            lead.text_sha256,
            lead.ip_address,
        )

    data_subject.for_each_sealed_lead(means, look)
    _delete_idempotency_records(
        means, found, {lead_id: request for request, lead_id, *_ in remains}
    )
    return found


def _delete_idempotency_records(
    means: Services, found: Counter[Any], requests: dict[str, UUID]
) -> None:
    """Idempotency records by the id they hold: a spam row does not say under which key it came."""
    if not requests:
        return
    run = means.cache.execute
    for keys in batched(queue.scan_keys(run, "seen:*"), queue.SCAN_COUNT):
        for key, record in zip(keys, run("MGET", *keys), strict=True):
            request = requests.get(_lead_id_in(record))
            if request is not None:
                found[request, "door"] += int(run("DEL", key))


def _lead_id_in(record: object) -> str:
    try:
        return str(json.loads(str(record))["id"])
    except (ValueError, LookupError, TypeError):
        return ""  # still in work


def matching_request(means: Services, lead: Lead, tombstones: Tombstones) -> UUID | None:
    """The request that erased this lead; None for one that nobody's erasure covers."""
    for mark in erasure_hashes(lead, means.erasure_keys):
        at, request = tombstones.get(mark, (0.0, None))
        if lead.created_at.timestamp() <= at:
            return request
    return None


def _delete_ledger_entry(
    means: Services, found: Counter[Any], request: UUID, lead_id: str, tombstones: Tombstones
) -> None:
    """Its id in the ledger, unless the same lead was sent again since."""
    at = means.cache.execute("ZSCORE", ACCEPTED, lead_id)
    last = max((moment for moment, by in tombstones.values() if by == request), default=0.0)
    if at is not None and float(at) <= last:
        found[request, "ledger"] += int(means.cache.execute("ZREM", ACCEPTED, lead_id))


def _delete_admission_keys(
    means: Services,
    found: Counter[Any],
    request: UUID,
    identity: str,
    content_identity: str,
    text_sha256: str,
    address: str | None,
) -> None:
    """What the door remembers: else the same words, sent again, would be taken for a repeat."""
    keys = list({f"seen:{identity}", f"seen:{content_identity}"})
    if text_sha256:
        keys.append(f"text:{text_sha256}")
    if address is not None:
        keys.append(f"rate:{admission.client_key(address)}")
    found[request, "door"] += int(means.cache.execute("DEL", *keys))


def _record(
    connection: "Connection[Any]", ids: list[UUID], found: Counter[Any], now: datetime
) -> None:
    rows = [
        {"id": str(request), "place": place, "n": found[request, place]}
        for request in ids
        for place in REDIS_STORES
    ]
    values = {"ids": ids, "now": now, "settled": SECOND_PASS_AFTER, "found": json.dumps(rows)}
    with connection.transaction():
        for statement in (
            COMPLETE_STEPS,
            SCHEDULE_LATER_SWEEP,
            DELETE_REMAINS,
            FINISH_ERASURE_REQUESTS,
        ):
            connection.execute(statement, values)
