"""What a function finds in its environment: the bundle's own variables and Vercel's, no others."""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.platform.local_secrets import LocalSecrets
from dev.vendors import supabase_api, turnstile, upstash_users, uptimerobot

_FILES = ("lib/settings.py", "ops/settings.py")


class SettingsUnreadable(RuntimeError):
    """A file of settings could not be imported; the text holds its traceback."""


@dataclass(frozen=True, slots=True)
class Variable:
    """default: None when the variable must be given; secret: nobody else may know it."""

    name: str
    meaning: str
    default: str | None
    secret: bool
    operators_only: bool


def read_variables(root: Path) -> list[Variable]:
    """By a fresh interpreter: the tree may be another than ours, or edited since."""
    process = subprocess.run(
        [sys.executable, "-m", "ops.settings"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        raise SettingsUnreadable(process.stderr.strip())
    return [Variable(**fields) for fields in json.loads(process.stdout)]


class Settings:
    """The variables of the tree at `root`, read again when a file of settings changes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._modified: list[int] = []
        self._variables: list[Variable] = []

    def variables(self) -> list[Variable]:
        with self._lock:
            modified = [(self._root / name).stat().st_mtime_ns for name in _FILES]
            if modified != self._modified:
                self._variables = read_variables(self._root)
                self._modified = modified
            return self._variables


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the platform's parts listen."""

    site: str
    database: str
    upstash: str
    resend: str
    slack: str
    turnstile: str
    sentry: str
    vercel: str
    supabase: str
    admin_database: str
    backups: str
    upstash_api: str
    uptimerobot: str


SLACK_WEBHOOK_PATH = "/services/T0LOCAL/B0LOCAL/local"


def platform_variables(at: Addresses, keys: LocalSecrets, commit: str) -> dict[str, str]:
    """Every value the platform can give; `compose` picks those the bundle knows."""
    scheme, _, host = at.sentry.partition("://")
    return {
        "DATABASE_URL": at.database,
        "DATABASE_DIRECT_URL": at.admin_database,
        "BACKUP_ENCRYPTION_KEY": keys["BACKUP_ENCRYPTION_KEY"],
        "BACKUP_DIRECTORY": at.backups,
        "SUPABASE_API_URL": at.supabase,
        "SUPABASE_ACCESS_TOKEN": keys["SUPABASE_ACCESS_TOKEN"],
        "SUPABASE_PROJECT_REF": supabase_api.PROJECT,
        "UPSTASH_REDIS_REST_URL": at.upstash,
        "UPSTASH_REDIS_REST_TOKEN": keys["UPSTASH_REDIS_REST_TOKEN"],
        "RESEND_API_URL": at.resend,
        "RESEND_API_KEY": keys["RESEND_API_KEY"],
        "SLACK_API_URL": f"{at.slack}/api",
        "SLACK_BOT_TOKEN": keys["SLACK_BOT_TOKEN"],
        "SLACK_TOKEN": keys["SLACK_BOT_TOKEN"],
        "SLACK_CHANNEL": "C0LOCAL",
        "SLACK_CHANNEL_ID": "C0LOCAL",
        "SLACK_WEBHOOK_URL": at.slack + SLACK_WEBHOOK_PATH,
        "VERCEL_API_URL": at.vercel,
        "VERCEL_API_TOKEN": keys["VERCEL_API_TOKEN"],
        "UPTIMEROBOT_API_URL": at.uptimerobot + uptimerobot.PREFIX,
        "UPTIMEROBOT_API_KEY": keys["UPTIMEROBOT_API_KEY"],
        "TURNSTILE_URL": at.turnstile + turnstile.PATH,
        "SENTRY_DSN": f"{scheme}://{keys['SENTRY_PUBLIC_KEY']}@{host}/1",
        "CRON_SECRET": keys["CRON_SECRET"],
        "HEALTH_CHECK_TOKEN": keys["HEALTH_CHECK_TOKEN"],
        "LEADS_ADMIN_TOKEN": keys["LEADS_ADMIN_TOKEN"],
        "LEADS_ENCRYPTION_KEY": keys["LEADS_ENCRYPTION_KEY"],
        "ERASURE_KEY": keys["ERASURE_KEY"],
        "KEY_FINGERPRINT_PEPPER": keys["KEY_FINGERPRINT_PEPPER"],
        "SUPABASE_URL": at.supabase,
        "SUPABASE_SECRET_KEY": keys["SUPABASE_SECRET_KEY"],
        "UPSTASH_API_URL": at.upstash_api,
        "UPSTASH_EMAIL": upstash_users.EMAIL,
        "UPSTASH_DATABASE_ID": upstash_users.DATABASE_ID,
        "SITE_URL": at.site,
        "MAIL_SALES_TO": "sales@alfabeauty.test",
        "SALES_WHATSAPP": "+6281200000000",
        **_system(at, commit),
    }


def _system(at: Addresses, commit: str) -> dict[str, str]:
    """Vercel's own variables, which every function has."""
    return {
        "VERCEL": "1",
        "VERCEL_ENV": "development",
        "VERCEL_TARGET_ENV": "development",
        "VERCEL_REGION": "dev1",
        "VERCEL_URL": at.site.partition("://")[2],
        "VERCEL_DEPLOYMENT_ID": "dpl_local",
        "VERCEL_PROJECT_ID": "prj_local",
        "VERCEL_GIT_COMMIT_SHA": commit,
    }


def compose(
    variables: list[Variable],
    available: Mapping[str, str],
    overrides: Mapping[str, str],
    keys: LocalSecrets,
) -> dict[str, str]:
    """Overrides win over available values; a secret that is in neither is made up."""
    names = {variable.name for variable in variables}
    system = {name for name in available if name.startswith("VERCEL")}
    composed = {name: available[name] for name in sorted(names | system) if name in available}
    for variable in variables:
        must_be_given = variable.secret and variable.default is None
        if must_be_given and variable.name not in available:
            composed[variable.name] = keys[variable.name]
    return composed | {name: text for name, text in overrides.items() if name in names | system}


def commit_of(root: Path) -> str:
    """git's HEAD, or nothing where there is no repository."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
