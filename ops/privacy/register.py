"""What operators write in the register of requests; lib/privacy/requests.py reads it."""

from datetime import datetime
from typing import Any
from uuid import uuid4

from lib.privacy import requests
from lib.privacy.requests import RunQuery

FINISH_ACCESS_REQUEST = """
update erasure_requests set answered_at = %(now)s, finished_at = %(now)s
where kind = 'access' and finished_at is null and receipt = %(receipt)s
returning receipt
"""

COMPLETE_STEP = """
update erasure_steps as s set state = 'done', done_at = %(now)s, facts = '{}'
from erasure_requests as r
where r.id = s.request_id and r.receipt = %(receipt)s and s.place = %(place)s
  and s.state = 'instruction'
returning s.place
"""


def register(run: RunQuery, kind: str, hashes: list[str], received_at: datetime) -> str:
    """Start the clock of a request that is not answered yet; its receipt number."""
    row = requests.to_row(kind, uuid4(), "command", hashes, received_at)
    run(lambda connection: connection.execute(requests.INSERT_REQUEST, row))
    return str(row["receipt"])


def finish_access_request(run: RunQuery, receipt: str, now: datetime) -> bool:
    """Close a request to see what is held; whether it was open."""
    values = {"receipt": receipt, "now": now}
    return run(lambda c: c.execute(FINISH_ACCESS_REQUEST, values).fetchone()) is not None


def complete_step(run: RunQuery, receipt: str, place: str, now: datetime) -> bool:
    """Record that an instruction was followed; whether it still had to be."""
    values = {"receipt": receipt, "place": place, "now": now}

    def complete(connection: Any) -> bool:
        with connection.transaction():
            completed = connection.execute(COMPLETE_STEP, values).fetchone() is not None
            connection.execute(requests.FINISH_ERASURE_REQUESTS, values)
        return completed

    return bool(run(complete))
