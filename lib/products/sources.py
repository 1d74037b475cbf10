"""Redis and Postgres as product queries use them: a failure is CacheDown or DatabaseDown."""

from functools import partial
from typing import Any

from lib import deadlines
from lib.interfaces import Context, RedisCommand
from lib.problems import CacheDown, DatabaseDown, NotConfigured
from lib.products import catalogue
from lib.products.catalogue import PublishedSlugs, QueryResult
from lib.products.query import Query

DATABASE_BUDGET_S = 1.5
REDIS_TIMEOUT_S, MAINTENANCE_TIMEOUT_S = 0.3, 0.2


class Sources:
    """Both stores, for one request."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def redis(self, *commands: RedisCommand) -> list[Any]:
        """The replies. Raises CacheDown."""
        try:
            cache = self._context.services.cache
            return deadlines.call_with_deadline(lambda: cache.pipeline(*commands), REDIS_TIMEOUT_S)
        except NotConfigured as error:
            self._context.add_log_fields(not_configured=error.variable)
            raise CacheDown from error
        except TimeoutError as error:
            raise CacheDown from error

    def postgres(self, query: Query, published: PublishedSlugs | None) -> QueryResult:
        """The products found; published: what is known already. Raises DatabaseDown.

        A missing table or right is an outage too; in some maintenance Postgres may not be read.
        """
        window = self._maintenance()
        if window is not None and not window.allows_reads:
            raise DatabaseDown
        try:
            run = partial(self._context.services.database.run_or_down, budget_s=DATABASE_BUDGET_S)
            return catalogue.find(run, query, published)
        except (DatabaseDown, NotConfigured) as error:
            self._context.add_log_fields(database_error=type(error.__cause__ or error).__name__)
            self._context.record_outage("database", error)
            raise DatabaseDown from error

    def _maintenance(self) -> Any:
        try:
            return deadlines.call_with_deadline(
                lambda: self._context.maintenance, MAINTENANCE_TIMEOUT_S
            )
        except TimeoutError:
            return self._context.cached_maintenance
