"""The functions' login at Postgres: two roles take turns, so that both are good for a while.

A password goes over the wire as a SCRAM verifier, made here: no log of the server can hold it.
"""

import secrets
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from ops.keys.key_types import ACCEPTED, REFUSED, UNKNOWN, Kind, Probe

ROLES = ("alfa_api_a", "alfa_api_b")
GROUP = "alfa_app"
CONNECT_S = 5
SAID_NO = (
    "password authentication failed",
    "not permitted to log in",
    "wrong password",  # Supabase's pooler
    "tenant or user not found",
)
END_SESSIONS = """
select pg_terminate_backend(pid) from pg_stat_activity
where usename = %(role)s and pid <> pg_backend_pid()
"""


class DatabaseRole(Kind):
    def create(self, mark: str) -> str:
        parts = urlsplit(self.old)
        role, dot, project = (parts.username or "").partition(".")
        other = ROLES[1] if role == ROLES[0] else ROLES[0]
        password = secrets.token_urlsafe(32)
        with self._owner() as owner:
            verifier = owner.pgconn.encrypt_password(
                password.encode(), other.encode(), b"scram-sha-256"
            )
            _log_in(owner, other, verifier.decode())
        at = parts.netloc.rpartition("@")[2]
        made = f"{quote(other + dot + project)}:{quote(password, safe='')}@{at}"
        return urlunsplit(parts._replace(netloc=made))

    def revoke(self) -> None:
        """Nobody logs in with it, and whoever did is thrown out."""
        role = (urlsplit(self.old).username or "").partition(".")[0]
        name = sql.Identifier(role)
        with self._owner() as owner:
            owner.execute(sql.SQL("alter role {} nologin password null").format(name))
            owner.execute(END_SESSIONS, {"role": role})

    def probe(self, value: str) -> Probe:
        try:
            with psycopg.connect(value, connect_timeout=CONNECT_S) as connection:
                connection.execute("select 1")
        except psycopg.OperationalError as fault:
            words = str(fault).lower()
            if any(no in words for no in SAID_NO):
                return Probe(REFUSED, "Postgres lets it in no more")
            return Probe(UNKNOWN, "Postgres cannot be reached")
        return Probe(ACCEPTED, "Postgres lets it in")

    def _owner(self) -> psycopg.Connection[Any]:
        url = self.services.settings.database_direct_url
        return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_S)


def _log_in(owner: psycopg.Connection[Any], role: str, verifier: str) -> None:
    name, group = sql.Identifier(role), sql.Identifier(GROUP)
    known = owner.execute("select from pg_roles where rolname = %s", [role]).fetchone()
    if known is None:
        owner.execute(sql.SQL("create role {} nologin").format(name))
    owner.execute(sql.SQL("grant {} to {}").format(group, name))
    owner.execute(sql.SQL("alter role {} set statement_timeout = '8s'").format(name))
    words = sql.SQL("alter role {} login password {}").format(name, sql.Literal(verifier))
    owner.execute(words)
