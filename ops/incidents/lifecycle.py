"""What a person decides about an incident: its next state, and its root cause analysis."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lib.incidents import model, postgres_store
from lib.incidents.model import Incident, IncidentError
from lib.interfaces import RunQuery

if TYPE_CHECKING:
    from psycopg import Connection

UPDATE_RCA = "update incidents set rca = %(rca)s::jsonb where id = %(id)s"
IS_RCA_COMPLETE = "select rca_is_complete(rca) from incidents where id = %(id)s"


def transition(
    run: RunQuery, text: str, state: str, who: str, now: datetime, note: str | None
) -> Incident:
    """Raises IncidentError: a state that does not follow, or closing a Sev1 without its RCA."""

    def work(connection: "Connection[Any]") -> Incident:
        with connection.transaction():
            before = postgres_store.require(connection, text)
            after = model.transition(before, state, now)
            needs_rca = state == "closed" and before.severity == "sev1"
            if needs_rca and not _is_rca_complete(connection, before.id):
                raise IncidentError(
                    f"{before.id} is Sev1: it is closed with an RCA that has a cause, an "
                    "impact, and an action with owner and date (ops incident rca)"
                )
            postgres_store.update(connection, after)
            postgres_store.add_event(connection, after.id, now, state, who, {}, note)
            return after

    return run(work)  # type: ignore[no-any-return]


def set_rca(run: RunQuery, text: str, rca: dict[str, object], who: str, now: datetime) -> bool:
    """Store the root cause analysis; whether it is complete. Raises IncidentError."""

    def work(connection: "Connection[Any]") -> bool:
        with connection.transaction():
            incident = postgres_store.require(connection, text)
            connection.execute(UPDATE_RCA, {"id": incident.id, "rca": json.dumps(rca)})
            is_complete = _is_rca_complete(connection, incident.id)
            postgres_store.add_event(
                connection, incident.id, now, "rca", who, {"complete": is_complete}
            )
            return is_complete

    return bool(run(work))


def _is_rca_complete(connection: "Connection[Any]", incident_id: str) -> bool:
    row = connection.execute(IS_RCA_COMPLETE, {"id": incident_id}).fetchone()
    return bool(row and row[0])
