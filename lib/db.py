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
from lib.circuit_breaker import Breaker
from lib.problems import DatabaseDown

with runtime.uncollected():
    import psycopg

MAX_IDLE = 8  # connections an instance keeps; the pooler has one limit for all instances
# Whoever finds none waits so long for another request's, which is done in a fraction of that:
# opening one costs as much CPU as taking a lead.
PATIENCE_S = 0.03
MAX_IDLE_AGE_S = 50.0  # below the idle timeouts of poolers and of the NAT between us and them
CONNECT_BUDGET_S = 2  # libpq takes no less
PROBE_BUDGET_S = 3.0
REUSE_SHARE = 0.4  # of the budget: how long a reused connection may be silent before a new one

# What says "the server", not "the statement": a second connection may do better.
VAGUE = (psycopg.Error, psycopg.DatabaseError)  # libpq's own, with nothing said by a server
DOWN = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)


class BoundedConnection(psycopg.Connection[Any]):
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
    def lively(self) -> bool:
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
        self._idle: deque[BoundedConnection] = deque()
        self._in_use: set[BoundedConnection] = set()
        self._returned = threading.Condition()
        self._coming = threading.local()
        self.breaker = Breaker()

    def ahead(self) -> None:
        """Begin to open a connection for this thread's next `run`, while it asks somebody else.

        Nothing happens where one is kept to be used again or is about to be, or the server is known
        to be down.
        """
        if self.breaker.open or self._in_use:
            return
        kept = self._take()
        if kept is not None:
            self._in_use.discard(kept)
            self._idle.append(kept)
            return
        self._coming.opening = _Opening(self)
        self._coming.opening.start()

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
        if self.breaker.open and not even_if_open:
            raise DatabaseDown
        result = self._run(work, budget_s)
        self.breaker.reset()
        return result

    def run_or_down[R](self, work: Callable[[psycopg.Connection[Any]], R], **bounds: Any) -> R:
        """`run`, for whoever has nothing to do with why: DatabaseDown for a refusal too."""
        try:
            return self.run(work, **bounds)
        except psycopg.Error as fault:
            raise DatabaseDown from fault

    def _run[R](self, work: Callable[[psycopg.Connection[Any]], R], budget_s: float) -> R:
        deadline = time.monotonic() + budget_s
        opening: _Opening | None = self._coming.__dict__.pop("opening", None)
        connection = self._take(PATIENCE_S if opening is None else 0.0)
        retried = False
        if connection is not None:
            try:
                patience_s = budget_s * REUSE_SHARE
                return self._use(connection, work, time.monotonic() + patience_s)
            except DOWN:
                pass  # most likely the connection alone: a new one tells
        while True:
            try:
                new = self.open() if opening is None else self._come(opening, deadline)
                return self._use(new, work, deadline)
            except DOWN as fault:
                # A line cut in the middle is worth a second try; a silent server is not.
                if retried or deadline - time.monotonic() < CONNECT_BUDGET_S:
                    self.breaker.trip()
                    raise DatabaseDown from fault
                retried, opening = True, None

    def ping(self, *, budget_s: float = PROBE_BUDGET_S) -> None:
        """Ask the server now, whatever is remembered of it. Raises DatabaseDown."""
        try:
            self._use(self.open(), _ask, time.monotonic() + budget_s)
        except DOWN as fault:
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
    def poison(self) -> tuple[type[Exception], ...]:
        """Errors that say the values are at fault: no other server would take them either."""
        return (psycopg.DataError, psycopg.IntegrityError)

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """Everything a statement may fail with, for whoever has another source to turn to."""
        return (psycopg.Error,)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _take(self, patience_s: float = 0.0) -> BoundedConnection | None:
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
            if connection.lively:
                return connection
            self._in_use.discard(connection)
            connection.close()

    def _come(self, opening: "_Opening", deadline: float) -> BoundedConnection:
        """The connection that is on its way, or whichever came back meanwhile."""
        opening.join(max(0.0, deadline - time.monotonic()))
        if opening.is_alive() or opening.fault is not None:
            raise psycopg.OperationalError("none came") from opening.fault
        return self._take() or self.open()

    def keep(self, connection: BoundedConnection) -> None:
        """Have it used again; close it where enough are kept."""
        if len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        with self._returned:
            self._idle.append(connection)
            self._returned.notify()

    def open(self) -> BoundedConnection:
        """A new connection. Raises psycopg.Error after CONNECT_BUDGET_S at most."""
        return BoundedConnection.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=CONNECT_BUDGET_S,
            application_name="alfa-api",
        )

    def _use[R](
        self,
        connection: BoundedConnection,
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
            if type(fault) in VAGUE or connection.closed:
                # Bytes that are no protocol, or a line cut in the middle of an answer.
                raise psycopg.OperationalError from fault
            raise
        finally:
            self._in_use.discard(connection)
            if finished:
                self.keep(connection)
            else:
                # Cheaper to open another than to find out what state this one is in.
                connection.close()
        return result


class _Opening(threading.Thread):
    """A connection on its way. fault: why it did not come."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self._database = database
        self.fault: psycopg.Error | None = None

    def run(self) -> None:
        try:
            self._database.keep(self._database.open())
        except psycopg.Error as fault:
            self.fault = fault


PING = "select 1"


def _ask(connection: psycopg.Connection[Any]) -> None:
    connection.execute(PING)
