"""A deadline for calls to a server that may never answer.

Connecting, or a client's own deadline, may take longer than a response may.
"""

import contextvars
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lib.problems import DatabaseDown

if TYPE_CHECKING:
    from psycopg import Connection

    from lib.interfaces import RunQuery

PING = "select 1"


def call_with_deadline[T](work: Callable[[], T], seconds: float) -> T:
    """The result or error of `work`. TimeoutError when it takes longer: it then goes on in its
    thread, and ends by its own deadlines."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def require_database_answer(run: "RunQuery", seconds: float) -> None:
    """Raises DatabaseDown unless the database answers a ping in time."""

    def ping(connection: "Connection[Any]") -> bool:
        connection.execute(PING)
        return True

    try:
        call_with_deadline(lambda: run(ping, budget_s=seconds), seconds)
    except TimeoutError as error:
        raise DatabaseDown from error
