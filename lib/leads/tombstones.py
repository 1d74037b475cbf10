"""Tombstones: keyed hashes of who was erased, which nobody without ERASURE_KEY can read back.

A tombstone is a hash and a time. What that person sent up to that time may not come back from the
queue, the journal, an e-mail or a backup; what they send afterwards is a new lead. The table
`erasure_tombstones` is the record. Redis keeps a copy, since a restored table is as old as its
backup.
"""

import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import batched
from uuid import UUID

from lib.interfaces import RedisExecute, RunQuery
from lib.leads.validators import renormalize_phone

REDIS_KEY = "erased"  # sorted set: hash by Unix seconds
MAX_PER_COMMAND = 500
READ_BUDGET_S = 20.0

SELECT_ALL = "select mark, erased_at from erasure_tombstones"


def hashes(
    keys: Iterable[bytes],
    *,
    email: str | None = None,
    phone: str | None = None,
    lead_id: UUID | str | None = None,
) -> list[str]:
    """The hashes of an address, a number and a single lead under each key, in hex.

    A number stored in a legacy form has the hashes of both forms: a copy may hold either.
    """
    values = [("email", email), ("phone", phone), ("lead", lead_id and str(lead_id))]
    if phone and (current := renormalize_phone(phone)) != phone:
        values.append(("phone", current))
    texts = [f"{kind}:{value}".encode() for kind, value in values if value]
    return [hmac.digest(key, text, "sha256").hex() for key in keys for text in texts]


def load_all(run: RunQuery) -> dict[str, datetime]:
    """Every tombstone's time, by hash. Raises DatabaseDown."""
    rows = run(lambda c: c.execute(SELECT_ALL).fetchall(), budget_s=READ_BUDGET_S)
    return {mark: erased_at.astimezone(UTC) for mark, erased_at in rows}


def copy_to_redis(execute: RedisExecute, erased_at: Mapping[str, datetime]) -> int:
    """Add tombstones to the copy in Redis, keeping the later time of each. Raises CacheDown."""
    for batch in batched(erased_at.items(), MAX_PER_COMMAND):
        pairs = [word for mark, at in batch for word in (at.timestamp(), mark)]
        execute("ZADD", REDIS_KEY, "GT", *pairs)
    return len(erased_at)
