"""The inventory of secrets: purpose, owner, and how each is rotated and proven revoked."""

from dataclasses import dataclass

from lib.monitoring.secrets import MAX_AGE_DAYS

# The overlap: how two values of one secret are valid at once while a rotation lasts.
TWO_LOGIN_ROLES = "two login roles"  # of Postgres, alternating
SEVERAL_AT_VENDOR = "several at the vendor"
TWO_UPSTASH_USERS = "two users"  # of Upstash, alternating
PREVIOUS_VARIABLE = "NAME_PREVIOUS"  # accepted beside NAME while it is set
COMMA_LIST = "comma list"  # the first encrypts, all decrypt
MANUAL = "by hand"  # its owner makes and revokes it; the command does the rest


@dataclass(frozen=True, slots=True)
class Secret:
    """revocation_check: what shows that a revoked value no longer works; "" where nothing does.

    operators_max_age_days: set where only operators' machines hold it: no deployment shows it.
    """

    name: str
    purpose: str
    overlap: str
    revocation_check: str
    owner: str = "engineering"
    operators_max_age_days: int | None = None

    @property
    def operators_only(self) -> bool:
        return self.operators_max_age_days is not None

    @property
    def max_age_days(self) -> int:
        return self.operators_max_age_days or MAX_AGE_DAYS[self.name]

    @property
    def previous_variable(self) -> str:
        return f"{self.name}_PREVIOUS" if self.overlap == PREVIOUS_VARIABLE else ""


SECRETS = (
    Secret("DATABASE_URL", "Postgres, as the functions' role", TWO_LOGIN_ROLES, "it logs in"),
    Secret("UPSTASH_REDIS_REST_TOKEN", "Redis", TWO_UPSTASH_USERS, "PING"),
    Secret("RESEND_API_KEY", "sends mail", SEVERAL_AT_VENDOR, "an empty mail"),
    Secret("SUPABASE_SECRET_KEY", "Supabase's REST, for tools", SEVERAL_AT_VENDOR, "GET /rest/v1/"),
    Secret("SLACK_BOT_TOKEN", "alerts", MANUAL, "auth.test", "on call"),
    Secret("SLACK_WEBHOOK_URL", "alerts, without a bot", MANUAL, "an empty message", "on call"),
    Secret("CRON_SECRET", "authorizes crons", PREVIOUS_VARIABLE, "GET /api/cron/watch"),
    Secret("WATCH_TOKEN", "authorizes the watch", MANUAL, "GET /api/cron/watch", "on call"),
    Secret("LEADS_ADMIN_TOKEN", "export, persons' requests", PREVIOUS_VARIABLE, "HEAD export",
           "sales desk"),
    Secret("HEALTH_CHECK_TOKEN", "deep health", PREVIOUS_VARIABLE, "GET /api/health", "on call"),
    Secret("MAINTENANCE_BYPASS_TOKEN", "bypasses maintenance", MANUAL, "", "on call"),
    Secret("CANARY_SECRET", "signs synthetic leads", PREVIOUS_VARIABLE, "a synthetic lead",
           "on call"),
    Secret("RUM_DRAIN_SECRET", "signs Vercel's drains", PREVIOUS_VARIABLE, "an empty drain"),
    Secret("LEADS_ENCRYPTION_KEY", "seals queue, journal, mails", COMMA_LIST, "opens nothing"),
    Secret("ERASURE_KEY", "hashes of erased persons", MANUAL, "", "privacy"),
    Secret("TURNSTILE_SECRET_KEY", "the form's challenge", MANUAL, ""),
    Secret("SENTRY_DSN", "error reports", MANUAL, ""),
    Secret("KEY_FINGERPRINT_PEPPER", "this table's fingerprints", MANUAL, ""),
    Secret("VERCEL_API_TOKEN", "CDN, rollback, rotation", MANUAL, "GET /v2/user"),
    Secret("DATABASE_DIRECT_URL", "Postgres, as the owner", MANUAL, "", operators_max_age_days=90),
    Secret("SUPABASE_ACCESS_TOKEN", "Supabase's management", MANUAL, "", operators_max_age_days=90),
    Secret("RESEND_ADMIN_KEY", "makes RESEND_API_KEY", MANUAL, "", operators_max_age_days=90),
    Secret("UPSTASH_API_KEY", "Upstash's management", MANUAL, "", operators_max_age_days=90),
    Secret("BACKUP_ENCRYPTION_KEY", "seals backups", MANUAL, "", operators_max_age_days=365),
    Secret("UPTIMEROBOT_API_KEY", "monitors", MANUAL, "", "on call", operators_max_age_days=180),
)  # fmt: skip

BY_NAME = {secret.name: secret for secret in SECRETS}
