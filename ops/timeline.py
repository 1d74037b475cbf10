"""Notes on the open incident, written by commands as they act.

A command must work while the database is down: a note that cannot be kept is told, and no more.
"""

from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lib.problems import DatabaseDown, NotConfigured
from lib.services import Services

ACTOR = "ops"

NOTE = """
with noted as (
  update incidents set version = version + 1
  where id = (
    select id from incidents where state in ('detect', 'classify', 'contain')
    order by severity, started_at desc limit 1
  )
  returning id
)
insert into incident_events (incident_id, at, kind, actor, facts, note)
select id, %(now)s, %(kind)s, %(actor)s, %(facts)s, %(note)s from noted
returning incident_id
"""

OPEN = """
insert into incidents (id, area, severity, title, rules, started_at, detected_at, deployment,
  facts, tell_at)
values (%(id)s, %(area)s, 'sev1', %(title)s, array[%(area)s], %(now)s, %(now)s, %(deployment)s,
  %(facts)s, %(now)s)
on conflict do nothing
returning id
"""


def note_on_incident(
    services: Services, kind: str, facts: dict[str, Any], note: str, now: datetime
) -> str | None:
    """The id of the open incident that holds the note; None when none is open, or none is known."""
    values = {"now": now, "kind": kind, "actor": ACTOR, "facts": Jsonb(facts), "note": note}
    try:
        row = services.database.run(lambda connection: _one(connection, NOTE, values))
    except (DatabaseDown, NotConfigured):
        return None
    return None if row is None else str(row[0])


def open_sev1(
    services: Services, area: str, title: str, facts: dict[str, Any], now: datetime
) -> str | None:
    """A new Sev1's id; None when one is open in this area already, or no database is there."""
    values = {
        "id": f"INC-{now:%Y%m%d-%H%M}-{area}",
        "area": area,
        "title": title,
        "now": now,
        "deployment": services.settings.vercel_deployment_id,
        "facts": Jsonb(facts),
    }
    try:
        row = services.database.run(lambda connection: _one(connection, OPEN, values))
    except (DatabaseDown, NotConfigured):
        return None
    return None if row is None else str(row[0])


def _one(connection: Connection[Any], statement: str, values: dict[str, Any]) -> Any:
    return connection.execute(statement, values).fetchone()
