"""The functions' login at Postgres: two roles alternate, so that both are valid for a while.

A password is sent as a SCRAM verifier, computed here: no log of the server can hold it.
"""

import secrets
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from ops import connections
from ops.keys.key_types import ACCEPTED, REFUSED, UNKNOWN, KeyType, ProbeResult

LOGIN_ROLES = ("alfa_api_a", "alfa_api_b")
APP_GROUP = "alfa_app"
STATEMENT_TIMEOUT = "8s"
CONNECT_S = 5
LOGIN_REFUSED = (
    "password authentication failed",
    "not permitted to log in",
    "wrong password",  # Supabase's pooler
    "tenant or user not found",
)
TERMINATE_SESSIONS = """
select pg_terminate_backend(pid) from pg_stat_activity
where usename = %(role)s and pid <> pg_backend_pid()
"""


class DatabaseRole(KeyType):
    def create(self, mark: str) -> str:
        parts = urlsplit(self.old)
        role, dot, project = (parts.username or "").partition(".")
        next_role = LOGIN_ROLES[1] if role == LOGIN_ROLES[0] else LOGIN_ROLES[0]
        password = secrets.token_urlsafe(32)
        with self._connect_as_owner() as owner:
            enable_login(owner, next_role, password)
        address = parts.netloc.rpartition("@")[2]
        netloc = f"{quote(next_role + dot + project)}:{quote(password, safe='')}@{address}"
        return urlunsplit(parts._replace(netloc=netloc))

    def revoke(self) -> None:
        """Disable the login and end its sessions."""
        role = (urlsplit(self.old).username or "").partition(".")[0]
        disable = sql.SQL("alter role {} nologin password null").format(sql.Identifier(role))
        with self._connect_as_owner() as owner:
            owner.execute(disable)
            owner.execute(TERMINATE_SESSIONS, {"role": role})

    def probe(self, value: str) -> ProbeResult:
        try:
            with psycopg.connect(value, connect_timeout=CONNECT_S) as connection:
                connection.execute("select 1")
        except psycopg.OperationalError as error:
            text = str(error).lower()
            if any(phrase in text for phrase in LOGIN_REFUSED):
                return ProbeResult(REFUSED, "Postgres refuses the login")
            return ProbeResult(UNKNOWN, connections.explain(error))
        return ProbeResult(ACCEPTED, "Postgres accepts the login")

    def _connect_as_owner(self) -> psycopg.Connection[Any]:
        url = self.services.settings.database_direct_url
        return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_S)


def enable_login(owner: psycopg.Connection[Any], role: str, password: str) -> None:
    """Create the role, or change it: it logs in with the password, with the functions' rights."""
    verifier = owner.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    row = owner.execute("select from pg_roles where rolname = %s", [role]).fetchone()
    name, text = sql.Identifier(role), sql.Literal(verifier.decode())
    for statement in (
        sql.SQL("{} role {} login password {}").format(
            sql.SQL("create" if row is None else "alter"), name, text
        ),
        sql.SQL("grant {} to {}").format(sql.Identifier(APP_GROUP), name),
        sql.SQL("alter role {} set statement_timeout = {}").format(
            name, sql.Literal(STATEMENT_TIMEOUT)
        ),
    ):
        owner.execute(statement)
