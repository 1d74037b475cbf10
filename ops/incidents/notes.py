"""What commands did, kept on the open incidents.

A command must work while the database is down: a note that cannot be kept is told, and no more.
"""

from datetime import datetime
from typing import Any

from lib.incidents import alerting, store
from lib.problems import DatabaseDown, NotConfigured
from lib.services import Services

ACTOR = "ops"


def add_note_to_open(
    services: Services, kind: str, facts: dict[str, Any], words: str, now: datetime
) -> list[str]:
    """The ids of the open incidents that hold the note. words: a person's own."""
    try:
        run = alerting.with_unavailable_errors(services)
        return store.add_event_to_open(run, kind, ACTOR, now, facts, words)
    except (DatabaseDown, NotConfigured):
        return []


def raise_key_leaked(services: Services, what: str, now: datetime) -> None:
    """Open a Sev1, in Postgres, Redis or Slack alone, and tell Slack at once."""
    alerting.raise_alert(services, "key_leaked", what, now)
