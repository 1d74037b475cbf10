"""The services of an instance, from its settings; each vendor helper is imported on first use."""

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lib.problems import NotConfigured
from lib.settings import Settings

if TYPE_CHECKING:
    from lib.cache import Cache
    from lib.db import Database
    from lib.encryption import SecretBoxCipher
    from lib.error_reporting import Reporter
    from lib.incidents.messages import Links
    from lib.mail import Mailer
    from lib.slack import Slack
    from lib.turnstile import Turnstile


_lock = threading.RLock()

if TYPE_CHECKING:
    _shared = cached_property
else:

    class _shared(cached_property):  # noqa: N801 - used as a decorator
        """A cached_property that threads build once: two databases would be two pools."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            with _lock:
                return super().__get__(instance, owner)


class Services:
    """An attribute raises NotConfigured, naming the variable, if it cannot be built."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @_shared
    def database(self) -> "Database":
        from lib.db import Database

        return Database(self.settings.database_url)

    @_shared
    def cache(self) -> "Cache":
        from lib.cache import Cache

        return Cache(self.settings.upstash_redis_rest_url, self.settings.upstash_redis_rest_token)

    @_shared
    def cipher(self) -> "SecretBoxCipher":
        from lib.encryption import SecretBoxCipher

        return SecretBoxCipher(self.settings.leads_encryption_key)

    @property
    def erasure_keys(self) -> tuple[bytes, ...]:
        """Empty when ERASURE_KEY is not set: nobody was erased, so no copy is rejected."""
        return self.settings.erasure_key

    @_shared
    def rate_limit_key(self) -> bytes:
        """Hashes clients' addresses beside their rate limits: the password of DATABASE_URL, which
        no dump of the database holds. With a new password everybody's limits begin anew."""
        url = self.settings.database_url
        return (urlsplit(url).password or url).encode()

    @_shared
    def mailer(self) -> "Mailer":
        from lib.mail import Mailer

        return Mailer(self.settings.resend_api_key, self.settings.resend_api_url)

    @_shared
    def slack(self) -> "Slack":
        settings = self.settings
        token, channel = settings.slack_bot_token, settings.slack_channel_id
        if not (token and channel) and not settings.slack_webhook_url:
            raise NotConfigured("SLACK_BOT_TOKEN", "and SLACK_WEBHOOK_URL are not set")
        from lib.slack import Slack

        return Slack(settings.slack_api_url, token, channel, settings.slack_webhook_url)

    @property
    def sentry_dsn(self) -> str:
        """Raises NotConfigured when SENTRY_DSN is empty."""
        if not self.settings.sentry_dsn:
            raise NotConfigured("SENTRY_DSN", "is not set")
        return self.settings.sentry_dsn

    @property
    def links(self) -> "Links":
        from lib.incidents.messages import Links

        settings = self.settings
        return Links(
            settings.runbook_url, settings.sentry_issues_url, f"{settings.site_url}/status"
        )

    @property
    def deployment(self) -> str:
        return self.settings.vercel_deployment_id or "-"

    @property
    def canary_every_s(self) -> int:
        return self.settings.canary_every_minutes * 60

    @_shared
    def turnstile(self) -> "Turnstile | None":
        """None without a secret: forms carry no challenge."""
        if not self.settings.turnstile_secret_key:
            return None
        from lib.turnstile import Turnstile

        return Turnstile(self.settings.turnstile_secret_key, self.settings.turnstile_url)

    @_shared
    def reporter(self) -> "Reporter | None":
        """None without a DSN: errors go to the log alone."""
        if not self.settings.sentry_dsn:
            return None
        from lib.error_reporting import Reporter

        return Reporter(
            self.settings.sentry_dsn,
            self.settings.vercel_git_commit_sha,
            self.settings.vercel_env,
        )

    def close(self) -> None:
        """Close connections, for a process that ends in order."""
        for name in ("database", "cache", "mailer", "turnstile"):
            if self.__dict__.get(name) is not None:
                self.__dict__[name].close()

    def probe_open_breakers(self, wait_s: float = 0.0) -> None:
        """Ask every dependency that was down again; wait_s: for another thread that does."""
        for name in ("database", "cache"):
            if name in self.__dict__:
                self.__dict__[name].probe(wait_s)


_instance: Services | None = None


def get_services() -> Services:
    """This instance's services, shared by its threads."""
    global _instance
    with _lock:
        if _instance is None:
            _instance = Services(Settings())
        return _instance
