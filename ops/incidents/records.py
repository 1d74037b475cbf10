"""Where incidents stand now: in Postgres; while it is down in Redis; without both in Slack.

Only Postgres keeps what is over. What is entered elsewhere reaches its timeline by the first watch
that finds Postgres again.
"""

from datetime import datetime
from functools import partial
from typing import Any, Protocol

from lib.incidents import alerting, redis_store, slack_store, store
from lib.incidents.model import Incident
from lib.problems import CacheDown, DatabaseDown, NotConfigured, SlackError
from lib.services import Services
from ops.command import Failed

type Line = tuple[Any, ...]
"""seq, at, kind, actor, facts, note"""


class Record(Protocol):
    """name: in words. Every method may raise Refused."""

    name: str

    def recent(self, since: datetime) -> list[Incident]: ...
    def find(self, text: str) -> Incident: ...
    def timeline(self, incident: Incident) -> list[Line]: ...
    def acknowledge(self, text: str, who: str, now: datetime) -> Incident: ...
    def note(self, text: str, who: str, now: datetime, words: str) -> Incident: ...


def of(services: Services) -> Record:
    """The first that answers. Raises Failed when none does."""
    faults = []
    for kind in (InPostgres, InRedis, InSlack):
        try:
            return kind(services)
        except (DatabaseDown, CacheDown) as fault:
            faults.append(f"{kind.name} does not answer ({type(fault).__name__})")
        except (SlackError, NotConfigured) as fault:
            faults.append(f"{kind.name}: {fault}")
    raise Failed("; ".join(faults))


class InPostgres:
    name = "Postgres"

    def __init__(self, services: Services) -> None:
        self._run = alerting.with_unavailable_errors(services)
        store.list_open(self._run)
        self.recent = partial(store.list_recent, self._run)
        self.find = partial(store.find, self._run)
        self.acknowledge = partial(store.acknowledge, self._run)
        self.note = partial(store.add_note, self._run)

    def timeline(self, incident: Incident) -> list[Line]:
        return store.list_events(self._run, incident.id)


class InRedis:
    name = "Redis"

    def __init__(self, services: Services) -> None:
        self._command = services.cache.execute
        redis_store.list_open(self._command)
        self.acknowledge = partial(redis_store.acknowledge, self._command)
        self.note = partial(redis_store.add_note, self._command)

    def recent(self, _since: datetime) -> list[Incident]:
        return [one.incident for one in redis_store.list_open(self._command)]

    def find(self, text: str) -> Incident:
        return redis_store.find(self._command, text).incident

    def timeline(self, incident: Incident) -> list[Line]:
        """What Postgres has not been told yet."""
        return _numbered(redis_store.find(self._command, incident.id).pending_events)


class InSlack:
    name = "Slack"

    def __init__(self, services: Services) -> None:
        self._channel, self._links = services.slack, services.links
        if not self._channel.can_update:
            raise NotConfigured("SLACK_BOT_TOKEN", "is not set: a webhook cannot be read")
        slack_store.list_open(self._channel)

    def recent(self, _since: datetime) -> list[Incident]:
        return [one.incident for one in slack_store.list_open(self._channel)]

    def find(self, text: str) -> Incident:
        return slack_store.find(self._channel, text).incident

    def timeline(self, incident: Incident) -> list[Line]:
        held = slack_store.find(self._channel, incident.id)
        return _numbered(slack_store.events(self._channel, held))

    def acknowledge(self, text: str, who: str, now: datetime) -> Incident:
        return slack_store.acknowledge(self._channel, text, who, now, self._links)

    def note(self, text: str, who: str, now: datetime, words: str) -> Incident:
        return slack_store.add_note(self._channel, text, who, now, words)


def _numbered(events: Any) -> list[Line]:
    return [
        (seq, datetime.fromisoformat(at), kind, who, facts, words)
        for seq, (at, kind, who, facts, words) in enumerate(events, 1)
    ]
