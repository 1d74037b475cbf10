"""Cached product responses: a current or honestly older one, whatever is broken."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from dev.edge.runtime import Function
from dev.faults.fault_proxy import FaultProxy
from dev.platform.local_platform import Platform
from lib import metrics
from lib.monitoring import deployments
from lib.products import cache, catalogue, snapshot
from lib.products.catalogue import RenderedAnswer
from lib.products.entry import Entry, decode, encode
from tests.conftest import eventually
from tests.products.catalogue_data import (
    DOCUMENT,
    PRODUCTS,
    Database,
    get_products,
    make_product,
    seeded,
    shop,
    slugs,
    store_catalogue,
)

__all__ = ["seeded", "shop"]

# A store that a busy machine lets answer too late counts as one that is down.
pytestmark = pytest.mark.measures_time

MOST_S = 2.5  # the budget, and a little for a crowded machine
EVERYTHING = {product["slug"] for product in PRODUCTS}


@pytest.fixture
def valkey(platform: Platform) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(platform.redis_url) as connection:
        yield connection


def commands(platform: Platform) -> list[str]:
    """The names of the Redis commands sent to Upstash, but for those after a response: its count,
    and an instance's check of its deployment."""
    names: list[str] = []
    for request in platform.upstash.received():
        body = request["body"]
        if isinstance(body, list) and (metrics.INCREMENT in body or _is_deployment_check(body)):
            continue
        single = isinstance(body, list) and body and isinstance(body[0], str)
        names += [body[0]] if single else [command[0] for command in body or []]
    return names


def _is_deployment_check(body: list[object]) -> bool:
    return any(str(part).startswith(deployments.CHECKED_KEY_PREFIX) for part in body)


@pytest.fixture
def count_queries(
    platform: Platform, seeded: Database, valkey: "redis.Redis"
) -> Iterator[Callable[[], int]]:
    """How often the functions have queried Postgres for products, by the server's own log. Their
    deployment has checked its statements before."""
    valkey.set(deployments.CHECKED_KEY_PREFIX + platform.environment["VERCEL_DEPLOYMENT_ID"], "1")
    seeded.execute("alter role alfa_api_a set log_statement = 'all'")
    log = platform.postgres.data.with_name("postgres.log")
    before = log.stat().st_size
    beginning = catalogue.FIND_PRODUCTS.strip().partition("\n")[0].encode()

    def count() -> int:
        with log.open("rb") as file:
            file.seek(before)
            return file.read().count(beginning)

    yield count
    seeded.execute("alter role alfa_api_a reset log_statement")


def test_a_hit_in_memory_touches_no_network(platform: Platform, shop: Function) -> None:
    get_products(shop)
    eventually(lambda: "DEL" in commands(platform))  # written after the response
    platform.upstash.forget()
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: get_products(shop), range(16)))
    assert {response.headers["X-Data-Source"] for response in responses} == {"memory"}
    assert commands(platform) == []


def test_a_hit_in_redis_is_one_command_and_no_statement(
    platform: Platform, shop: Function, seeded: Database
) -> None:
    first = get_products(shop)
    eventually(lambda: "DEL" in commands(platform))
    with platform.function("api/products.py", DATABASE_URL=None) as other:
        platform.upstash.forget()
        second = get_products(other)
        assert commands(platform) == ["MGET"]
    assert second.headers["X-Data-Source"] == "redis"
    assert second.content == first.content
    assert int(second.headers["Age"]) >= 0


def test_a_miss_is_one_statement(platform: Platform, count_queries: Callable[[], int]) -> None:
    with platform.function("api/products.py") as function:
        response = get_products(function, "?q=sampo&facets=1&total=1&limit=5&category=shampoo")
        assert response.headers["X-Data-Source"] == "postgres"
        eventually(lambda: commands(platform)[-2:] == ["SET", "DEL"])
    assert count_queries() == 1


