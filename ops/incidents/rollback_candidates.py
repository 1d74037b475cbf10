"""Deployments that could serve again, and what makes each unsafe.

A deployment comes back as it was: its code with its idea of the schema, its variables with the
keys of then. What is not known of one counts against it.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from lib.problems import DatabaseDown
from lib.services import Services
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

# What an older build cannot live with. A new table or column is none of these.
_NARROWING = re.compile(
    r"\bdrop\s+(?:table|column|view|materialized|function|type|schema|policy)\b"
    r"|\brename\b|\bset\s+not\s+null\b|\balter\s+(?:column\s+)?\w+\s+(?:set\s+data\s+)?type\b"
)


@dataclass(frozen=True, slots=True)
class DeploymentRecords:
    """What the database tells; None where it cannot be asked."""

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


def load_records(services: Services) -> DeploymentRecords | None:
    """All of it in four short statements; None when the database is down."""
    try:
        return services.database.run(_read, budget_s=8)
    except DatabaseDown:
        return None


def _read(connection: Connection[Any]) -> DeploymentRecords:
    def rows(statement: str) -> list[dict[str, Any]]:
        return connection.cursor(row_factory=dict_row).execute(statement.encode()).fetchall()

    keys: dict[str, set[tuple[str, str]]] = {}
    for row in rows(SELECT_KEY_USAGE):
        keys.setdefault(row["deployment"], set()).add((row["name"], row["fingerprint"]))
    return DeploymentRecords(
        {row["deployment"]: row for row in rows(SELECT_BUILDS)},
        {row["version"]: "\n".join(row["statements"] or ()) for row in rows(SELECT_MIGRATIONS)},
        rows(SELECT_RETIRED_SECRETS),
        keys,
    )


def assess(
    deployments: list[Deployment], serving: str, known: DeploymentRecords | None
) -> list[Candidate]:
    """Newest first, as they are listed."""
    return [
        Candidate(one, one.id == serving, [] if one.id == serving else _faults(one, known))
        for one in deployments
    ]


def _faults(one: Deployment, known: DeploymentRecords | None) -> list[str]:
    faults = []
    if one.state != "READY":
        faults.append(f"is {one.state}")
    elif not one.is_rollback_candidate:
        faults.append("Vercel does not offer it: it never served, or is too old")
    if known is None:
        return [*faults, "the database is down: its keys, schema and mode are unknown"]
    faults += _retired_secret_faults(one, known)
    build = known.builds.get(one.id)
    if build is None:
        return [*faults, "never said what it is: its schema and mode are unknown"]
    if build["maintenance_mode"]:
        faults.append(f"built in maintenance mode ({build['maintenance_mode']})")
    faults += schema_faults(build["schema_min"], build["schema_max"], known.migrations)
    if build["canary_passed"] is False:
        faults.append("its last canary failed")
    return faults


def _retired_secret_faults(one: Deployment, known: DeploymentRecords) -> list[str]:
    """Keys it was built with that work no more: seen in use, or, never seen, older than them."""
    seen = known.secrets_by_deployment.get(one.id, set())
    named = {name for name, _ in seen}
    faults = {}
    for gone in known.retired_secrets:
        name: str = gone["name"]
        used = (name, gone["old_fingerprint"]) in seen
        deployed_at: datetime | None = gone["deployed_at"]
        older = name not in named and (deployed_at is None or one.created_at < deployed_at)
        if used or older:
            faults[name] = f"older than the rotation of {name} ({gone['revoked_at']:%Y-%m-%d})"
    return list(faults.values())


def schema_faults(oldest: str, newest: str, migrations: dict[str, str]) -> list[str]:
    """What a build that needs `oldest` and knew `newest` cannot live with."""
    if not migrations:
        return ["no migration is recorded: its schema cannot be compared"]
    live = max(migrations)
    if live < oldest:
        return [f"needs schema {oldest}, the database has {live}"]
    return [
        f"schema too old: {version} took away or narrowed what it may read"
        for version, text in sorted(migrations.items())
        if version > newest and is_narrowing(text)
    ]


def is_narrowing(text: str) -> bool:
    """Whether a migration's statements drop, rename or tighten anything."""
    return _NARROWING.search(re.sub(r"--[^\n]*", "", text.lower())) is not None
