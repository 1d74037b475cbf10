"""Postgres, by psycopg. Every use has a budget: a server that is gone or silent is DatabaseDown.

A query handed to `run` may run twice (a pooled connection can die between two requests, and a
lost reply looks the same), so it must be safe to repeat. Behind a transaction pooler there are no
prepared statements, no session SET, no session locks.

The pool is our own because psycopg_pool's callers learn of a server that refuses connections
after their whole timeout: 3,500 ms, here 1 ms (psycopg_pool 3.3.3, 2026-11); so long a lead would
wait for the queue. It imports and connects as fast (x 1.0).
"""

import queue
import select
import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg

from lib.circuit_breaker import CircuitBreaker
from lib.deadlines import PING
from lib.problems import DatabaseDown

MAX_IDLE_CONNECTIONS = 8  # an instance's; the pooler has one limit for all instances
# How long to wait for a connection in use, before opening another. Opening costs as much CPU as
# taking a lead; without the wait, 8 callers cost 1.5 x the CPU a lead.
ACQUIRE_TIMEOUT_S = 0.03
MAX_IDLE_AGE_S = 50.0  # below the idle timeouts of poolers and of the NAT between us and them
CONNECT_TIMEOUT_S = 2  # libpq takes no less
PING_TIMEOUT_S = 3.0
REUSED_TIMEOUT_RATIO = 0.4  # of the budget: how long a reused connection may be silent

# Raised by libpq itself, without a word from a server.
UNCLASSIFIED_ERRORS = (psycopg.Error, psycopg.DatabaseError)
# The server is at fault, not the statement: a second connection may do better.
OUTAGE_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError,
                 psycopg.errors.ReadOnlySqlTransaction)  # fmt: skip

type Query[R] = Callable[[psycopg.Connection[Any]], R]


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection whose every wait ends at `deadline` (time.monotonic seconds)."""

    deadline: float = float("inf")
    idle_since: float = 0.0

    def wait[R](
        self, gen: Generator[Any, Any, R], interval: float = 0.1, timeout: float | None = None
    ) -> R:
        left_s = max(0.001, self.deadline - time.monotonic())
        return super().wait(gen, interval, left_s if timeout is None else min(left_s, timeout))

    @property
    def is_usable(self) -> bool:
        """Whether an idle connection is young, and the server has not closed it."""
        if self.closed or time.monotonic() - self.idle_since > MAX_IDLE_AGE_S:
            return False
        # An idle server says nothing: readable means that it closed, or is about to.
        readable, _, _ = select.select([self.pgconn.socket], [], [], 0)
        return not readable


class Database:
    """Connections to one server, shared by an instance's threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: queue.LifoQueue[DeadlineConnection] = queue.LifoQueue(MAX_IDLE_CONNECTIONS)
        self._in_use: set[DeadlineConnection] = set()
        self.breaker = CircuitBreaker()

    def run[R](self, query: Query[R], *, budget_s: float = 3.5, even_if_open: bool = False) -> R:
        """Run a query that is safe to repeat, in autocommit mode, within budget_s seconds.

        even_if_open: ask the server although the circuit breaker is open; an answer closes it.
        Raises DatabaseDown when no server answers in time; whether the query took effect is then
        unknown. Errors of the statements themselves pass through.
        """
        if self.breaker.is_open and not even_if_open:
            raise DatabaseDown
        with self.breaker.watch():
            return self._run_with_retry(query, budget_s)

    def run_or_down[R](self, query: Query[R], **options: Any) -> R:
        """`run`, with DatabaseDown for an error of the statements too."""
        try:
            return self.run(query, **options)
        except psycopg.Error as error:
            raise DatabaseDown from error

    def ping(self, *, budget_s: float = PING_TIMEOUT_S) -> None:
        """Ask the server now, on a new connection. Raises DatabaseDown."""
        with self.breaker.watch():
            try:
                deadline = time.monotonic() + budget_s
                self._run_on(self._connect(), lambda connection: connection.execute(PING), deadline)
            except OUTAGE_ERRORS as error:
                raise DatabaseDown from error

    def probe(self, wait_s: float = 0.0) -> None:
        """Ask the server whether it is still down, if it was."""
        self.breaker.probe(self.ping, wait_s)

    @property
    def data_errors(self) -> tuple[type[Exception], ...]:
        """Errors of the values: no other server would take them either."""
        return (psycopg.DataError, psycopg.IntegrityError)

    @property
    def all_errors(self) -> tuple[type[Exception], ...]:
        """Everything a statement may raise, for a caller that has another source."""
        return (psycopg.Error,)

    def close(self) -> None:
        """Close the idle connections."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def _run_with_retry[R](self, query: Query[R], budget_s: float) -> R:
        deadline = time.monotonic() + budget_s
        if (reused := self._acquire()) is not None:
            try:
                reused_deadline = time.monotonic() + budget_s * REUSED_TIMEOUT_RATIO
                return self._run_on(reused, query, reused_deadline)
            except OUTAGE_ERRORS:
                pass  # most likely of this connection alone: a new one tells
        retried = False
        while True:
            try:
                return self._run_on(self._connect(), query, deadline)
            except OUTAGE_ERRORS as error:
                # A connection that was cut is worth a second try; a silent server is not.
                if retried or deadline - time.monotonic() < CONNECT_TIMEOUT_S:
                    raise DatabaseDown from error
                retried = True

    def _acquire(self) -> DeadlineConnection | None:
        """An idle connection, waiting a little for one in use; None: a new one is needed."""
        while True:
            try:
                connection = self._idle.get(timeout=ACQUIRE_TIMEOUT_S if self._in_use else 0)
            except queue.Empty:
                return None
            # In use at once: whoever finds none now waits for this one.
            self._in_use.add(connection)
            if connection.is_usable:
                return connection
            self._in_use.discard(connection)
            connection.close()

    def _release(self, connection: DeadlineConnection) -> None:
        connection.idle_since = time.monotonic()
        try:
            self._idle.put_nowait(connection)
        except queue.Full:
            connection.close()

    def _connect(self) -> DeadlineConnection:
        return DeadlineConnection.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="alfa-api",
        )

    def _run_on[R](self, connection: DeadlineConnection, query: Query[R], deadline: float) -> R:
        connection.deadline = deadline
        self._in_use.add(connection)
        is_done = False
        try:
            result = query(connection)
            is_done = True
        except psycopg.Error as error:
            if type(error) in UNCLASSIFIED_ERRORS or connection.closed:
                raise psycopg.OperationalError from error  # cut, or bytes that are no protocol
            raise
        finally:
            self._in_use.discard(connection)
            if is_done:
                self._release(connection)
            else:  # cheaper to open another than to find out what state this one is in
                connection.close()
        return result
