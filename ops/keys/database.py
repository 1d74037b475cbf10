"""The functions' login at Postgres: two roles take turns, so that both are good for a while.

A password goes over the wire as a SCRAM verifier, made here: no log of the server can hold it.
"""

import secrets
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from ops.keys.key_types import ACCEPTED, REFUSED, UNKNOWN, KeyType, ProbeResult

LOGIN_ROLES = ("alfa_api_a", "alfa_api_b")
APP_GROUP = "alfa_app"
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
        other = LOGIN_ROLES[1] if role == LOGIN_ROLES[0] else LOGIN_ROLES[0]
        password = secrets.token_urlsafe(32)
        with self._connect_as_owner() as owner:
            verifier = owner.pgconn.encrypt_password(
                password.encode(), other.encode(), b"scram-sha-256"
            )
            _enable_login(owner, other, verifier.decode())
        at = parts.netloc.rpartition("@")[2]
        made = f"{quote(other + dot + project)}:{quote(password, safe='')}@{at}"
        return urlunsplit(parts._replace(netloc=made))

    def revoke(self) -> None:
        """Nobody logs in with it, and whoever did is thrown out."""
        role = (urlsplit(self.old).username or "").partition(".")[0]
        name = sql.Identifier(role)
        with self._connect_as_owner() as owner:
            owner.execute(sql.SQL("alter role {} nologin password null").format(name))
            owner.execute(TERMINATE_SESSIONS, {"role": role})

    def probe(self, value: str) -> ProbeResult:
        try:
            with psycopg.connect(value, connect_timeout=CONNECT_S) as connection:
                connection.execute("select 1")
        except psycopg.OperationalError as fault:
            words = str(fault).lower()
            if any(no in words for no in LOGIN_REFUSED):
                return ProbeResult(REFUSED, "Postgres lets it in no more")
            return ProbeResult(UNKNOWN, "Postgres cannot be reached")
        return ProbeResult(ACCEPTED, "Postgres lets it in")

    def _connect_as_owner(self) -> psycopg.Connection[Any]:
        url = self.services.settings.database_direct_url
        return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_S)


def _enable_login(owner: psycopg.Connection[Any], role: str, verifier: str) -> None:
    name, group = sql.Identifier(role), sql.Identifier(APP_GROUP)
    known = owner.execute("select from pg_roles where rolname = %s", [role]).fetchone()
    if known is None:
        owner.execute(sql.SQL("create role {} nologin").format(name))
    owner.execute(sql.SQL("grant {} to {}").format(group, name))
    owner.execute(sql.SQL("alter role {} set statement_timeout = '8s'").format(name))
    words = sql.SQL("alter role {} login password {}").format(name, sql.Literal(verifier))
    owner.execute(words)
