"""Which store records the incidents: Postgres, else Redis, else Slack alone. Chosen only here.

Only Postgres remembers a resolved incident. What the others hold is imported by the first monitor
run that reaches Postgres.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

from lib.incidents.model import Event, Incident
from lib.incidents.postgres_store import PostgresStore
from lib.incidents.redis_store import RedisStore
from lib.incidents.slack_store import SlackStore
from lib.incidents.store import IncidentStore
from lib.interfaces import Services
from lib.problems import CacheDown, DatabaseDown, NotConfigured, SlackError


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
    services: Services, now: datetime, operation: Callable[[IncidentStore], R],
    failures: dict[str, Exception] | None = None,
) -> R:  # fmt: skip
    """The result of the first store that does it. Raises NoStore.

    failures: gets the errors of the stores before it, by name.
    """
    errors, failures = [], {} if failures is None else failures
    for name, choose in (("Postgres", in_postgres), ("Redis", in_redis), ("Slack", in_slack)):
        try:
            return operation(choose(services, now))
        except (DatabaseDown, CacheDown) as error:
            failures[name] = error
            errors.append(f"{name} does not answer ({type(error).__name__})")
        except (SlackError, NotConfigured) as error:
            failures[name] = error
            errors.append(f"{name}: {error}")
    raise NoStore("; ".join(errors))


def import_incidents(services: Services, now: datetime) -> None:
    """Enter in Postgres what Redis or Slack alone hold; else in Redis what Slack alone holds."""
    with suppress(DatabaseDown, CacheDown, NotConfigured):
        redis = in_redis(services, now)
        for document in redis.list_documents():
            if events := document.pending_events:
                in_postgres(services, now).import_incident(document.incident, events, "redis")
                redis.remove(document)
    with suppress(SlackError, NotConfigured):
        slack = in_slack(services, now)
        for incident in slack.list_open():
            new_id = _import_from_slack(services, incident, slack.read_events(incident), now)
            if new_id is None:
                return
            slack.mark_imported(incident, new_id)


def _import_from_slack(
    services: Services, incident: Incident, events: Sequence[Event], now: datetime
) -> str | None:
    """The id it has now; None while no store takes it."""
    for choose in (in_postgres, in_redis):
        with suppress(DatabaseDown, CacheDown, NotConfigured):
            new_id = choose(services, now).import_incident(incident, events, "slack")
            return new_id or f"{incident.id} (over)"
    return None
