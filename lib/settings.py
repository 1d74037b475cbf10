"""Every environment variable of the bundle: name, type, unit, meaning.

Nothing is read at import: a variable is parsed when it is first asked for, so a missing one
stops only the work that needs it. A description is the variable's documentation too:
docs/settings.md is generated from this file.
"""

import base64
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, overload

from lib import log
from lib.problems import NotConfigured


class Setting[T]:
    """One variable, named like its attribute in capitals.

    parse: text -> value; ValueError when the text is no such value.
    default: the text used when the variable is unset or empty; None means it must be given.
    """

    def __init__(
        self,
        parse: Callable[[str], T],
        meaning: str,
        default: str | None = None,
        *,
        secret: bool = False,
    ) -> None:
        self.parse = parse
        self.description = meaning
        self.default = default
        self.secret = secret
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.upper()

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: "Settings", owner: type) -> T: ...
    def __get__(self, instance: "Settings | None", owner: type) -> Self | T:
        if instance is None:
            return self
        text = instance.environ.get(self.name, "").strip() or self.default
        if text is None:
            raise NotConfigured(self.name, "is not set")
        try:
            return self.parse(text)
        except ValueError as error:
            # The error may quote the text: log what is wrong, never the value.
            unusable = NotConfigured(self.name, "is set but not usable")
            if self.default is None:
                raise unusable from error
        # A misspelt variable that has a default must not cost a lead: log it, and go on.
        if self.name not in instance.warned:
            instance.warned.add(self.name)
            log.not_configured(unusable, "-")
        return self.parse(self.default)


def http_url(text: str) -> str:
    """An http(s) address, without a trailing slash."""
    if not text.startswith(("https://", "http://")):
        raise ValueError("not an http(s) address")
    return text.rstrip("/")


