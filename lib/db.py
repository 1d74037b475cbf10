"""Postgres. Every use has a budget: a server that is gone or silent is DatabaseDown in time.

The rule a newcomer would break: work handed to `run` may be run twice (a pooled connection can
die between two requests, and a lost reply looks the same), so it must be repeat-safe.
Behind a transaction pooler there are no prepared statements, no session SET, no session locks.
"""

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from lib import runtime
from lib.circuit_breaker import CircuitBreaker
from lib.problems import DatabaseDown

with runtime.gc_paused():
    import psycopg

MAX_IDLE_CONNECTIONS = (
    8  # connections an instance keeps; the pooler has one limit for all instances
)
# Whoever finds none waits so long for another request's, which is done in a fraction of that:
# opening one costs as much CPU as taking a lead.
ACQUIRE_TIMEOUT_S = 0.03
MAX_IDLE_AGE_S = 50.0  # below the idle timeouts of poolers and of the NAT between us and them
CONNECT_TIMEOUT_S = 2  # libpq takes no less
PING_TIMEOUT_S = 3.0
REUSED_TIMEOUT_RATIO = (
    0.4  # of the budget: how long a reused connection may be silent before a new one
)

# What says "the server", not "the statement": a second connection may do better.
UNCLASSIFIED_ERRORS = (
    psycopg.Error,
    psycopg.DatabaseError,
)  # libpq's own, with nothing said by a server
OUTAGE_ERRORS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
)


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection whose every wait ends at `deadline` (time.monotonic seconds)."""

    deadline: float = float("inf")
    idle_since: float = 0.0

    def wait[R](
        self,
        gen: Generator[Any, Any, R],
        interval: float = 0.1,
        timeout: float | None = None,
    ) -> R:
        left = max(0.001, self.deadline - time.monotonic())
        return super().wait(gen, interval, left if timeout is None else min(left, timeout))

    @property
    def is_usable(self) -> bool:
        """Whether it is worth using again: young, and nothing said by the server since."""
        if self.closed or time.monotonic() - self.idle_since > MAX_IDLE_AGE_S:
            return False
        # An idle server says nothing; readable means it closed, or is about to.
        readable, _, _ = select.select([self.pgconn.socket], [], [], 0)
        return not readable


class Database:
    """Connections to one server, shared by an instance's threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: deque[DeadlineConnection] = deque()
        self._in_use: set[DeadlineConnection] = set()
        self._returned = threading.Condition()
        self._preconnecting = threading.local()
        self.breaker = CircuitBreaker()

    def preconnect(self) -> None:
        """Begin to open a connection for this thread's next `run`, while it asks somebody else.

        Nothing happens where one is kept to be used again or is about to be, or the server is known
        to be down.
        """
        if self.breaker.is_open or self._in_use:
            return
        kept = self._acquire()
        if kept is not None:
            self._in_use.discard(kept)
            self._idle.append(kept)
            return
        self._preconnecting.opening = _ConnectThread(self)
        self._preconnecting.opening.start()

    def run[R](
        self,
        work: Callable[[psycopg.Connection[Any]], R],
        *,
        budget_s: float = 3.5,
        even_if_open: bool = False,
    ) -> R:
        """Run repeat-safe work on a connection in autocommit mode, within budget_s seconds.

        even_if_open: ask the server although the circuit breaker is open; an answer closes it.
        Raises DatabaseDown when no server answers in time; whether the work was done is then
        unknown. Errors of the statements themselves pass through.
        """
        if self.breaker.is_open and not even_if_open:
            raise DatabaseDown
        result = self._run_with_retry(work, budget_s)
        self.breaker.reset()
        return result

    def run_or_down[R](self, work: Callable[[psycopg.Connection[Any]], R], **bounds: Any) -> R:
        """`run`, for whoever has nothing to do with why: DatabaseDown for a refusal too."""
        try:
            return self.run(work, **bounds)
        except psycopg.Error as fault:
            raise DatabaseDown from fault

    def _run_with_retry[R](
        self, work: Callable[[psycopg.Connection[Any]], R], budget_s: float
    ) -> R:
        deadline = time.monotonic() + budget_s
        opening: _ConnectThread | None = self._preconnecting.__dict__.pop("opening", None)
        connection = self._acquire(ACQUIRE_TIMEOUT_S if opening is None else 0.0)
        retried = False
        if connection is not None:
            try:
                patience_s = budget_s * REUSED_TIMEOUT_RATIO
                return self._run_on(connection, work, time.monotonic() + patience_s)
            except OUTAGE_ERRORS:
                pass  # most likely the connection alone: a new one tells
        while True:
            try:
                new = (
                    self.connect() if opening is None else self._join_preconnect(opening, deadline)
                )
                return self._run_on(new, work, deadline)
            except OUTAGE_ERRORS as fault:
                # A line cut in the middle is worth a second try; a silent server is not.
                if retried or deadline - time.monotonic() < CONNECT_TIMEOUT_S:
                    self.breaker.trip()
                    raise DatabaseDown from fault
                retried, opening = True, None

    def ping(self, *, budget_s: float = PING_TIMEOUT_S) -> None:
        """Ask the server now, whatever is remembered of it. Raises DatabaseDown."""
        try:
            self._run_on(self.connect(), _ping, time.monotonic() + budget_s)
        except OUTAGE_ERRORS as fault:
            self.breaker.trip()
            raise DatabaseDown from fault
        self.breaker.reset()

    def probe(self, wait_s: float = 0.0) -> None:
        """Find out, if it was down, whether it still is."""
        if self.breaker.claim_probe(wait_s):
            try:
                self.ping()
            except DatabaseDown:
                pass  # and remembered
            finally:
                self.breaker.release_probe()

    @property
    def data_errors(self) -> tuple[type[Exception], ...]:
        """Errors that say the values are at fault: no other server would take them either."""
        return (psycopg.DataError, psycopg.IntegrityError)

    @property
    def all_errors(self) -> tuple[type[Exception], ...]:
        """Everything a statement may fail with, for whoever has another source to turn to."""
        return (psycopg.Error,)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _acquire(self, patience_s: float = 0.0) -> DeadlineConnection | None:
        end = time.monotonic() + patience_s
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                left_s = end - time.monotonic()
                if left_s <= 0 or not self._in_use:
                    return None
                with self._returned:
                    self._returned.wait_for(lambda: self._idle, left_s)
                continue
            # In use at once: whoever finds none now waits for this one.
            self._in_use.add(connection)
            if connection.is_usable:
                return connection
            self._in_use.discard(connection)
            connection.close()

    def _join_preconnect(self, opening: "_ConnectThread", deadline: float) -> DeadlineConnection:
        """The connection that is on its way, or whichever came back meanwhile."""
        opening.join(max(0.0, deadline - time.monotonic()))
        if opening.is_alive() or opening.error is not None:
            raise psycopg.OperationalError("none came") from opening.error
        return self._acquire() or self.connect()

    def release(self, connection: DeadlineConnection) -> None:
        """Have it used again; close it where enough are kept."""
        if len(self._idle) >= MAX_IDLE_CONNECTIONS:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        with self._returned:
            self._idle.append(connection)
            self._returned.notify()

    def connect(self) -> DeadlineConnection:
        """A new connection. Raises psycopg.Error after CONNECT_BUDGET_S at most."""
        return DeadlineConnection.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="alfa-api",
        )

    def _run_on[R](
        self,
        connection: DeadlineConnection,
        work: Callable[[psycopg.Connection[Any]], R],
        deadline: float,
    ) -> R:
        connection.deadline = deadline
        self._in_use.add(connection)
        finished = False
        try:
            result = work(connection)
            finished = True
        except psycopg.Error as fault:
            if type(fault) in UNCLASSIFIED_ERRORS or connection.closed:
                # Bytes that are no protocol, or a line cut in the middle of an answer.
                raise psycopg.OperationalError from fault
            raise
        finally:
            self._in_use.discard(connection)
            if finished:
                self.release(connection)
            else:
                # Cheaper to open another than to find out what state this one is in.
                connection.close()
        return result


class _ConnectThread(threading.Thread):
    """A connection on its way. fault: why it did not come."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self._database = database
        self.error: psycopg.Error | None = None

    def run(self) -> None:
        try:
            self._database.release(self._database.connect())
        except psycopg.Error as fault:
            self.error = fault


PING = "select 1"


def _ping(connection: psycopg.Connection[Any]) -> None:
    connection.execute(PING)
