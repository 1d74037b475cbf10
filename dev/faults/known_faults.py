"""What can be broken around the functions, by name, and how."""

import contextlib
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
from psycopg import sql

from dev.faults.schema import CHANGES, TABLES
from dev.vendors.fault_switch import InvalidFault


class FaultTarget(Protocol):
    """Something with a switch: a fault proxy, a vendor's stand-in, the database's inside."""

    def switch(self, mode: str = "ok", **options: Any) -> None: ...
    def ok(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Fault:
    """target: an attribute of SiteUnderTest; options: what its switch takes beside the mode."""

    target: str
    mode: str
    options: dict[str, Any] = field(default_factory=dict)

    def apply(self, site: object) -> None:
        part: FaultTarget = getattr(site, self.target)
        part.switch(self.mode, **self.options)

    def __str__(self) -> str:
        options = "".join(f" {value}" for value in self.options.values())
        return f"{self.target} {self.mode}{options}"


SCHEMA = tuple(Fault("schema", mode, {"table": table}) for table in TABLES for mode in CHANGES)
# Of one group, for DDL waits for ever behind a locked table.
DATABASE = (
    *SCHEMA,
    Fault("database", "refuse"),
    Fault("database", "reset"),
    Fault("database", "stall"),
    Fault("database", "slow", {"delay_s": 0.2}),
    Fault("database", "drop_reply", {"match": "accept_lead", "times": 3}),
    Fault("database", "drop_reply", {"match": "update outbox", "times": 3}),
    Fault("database", "garbage"),
    Fault("database", "kill"),
    Fault("database", "orphan"),
    Fault("inside", "locked"),
    Fault("inside", "read_only"),
    Fault("inside", "full"),
)
REDIS = (
    Fault("redis", "refuse"),
    Fault("redis", "reset"),
    Fault("redis", "stall"),
    Fault("redis", "slow", {"delay_s": 0.2}),
    Fault("redis", "drop_reply", {"match": "queue"}),
    Fault("redis", "drop_reply", {"match": "eval", "times": 2}),
    Fault("redis", "garbage"),
    Fault("redis", "kill"),
    Fault("upstash", "fail"),
    Fault("upstash", "rate_limit"),
)
MAIL = (
    Fault("resend", "fail"),
    Fault("resend", "stall"),
    Fault("resend", "slow", {"delay_s": 1.0}),
    Fault("resend", "lose_reply"),
    Fault("resend", "rate_limit"),
    Fault("resend", "reset"),
)
ALERTS = (
    Fault("sentry", "stall"),
    Fault("slack", "stall"),
)
FALLBACK_STORES = (REDIS, MAIL)
"""What still takes a lead when Postgres does not: one group each."""

ALL = (*DATABASE, *REDIS, *MAIL, *ALERTS)


class ServerFaults:
    """Faults of the server itself, from a superuser's side.

    locked: table leads is locked, statements wait for ever. read_only: the functions' role may
    only read, as on a standby. full: its connections are refused, as when there are too many.
    """

    def __init__(self, admin_dsn: str, role: str) -> None:
        self._dsn = admin_dsn
        self._name = role
        self._role = sql.Identifier(role)
        self._holder: psycopg.Connection[Any] | None = None
        self._lock = threading.Lock()

    def switch(self, mode: str = "ok", **options: Any) -> None:
        if mode not in ("ok", "locked", "read_only", "full") or options:
            raise InvalidFault(f"{mode} {options}: the database's inside knows no such fault")
        self.ok()
        if mode == "locked":
            with self._lock:
                self._holder = psycopg.connect(self._dsn)
                self._holder.execute("lock table leads in access exclusive mode")
        elif mode == "read_only":
            self._alter(sql.SQL("alter role {} set default_transaction_read_only = on"))
            self.end_sessions()
        elif mode == "full":
            self._alter(sql.SQL("alter role {} connection limit 0"))
            self.end_sessions()

    def ok(self) -> None:
        with self._lock:
            if self._holder is not None:
                self._holder.close()
                self._holder = None
        self._alter(
            sql.SQL("alter role {} connection limit -1"),
            sql.SQL("alter role {} reset default_transaction_read_only"),
        )

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self.ok()

    def end_sessions(self) -> int:
        """Terminate every session of the functions' role; how many there were."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            return connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s",
                [self._name],
            ).rowcount

    def _alter(self, *statements: sql.SQL) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.format(self._role))
