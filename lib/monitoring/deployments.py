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

ASK_AGAIN_S = 30.0  # where Postgres was down
ASKED = "deployment:asked:"  # and the deployment: there once an instance asks
ASKED_FOR_S = 30 * 86400

SCHEMA_MIN = "20261128400000"
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

# Compare and set: of all instances of a deployment, the one that gets a row back asks.
ASK_FIRST = """
insert into deployments (deployment, commit, schema_min, schema_max, maintenance_mode,
  first_seen_at, last_seen_at, asked_at)
values (%(deployment)s, %(commit)s, %(schema_min)s, %(schema_max)s, %(maintenance_mode)s,
  %(now)s, %(now)s, %(now)s)
on conflict (deployment) do update set asked_at = excluded.asked_at
where deployments.asked_at is null
returning deployment
"""

ANSWERED = "update deployments set fault = %(fault)s where deployment = %(deployment)s"

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


class Call(Protocol):
    """What lib/app.py gives a function for one request."""

    @property
    def services(self) -> Any: ...
    @property
    def known_maintenance(self) -> object | None: ...
    @property
    def outages(self) -> dict[str, BaseException]: ...
    def note(self, **facts: object) -> None: ...
    def later(self, work: Callable[[], None]) -> None: ...


class FirstRun:
    """An instance's memory of whether its deployment has been asked if its statements would work.

    Before a visitor finds out: a build may name a column that no migration has brought.
    """

    def __init__(self) -> None:
        self._next: float | None = 0.0

    def ask(self, call: Call) -> None:
        """After this answer, if nobody did; a request later where Postgres is down."""
        if self._next is None or time.monotonic() < self._next or call.known_maintenance:
            return
        self._next = time.monotonic() + ASK_AGAIN_S
        call.later(lambda: self._ask(call))

    def _ask(self, call: Call) -> None:
        if call.outages:
            return  # the request itself alerts, and knows what becomes of leads; a later one asks
        build = build_of(call.services.settings)
        if not build.deployment or call.services.settings.vercel_env == "preview":
            self._next = None
            return
        fault = _ask_once(call.services, build, datetime.now(UTC))
        self._next = None
        if fault is not None:
            call.note(deployment_fault=fault)


def _ask_once(means: Any, build: Build, now: datetime) -> str | None:
    """Redis spares all instances but one their connection to Postgres, which decides."""
    key, known = ASKED + build.deployment, False
    with suppress(CacheDown, NotConfigured):
        known = not means.cache.run("SET", key, "1", "NX", "EX", ASKED_FOR_S)
    if known:
        return None
    try:
        return ask_first(means, build, now)
    except DatabaseDown:
        with suppress(CacheDown, NotConfigured):
            means.cache.run("DEL", key)
        raise


def build_of(settings: Any) -> Build:
    """What this build says of itself."""
    mode = settings.maintenance_mode
    commit = settings.vercel_git_commit_sha
    return Build(settings.vercel_deployment_id, commit, "" if mode == "off" else mode)


def ask_first(means: Any, build: Build, now: datetime) -> str | None:
    """Rehearse what the deployment's functions need, once for all its instances, and alert.

    What would fail; None where nothing would, or somebody has asked. Raises DatabaseDown.
    """
    from lib.incidents import alerting
    from lib.monitoring import statement_check

    run = means.database.run
    values = {"schema_min": SCHEMA_MIN, "schema_max": SCHEMA_MAX, "now": now, **asdict(build)}
    try:
        if not run(lambda connection: connection.execute(ASK_FIRST, values).fetchone()):
            return None
        found = statement_check.every_fault(run, now)
        fault = "; ".join(found.values()) or None
        run(lambda connection: connection.execute(ANSWERED, {**values, "fault": fault}) and None)
    except statement_check.refusals() as refusal:
        # Not even that could be written down: whoever meets this asks.
        found = statement_check.every_fault(run, now) or {
            "watch_blind": statement_check.sentence(refusal)
        }
        fault = "; ".join(found.values())
    for rule, what in found.items():
        alerting.ring(means, rule, f"a new deployment found: {what}", now)
    return fault


def _do(connection: "Connection[Any]", statement: str, values: dict[str, Any]) -> None:
    connection.execute(statement, values)
