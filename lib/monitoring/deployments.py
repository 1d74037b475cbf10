"""What a build says of itself, kept so that whoever rolls back to it knows what comes back.

A deployment is for ever: its code, its variables and its idea of the schema return with it. The
rule a newcomer would break: a new migration raises SCHEMA_MAX, and SCHEMA_MIN too as soon as any
statement of the bundle needs it; tests hold both to supabase/migrations.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from lib.problems import CacheDown, DatabaseDown, NotConfigured

if TYPE_CHECKING:
    from psycopg import Connection

RETRY_AFTER_S = 30.0  # where Postgres was down
CHECKED_KEY_PREFIX = "deployment:asked:"  # and the deployment: there once an instance asks
CHECKED_TTL_S = 30 * 86400

SCHEMA_MIN = "20261128400000"
SCHEMA_MAX = "20261128500000"


@dataclass(frozen=True, slots=True)
class Build:
    """maintenance_mode: the variable as it was baked in; empty when off."""

    deployment: str
    commit: str
    maintenance_mode: str = ""


RECORD_BUILD = """
insert into deployments (deployment, commit, schema_min, schema_max, maintenance_mode,
  first_seen_at, last_seen_at)
values (%(deployment)s, %(commit)s, %(schema_min)s, %(schema_max)s, %(maintenance_mode)s,
  %(now)s, %(now)s)
on conflict (deployment) do update set
  last_seen_at = greatest(deployments.last_seen_at, excluded.last_seen_at),
  first_seen_at = least(deployments.first_seen_at, excluded.first_seen_at)
"""

# Compare and set: of all instances of a deployment, the one that gets a row back asks.
CLAIM_FIRST_CHECK = """
insert into deployments (deployment, commit, schema_min, schema_max, maintenance_mode,
  first_seen_at, last_seen_at, asked_at)
values (%(deployment)s, %(commit)s, %(schema_min)s, %(schema_max)s, %(maintenance_mode)s,
  %(now)s, %(now)s, %(now)s)
on conflict (deployment) do update set asked_at = excluded.asked_at
where deployments.asked_at is null
returning deployment
"""

RECORD_FAULT = "update deployments set fault = %(fault)s where deployment = %(deployment)s"

RECORD_CANARY = """
update deployments set canary_passed = %(passed)s, canary_at = %(now)s
where deployment = %(deployment)s and (canary_at is null or canary_at <= %(now)s)
"""


def record_build(run: Callable[..., Any], build: Build, now: datetime) -> None:
    """Say that this build serves production; one statement, safe to repeat. Raises DatabaseDown."""
    values = {"schema_min": SCHEMA_MIN, "schema_max": SCHEMA_MAX, "now": now, **asdict(build)}
    run(lambda connection: _execute(connection, RECORD_BUILD, values))


def record_canary(run: Callable[..., Any], deployment: str, passed: bool, now: datetime) -> None:
    """Keep how a canary that this deployment answered came out. Raises DatabaseDown."""
    values = {"deployment": deployment, "passed": passed, "now": now}
    run(lambda connection: _execute(connection, RECORD_CANARY, values))


class Context(Protocol):
    """What lib/app.py gives a function for one request."""

    @property
    def services(self) -> Any: ...
    @property
    def cached_maintenance(self) -> object | None: ...
    @property
    def outages(self) -> dict[str, BaseException]: ...
    def add_log_fields(self, **facts: object) -> None: ...
    def after_response(self, work: Callable[[], None]) -> None: ...


class FirstCheck:
    """An instance's memory of whether its deployment has been asked if its statements would work.

    Before a visitor finds out: a build may name a column that no migration has brought.
    """

    def __init__(self) -> None:
        self._next: float | None = 0.0

    def check_after_response(self, call: Context) -> None:
        """After this answer, if nobody did; a request later where Postgres is down."""
        if self._next is None or time.monotonic() < self._next or call.cached_maintenance:
            return
        self._next = time.monotonic() + RETRY_AFTER_S
        call.after_response(lambda: self._check(call))

    def _check(self, call: Context) -> None:
        if call.outages:
            return  # the request itself alerts, and knows what becomes of leads; a later one asks
        build = build_from(call.services.settings)
        if not build.deployment or call.services.settings.vercel_env == "preview":
            self._next = None
            return
        fault = _check_once_by_redis(call.services, build, datetime.now(UTC))
        self._next = None
        if fault is not None:
            call.add_log_fields(deployment_fault=fault)


def _check_once_by_redis(means: Any, build: Build, now: datetime) -> str | None:
    """Redis spares all instances but one their connection to Postgres, which decides."""
    key, known = CHECKED_KEY_PREFIX + build.deployment, False
    with suppress(CacheDown, NotConfigured):
        known = not means.cache.execute("SET", key, "1", "NX", "EX", CHECKED_TTL_S)
    if known:
        return None
    try:
        return check_once(means, build, now)
    except DatabaseDown:
        with suppress(CacheDown, NotConfigured):
            means.cache.execute("DEL", key)
        raise


def build_from(settings: Any) -> Build:
    """What this build says of itself."""
    mode = settings.maintenance_mode
    commit = settings.vercel_git_commit_sha
    return Build(settings.vercel_deployment_id, commit, "" if mode == "off" else mode)


def check_once(means: Any, build: Build, now: datetime) -> str | None:
    """Rehearse what the deployment's functions need, once for all its instances, and alert.

    What would fail; None where nothing would, or somebody has asked. Raises DatabaseDown.
    """
    from lib.incidents import alerting
    from lib.monitoring import statement_check

    run = means.database.run
    values = {"schema_min": SCHEMA_MIN, "schema_max": SCHEMA_MAX, "now": now, **asdict(build)}
    try:
        if not run(lambda connection: connection.execute(CLAIM_FIRST_CHECK, values).fetchone()):
            return None
        found = statement_check.find_faults(run, now)
        fault = "; ".join(found.values()) or None
        run(
            lambda connection: connection.execute(RECORD_FAULT, {**values, "fault": fault}) and None
        )
    except statement_check.server_errors() as refusal:
        # Not even that could be written down: whoever meets this asks.
        found = statement_check.find_faults(run, now) or {
            "watch_blind": statement_check.describe_error(refusal)
        }
        fault = "; ".join(found.values())
    for rule, what in found.items():
        alerting.raise_alert(means, rule, f"a new deployment found: {what}", now)
    return fault


def _execute(connection: "Connection[Any]", statement: str, values: dict[str, Any]) -> None:
    connection.execute(statement, values)
