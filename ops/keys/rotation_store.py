"""The record of rotations, in `key_rotations`: what was done, never a value.

Written over the owner's direct connection: the functions' role may be what is rotated. The session
holds a lock on the key's name, so that two operators do not rotate it at once; the lock dies with
the process.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from ops import connections
from ops.vendors.http import ApiError

CONNECT_S = 5

SELECT_OPEN = """
select id, name, reason, step, old_fingerprint, new_fingerprint, facts, deployed_at, revoked_at
from key_rotations where name = %(name)s and finished_at is null
"""
INSERT_ROTATION = """
insert into key_rotations (name, reason, step, started_at, old_fingerprint, facts)
values (%(name)s, %(reason)s, '', %(now)s, %(old_fingerprint)s, %(facts)s)
returning id
"""
UPDATE_ROTATION = """
update key_rotations set step = %(step)s, reason = %(reason)s, facts = %(facts)s,
  new_fingerprint = %(new_fingerprint)s, deployed_at = %(deployed_at)s,
  revoked_at = %(revoked_at)s, finished_at = %(finished_at)s
where id = %(id)s
"""
SELECT_LAST_FACTS = """
select facts from key_rotations where name = %(name)s and finished_at is not null
order by id desc limit 1
"""
SELECT_KEY_USAGE = """
select deployment, fingerprint, last_seen_at from key_sightings
where name = %(name)s and last_seen_at >= %(since)s
"""
COUNT_UNSAFE_DEPLOYMENTS = """
select count(distinct deployment) as n from key_sightings
where name = %(name)s and fingerprint = %(fingerprint)s
"""
TRY_LOCK = "select pg_try_advisory_lock(hashtext('rotate ' || %(name)s)) as locked"


@dataclass(slots=True)
class RotationRecord:
    """One rotation. step: the last one that was finished. facts: its plan, vendors' ids."""

    id: int
    name: str
    reason: str
    old_fingerprint: str
    step: str = ""
    new_fingerprint: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    deployed_at: datetime | None = None
    revoked_at: datetime | None = None
    finished_at: datetime | None = None

    def remaining_steps(self) -> list[str]:
        steps: list[str] = self.facts["plan"]
        return steps[steps.index(self.step) + 1 :] if self.step else steps


class RotationStore:
    """Open while one key is rotated. Raises ApiError without a database or the lock.

    locked: without the lock it is for reading alone. Postgres may hold a lock for a moment after
    the connection was closed, so whoever reads first must not take it.
    """

    def __init__(self, url: str, name: str, *, locked: bool = True) -> None:
        try:
            self.connection: psycopg.Connection[DictRow] = psycopg.connect(
                url, autocommit=True, connect_timeout=CONNECT_S, row_factory=dict_row,
                application_name="alfa-rotate", options="-c statement_timeout=15s",
            )  # fmt: skip
        except psycopg.OperationalError as error:
            words = f"{connections.explain(error)} (DATABASE_DIRECT_URL); nothing was changed"
            raise ApiError(0, "no_answer", words) from error
        if locked and not self._fetch_row(TRY_LOCK, name=name)["locked"]:
            self.connection.close()
            raise ApiError(409, "locked", f"{name} is being rotated by somebody else right now")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def find_open(self, name: str) -> RotationRecord | None:
        row = self.connection.execute(SELECT_OPEN, {"name": name}).fetchone()
        return None if row is None else RotationRecord(**row)

    def begin(
        self, name: str, reason: str, old: str, facts: dict[str, Any], now: datetime
    ) -> RotationRecord:
        row = self._fetch_row(INSERT_ROTATION, name=name, reason=reason, now=now,
                              old_fingerprint=old, facts=Jsonb(facts))  # fmt: skip
        return RotationRecord(row["id"], name, reason, old, facts=facts)

    def update(self, record: RotationRecord) -> None:
        values = {name: getattr(record, name) for name in RotationRecord.__slots__}
        self.connection.execute(UPDATE_ROTATION, values | {"facts": Jsonb(record.facts)})

    def last_facts(self, name: str) -> dict[str, Any]:
        """Of the rotation before: the vendor's id of the key that is now the old one."""
        row = self.connection.execute(SELECT_LAST_FACTS, {"name": name}).fetchone()
        return {} if row is None else dict(row["facts"])

    def fingerprints_by_deployment(self, name: str, since: datetime) -> dict[str, set[str]]:
        """Of the deployments that reported their keys since then."""
        fingerprints: dict[str, set[str]] = {}
        for row in self.connection.execute(SELECT_KEY_USAGE, {"name": name, "since": since}):
            fingerprints.setdefault(row["deployment"], set()).add(row["fingerprint"])
        return fingerprints

    def count_unsafe_deployments(self, record: RotationRecord) -> int:
        """How many deployments used the old key."""
        values = {"name": record.name, "fingerprint": record.old_fingerprint}
        return int(self._fetch_row(COUNT_UNSAFE_DEPLOYMENTS, **values)["n"])

    def _fetch_row(self, statement: str, **values: Any) -> DictRow:
        (row,) = self.connection.execute(statement.encode(), values).fetchall()
        return row
