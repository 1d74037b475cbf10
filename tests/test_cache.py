"""Redis by Upstash's SDK: its results, and servers that misbehave, on real sockets."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import upstash_redis

from dev.platform.local_platform import Platform
from lib.cache import RESPONSE_TIMEOUT_S, Cache
from lib.problems import CacheDown
from tests.fix_server import server

RESULTS = (
    (("PING",), "PONG"),
    (("SET", "text", "Halo é \U0001f487"), True),
    (("GET", "text"), "Halo é \U0001f487"),
    (("GET", "none"), None),
    (("SET", "none", "1", "XX"), False),
    (("SET", "text", "b", "GET"), "Halo é \U0001f487"),
    (("HSET", "hash", "a", "1"), 1),
    (("HSETNX", "hash", "a", "2"), False),
    (("HGETALL", "hash"), {"a": "1"}),
    (("HSCAN", "hash", 0), (0, {"a": "1"})),
    (("SCAN", 0, "MATCH", "ha*", "COUNT", 1000), (0, ["hash"])),
    (("EXPIRE", "none", 5), False),
    (("ZADD", "zset", 1.5, "x"), 1),
    (("ZRANGE", "zset", 0, -1, "WITHSCORES"), [("x", 1.5)]),
    (("ZSCORE", "zset", "none"), None),
    (("EVAL", "return {1, 'dua', {KEYS[1]}, false}", 1, "k"), [1, "dua", ["k"], None]),
)


@pytest.fixture
def cache(platform: Platform, database: object) -> Iterator[Cache]:
    given = platform.environment
    made = Cache(given["UPSTASH_REDIS_REST_URL"], given["UPSTASH_REDIS_REST_TOKEN"])
    yield made
    made.close()


def test_results_are_typed_one_by_one_and_in_a_pipeline(cache: Cache, database: object) -> None:
    for command, result in RESULTS:
        assert cache.execute(*command) == result, command
    cache.execute("DEL", "text", "hash", "zset")
    results = cache.pipeline(*(command for command, _ in RESULTS))
    assert results == [result for _, result in RESULTS]


def test_the_sdks_private_attributes_are_those_of_the_pinned_version(cache: Cache) -> None:
    """Its constructors are not called: without what they set, or with its own client, it fails."""
    requirements = (Path(__file__).parent.parent / "requirements.txt").read_text("utf-8")
    assert f"upstash-redis=={upstash_redis.__version__} " in requirements
    theirs = upstash_redis.Redis(
        "http://127.0.0.1:1", "token", rest_encoding=None, rest_retries=0, allow_telemetry=False
    )
    ours = cache._redis
    unused = {"_json", "_search", "_allow_telemetry"}
    assert vars(ours).keys() == vars(theirs).keys() - unused
    assert vars(ours._http).keys() == vars(theirs._http).keys()
    assert ours._headers.keys() == theirs._headers.keys()
    for name in ("_encoding", "_retries"):
        assert getattr(ours._http, name) == getattr(theirs._http, name)
    assert isinstance(theirs._http._client, httpx.Client)
    assert theirs._http._client.timeout.read is None, "it waits for ever"
    theirs.close()  # type: ignore[no-untyped-call]
    assert vars(ours._http)["_client"] is cache._client
    assert cache._client._response_s == RESPONSE_TIMEOUT_S


def test_one_connection_serves_one_call_after_another(platform: Platform, cache: Cache) -> None:
    with counting(platform.upstash.port) as (url, opened):
        connected = Cache(url, platform.environment["UPSTASH_REDIS_REST_TOKEN"])
        for _ in range(5):
            assert connected.execute("PING") == "PONG"
        connected.close()
    assert len(opened) == 1


def test_a_connection_the_server_closed_meanwhile_is_not_used_again(
    platform: Platform, cache: Cache
) -> None:
    with counting(platform.upstash.port) as (url, opened):
        connected = Cache(url, platform.environment["UPSTASH_REDIS_REST_TOKEN"])
        connected.execute("PING")
        opened[0].shutdown(socket.SHUT_RDWR)
        time.sleep(0.05)
        assert connected.execute("PING") == "PONG"
        connected.close()
    assert len(opened) == 2


def test_an_error_of_redis_is_redis_down(cache: Cache) -> None:
    with pytest.raises(CacheDown):
        cache.pipeline(("SET", "text", "1"), ("HGETALL", "text"))
    assert cache.breaker.is_open


def test_a_refused_connection_is_redis_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    cache = Cache(f"http://127.0.0.1:{port}", "token")
    with pytest.raises(CacheDown):
        cache.execute("PING")
    cache.close()


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1", "http://[", "http://127.0.0.1:99999"])
def test_a_wrong_address_is_redis_down(url: str) -> None:
    cache = Cache(url, "token")
    with pytest.raises(CacheDown):
        cache.execute("PING")
    cache.close()


def test_a_wrong_token_is_redis_down(platform: Platform, database: object) -> None:
    for commands in ([("PING",)], [("PING",), ("PING",)]):
        cache = Cache(platform.environment["UPSTASH_REDIS_REST_URL"], "wrong")
        with pytest.raises(CacheDown):
            cache.pipeline(*commands)
        cache.close()


NONSENSE = [
    b"", b"null", b"7", b'"x"', b"{}", b"[]", b"[null]", b'[{"result":1}]', b'[{"error":1},{}]',
    b"<html>", b"[" * 100_000, b"\xff", b'[{"result":"1"},{"result":"a"}]',
]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_an_answer_that_is_not_redis_is_redis_down(body: bytes) -> None:
    with answering(body) as (url, _):
        for commands in ([("HGETALL", "x")], [("HGETALL", "x"), ("SCAN", 0)]):
            cache = Cache(url, "token")
            with pytest.raises(CacheDown):
                cache.pipeline(*commands)
            cache.close()


def test_a_command_whose_reply_is_lost_is_not_repeated() -> None:
    with answering(None) as (url, requests):
        cache = Cache(url, "token")
        with pytest.raises(CacheDown):
            cache.execute("INCR", "n")
        assert [json.loads(body) for body in requests] == [["INCR", "n"]]
        cache.close()


@contextmanager
def answering(body: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers with this body, or closes instead, and the bodies it received."""
    requests: list[bytes] = []

    def talk(caller: socket.socket) -> None:
        received = b""
        while data := caller.recv(1 << 16):
            received += data
            head, end, sent = received.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            if end and length and len(sent) >= int(length[1]):
                requests.append(sent)
                if body is None:
                    return
                caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                caller.sendall(body)
                received = b""

    with server(talk) as (port, _):
        yield f"http://127.0.0.1:{port}", requests


@pytest.mark.measures_time
@pytest.mark.parametrize("drip", [b"", b"H", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_server_that_is_silent_or_drips_is_given_up_in_time(drip: bytes) -> None:
    """A byte now and then must not start the wait anew."""
    with dripping(drip) as url:
        cache = Cache(url, "token")
        started = time.monotonic()
        with pytest.raises(CacheDown):
            cache.execute("PING")
        assert time.monotonic() - started < RESPONSE_TIMEOUT_S + 5
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
