"""What each production build says of itself, and whether its statements fit the database.

A rollback brings a deployment back as it was built: its code, its variables and the schema it
expects. The rule a newcomer would break: a new migration raises SCHEMA_MAX, and SCHEMA_MIN too as
soon as any statement of the bundle needs it; tests hold both to supabase/migrations.
"""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from lib.interfaces import Context, RunQuery, Services
from lib.problems import CacheDown, DatabaseDown, NotConfigured

RETRY_AFTER_S = 30.0  # where Postgres was down
CHECKED_KEY_PREFIX = "deployment:asked:"  # + the deployment; set by the instance that checks
CHECKED_TTL_S = 30 * 86400

SCHEMA_MIN = "20261129100000"
SCHEMA_MAX = "20261129220000"


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

# Compare and set: of all instances of a deployment, the one that gets a row back runs the check.
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


def build_from(settings: Any) -> Build:
    mode = settings.maintenance_mode
    commit = settings.vercel_git_commit_sha
    return Build(settings.vercel_deployment_id, commit, "" if mode == "off" else mode)


def record_build(run: RunQuery, build: Build, now: datetime) -> None:
    """Record that this build serves production; repeatable. Raises DatabaseDown."""
    run(lambda connection: connection.execute(RECORD_BUILD, _columns(build, now)) and None)


def record_canary(run: RunQuery, deployment: str, passed: bool, now: datetime) -> None:
    """Record the result of a canary that this deployment answered. Raises DatabaseDown."""
    values = {"deployment": deployment, "passed": passed, "now": now}
    run(lambda connection: connection.execute(RECORD_CANARY, values) and None)


def _columns(build: Build, now: datetime) -> dict[str, object]:
    return {"schema_min": SCHEMA_MIN, "schema_max": SCHEMA_MAX, "now": now, **asdict(build)}


class FirstCheck:
    """The statement check of a new deployment, started by its first request.

    A build may name a column that no migration has brought: this finds it before a visitor does.
    One per instance, which remembers that the check is done.
    """

    def __init__(self) -> None:
        self._next: float | None = 0.0

    def check_after_response(self, context: Context) -> None:
        """Run it after this response, unless it was run; again later where Postgres is down."""
        if self._next is None or time.monotonic() < self._next or context.cached_maintenance:
            return
        self._next = time.monotonic() + RETRY_AFTER_S
        context.after_response(lambda: self._check(context))

    def _check(self, context: Context) -> None:
        if context.outages:
            return  # the request itself alerts; a later one checks
        services, fault = context.services, None
        build = build_from(services.settings)
        if build.deployment and services.settings.vercel_env != "preview":
            fault = _check_unless_claimed(services, build, datetime.now(UTC))
        self._next = None
        if fault is not None:
            context.add_log_fields(deployment_fault=fault)


def _check_unless_claimed(services: Services, build: Build, now: datetime) -> str | None:
    """A key in Redis saves all instances but one the connection to Postgres, which decides."""
    key = CHECKED_KEY_PREFIX + build.deployment
    with suppress(CacheDown, NotConfigured):
        if not services.cache.execute("SET", key, "1", "NX", "EX", CHECKED_TTL_S):
            return None
    try:
        return check_once(services, build, now)
    except DatabaseDown:
        with suppress(CacheDown, NotConfigured):
            services.cache.execute("DEL", key)
        raise


def check_once(services: Services, build: Build, now: datetime) -> str | None:
    """Run the statement check, once per deployment, and alert. Raises DatabaseDown.

    What would fail; None where nothing would, or another instance has checked.
    """
    from lib.incidents import alerting
    from lib.monitoring import server_errors, statement_check

    run = services.database.run
    values = _columns(build, now)
    try:
        if not run(lambda connection: connection.execute(CLAIM_FIRST_CHECK, values).fetchone()):
            return None
        faults = statement_check.find_faults(run, now)
        values["fault"] = "; ".join(faults.values()) or None
        run(lambda connection: connection.execute(RECORD_FAULT, values) and None)
    except server_errors.server_errors() as error:
        # The table of deployments itself is refused: every instance that meets this checks.
        faults = statement_check.find_faults(run, now) or {
            "watch_blind": server_errors.describe_error(error)
        }
    for rule, fault in faults.items():
        alerting.raise_alert(services, rule, f"a new deployment found: {fault}", now)
    return "; ".join(faults.values()) or None
