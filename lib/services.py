"""Settings -> adapters: the one place that names them all, each loaded when first used."""

import threading
from functools import cached_property
from typing import TYPE_CHECKING

from lib.settings import Settings

if TYPE_CHECKING:
    from lib.db import Database
    from lib.mail import Mailer
    from lib.sentry import Reporter


class Services:
    """What an instance talks to. An attribute raises NotConfigured, by name, if it cannot be."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def database(self) -> "Database":
        from lib.db import Database

        return Database(self.settings.database_url)

    @cached_property
    def mailer(self) -> "Mailer":
        from lib.mail import Mailer

        return Mailer(self.settings.resend_api_key, self.settings.resend_api_url)

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


_lock = threading.Lock()
_instance: Services | None = None


def instance() -> Services:
    """This instance's services, shared by its threads."""
    global _instance
    with _lock:
        if _instance is None:
            _instance = Services(Settings())
        return _instance
