"""The pool of connections to Postgres: none is waited for longer than its caller has."""

import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from dev.bench.functions.wire import Wire
from dev.platform.local_platform import Platform
from lib import db
from lib.db import Database
from lib.problems import DatabaseDown

WAY_S = 0.03  # to Postgres and back


def who(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def far(platform: Platform, database: object) -> Iterator[Database]:
    wire = Wire(platform.postgres.port, WAY_S)
    at = platform.database_url.replace(f":{platform.postgres.port}/", f":{wire.port}/")
    made = Database(at)
    yield made
    made.close()
    wire.close()


@pytest.fixture
def silent() -> Iterator[Database]:
    """A server that lets in and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Database(f"postgresql://alfa@127.0.0.1:{listener.getsockname()[1]}/alfa")


def test_a_caller_without_a_free_connection_waits_briefly_for_one(
    far: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight callers at once do not open eight connections, each of which costs more than a lead."""
    monkeypatch.setattr(db, "ACQUIRE_TIMEOUT_S", 2.0)
    first = far.run(who)
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(far.run(who))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [first] * 8


def test_a_connection_long_in_use_is_not_waited_for(far: Database) -> None:
    inside, done = threading.Event(), threading.Event()

    def hold(connection: psycopg.Connection[tuple[int]]) -> int:
        inside.set()
        done.wait(10)
        return who(connection)

    holder = threading.Thread(target=far.run, args=(hold,))
    holder.start()
    assert inside.wait(5)
    far.run(who)
    assert holder.is_alive()
    done.set()
    holder.join()
    assert far._idle.qsize() == 2


def test_idle_connections_are_limited(far: Database) -> None:
    together = threading.Barrier(db.MAX_IDLE_CONNECTIONS + 2)

    def meanwhile(connection: psycopg.Connection[tuple[int]]) -> int:
        together.wait(10)
        return who(connection)

    threads = [threading.Thread(target=far.run, args=(meanwhile,)) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert far._idle.qsize() == db.MAX_IDLE_CONNECTIONS


def test_a_connection_that_died_while_idle_is_replaced(far: Database) -> None:
    first = far.run(who)
    far._idle.queue[0].close()
    assert far.run(who) != first
    assert far._idle.qsize() == 1


@pytest.mark.measures_time
def test_a_silent_server_is_given_up_at_the_connect_timeout(silent: Database) -> None:
    began = time.monotonic()
    with pytest.raises(DatabaseDown):
        silent.run(who)
    assert time.monotonic() - began < db.CONNECT_TIMEOUT_S + 1
    assert silent.breaker.is_open


@pytest.mark.measures_time
def test_a_server_that_refuses_connections_is_down_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(DatabaseDown):
        Database("postgresql://alfa@127.0.0.1:1/alfa").run(who)
    assert time.monotonic() - began < 1
