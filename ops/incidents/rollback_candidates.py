"""Deployments that could serve again, and what makes each unsafe.

A deployment comes back as it was built: code, expected schema, variables and secrets. The rule a
newcomer would break: what is not known of a deployment counts against it.
"""

import re
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from lib.problems import DatabaseDown
from lib.services import Services
from ops import command
from ops.vendors.vercel import Deployment

SELECT_BUILDS = """
select deployment, schema_min, schema_max, maintenance_mode, canary_passed from deployments
"""
SELECT_MIGRATIONS = "select version, statements from applied_migrations()"
SELECT_RETIRED_SECRETS = """
select name, old_fingerprint, deployed_at, revoked_at from key_rotations
where revoked_at is not null order by revoked_at
"""
SELECT_KEY_USAGE = "select deployment, name, fingerprint from key_sightings"

# What breaks an older build. A new table or column does not.
_NARROWING = re.compile(
    r"\bdrop\s+(?:table|column|view|materialized|function|type|schema|policy)\b"
    r"|\brename\b|\bset\s+not\s+null\b|\balter\s+(?:column\s+)?\w+\s+(?:set\s+data\s+)?type\b"
)


@dataclass(frozen=True, slots=True)
class DeploymentRecords:
    """What Postgres knows of deployments. migrations: version -> statements."""

    builds: dict[str, dict[str, Any]]
    migrations: dict[str, str]
    retired_secrets: list[dict[str, Any]]
    secrets_by_deployment: dict[str, set[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """faults: why it is unsafe; none: it is safe by all that is known."""

    deployment: Deployment
    is_serving: bool
    faults: list[str]

    @property
    def is_safe(self) -> bool:
        return not self.is_serving and not self.faults

    def to_json(self) -> dict[str, Any]:
        return {
            "deployment": self.deployment.id,
            "commit": self.deployment.commit,
            "created_at": self.deployment.created_at.isoformat(timespec="seconds"),
            "serving": self.is_serving,
            "safe": self.is_safe,
            "unsafe_because": self.faults,
        }


def load_records(services: Services) -> DeploymentRecords | None:
    """None when the database is down."""
    try:
        return services.database.run(_read, budget_s=8)
    except DatabaseDown:
        return None


def _read(connection: Connection[Any]) -> DeploymentRecords:
    def rows(statement: str) -> list[dict[str, Any]]:
        return connection.cursor(row_factory=dict_row).execute(statement.encode()).fetchall()

    secrets: dict[str, set[tuple[str, str]]] = {}
    for row in rows(SELECT_KEY_USAGE):
        secrets.setdefault(row["deployment"], set()).add((row["name"], row["fingerprint"]))
    return DeploymentRecords(
        {row["deployment"]: row for row in rows(SELECT_BUILDS)},
        {row["version"]: "\n".join(row["statements"] or ()) for row in rows(SELECT_MIGRATIONS)},
        rows(SELECT_RETIRED_SECRETS),
        secrets,
    )


def assess(
    deployments: list[Deployment], serving: str, records: DeploymentRecords | None
) -> list[Candidate]:
    """In the order of `deployments`: newest first."""
    return [
        Candidate(deployment, True, [])
        if deployment.id == serving
        else Candidate(deployment, False, _faults(deployment, records))
        for deployment in deployments
    ]


def _faults(deployment: Deployment, records: DeploymentRecords | None) -> list[str]:
    faults = []
    if deployment.state != "READY":
        faults.append(f"is {deployment.state}")
    elif not deployment.is_rollback_candidate:
        faults.append("Vercel does not offer it: it never served, or is too old")
    if records is None:
        return [*faults, "the database is down: its keys, schema and mode are unknown"]
    faults += _retired_secret_faults(deployment, records)
    build = records.builds.get(deployment.id)
    if build is None:
        return [*faults, "not recorded: its schema and maintenance mode are unknown"]
    if build["maintenance_mode"]:
        faults.append(f"built in maintenance mode ({build['maintenance_mode']})")
    faults += schema_faults(build["schema_min"], build["schema_max"], records.migrations)
    if build["canary_passed"] is False:
        faults.append("its last canary failed")
    return faults


def _retired_secret_faults(deployment: Deployment, records: DeploymentRecords) -> list[str]:
    """Secrets it was built with that no longer work: recorded as used by it; or, where none of
    that name was recorded, retired since it was built."""
    used = records.secrets_by_deployment.get(deployment.id, set())
    recorded_names = {name for name, _ in used}
    faults = {}
    for retired in records.retired_secrets:
        name, deployed_at = retired["name"], retired["deployed_at"]
        is_used = (name, retired["old_fingerprint"]) in used
        is_older = deployed_at is None or deployment.created_at < deployed_at
        if is_used or (name not in recorded_names and is_older):
            faults[name] = (
                f"older than the rotation of {name} ({command.format_time(retired['revoked_at'])})"
            )
    return list(faults.values())


def schema_faults(schema_min: str, schema_max: str, migrations: dict[str, str]) -> list[str]:
    """What breaks a build that needs `schema_min` and knew `schema_max`."""
    if not migrations:
        return ["no migration is recorded: its schema cannot be compared"]
    live = max(migrations)
    if live < schema_min:
        return [f"needs schema {schema_min}, the database has {live}"]
    return [
        f"schema too old: migration {version} dropped or restricted what this build uses"
        for version, statements in sorted(migrations.items())
        if version > schema_max and is_narrowing(statements)
    ]


def is_narrowing(statements: str) -> bool:
    """Whether a migration drops, renames or tightens anything."""
    return _NARROWING.search(re.sub(r"--[^\n]*", "", statements.lower())) is not None
