"""The fault proxy itself: what each mode does to a connection, seen from both ends."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.faults.fault_proxy import FaultProxy
from dev.platform.local_platform import Platform
from dev.vendors.fault_switch import InvalidFault

PATIENCE_S = 0.8


class Echo:
    """A server that answers every chunk with `>` and the chunk, and keeps what it got."""

    def __init__(self) -> None:
        self.got = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(65536):
                self.got += data
                peer.sendall(b">" + data)


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    made = FaultProxy("127.0.0.1", echo.port)
    yield made
    made.close()


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as made:
        yield made


def say(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return client.recv(65536)


def connect_and_say(proxy: FaultProxy, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as client:
        return say(client, text)


def test_bytes_and_end_of_stream_pass_both_ways(client: socket.socket, proxy: FaultProxy) -> None:
    assert say(client, b"hello") == b">hello"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b""
    assert proxy.counts() == {"accepted": 1}


def test_refuse_cuts_and_refuses_until_it_is_over_on_the_same_port(
    client: socket.socket, proxy: FaultProxy
) -> None:
    assert say(client, b"a") == b">a"
    proxy.switch("refuse")
    assert client.recv(10) == b""
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S)
    proxy.ok()
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as again:
        assert say(again, b"b") == b">b"


def test_reset_resets_what_is_open_and_what_comes(client: socket.socket, proxy: FaultProxy) -> None:
    assert say(client, b"a") == b">a"
    proxy.switch("reset")
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    with pytest.raises(ConnectionResetError):
        connect_and_say(proxy, b"b")


def test_stall_lets_nothing_pass_and_delivers_it_late(
    client: socket.socket, proxy: FaultProxy, echo: Echo
) -> None:
    assert say(client, b"a") == b">a"
    proxy.switch("stall")
    with pytest.raises(TimeoutError):
        say(client, b"b")
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as other:
        with pytest.raises(TimeoutError):
            say(other, b"c")
        assert echo.got == b"a"
        proxy.ok()
        assert client.recv(10) == b">b"
        assert other.recv(10) == b">c"
    assert proxy.counts()["stalled"] == 2


def test_what_a_client_sent_before_it_gave_up_arrives_when_the_stall_is_over(
    proxy: FaultProxy, echo: Echo
) -> None:
    """As a statement does that was on the wire: the server runs it though nobody waits."""
    proxy.switch("stall")
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"late")
    proxy.ok()
    end = time.monotonic() + 2
    while echo.got != b"late" and time.monotonic() < end:
        time.sleep(0.01)
    assert echo.got == b"late"


def test_slow_delays_every_chunk(client: socket.socket, proxy: FaultProxy) -> None:
    proxy.switch("slow", delay_s=0.1)
    started = time.monotonic()
    assert say(client, b"a") == b">a"
    assert time.monotonic() - started >= 0.2
    assert proxy.counts()["slowed"] == 2


def test_drop_reply_lets_the_request_through_and_drops_its_reply(
    client: socket.socket, proxy: FaultProxy, echo: Echo
) -> None:
    proxy.switch("drop_reply", match="Insert Into", times=1)
    assert say(client, b"select") == b">select"
    assert say(client, b"INSERT INTO x") == b""
    assert echo.got == b"selectINSERT INTO x"
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as again:
        assert say(again, b"insert into x") == b">insert into x"
    assert proxy.counts()["dropped"] == 1


def test_a_match_across_two_chunks_counts_and_one_of_before_does_not(
    client: socket.socket, proxy: FaultProxy
) -> None:
    proxy.switch("drop_reply", match="commit")
    assert say(client, b"com") == b">com"
    assert say(client, b"mit") == b""
    proxy.ok()
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as other:
        assert say(other, b"commit") == b">commit"
        proxy.switch("drop_reply", match="commit")
        assert say(other, b"select") == b">select"


def test_garbage_answers_with_nonsense_and_forwards_nothing(
    client: socket.socket, proxy: FaultProxy, echo: Echo
) -> None:
    proxy.switch("garbage")
    assert b"no protocol" in say(client, b"a")
    assert client.recv(10) == b""
    assert echo.got == b""


def test_kill_cuts_what_is_open_and_goes_on_listening(
    client: socket.socket, proxy: FaultProxy
) -> None:
    assert say(client, b"a") == b">a"
    proxy.switch("kill")
    assert client.recv(10) == b""
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as other:
        assert say(other, b"b") == b">b"
    assert proxy.counts()["cut"] == 1


def test_an_orphaned_connection_is_silent_for_ever_while_new_ones_work(
    client: socket.socket, proxy: FaultProxy
) -> None:
    assert say(client, b"a") == b">a"
    proxy.switch("orphan")
    with pytest.raises(TimeoutError):
        say(client, b"b")
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as other:
        assert say(other, b"c") == b">c"
    with pytest.raises(TimeoutError):
        client.recv(10)


def test_it_is_switched_over_http_like_the_stand_ins(
    client: socket.socket, proxy: FaultProxy
) -> None:
    switch = f"{proxy.control_url}/_control"
    state = httpx.post(switch, json={"mode": "slow", "delay_s": 0.01}).json()
    assert (state["mode"], state["delay_s"]) == ("slow", 0.01)
    assert say(client, b"a") == b">a"
    assert httpx.get(switch).json()["counts"] == {"accepted": 1, "slowed": 2}
    assert httpx.delete(switch).json()["mode"] == "ok"
    bad: list[object] = [{"mode": "melt"}, {"mode": "drop_reply"}, {"mode": "ok", "x": 1}, [], {}]
    for wrong in bad:
        assert httpx.post(switch, json=wrong).status_code == 400
    with pytest.raises(InvalidFault):
        proxy.switch("slow", delay_s=-1)


def test_the_reply_to_a_statement_of_postgres_is_lost_after_its_commit(
    platform: Platform, database: psycopg.Connection[DictRow]
) -> None:
    proxy = FaultProxy("127.0.0.1", platform.postgres.port)
    address = platform.admin_database_url.replace(f":{platform.postgres.port}/", f":{proxy.port}/")
    try:
        database.execute("create table lost_replies (n int)")
        proxy.switch("drop_reply", match="insert into lost_replies", times=1)
        with pytest.raises(psycopg.OperationalError):
            insert(address)
        insert(address)
        assert len(database.execute("select * from lost_replies").fetchall()) == 2
    finally:
        database.execute("drop table if exists lost_replies")
        proxy.close()


def insert(address: str) -> None:
    with psycopg.connect(address, autocommit=True, prepare_threshold=None) as connection:
        connection.execute("insert into lost_replies values (%s)", [1])