def test_two_hundred_misses_at_once_make_at_most_two_queries(
    platform: Platform, count_queries: Callable[[], int]
) -> None:
    with (
        platform.function("api/products.py") as first,
        platform.function("api/products.py") as second,
    ):
        for function in (first, second):  # awake and connected; another query than the burst's
            get_products(function, "?limit=1")
        before = count_queries()

        def visit(n: int) -> httpx.Response:
            return get_products((first, second)[n % 2], "?facets=1&limit=50")

        with ThreadPoolExecutor(40) as pool:
            responses = list(pool.map(visit, range(200)))
    assert {response.status_code for response in responses} == {200}
    assert len({response.headers["ETag"] for response in responses}) == 1
    assert 1 <= count_queries() - before <= 2


def test_304_works_across_instances_and_deployments(platform: Platform, shop: Function) -> None:
    tag = get_products(shop).headers["ETag"]
    with platform.function("api/products.py", VERCEL_DEPLOYMENT_ID="dpl_other") as other:
        again = get_products(other, "", **{"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers["Cache-Control"].startswith("public")
        assert get_products(other, "", **{"If-None-Match": '"else"'}).status_code == 200
        since = get_products(other).headers["Last-Modified"]
        assert get_products(other, "", **{"If-Modified-Since": since}).status_code == 304


def test_a_change_reaches_instances_within_seconds_of_its_import(
    platform: Platform, shop: Function
) -> None:
    get_products(shop)
    store_catalogue(platform, DOCUMENT | {"products": [*PRODUCTS, make_product("a-new-thing")]})
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.incr(cache.VERSION_KEY)
    started = time.monotonic()
    response = eventually(
        lambda: next((a for a in [get_products(shop)] if "a-new-thing" in a.text), None)
    )
    assert response is not None
    assert response.headers["X-Data-Source"] == "postgres"
    assert time.monotonic() - started < cache.MEMORY_FRESH_S + 2


@pytest.mark.parametrize("mode", ["fail", "stall", "lose_reply", "reset", "rate_limit"])
def test_redis_broken_is_a_miss(platform: Platform, seeded: Database, mode: str) -> None:
    with platform.function("api/products.py") as function:
        get_products(function, "?slug=barber-beard-oil")  # awake
        assert function.wait_idle(10)
        platform.upstash.switch(mode)
        started = time.monotonic()
        response = get_products(function)
        assert time.monotonic() - started < MOST_S
    assert set(slugs(response)) == EVERYTHING
    assert response.headers["X-Data-Source"] == "postgres"


def cut(whole: bytes) -> bytes:
    return whole[:-40]


def altered(whole: bytes) -> bytes:
    return whole.replace(b"A", b"B")


DAMAGES: list[Callable[[bytes], bytes]] = [
    cut,
    altered,
    lambda _whole: b"",
    lambda _whole: b"[1, 2, 3]",
    lambda _whole: b"\xff\xfe\x00",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_in_redis_is_ignored_and_replaced(
    platform: Platform, shop: Function, valkey: "redis.Redis", damage: Callable[[bytes], bytes]
) -> None:
    get_products(shop)
    [key] = eventually(lambda: valkey.keys("products:entry:*"))
    whole = valkey.get(key)
    assert isinstance(whole, bytes)
    valkey.set(key, damaged := damage(whole))
    with platform.function("api/products.py") as function:
        response = get_products(function)
        assert set(slugs(response)) == EVERYTHING
        assert response.headers["X-Data-Source"] == "postgres"
        eventually(lambda: valkey.get(key) != damaged)
    with platform.function("api/products.py", DATABASE_URL=None) as other:
        assert get_products(other).headers["X-Data-Source"] == "redis"


def test_an_entry_of_another_query_is_ignored(
    platform: Platform, shop: Function, valkey: "redis.Redis"
) -> None:
    get_products(shop)
    [whole] = eventually(lambda: valkey.keys("products:entry:*"))
    get_products(shop, "?q=pomade")
    [search] = eventually(lambda: [k for k in valkey.keys("products:entry:*") if k != whole])
    stored = valkey.get(whole)
    assert isinstance(stored, bytes)
    valkey.set(search, stored)
    with platform.function("api/products.py") as other:
        assert len(get_products(other, "?q=pomade").json()) < 10


@pytest.fixture
def wire(platform: Platform) -> Iterator[FaultProxy]:
    """A proxy before Postgres, which can be broken."""
    proxy = FaultProxy("127.0.0.1", urlsplit(platform.database_url).port or 5432)
    yield proxy
    proxy.close()


def through(platform: Platform, wire: FaultProxy) -> str:
    port = urlsplit(platform.database_url).port
    return platform.database_url.replace(f":{port}/", f":{wire.port}/")


def not_from_memory(response: httpx.Response) -> httpx.Response | None:
    return None if response.headers["X-Data-Source"] == "memory" else response


@pytest.mark.parametrize("mode", ["refuse", "stall", "garbage", "reset"])
def test_postgres_broken_gives_the_last_good_copy(
    platform: Platform, seeded: Database, valkey: "redis.Redis", wire: FaultProxy, mode: str
) -> None:
    with platform.function("api/products.py", DATABASE_URL=through(platform, wire)) as function:
        whole = get_products(function)
        eventually(lambda: valkey.keys("products:entry:*"))
        valkey.incr(cache.VERSION_KEY)  # the copies are older ones now
        wire.switch(mode)
        time.sleep(cache.MEMORY_FRESH_S)
        older = eventually(lambda: not_from_memory(get_products(function)))
        assert older is not None
        assert older.elapsed.total_seconds() < MOST_S
    assert (older.status_code, older.headers["X-Data-Source"]) == (200, "stale")
    assert older.content == whole.content
    assert int(older.headers["Age"]) >= cache.MEMORY_FRESH_S - 1
    assert "Warning" not in older.headers


@pytest.mark.parametrize("mode", ["refuse", "stall", "garbage", "reset"])
def test_without_any_store_the_snapshot_answers_every_kind_of_query(
    platform: Platform, database: Database, wire: FaultProxy, mode: str
) -> None:
    wire.switch(mode)
    platform.upstash.switch("stall")
    with platform.function("api/products.py", DATABASE_URL=through(platform, wire)) as function:
        started = time.monotonic()
        whole = get_products(function)
        assert time.monotonic() - started < MOST_S
        assert (whole.status_code, whole.headers["X-Data-Source"]) == (200, "snapshot")
        assert set(slugs(whole)) == EVERYTHING
        body = get_products(function, "?q=kerat&facets=1&total=1&limit=2&locale=en").json()
        assert body["total"] == 3
        assert body["next_cursor"]
        assert sum(item["count"] for item in body["facets"]["brand"]) == 3
        assert get_products(function, "?slug=barber-beard-oil").json()["name"] == "Barber Beard Oil"
        assert get_products(function, "?slug=no-such-thing").status_code == 404


def recall(database: Database, which: str = "true") -> None:
    """Withdraw products as an operator does in SQL: no cache is invalidated."""
    database.execute(f"update products set published = false where {which}".encode())


QUERIES = ("", "?limit=5&total=1&facets=1", "?brand=Farmavita", "?q=oil", "?sort=newest",
             "?fields=name&limit=9", "?locale=en")  # fmt: skip
ONE = "?slug=barber-beard-oil"


def withdrawn(function: Function) -> bool:
    """Whether every query is answered as if there were no product."""
    for query in QUERIES:
        response = get_products(function, query)
        assert response.status_code == 200, query
        body = response.json()
        items = body["items"] if isinstance(body, dict) else body
        assert items == [], (query, response.headers["X-Data-Source"])
        if isinstance(body, dict):
            assert body["next_cursor"] is None
            assert not body["total"]
            counts = [item["count"] for facet in (body["facets"] or {}).values() for item in facet]
            assert not any(counts)
    return get_products(function, ONE).status_code == 404


@pytest.mark.parametrize("how", ["unpublish", "delete"])
def test_a_recall_of_everything_is_an_empty_list(
    platform: Platform, shop: Function, seeded: Database, valkey: "redis.Redis", how: str
) -> None:
    for query in (*QUERIES, ONE):
        get_products(shop, query)
    eventually(lambda: len(valkey.keys("products:entry:*")) == len(QUERIES) + 1)
    if how == "unpublish":
        recall(seeded)
    else:
        seeded.execute("delete from products")
    with platform.function("api/products.py") as other:
        response = get_products(other, "?q=never+asked")
        assert response.headers["X-Data-Source"] == "postgres"
        assert withdrawn(other)
        assert get_products(other).headers["X-Data-Source"] == "memory", (
            "a good copy like any other"
        )
    time.sleep(cache.MEMORY_FRESH_S)
    get_products(shop, "?q=heard+again")
    assert withdrawn(shop)


@pytest.mark.parametrize("redis_too", [False, True])
def test_what_was_recalled_does_not_come_back_from_a_copy_while_the_database_is_down(
    platform: Platform, seeded: Database, valkey: "redis.Redis", wire: FaultProxy, redis_too: bool
) -> None:
    with platform.function("api/products.py", DATABASE_URL=through(platform, wire)) as function:
        for query in (*QUERIES, ONE):
            get_products(function, query)
        eventually(lambda: len(valkey.keys("products:entry:*")) == len(QUERIES) + 1)
        recall(seeded)
        get_products(function, "?limit=1")  # the recall is read by one query
        wire.switch("refuse")
        if redis_too:
            platform.upstash.switch("fail")
        assert withdrawn(function)
        assert get_products(function, "?audience=BARBER").json() == [], "nor from the snapshot"


@pytest.mark.parametrize("mode", ["refuse", "stall"])
def test_another_instance_learns_of_a_recall_from_redis(
    platform: Platform, seeded: Database, valkey: "redis.Redis", wire: FaultProxy, mode: str
) -> None:
    """Before its first answer, also where Postgres keeps it waiting longer than a visitor waits."""
    with platform.function("api/products.py") as function:
        for query in (*QUERIES, ONE):
            get_products(function, query)
        eventually(lambda: len(valkey.keys("products:entry:*")) == len(QUERIES) + 1)
        assert function.wait_idle(10)
        before = valkey.get(cache.PUBLISHED_KEY)
        recall(seeded)
        get_products(function, "?limit=1")
        eventually(lambda: valkey.get(cache.PUBLISHED_KEY) != before)
    valkey.incr(cache.VERSION_KEY)  # all copies are older ones
    wire.switch(mode)
    with platform.function("api/products.py", DATABASE_URL=through(platform, wire)) as cold:
        assert withdrawn(cold)


def test_one_recalled_product_is_left_out_of_every_older_copy(
    platform: Platform, seeded: Database, valkey: "redis.Redis", wire: FaultProxy
) -> None:
    with platform.function("api/products.py", DATABASE_URL=through(platform, wire)) as function:
        for query in (*QUERIES, ONE):
            get_products(function, query)
        eventually(lambda: len(valkey.keys("products:entry:*")) == len(QUERIES) + 1)
        recall(seeded, "slug = 'barber-beard-oil'")
        assert get_products(function, "?limit=1&q=beard").status_code == 200
        wire.switch("refuse")
        assert set(slugs(get_products(function))) == EVERYTHING - {"barber-beard-oil"}
        assert get_products(function, ONE).status_code == 404
        names = [
            product["name"]
            for product in get_products(function, "?fields=name&limit=9").json()["items"]
        ]
        assert "Barber Beard Oil" not in names
        assert set(slugs(get_products(function, "?sort=-name"))) == EVERYTHING - {
            "barber-beard-oil"
        }


def test_what_is_published_again_is_shown_again(
    platform: Platform, seeded: Database, shop: Function
) -> None:
    recall(seeded)
    assert withdrawn(shop)
    seeded.execute("update products set published = true")
    get_products(shop, "?limit=2")  # read by one query
    eventually(lambda: set(slugs(get_products(shop))) == EVERYTHING)


def test_a_catalogue_that_cannot_be_seen_is_no_recall(platform: Platform, seeded: Database) -> None:
    seeded.execute("drop policy alfa_app_all on products")
    try:
        with platform.function("api/products.py") as function:
            response = get_products(function)
            assert set(slugs(response)) == EVERYTHING
            assert response.headers["X-Data-Source"] == "snapshot"
    finally:
        seeded.execute(
            "create policy alfa_app_all on products to alfa_app using (true) with check (true)"
        )


def test_a_database_that_never_held_a_catalogue_is_no_recall(
    platform: Platform, database: Database, valkey: "redis.Redis"
) -> None:
    database.execute("delete from catalogue_state")
    with platform.function("api/products.py") as function:
        response = get_products(function)
        assert (response.status_code, response.headers["X-Data-Source"]) == (200, "snapshot")
        assert valkey.keys("products:entry:*") == []
    with platform.function("api/products.py", **dict.fromkeys(platform.environment)) as function:
        assert set(slugs(get_products(function))) == EVERYTHING


def test_a_missing_right_or_table_is_answered_from_a_copy(
    platform: Platform, seeded: Database
) -> None:
    seeded.execute("revoke select on products from alfa_app")
    try:
        with platform.function("api/products.py") as function:
            response = get_products(function)
            assert (response.status_code, response.headers["X-Data-Source"]) == (200, "snapshot")
    finally:
        seeded.execute("grant select on products to alfa_app")


def test_neither_a_404_nor_an_empty_search_is_cached(
    platform: Platform, shop: Function, valkey: "redis.Redis"
) -> None:
    for query in ("?q=lipstick", "?slug=soon-here", "?brand=nobody&limit=3"):
        get_products(shop, query)
    assert valkey.keys("products:entry:*") == []
    store_catalogue(platform, DOCUMENT | {"products": [*PRODUCTS, make_product("soon-here")]})
    assert get_products(shop, "?slug=soon-here").status_code == 200


def test_an_expensive_answer_is_refreshed_early_by_one_instance(
    platform: Platform, shop: Function, valkey: "redis.Redis", count_queries: Callable[[], int]
) -> None:
    first = get_products(shop)
    [key] = eventually(lambda: valkey.keys("products:entry:*"))
    text = valkey.get(key)
    assert isinstance(text, bytes)
    assert isinstance(key, bytes)
    cache_key = key.decode().rpartition(":")[2]
    entry = decode(text.decode(), cache_key)
    assert entry is not None
    expensive = encode(entry._replace(cost_s=1e9), cache_key)
    valkey.set(key, expensive)
    before = count_queries()
    with platform.function("api/products.py") as other:
        response = get_products(other)
        assert (response.headers["X-Data-Source"], response.content) == ("redis", first.content)
        eventually(lambda: valkey.get(key) != expensive.encode())
    assert count_queries() - before == 1


def answer_of(body: bytes) -> RenderedAnswer:
    return RenderedAnswer(body, ("a",), snapshot.load().made_at, None)


def test_an_encoded_entry_is_decoded_for_its_own_query_alone() -> None:
    entry = Entry(answer_of(b"[1]"), 5.0, 0.1, "7")
    assert decode(encode(entry, "key"), "key") == entry
    assert decode(encode(entry, "key"), "other") is None


def test_entries_are_compressed() -> None:
    body = snapshot.FILE.read_bytes()
    assert len(encode(Entry(answer_of(body), 0.0), "key")) < len(body) / 2
