"""Every secret: what it is for, how old it may become, and which deployment uses which.

A key is known by its fingerprint alone: the first 12 hex digits of HMAC-SHA256 under a pepper
that is kept apart. The rule a newcomer would break: no value leaves this module, none is compared
in the clear, and a new secret variable gets a row here (a test asks for it).
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

# How two of a kind are good at once while one takes over from the other.
TWO_LOGIN_ROLES = "two login roles"  # of Postgres, alternating
SEVERAL_AT_VENDOR = "several at the vendor"
TWO_UPSTASH_USERS = "two users"  # of Upstash, alternating
PREVIOUS_VARIABLE = "NAME_PREVIOUS"  # accepted beside NAME while it is set
COMMA_LIST = "comma list"  # the first seals, all open
MANUAL = "by hand"  # its owner makes and revokes it; the rest is done


@dataclass(frozen=True, slots=True)
class Secret:
    """probe: how it is shown that a revoked one works no more; "" where nobody can ask."""

    name: str
    purpose: str
    max_age_days: int
    overlap: str
    revocation_check: str
    owner: str = "engineering"
    operators_only: bool = False

    @property
    def previous_variable(self) -> str:
        return f"{self.name}_PREVIOUS" if self.overlap == PREVIOUS_VARIABLE else ""


SECRETS = (
    Secret("DATABASE_URL", "Postgres, as the functions' role", 90, TWO_LOGIN_ROLES, "it logs in"),
    Secret("UPSTASH_REDIS_REST_TOKEN", "Redis", 90, TWO_UPSTASH_USERS, "PING"),
    Secret("RESEND_API_KEY", "sends mail", 90, SEVERAL_AT_VENDOR, "an empty mail"),
    Secret(
        "SUPABASE_SECRET_KEY", "Supabase's REST, for tools", 90, SEVERAL_AT_VENDOR, "GET /rest/v1/"
    ),
    Secret("SLACK_BOT_TOKEN", "alerts", 180, MANUAL, "auth.test", "on call"),
    Secret(
        "SLACK_WEBHOOK_URL", "alerts, without a bot", 180, MANUAL, "an empty message", "on call"
    ),
    Secret("CRON_SECRET", "opens the crons", 90, PREVIOUS_VARIABLE, "GET /api/cron/watch"),
    Secret("WATCH_TOKEN", "opens the watch", 180, MANUAL, "GET /api/cron/watch", "on call"),
    Secret(
        "LEADS_ADMIN_TOKEN",
        "export, persons' requests",
        30,
        PREVIOUS_VARIABLE,
        "HEAD export",
        "sales desk",
    ),
    Secret(
        "HEALTH_CHECK_TOKEN", "deep health", 180, PREVIOUS_VARIABLE, "GET /api/health", "on call"
    ),
    Secret("MAINTENANCE_BYPASS_TOKEN", "passes by maintenance", 180, MANUAL, "", "on call"),
    Secret(
        "CANARY_SECRET",
        "signs synthetic leads",
        180,
        PREVIOUS_VARIABLE,
        "a synthetic lead",
        "on call",
    ),
    Secret("RUM_DRAIN_SECRET", "signs Vercel's drains", 180, PREVIOUS_VARIABLE, "an empty drain"),
    Secret("LEADS_ENCRYPTION_KEY", "seals queue, journal, mails", 180, COMMA_LIST, "opens nothing"),
    Secret("ERASURE_KEY", "marks of who was erased", 3650, MANUAL, "", "privacy"),
    Secret("TURNSTILE_SECRET_KEY", "the form's challenge", 365, MANUAL, ""),
    Secret("SENTRY_DSN", "error reports", 365, MANUAL, ""),
    Secret("KEY_FINGERPRINT_PEPPER", "this table's fingerprints", 3650, MANUAL, ""),
    Secret("VERCEL_API_TOKEN", "CDN, rollback, rotation", 90, MANUAL, "GET /v2/user"),
    # On operators' machines alone: no deployment shows them, so their age is not known here.
    Secret("DATABASE_DIRECT_URL", "Postgres, as the owner", 90, MANUAL, "", operators_only=True),
    Secret("SUPABASE_ACCESS_TOKEN", "Supabase's management", 90, MANUAL, "", operators_only=True),
    Secret("RESEND_ADMIN_KEY", "makes RESEND_API_KEY", 90, MANUAL, "", operators_only=True),
    Secret("UPSTASH_API_KEY", "Upstash's management", 90, MANUAL, "", operators_only=True),
    Secret("BACKUP_ENCRYPTION_KEY", "seals backups", 365, MANUAL, "", operators_only=True),
    Secret("UPTIMEROBOT_API_KEY", "monitors", 180, MANUAL, "", "on call", operators_only=True),
)

BY_NAME = {key.name: key for key in SECRETS}


def fingerprint(pepper: str, value: str) -> str:
    return hmac.new(pepper.encode(), value.encode(), hashlib.sha256).hexdigest()[:12]


def fingerprints(pepper: str, secrets: Mapping[str, str]) -> set[tuple[str, str]]:
    """(name, fingerprint) of every key in use; a list's parts, and a previous one, each count."""
    found = set()
    for key in SECRETS:
        if key.operators_only:
            continue
        texts = [secrets.get(key.name, ""), secrets.get(key.previous_variable, "")]
        parts = ",".join(texts).split(",") if key.overlap == COMMA_LIST else texts
        found |= {(key.name, fingerprint(pepper, one.strip())) for one in parts if one.strip()}
    return found


