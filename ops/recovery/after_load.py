"""The steps after a backup was loaded, shared by the drill and the real restore.

Each may be repeated, and returns what it did, in words.
"""

import contextlib
import sys
from datetime import datetime
from types import SimpleNamespace

import psycopg
from psycopg.conninfo import conninfo_to_dict

from lib.services import Services
from ops import connections
from ops.command import Failed
from ops.keys.database import enable_login
from ops.leads import commands
from ops.recovery import journal, migrations, postgres
from ops.settings import OperatorServices

# A mail the backup holds as unsent may have left after it was taken. Marked so, it is sent again
# only while Resend still knows its idempotency key; then a person looks at it.
MARK_MAILS_UNCERTAIN = """
update outbox set uncertain = true, first_attempt_at = coalesce(first_attempt_at, created_at),
  leased_until = null
where sent_at is null and dead_at is null
"""


def set_app_password(dsn: str, database_url: str) -> str:
    """Make the functions' role log in with the password of `database_url`. Raises Failed.

    Supabase's daily backups do not hold the passwords of roles.
    """
    parts = conninfo_to_dict(database_url)
    role = str(parts.get("user", "")).partition(".")[0]  # the pooler's users are role.project
    password = str(parts.get("password", ""))
    if not role or not password:
        raise Failed("DATABASE_URL names no user and password", status=2)
    with postgres.connect(dsn) as connection, connection.transaction():
        if connection.info.user.partition(".")[0] == role:
            raise Failed("DATABASE_URL is the owner's: the functions need a role of their own")
        enable_login(connection, role, password)
    try:
        psycopg.connect(database_url, connect_timeout=postgres.CONNECT_S).close()
    except psycopg.OperationalError as error:
        raise Failed(f"{role} still cannot log in ({connections.explain_reason(error)})") from None
    return f"{role} logs in"


def migrate(dsn: str) -> str:
    """Apply newer migrations, and mark unsent mails before any of them leaves."""
    applied = migrations.apply(dsn)
    with postgres.connect(dsn) as connection:
        uncertain = connection.execute(MARK_MAILS_UNCERTAIN).rowcount
    return f"{len(applied)} applied; {uncertain} mails may have been sent"


def replay_journal(services: Services, now: datetime) -> str:
    stats = journal.replay(services, now)
    text = ", ".join(f"{name} {count}" for name, count in stats.as_dict().items())
    if stats.unreadable or stats.refused:
        raise Failed(f"not every lead of the journal could be stored: {text}")
    return text


def send_canary(services: OperatorServices, *, past_maintenance: bool = False) -> str:
    """`ops canary`, its lines on standard error. Raises Failed."""
    args = SimpleNamespace(site=None, past_maintenance=past_maintenance, json=False)
    with contextlib.redirect_stdout(sys.stderr):
        if commands.run_canary(services, args) != 0:
            raise Failed("a synthetic lead did not get through")
    return "a lead was accepted by HTTP, stored, and its mails left"
