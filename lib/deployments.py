"""What a build says of itself, kept so that whoever rolls back to it knows what comes back.

A deployment is for ever: its code, its variables and its idea of the schema return with it. The
rule a newcomer would break: a new migration raises SCHEMA_MAX, and SCHEMA_MIN too as soon as any
statement of the bundle needs it; tests hold both to supabase/migrations.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

SCHEMA_MIN = "20261128000000"
SCHEMA_MAX = "20261128500000"


@dataclass(frozen=True, slots=True)
class Build:
    """maintenance_mode: the variable as it was baked in; empty when off."""

    deployment: str
    commit: str
    maintenance_mode: str = ""


STAMP = """
insert into deployments (deployment, commit, schema_min, schema_max, maintenance_mode,
  first_seen_at, last_seen_at)
values (%(deployment)s, %(commit)s, %(schema_min)s, %(schema_max)s, %(maintenance_mode)s,
  %(now)s, %(now)s)
on conflict (deployment) do update set
  last_seen_at = greatest(deployments.last_seen_at, excluded.last_seen_at),
  first_seen_at = least(deployments.first_seen_at, excluded.first_seen_at)
"""

CANARY_ENDED = """
update deployments set canary_passed = %(passed)s, canary_at = %(now)s
where deployment = %(deployment)s and (canary_at is null or canary_at <= %(now)s)
"""


def stamp(run: Callable[..., Any], build: Build, now: datetime) -> None:
    """Say that this build serves production; one statement, safe to repeat. Raises DatabaseDown."""
    values = {"schema_min": SCHEMA_MIN, "schema_max": SCHEMA_MAX, "now": now, **asdict(build)}
    run(lambda connection: _do(connection, STAMP, values))


def canary_ended(run: Callable[..., Any], deployment: str, passed: bool, now: datetime) -> None:
    """Keep how a canary that this deployment answered came out. Raises DatabaseDown."""
    values = {"deployment": deployment, "passed": passed, "now": now}
    run(lambda connection: _do(connection, CANARY_ENDED, values))


def _do(connection: "Connection[Any]", statement: str, values: dict[str, Any]) -> None:
    connection.execute(statement, values)