def postgres_url(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("not a postgresql:// address")
    return text


def comma_list(text: str) -> tuple[str, ...]:
    """A list separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def nonempty_comma_list(text: str) -> tuple[str, ...]:
    """A list separated by commas, of one or more."""
    if not (parts := comma_list(text)):
        raise ValueError("nothing in it")
    return parts


def token(text: str) -> str:
    """A secret that callers present: at least 16 characters (Vercel's advice for CRON_SECRET)."""
    if len(text) < 16:
        raise ValueError("shorter than 16 characters")
    return text


def admin_token(text: str) -> str:
    """An operator's token: at least 32 characters, or none."""
    if text and len(text) < 32:
        raise ValueError("shorter than 32 characters")
    return text


def positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("less than one")
    return number


def positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError("not above zero")
    return number


def header_value(text: str) -> str:
    """What can stand in an HTTP header as one word."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("not one word of ASCII")
    return text


def parse_maintenance_mode(text: str) -> str:
    """`off`, or a mode of lib/maintenance.py; `on` is intake."""
    word = text.lower().replace("-", "_")
    synonyms = dict.fromkeys(("false", "0", "no"), "off")
    synonyms |= dict.fromkeys(("true", "1", "yes", "on"), "intake")
    if (mode := synonyms.get(word, word)) not in ("off", "intake", "read_only"):
        raise ValueError("no such mode")
    return mode


def encryption_keys(text: str) -> tuple[bytes, ...]:
    """32-byte keys as URL-safe base64, separated by commas."""
    keys = tuple(base64.urlsafe_b64decode(part) for part in comma_list(text))
    if not keys or any(len(key) != 32 for key in keys):
        raise ValueError("not 32 bytes")
    return keys


def optional_encryption_keys(text: str) -> tuple[bytes, ...]:
    return encryption_keys(text) if text else ()


class Settings:
    """Typed reading of one environment.

    An attribute raises NotConfigured, by its name, when it is not given or not usable and has no
    default.
    """

    database_url = Setting(
        postgres_url,
        "Postgres, as the role the functions log in with (Supabase: the transaction pooler, "
        "port 6543). Add sslmode=require where the server is not local.",
        secret=True,
    )
    upstash_redis_rest_url = Setting(http_url, "Redis: Upstash's REST address.")
    upstash_redis_rest_token = Setting(str, "Redis: Upstash's REST token.", secret=True)
    leads_encryption_key = Setting(
        encryption_keys,
        "Seals leads in Redis and in mail: 32 bytes as URL-safe base64. Several separated by "
        "commas: the first seals, all open.",
        secret=True,
    )
    leads_per_minute = Setting(positive_int, "Leads a client may send in a minute.", "5")
    leads_per_hour = Setting(positive_int, "Leads a client may send in an hour.", "30")
    leads_ceiling_per_minute = Setting(
        positive_int, "Leads a minute from everybody; above it they are kept for review.", "120"
    )
    resend_api_key = Setting(header_value, "Resend's API key, with sending access.", secret=True)
    resend_api_url = Setting(http_url, "Resend's address.", "https://api.resend.com")
    # Of a whole team: 2 until 2026, 5 since (resend.com/docs/api-reference/rate-limit, read
    # 2026-11-28). The lower one suits every account.
    mail_per_second = Setting(
        positive_float,
        "Requests a second to Resend, by all instances together; below the team's limit there "
        "(2, or 5, by default).",
        "2",
    )
    mail_from = Setting(
        str,
        "Sender of every mail, on a domain verified at Resend.",
        "Alfa Beauty <noreply@alfabeauty.co.id>",
    )
    mail_sales_to = Setting(
        nonempty_comma_list, "Sales mailboxes, separated by commas.", "sales@alfabeauty.co.id"
    )
    site_url = Setting(http_url, "The site's own address.", "https://alfabeauty.co.id")
    allowed_origins = Setting(
        comma_list,
        "Further origins, separated by commas, whose pages may post leads and be redirected to.",
        "",
    )
    sales_whatsapp = Setting(
        str, "Sales' WhatsApp number in E.164, shown when a form cannot be sent."
    )
    cron_secret = Setting(
        token,
        "Bearer token Vercel sends to the cron addresses, 16 characters or more.",
        secret=True,
    )
    cron_secret_previous = Setting(
        str,
        "The cron token being retired: accepted beside CRON_SECRET while it is set.",
        "",
        secret=True,
    )
    watch_token = Setting(
        token,
        "Bearer token that an uptime monitor sends to /api/cron/watch, and to nothing else; 16 "
        "characters or more. Unset: only CRON_SECRET is accepted there.",
        secret=True,
    )
    leads_admin_token = Setting(
        admin_token,
        "Operators' token for the export of leads and persons' requests, 32 characters or more; "
        "empty: both are refused.",
        "",
        secret=True,
    )
    leads_admin_token_previous = Setting(
        admin_token,
        "The operators' token being retired: accepted beside LEADS_ADMIN_TOKEN while it is set.",
        "",
        secret=True,
    )
    leads_retention_days = Setting(positive_int, "Days a lead is kept; three years.", "1095")
    erasure_key = Setting(
        optional_encryption_keys,
        "Makes the marks of who was erased: 32 bytes as URL-safe base64, kept out of the database. "
        "Several separated by commas: the first makes, all find. Empty: nobody can be erased.",
        "",
        secret=True,
    )
    canary_secret = Setting(
        token, "Signs the synthetic lead that proves the path; 16 characters or more.", secret=True
    )
    canary_secret_previous = Setting(
        str, "The canary's secret being retired: accepted beside it while set.", "", secret=True
    )
    health_check_token = Setting(
        token, "Bearer token of the deep health check; 16 characters or more.", secret=True
    )
    health_check_token_previous = Setting(
        str, "The health token being retired: accepted beside it while set.", "", secret=True
    )
    turnstile_secret_key = Setting(
        str, "Cloudflare Turnstile's secret; empty: pages carry no challenge.", "", secret=True
    )
    turnstile_url = Setting(
        http_url,
        "Turnstile's siteverify.",
        "https://challenges.cloudflare.com/turnstile/v0/siteverify",
    )
    maintenance_mode = Setting(
        parse_maintenance_mode,
        "Maintenance from this deployment on: off, on (= intake), intake, read_only; another word "
        "is refused at build, and alerts at run time. The instant switch is `ops maintenance`.",
        "off",
    )
    maintenance_bypass_token = Setting(
        token,
        "Requests with it in X-Maintenance-Bypass bypass maintenance; unset: none. 16 characters.",
        secret=True,
    )
    rum_drain_secret = Setting(
        token,
        "Signs Vercel's drains to /api/rum, 16 characters or more; unset: they are refused.",
        secret=True,
    )
    rum_drain_secret_previous = Setting(
        str, "The drains' secret being retired: accepted beside it while set.", "", secret=True
    )
    key_fingerprint_pepper = Setting(
        str,
        "Makes the fingerprints by which keys in use are known; the same for every deployment and "
        "operator, never changed. Empty: no key's age is known.",
        "",
        secret=True,
    )
    slack_bot_token = Setting(
        str,
        "Slack's bot token (chat:write, channels:history; groups:history in a private channel); "
        "empty: the webhook.",
        "",
        secret=True,
    )
    slack_channel_id = Setting(str, "The channel alerts go to, by id.", "")
    slack_webhook_url = Setting(
        str, "An incoming webhook, where there is no bot: messages are not edited.", "", secret=True
    )
    alerts_mail_to = Setting(
        comma_list,
        "Operators' mailboxes, separated by commas: they get every Sev1 while Slack cannot be "
        "reached. Empty: Sentry alone does.",
        "",
    )
    slack_api_url = Setting(http_url, "Slack's API.", "https://slack.com/api")
    runbook_url = Setting(
        str, "Where ops/README.md is read on the web; alerts link to its sections.", ""
    )
    sentry_issues_url = Setting(str, "Sentry's list of this project's issues, for links.", "")
    canary_every_minutes = Setting(
        positive_int, "How often the watch sends a synthetic lead through the whole path.", "30"
    )
    sentry_dsn = Setting(str, "Sentry's DSN; empty: errors go to the log alone.", "", secret=True)
    vercel_env = Setting(str, "Set by Vercel: production, preview or development.", "development")
    vercel_git_commit_sha = Setting(str, "Set by Vercel: the commit, reported as the release.", "")
    vercel_deployment_id = Setting(str, "Set by Vercel: the deployment's id.", "")

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.environ = os.environ if environ is None else environ
        self.warned: set[str] = set()

    @property
    def maintenance_mode_error(self) -> str | None:
        """What is wrong with MAINTENANCE_MODE; None when it is unset or valid."""
        try:
            parse_maintenance_mode(self.environ.get("MAINTENANCE_MODE", "").strip() or "off")
        except ValueError:
            return "MAINTENANCE_MODE is misspelt: on, intake, read_only or off"
        return None


def all_settings(owner: type[Settings] = Settings) -> Iterator[Setting[Any]]:
    """Every variable, in the order of the table above; then those of a subclass."""
    for base in reversed(owner.__mro__):
        yield from (value for value in vars(base).values() if isinstance(value, Setting))
