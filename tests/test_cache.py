"""Redis as our adapter speaks it, against Upstash's own SDK and against servers that misbehave."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from upstash_redis import Redis

from dev.platform.local_platform import Platform
from lib.cache import RESPONSE_TIMEOUT_S, Cache
from lib.problems import CacheDown

FILL = (
    ("SET", "text", "Halo é \U0001f487"),
    ("HSET", "hash", "a", "1", "b", "dua"),
    ("SADD", "set", "x"),
    ("ZADD", "zset", 1.5, "x", 2, "y"),
)
ASKED = (
    ("PING",),
    ("GET", "text"),
    ("GET", "none"),
    ("MGET", "text", "none"),
    ("SET", "text", "Halo é \U0001f487", "XX"),
    ("SET", "none", "1", "XX"),
    ("SET", "text", "Halo é \U0001f487", "GET"),
    ("HSETNX", "hash", "a", "2"),
    ("HGETALL", "hash"),
    ("HGETALL", "none"),
    ("HKEYS", "hash"),
    ("HLEN", "hash"),
    ("HSTRLEN", "hash", "b"),
    ("HEXISTS", "hash", "b"),
    ("HSCAN", "hash", 0, "COUNT", 10),
    ("SCAN", 0, "MATCH", "ha*", "COUNT", 1000),
    ("SSCAN", "set", 0),
    ("SISMEMBER", "set", "x"),
    ("EXPIRE", "none", 5),
    ("ZRANGE", "zset", 0, -1),
    ("ZRANGE", "zset", 0, -1, "WITHSCORES"),
    ("ZRANGE", "zset", 0, 5, "BYSCORE"),
    ("ZSCORE", "zset", "x"),
    ("ZSCORE", "zset", "none"),
    ("EVAL", "return {1, 'dua', {KEYS[1]}, false}", 1, "k"),
)


@pytest.fixture
def cache(platform: Platform, database: object) -> Iterator[Cache]:
    given = platform.environment
    made = Cache(given["UPSTASH_REDIS_REST_URL"], given["UPSTASH_REDIS_REST_TOKEN"])
    yield made
    made.close()


def test_every_command_gives_what_upstashs_own_client_gives(
    platform: Platform, cache: Cache
) -> None:
    given = platform.environment
    theirs = Redis(
        given["UPSTASH_REDIS_REST_URL"], given["UPSTASH_REDIS_REST_TOKEN"], allow_telemetry=False
    )
    cache.pipeline(*FILL)
    pipeline = theirs.pipeline()
    for command in ASKED:
        assert cache.execute(*command) == theirs.execute(list(command)), command
        pipeline.execute(list(command))
    assert cache.pipeline(*ASKED) == pipeline.exec()
    theirs.close()  # type: ignore[no-untyped-call]


def test_one_connection_serves_one_call_after_another(platform: Platform, cache: Cache) -> None:
    with counting(platform.upstash.port) as (url, opened):
        kept = Cache(url, platform.environment["UPSTASH_REDIS_REST_TOKEN"])
        for _ in range(5):
            assert kept.execute("PING") == "PONG"
        kept.close()
    assert len(opened) == 1


def test_a_connection_the_server_closed_meanwhile_is_not_used_again(
    platform: Platform, cache: Cache
) -> None:
    with counting(platform.upstash.port) as (url, opened):
        kept = Cache(url, platform.environment["UPSTASH_REDIS_REST_TOKEN"])
        kept.execute("PING")
        opened[0].shutdown(socket.SHUT_RDWR)
        time.sleep(0.05)
        assert kept.execute("PING") == "PONG"
        kept.close()
    assert len(opened) == 2


def test_an_error_of_redis_is_redis_down(cache: Cache) -> None:
    with pytest.raises(CacheDown):
        cache.pipeline(("SET", "text", "1"), ("HGETALL", "text"))
    assert cache.breaker.is_open


@pytest.mark.measures_time
@pytest.mark.parametrize("drip", [b"", b"H", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_server_that_is_silent_or_drips_is_given_up_in_time(drip: bytes) -> None:
    """A byte now and then must not start the wait anew."""
    with dripping(drip) as url:
        cache = Cache(url, "token")
        started = time.monotonic()
        with pytest.raises(CacheDown):
            cache.execute("PING")
        assert time.monotonic() - started < RESPONSE_TIMEOUT_S + 1
        with pytest.raises(CacheDown):
            cache.execute("PING")
        cache.close()


@contextmanager
def dripping(first: bytes) -> Iterator[str]:
    """A server that answers `first`, then a byte every 0.1 s (nothing if that is empty)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                near, _ = listener.accept()
                with near:
                    near.sendall(first)
                    while first:
                        time.sleep(0.1)
                        near.sendall(b"x")
                    near.recv(1 << 16)
                    near.recv(1 << 16)
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def counting(port: int) -> Iterator[tuple[str, list[socket.socket]]]:
    """A way to `port` that keeps every connection made through it, the callers' ends."""
    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            try:
                while data := source.recv(1 << 16):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            finally:
                source.close()

        def serve() -> None:
            try:
                while True:
                    near, _ = listener.accept()
                    far = socket.create_connection(("127.0.0.1", port))
                    opened.append(near)
                    for ends in ((near, far), (far, near)):
                        threading.Thread(target=pump, args=ends, daemon=True).start()
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", opened
        listener.shutdown(socket.SHUT_RDWR)
