"""What packages work with: a way to run a query, and the services of an instance.

Only the type checker follows these names to `lib.services` and the vendor helpers: so a package
that uses them imports no vendor and no settings.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lib import app, cache, db, encryption, mail, services, slack

type RunQuery = Callable[..., Any]
"""`run(query, budget_s=...)` gives `query(connection)` on Postgres. A query may run twice, so it
must be safe to repeat. Raises DatabaseDown."""

type RedisExecute = Callable[..., Any]
"""`Cache.execute`: one command's result. Raises CacheDown."""

type RedisPipeline = Callable[..., list[Any]]
"""`Cache.pipeline`: the results of several commands. Raises CacheDown."""

type StoreCheck = Callable[[RunQuery, datetime], str | None]
"""Why Postgres would refuse any lead (lib/monitoring/statement_check.py); None if it would not."""

type Services = services.Services
"""An attribute may raise NotConfigured, which counts as down."""

type Context = app.Context
"""One request (lib/app.py)."""

type Database = db.Database
type Cache = cache.Cache
type RedisCommand = cache.Command
type Cipher = encryption.SecretBoxCipher
type Mailer = mail.Mailer
type Email = mail.Email
type Slack = slack.Slack

type MessageRef = tuple[str, str]
"""A Slack message: channel and ts; ts is '' where it cannot be edited."""


class Message(NamedTuple):
    """What Slack is given. text: what a notification shows. metadata: finds the message again."""

    text: str
    blocks: tuple[dict[str, Any], ...]
    metadata: Mapping[str, str] = {}
