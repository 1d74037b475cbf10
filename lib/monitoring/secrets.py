"""Secrets in use: which deployment uses which, and how old each is.

A secret is known by its fingerprint alone: the first 12 hex digits of HMAC-SHA256 under a pepper
kept apart. The rule a newcomer would break: no value leaves this module, and a new secret variable
gets an age here and a row in ops/keys/inventory.py (a test asks for both).
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from lib.interfaces import RunQuery

MAX_AGE_DAYS = {
    "DATABASE_URL": 90,
    "UPSTASH_REDIS_REST_TOKEN": 90,
    "RESEND_API_KEY": 90,
    "SUPABASE_SECRET_KEY": 90,
    "SLACK_BOT_TOKEN": 180,
    "SLACK_WEBHOOK_URL": 180,
    "CRON_SECRET": 90,
    "WATCH_TOKEN": 180,
    "LEADS_ADMIN_TOKEN": 30,
    "HEALTH_CHECK_TOKEN": 180,
    "MAINTENANCE_BYPASS_TOKEN": 180,
    "CANARY_SECRET": 180,
    "RUM_DRAIN_SECRET": 180,
    "LEADS_ENCRYPTION_KEY": 180,
    "ERASURE_KEY": 3650,
    "TURNSTILE_SECRET_KEY": 365,
    "SENTRY_DSN": 365,
    "KEY_FINGERPRINT_PEPPER": 3650,
    "VERCEL_API_TOKEN": 90,
}
COMMA_LISTS = ("LEADS_ENCRYPTION_KEY",)  # several at once: the first encrypts, all decrypt

RECORD_USAGE = """
insert into key_sightings as existing (name, fingerprint, deployment, first_seen_at, last_seen_at)
select name, fingerprint, %(deployment)s, %(now)s, %(now)s
from unnest(%(names)s::text[], %(fingerprints)s::text[]) as used (name, fingerprint)
on conflict (name, fingerprint, deployment) do update
set last_seen_at = greatest(existing.last_seen_at, excluded.last_seen_at)
"""

# In use: recorded in the last hour in which any secret was.
SELECT_IN_USE = """
select name, fingerprint, min(first_seen_at) as first_seen_at, max(last_seen_at) as last_seen_at,
  array_agg(deployment order by last_seen_at desc) as deployments
from key_sightings
group by name, fingerprint
having max(last_seen_at) >= (select max(last_seen_at) from key_sightings) - interval '1 hour'
order by name, min(first_seen_at) desc
"""


def fingerprint(pepper: str, value: str) -> str:
    return hmac.new(pepper.encode(), value.encode(), hashlib.sha256).hexdigest()[:12]


def fingerprints(pepper: str, values: Mapping[str, str]) -> set[tuple[str, str]]:
    """(name, fingerprint) of every secret in use: also of NAME_PREVIOUS, and each part of a list.

    values: variable -> value; of the variables of no secret nothing is read.
    """
    pairs = set()
    for name in MAX_AGE_DAYS:
        texts = [values.get(name, ""), values.get(f"{name}_PREVIOUS", "")]
        parts = ",".join(texts).split(",") if name in COMMA_LISTS else texts
        pairs |= {(name, fingerprint(pepper, part.strip())) for part in parts if part.strip()}
    return pairs


@dataclass(frozen=True, slots=True)
class SecretUsage:
    """One secret that deployments use now; of several of a name the newest comes first."""

    name: str
    fingerprint: str
    first_seen_at: datetime
    last_seen_at: datetime
    deployments: tuple[str, ...]

    def age(self, now: datetime) -> timedelta:
        return now - self.first_seen_at

    def is_overdue(self, now: datetime) -> bool:
        max_age_days = MAX_AGE_DAYS.get(self.name)
        return max_age_days is not None and self.age(now) > timedelta(days=max_age_days)


def record_usage(
    run: RunQuery, values: Mapping[str, str], pepper: str, deployment: str, now: datetime
) -> None:
    """Record which secrets this deployment uses: one statement, repeatable. Raises DatabaseDown.

    Without a pepper nothing is recorded.
    """
    if not pepper:
        return
    pairs = sorted(fingerprints(pepper, values))
    parameters = {
        "deployment": deployment,
        "now": now,
        "names": [name for name, _ in pairs],
        "fingerprints": [digest for _, digest in pairs],
    }
    run(lambda connection: connection.execute(RECORD_USAGE, parameters) and None)


def list_in_use(run: RunQuery) -> list[SecretUsage]:
    """Raises DatabaseDown."""
    rows = run(lambda connection: connection.execute(SELECT_IN_USE).fetchall())
    return [
        SecretUsage(name, digest, first, last, tuple(deployments))
        for name, digest, first, last, deployments in rows
    ]


def list_overdue(run: RunQuery, now: datetime) -> tuple[str, ...]:
    """Names of secrets in use that are older than MAX_AGE_DAYS allows. Raises DatabaseDown."""
    return tuple(sorted({usage.name for usage in list_in_use(run) if usage.is_overdue(now)}))
