"""What commands did, as events of the open incidents.

The rule a newcomer would break: a command must work while Postgres is down. An event that cannot be
stored is reported, and that is all.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from lib.incidents import alerting, postgres_store
from lib.interfaces import RunQuery
from lib.problems import DatabaseDown, NotConfigured
from lib.services import Services

if TYPE_CHECKING:
    from psycopg import Connection

ACTOR = "ops"


def add_event_to_open(
    run: RunQuery,
    kind: str,
    actor: str,
    now: datetime,
    facts: dict[str, Any],
    note: str | None = None,
) -> list[str]:
    """Enter what was done (maintenance, rollback, restore …) on every open incident; their ids."""

    def work(connection: "Connection[Any]") -> list[str]:
        with connection.transaction():
            incidents = postgres_store.select(connection, postgres_store.SELECT_OPEN_FOR_UPDATE)
            for incident in incidents:
                postgres_store.add_event(connection, incident.id, now, kind, actor, facts, note)
            return [incident.id for incident in incidents]

    return list(run(work))


def add_note_to_open(
    services: Services, kind: str, facts: dict[str, Any], note: str, now: datetime
) -> list[str]:
    """As add_event_to_open; none where Postgres is down. note: a person's own words."""
    try:
        return add_event_to_open(services.database.run_or_down, kind, ACTOR, now, facts, note)
    except (DatabaseDown, NotConfigured):
        return []


def raise_key_leaked(services: Services, description: str, now: datetime) -> None:
    """A Sev1, in Postgres, Redis or Slack alone; Slack is notified at once."""
    alerting.raise_alert(services, "key_leaked", description, now)
