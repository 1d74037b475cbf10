"""Which store keeps the incidents: Postgres, else Redis, else Slack alone. Chosen only here.

Only Postgres keeps a resolved incident. What the others hold is imported by the first monitor run
that reaches Postgres.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

from lib.incidents import postgres_store
from lib.incidents.model import Event, Incident
from lib.incidents.postgres_store import PostgresStore
from lib.incidents.redis_store import RedisStore
from lib.incidents.slack_store import SlackStore
from lib.interfaces import Services
from lib.problems import CacheDown, DatabaseDown, NotConfigured, SlackError

type IncidentStore = PostgresStore | RedisStore | SlackStore


class NoStore(Exception):
    """None of the three can be used; the text says why, for an operator."""


def in_postgres(services: Services, now: datetime) -> PostgresStore:
    # What Postgres refuses is an outage too: an alert must get out.
    return PostgresStore(services.database.run_or_down, now, services.deployment)


def in_redis(services: Services, now: datetime) -> RedisStore:
    return RedisStore(services.cache.execute, now, services.deployment)


def in_slack(services: Services, now: datetime) -> SlackStore:
    return SlackStore(services.slack, services.links, now, services.deployment)


def use_first_available[R](
    services: Services, now: datetime, operation: Callable[[IncidentStore], R]
) -> R:
    """The result of the first store that does it. Raises NoStore."""
    errors = []
    for name, choose in (("Postgres", in_postgres), ("Redis", in_redis), ("Slack", in_slack)):
        try:
            return operation(choose(services, now))
        except (DatabaseDown, CacheDown) as error:
            errors.append(f"{name} does not answer ({type(error).__name__})")
        except (SlackError, NotConfigured) as error:
            errors.append(f"{name}: {error}")
    raise NoStore("; ".join(errors))


def import_fallback(services: Services, now: datetime) -> None:
    """Enter in Postgres what Redis or Slack alone hold; else in Redis what Slack alone holds."""
    with suppress(DatabaseDown, CacheDown, NotConfigured):
        redis = in_redis(services, now)
        for document in redis.list_documents():
            if document.pending_events:
                _import_incident(services, document.incident, document.pending_events, now, "redis")
                redis.remove(document)
    with suppress(SlackError, NotConfigured):
        slack = in_slack(services, now)
        for document in slack.list_documents():
            new_id = _import_from_slack(services, document.incident, slack.events(document), now)
            if new_id is None:
                return
            slack.mark_imported(document.incident, new_id)


def _import_from_slack(
    services: Services, incident: Incident, events: Sequence[Event], now: datetime
) -> str | None:
    """The id it has now; None while no store takes it."""
    with suppress(DatabaseDown, NotConfigured):
        new_id = _import_incident(services, incident, events, now, "slack")
        return new_id or f"{incident.id} (over)"
    with suppress(CacheDown, NotConfigured):
        return in_redis(services, now).import_incident(incident, events)
    return None


def _import_incident(
    services: Services, incident: Incident, events: Sequence[Event], now: datetime, source: str
) -> str | None:
    work = partial(
        postgres_store.import_incident, incident=incident, events=events, now=now, source=source
    )
    new_id: str | None = services.database.run_or_down(work)
    return new_id
