"""Connections to Postgres: one may be coming while somebody else is asked; none is waited for
longer than its user has."""

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
from tests.conftest import eventually

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


def test_a_connection_is_opened_while_somebody_else_is_asked(far: Database) -> None:
    far.preconnect()
    assert eventually(lambda: len(far._idle)) == 1
    first = far.run(who)
    far.preconnect()  # there is one to use again
    assert (far.run(who), far.run(who), len(far._idle)) == (first, first, 1)


def test_what_is_still_coming_is_waited_for_and_not_opened_twice(
    far: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = far.connect

    def count() -> db.DeadlineConnection:
        opened.append(threading.current_thread())
        return real()

    monkeypatch.setattr(far, "open", count)
    far.preconnect()
    assert not far._idle
    far.run(who)
    assert len(opened) == 1
    assert opened[0] is not threading.current_thread()


def test_none_is_opened_ahead_while_one_is_in_use_and_will_soon_be_free(far: Database) -> None:
    def meanwhile(connection: psycopg.Connection[tuple[int]]) -> int:
        far.preconnect()
        return who(connection)

    far.run(meanwhile)
    assert "opening" not in far._preconnecting.__dict__


def test_a_connection_that_died_while_kept_is_replaced_ahead(far: Database) -> None:
    first = far.run(who)
    far._idle[0].close()
    far.preconnect()
    assert eventually(lambda: len(far._idle)) == 1
    assert far.run(who) != first


def test_whoever_finds_none_waits_a_little_for_anothers(
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
    assert len(far._idle) == 2


def test_no_more_are_kept_than_the_pooler_can_spare(far: Database) -> None:
    together = threading.Barrier(db.MAX_IDLE_CONNECTIONS + 2)

    def meanwhile(connection: psycopg.Connection[tuple[int]]) -> int:
        together.wait(10)
        return who(connection)

    threads = [threading.Thread(target=far.run, args=(meanwhile,)) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(far._idle) == db.MAX_IDLE_CONNECTIONS


def test_what_does_not_come_counts_as_the_first_try(
    silent: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait that began ahead is not begun again."""
    silent.preconnect()
    began = time.monotonic()
    with pytest.raises(DatabaseDown):
        silent.run(who)
    assert time.monotonic() - began < db.CONNECT_TIMEOUT_S + 1
    assert silent.breaker.is_open
    silent.preconnect()
    assert "opening" not in silent._preconnecting.__dict__, "known to be down: nothing is tried"


def test_no_more_is_waited_than_there_is_time(silent: Database) -> None:
    silent.preconnect()
    began = time.monotonic()
    with pytest.raises(DatabaseDown):
        silent.run(who, budget_s=0.2)
    assert time.monotonic() - began < 1


def test_a_fault_met_ahead_is_the_requests_own_to_meet() -> None:
    gone = Database("postgresql://alfa@127.0.0.1:1/alfa")
    gone.preconnect()
    with pytest.raises(DatabaseDown):
        gone.run(who)
