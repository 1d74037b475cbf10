"""Settings -> adapters: the one place that names them all, each loaded when first used."""

import threading
from functools import cached_property
from typing import TYPE_CHECKING

from lib.settings import Settings

if TYPE_CHECKING:
    from lib.cache import Cache
    from lib.db import Database
    from lib.mail import Mailer
    from lib.sentry import Reporter
    from lib.turnstile import Turnstile
    from lib.vault import Vault


class Services:
    """What an instance talks to. An attribute raises NotConfigured, by name, if it cannot be."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def database(self) -> "Database":
        from lib.db import Database

        return Database(self.settings.database_url)

    @cached_property
    def cache(self) -> "Cache":
        from lib.cache import Cache

        return Cache(self.settings.upstash_redis_rest_url, self.settings.upstash_redis_rest_token)

    @cached_property
    def vault(self) -> "Vault":
        from lib.vault import Vault

        return Vault(self.settings.leads_encryption_key)

    @cached_property
    def mailer(self) -> "Mailer":
        from lib.mail import Mailer

        return Mailer(self.settings.resend_api_key, self.settings.resend_api_url)

    @cached_property
    def turnstile(self) -> "Turnstile | None":
        """None when no secret is set: nobody is challenged."""
        if not self.settings.turnstile_secret_key:
            return None
        from lib.turnstile import Turnstile

        return Turnstile(self.settings.turnstile_secret_key, self.settings.turnstile_url)

    @cached_property
    def reporter(self) -> "Reporter | None":
        """None when no DSN is set: the log alone is told."""
        if not self.settings.sentry_dsn:
            return None
        from lib.sentry import Reporter

        return Reporter(
            self.settings.sentry_dsn,
            self.settings.vercel_git_commit_sha,
            self.settings.vercel_env,
        )

    def close(self) -> None:
        """Close what was opened, for a process that ends in order."""
        for name in ("database", "cache", "mailer", "turnstile"):
            if self.__dict__.get(name) is not None:
                self.__dict__[name].close()

    def probe(self) -> None:
        """Ask whatever was down whether it still is: after an answer, so that none waits."""
        for name in ("database", "cache"):
            if name in self.__dict__:
                self.__dict__[name].probe()


_lock = threading.Lock()
_instance: Services | None = None


def instance() -> Services:
    """This instance's services, shared by its threads."""
    global _instance
    with _lock:
        if _instance is None:
            _instance = Services(Settings())
        return _instance
