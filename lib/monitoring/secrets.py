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
ROLES = "two login roles"  # of Postgres, alternating
VENDOR = "several at the vendor"
USERS = "two users"  # of Upstash, alternating
PREVIOUS = "NAME_PREVIOUS"  # accepted beside NAME while it is set
LIST = "comma list"  # the first seals, all open
BY_HAND = "by hand"  # its owner makes and revokes it; the rest is done


@dataclass(frozen=True, slots=True)
class Key:
    """probe: how it is shown that a revoked one works no more; "" where nobody can ask."""

    name: str
    purpose: str
    days: int
    overlap: str
    probe: str
    owner: str = "engineering"
    operators_only: bool = False

    @property
    def previous(self) -> str:
        return f"{self.name}_PREVIOUS" if self.overlap == PREVIOUS else ""


KEYS = (
    Key("DATABASE_URL", "Postgres, as the functions' role", 90, ROLES, "it logs in"),
    Key("UPSTASH_REDIS_REST_TOKEN", "Redis", 90, USERS, "PING"),
    Key("RESEND_API_KEY", "sends mail", 90, VENDOR, "an empty mail"),
    Key("SUPABASE_SECRET_KEY", "Supabase's REST, for tools", 90, VENDOR, "GET /rest/v1/"),
    Key("SLACK_BOT_TOKEN", "alerts", 180, BY_HAND, "auth.test", "on call"),
    Key("SLACK_WEBHOOK_URL", "alerts, without a bot", 180, BY_HAND, "an empty message", "on call"),
    Key("CRON_SECRET", "opens the crons", 90, PREVIOUS, "GET /api/cron/watch"),
    Key("WATCH_TOKEN", "opens the watch", 180, BY_HAND, "GET /api/cron/watch", "on call"),
    Key(
        "LEADS_ADMIN_TOKEN", "export, persons' requests", 30, PREVIOUS, "HEAD export", "sales desk"
    ),
    Key("HEALTH_CHECK_TOKEN", "deep health", 180, PREVIOUS, "GET /api/health", "on call"),
    Key("MAINTENANCE_BYPASS_TOKEN", "passes by maintenance", 180, BY_HAND, "", "on call"),
    Key("CANARY_SECRET", "signs synthetic leads", 180, PREVIOUS, "a synthetic lead", "on call"),
    Key("RUM_DRAIN_SECRET", "signs Vercel's drains", 180, PREVIOUS, "an empty drain"),
    Key("LEADS_ENCRYPTION_KEY", "seals queue, journal, mails", 180, LIST, "opens nothing"),
    Key("ERASURE_KEY", "marks of who was erased", 3650, BY_HAND, "", "privacy"),
    Key("TURNSTILE_SECRET_KEY", "the form's challenge", 365, BY_HAND, ""),
    Key("SENTRY_DSN", "error reports", 365, BY_HAND, ""),
    Key("KEY_FINGERPRINT_PEPPER", "this table's fingerprints", 3650, BY_HAND, ""),
    Key("VERCEL_API_TOKEN", "CDN, rollback, rotation", 90, BY_HAND, "GET /v2/user"),
    # On operators' machines alone: no deployment shows them, so their age is not known here.
    Key("DATABASE_DIRECT_URL", "Postgres, as the owner", 90, BY_HAND, "", operators_only=True),
    Key("SUPABASE_ACCESS_TOKEN", "Supabase's management", 90, BY_HAND, "", operators_only=True),
    Key("RESEND_ADMIN_KEY", "makes RESEND_API_KEY", 90, BY_HAND, "", operators_only=True),
    Key("UPSTASH_API_KEY", "Upstash's management", 90, BY_HAND, "", operators_only=True),
    Key("BACKUP_ENCRYPTION_KEY", "seals backups", 365, BY_HAND, "", operators_only=True),
    Key("UPTIMEROBOT_API_KEY", "monitors", 180, BY_HAND, "", "on call", operators_only=True),
)

BY_NAME = {key.name: key for key in KEYS}


def fingerprint(pepper: str, value: str) -> str:
    return hmac.new(pepper.encode(), value.encode(), hashlib.sha256).hexdigest()[:12]


def fingerprints(pepper: str, secrets: Mapping[str, str]) -> set[tuple[str, str]]:
    """(name, fingerprint) of every key in use; a list's parts, and a previous one, each count."""
    found = set()
    for key in KEYS:
        if key.operators_only:
            continue
        texts = [secrets.get(key.name, ""), secrets.get(key.previous, "")]
        parts = ",".join(texts).split(",") if key.overlap == LIST else texts
        found |= {(key.name, fingerprint(pepper, one.strip())) for one in parts if one.strip()}
    return found


# ---------------------------------------------------------------- seen

SIGHT = """
insert into key_sightings as known (name, fingerprint, deployment, first_seen_at, last_seen_at)
select name, fingerprint, %(deployment)s, %(now)s, %(now)s
from unnest(%(names)s::text[], %(fingerprints)s::text[]) as seen (name, fingerprint)
on conflict (name, fingerprint, deployment) do update
set last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at)
"""

# In use: seen in the last hour in which anything was.
IN_USE = """
select name, fingerprint, min(first_seen_at) as first_seen_at, max(last_seen_at) as last_seen_at,
  array_agg(deployment order by last_seen_at desc) as deployments
from key_sightings
group by name, fingerprint
having max(last_seen_at) >= (select max(last_seen_at) from key_sightings) - interval '1 hour'
order by name, min(first_seen_at) desc
"""


@dataclass(frozen=True, slots=True)
class InUse:
    """One key that deployments use now; the newest of a name comes first."""

    name: str
    fingerprint: str
    first_seen_at: datetime
    last_seen_at: datetime
    deployments: tuple[str, ...]

    def age(self, now: datetime) -> timedelta:
        return now - self.first_seen_at

    def overdue(self, now: datetime) -> bool:
        key = BY_NAME.get(self.name)
        return key is not None and self.age(now) > timedelta(days=key.days)


def sight(
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
        connection.execute(SIGHT, values)

    run(keep)


def in_use(run: Callable[..., Any]) -> list[InUse]:
    """Raises DatabaseDown."""

    def ask(connection: "Connection[Any]") -> list[Any]:
        return connection.execute(IN_USE).fetchall()

    return [
        InUse(name, mark, first, last, tuple(deployments))
        for name, mark, first, last, deployments in run(ask)
    ]


def overdue(run: Callable[..., Any], now: datetime) -> tuple[str, ...]:
    """Names of keys in use that are older than they may become. Raises DatabaseDown."""
    return tuple(sorted({one.name for one in in_use(run) if one.overdue(now)}))