# ---------------------------------------------------------------- seen

RECORD_USAGE = """
insert into key_sightings as known (name, fingerprint, deployment, first_seen_at, last_seen_at)
select name, fingerprint, %(deployment)s, %(now)s, %(now)s
from unnest(%(names)s::text[], %(fingerprints)s::text[]) as seen (name, fingerprint)
on conflict (name, fingerprint, deployment) do update
set last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at)
"""

# In use: seen in the last hour in which anything was.
SELECT_IN_USE = """
select name, fingerprint, min(first_seen_at) as first_seen_at, max(last_seen_at) as last_seen_at,
  array_agg(deployment order by last_seen_at desc) as deployments
from key_sightings
group by name, fingerprint
having max(last_seen_at) >= (select max(last_seen_at) from key_sightings) - interval '1 hour'
order by name, min(first_seen_at) desc
"""


@dataclass(frozen=True, slots=True)
class SecretUsage:
    """One key that deployments use now; the newest of a name comes first."""

    name: str
    fingerprint: str
    first_seen_at: datetime
    last_seen_at: datetime
    deployments: tuple[str, ...]

    def age(self, now: datetime) -> timedelta:
        return now - self.first_seen_at

    def is_overdue(self, now: datetime) -> bool:
        key = BY_NAME.get(self.name)
        return key is not None and self.age(now) > timedelta(days=key.max_age_days)


def record_usage(
    run: Callable[..., Any],
    secrets: Mapping[str, str],
    pepper: str,
    deployment: str,
    now: datetime,
) -> None:
    """Say which keys this deployment uses: one statement, safe to repeat. Raises DatabaseDown."""
    if not pepper:
        return
    seen = sorted(fingerprints(pepper, secrets))
    values = {
        "deployment": deployment,
        "now": now,
        "names": [name for name, _ in seen],
        "fingerprints": [one for _, one in seen],
    }

    def keep(connection: "Connection[Any]") -> None:
        connection.execute(RECORD_USAGE, values)

    run(keep)


def list_in_use(run: Callable[..., Any]) -> list[SecretUsage]:
    """Raises DatabaseDown."""

    def ask(connection: "Connection[Any]") -> list[Any]:
        return connection.execute(SELECT_IN_USE).fetchall()

    return [
        SecretUsage(name, mark, first, last, tuple(deployments))
        for name, mark, first, last, deployments in run(ask)
    ]


def list_overdue(run: Callable[..., Any], now: datetime) -> tuple[str, ...]:
    """Names of keys in use that are older than they may become. Raises DatabaseDown."""
    return tuple(sorted({one.name for one in list_in_use(run) if one.is_overdue(now)}))
