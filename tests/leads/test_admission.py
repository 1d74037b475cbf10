"""At the door: whose allowance a lead uses, how large it is, and what does not use it up."""

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.edge.http_server import Response, Server, as_text
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.cache import Cache
from lib.leads import admission
from lib.leads.admission import Admitted, IdempotencyRecord, RateLimits, TooMany
from tests.conftest import LEAD, eventually

type Rows = psycopg.Connection[DictRow]

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
LIMITS = RateLimits(per_minute=5, per_hour=30, ceiling_per_minute=120)
UNLIMITED = {"LEADS_PER_MINUTE": "1000", "LEADS_PER_HOUR": "1000"}


@pytest.fixture
def cache(platform: Platform, database: Rows) -> Iterator[Cache]:
    shared = Cache(platform.upstash.url, platform.environment["UPSTASH_REDIS_REST_TOKEN"])
    yield shared
    shared.close()


def knock(
    cache: Cache,
    now: datetime,
    *,
    client: str = "192.0.2.1",
    identity: str | None = None,
    body: str = "ab",
    content: str | None = None,
    keyed: bool = True,
    limits: RateLimits = LIMITS,
) -> Admitted | IdempotencyRecord | TooMany | None:
    """A new submission, or a given one."""
    identity = identity or uuid4().hex
    return admission.admit(
        cache.execute,
        identity=identity,
        content_identity=content or identity,
        body_sha256=body,
        keyed=keyed,
        text_sha256=uuid4().hex,
        client=client,
        member=uuid4().hex,
        limits=limits,
        now=now,
    )


def post(url: str, number: int, **headers: str) -> httpx.Response:
    """The lead of that number: another number is another lead."""
    lead = {**LEAD, "message": f"Nomor {number}", "email": ""}
    return httpx.post(f"{url}/api/leads", json=lead, headers=headers, timeout=20)


def statuses(url: str, numbers: range, **headers: str) -> list[int]:
    return [post(url, number, **headers).status_code for number in numbers]


# ------------------------------------------------------------------ by a clock


def test_the_sixth_in_a_minute_is_turned_away_until_the_first_is_a_minute_old(
    cache: Cache,
) -> None:
    for second in range(5):
        assert isinstance(knock(cache, NOW + timedelta(seconds=second)), Admitted)
    turned = knock(cache, NOW + timedelta(seconds=10))
    assert turned == TooMany(limit=5, retry_after_s=50)
    assert isinstance(knock(cache, NOW + timedelta(seconds=59)), TooMany)
    assert isinstance(knock(cache, NOW + timedelta(seconds=60)), Admitted)
    assert isinstance(knock(cache, NOW + timedelta(seconds=60)), TooMany), "one place came free"


def test_the_thirty_first_in_an_hour_is_turned_away_until_the_first_is_an_hour_old(
    cache: Cache,
) -> None:
    for number in range(30):
        assert isinstance(knock(cache, NOW + timedelta(seconds=100 * number)), Admitted)
    assert knock(cache, NOW + timedelta(seconds=3000)) == TooMany(limit=30, retry_after_s=600)
    assert isinstance(knock(cache, NOW + timedelta(seconds=3599)), TooMany)
    assert isinstance(knock(cache, NOW + timedelta(seconds=3600)), Admitted)


def test_waiting_as_told_always_helps(cache: Cache) -> None:
    chance = random.Random(3)
    limits = RateLimits(per_minute=2, per_hour=9, ceiling_per_minute=120)
    now, turned_away = NOW, 0
    for _ in range(150):
        answer = knock(cache, now, limits=limits)
        if isinstance(answer, TooMany):
            turned_away += 1
            now += timedelta(seconds=answer.retry_after_s)
            assert isinstance(knock(cache, now, limits=limits), Admitted)
        now += timedelta(seconds=chance.choice((0.01, 1, 20, 61, 400)))
    assert turned_away > 20


def test_those_turned_away_do_not_push_their_own_turn_further(cache: Cache) -> None:
    for _ in range(5):
        knock(cache, NOW)
    for second in range(1, 60):
        answer = knock(cache, NOW + timedelta(seconds=second))
        assert answer == TooMany(limit=5, retry_after_s=60 - second)


def test_each_client_has_an_allowance_of_its_own(cache: Cache) -> None:
    for _ in range(6):
        turned = knock(cache, NOW, client="192.0.2.1")
    assert isinstance(turned, TooMany)
    assert isinstance(knock(cache, NOW, client="192.0.2.2"), Admitted)


def test_an_accepted_submission_is_recognised_however_often_it_comes(cache: Cache) -> None:
    lead = IdempotencyRecord(uuid4(), "ALFA-7KQ2M", 200, "ab")
    assert isinstance(knock(cache, NOW, identity="i-1"), Admitted)
    cache.pipeline(admission.remember_command("i-1", lead))
    for _ in range(10):
        assert knock(cache, NOW, identity="i-1") == lead
    for _ in range(4):
        assert isinstance(knock(cache, NOW), Admitted), "repeats are not counted"
    assert isinstance(knock(cache, NOW), TooMany)
    assert knock(cache, NOW, identity="i-1") == lead, "nor are they turned away"


def test_the_same_words_with_other_fields_are_let_in_and_counted_and_known(cache: Cache) -> None:
    lead = IdempotencyRecord(uuid4(), "ALFA-7KQ2M", 200, "ab", keyed=False)
    cache.pipeline(admission.remember_command("i-1", lead))
    assert knock(cache, NOW, identity="i-1", keyed=False) == lead
    for _ in range(5):
        entered = knock(cache, NOW, identity="i-1", body="cd", keyed=False)
        assert entered == Admitted(False, 1, earlier=lead)
    assert isinstance(knock(cache, NOW, identity="i-1", body="cd", keyed=False), TooMany)


def test_the_same_words_under_a_key_are_let_in_with_what_they_were_before(cache: Cache) -> None:
    lead = IdempotencyRecord(uuid4(), "ALFA-7KQ2M", 200, "ab", keyed=False)
    cache.pipeline(admission.remember_command("words", lead))
    assert knock(cache, NOW, identity="key", content="words") == Admitted(False, 1, earlier=lead)


def test_thirty_at_once_are_counted_one_by_one(cache: Cache) -> None:
    together = threading.Barrier(30)

    def rush(_number: int) -> object:
        together.wait()
        return knock(cache, NOW)

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(rush, range(30)))
    assert sum(isinstance(answer, Admitted) for answer in answers) == 5
    assert sum(isinstance(answer, TooMany) for answer in answers) == 25


def test_everybody_together_has_a_ceiling(cache: Cache) -> None:
    limits = RateLimits(per_minute=5, per_hour=30, ceiling_per_minute=3)
    for number in range(3):
        client = f"192.0.2.{number}"
        assert knock(cache, NOW, client=client, limits=limits) == Admitted(False, 1)
    assert knock(cache, NOW, client="192.0.2.9", limits=limits) == Admitted(True, 1)
    later = NOW + timedelta(minutes=1)
    assert knock(cache, later, client="192.0.2.9", limits=limits) == Admitted(False, 1)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        (None, "unknown"),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network(address: str | None, client: str) -> None:
    assert admission.client_key(address) == client


def test_an_ipv4_address_written_as_ipv6_is_that_address() -> None:
    assert admission.client_key("::ffff:192.0.2.7") != admission.client_key("::ffff:198.51.100.7")


# ------------------------------------------------------------------ as callers see it


def test_the_sixth_lead_in_a_minute_is_told_when_to_come_again(
    platform: Platform, database: Rows
) -> None:
    assert statuses(platform.url, range(5)) == [200] * 5
    answer = post(platform.url, 5)
    assert (answer.status_code, answer.json()["error"]) == (429, "rate_limited")
    wait_s = int(answer.headers["Retry-After"])
    assert 1 <= wait_s <= 60
    assert answer.headers["X-RateLimit-Limit"] == "5"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert abs(int(answer.headers["X-RateLimit-Reset"]) - (time.time() + wait_s)) < 3
    assert len(database.execute("select 1 from leads").fetchall()) == 5
    # Known already: it is answered, not counted.
    assert post(platform.url, 0).status_code == 200
    # A form keeps what was typed.
    form = {**{name: str(value) for name, value in LEAD.items()}, "consent": "on"}
    page = httpx.post(f"{platform.url}/api/leads", data=form, headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["Retry-After"] != "") == (429, True)
    assert 'value="Barber Maju Jaya"' in page.text


def test_repeats_and_refused_forms_use_up_nothing(platform: Platform, database: Rows) -> None:
    for _ in range(8):
        assert post(platform.url, 0).status_code == 200
        assert httpx.post(f"{platform.url}/api/leads", json={}).status_code == 400
    assert statuses(platform.url, range(1, 5)) == [200] * 4
    assert post(platform.url, 5).status_code == 429


def test_the_limits_are_settings(platform: Platform, database: Rows) -> None:
    with platform.function("api/leads.py", LEADS_PER_MINUTE="9", LEADS_PER_HOUR="2") as function:
        assert statuses(function.url, range(3)) == [200, 200, 429]
        assert post(function.url, 3).headers["X-RateLimit-Limit"] == "2"


def test_thirty_posts_of_one_address_at_once_are_five_leads(
    platform: Platform, database: Rows
) -> None:
    post(platform.url, 0)  # warm; the first of the five
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: post(platform.url, number), range(1, 31)))
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 26
    assert len(database.execute("select 1 from leads").fetchall()) == 5


@pytest.mark.parametrize(
    "name",
    [
        "X-Real-IP",
        "X-Forwarded-For",
        "X-Vercel-Forwarded-For",
        "Forwarded",
        "CF-Connecting-IP",
        "True-Client-IP",
        "X-Client-IP",
        "x_real_ip",
        "x_forwarded_for",
        "X_Forwarded_For",
        "remote_addr",
        "X-Request-Id",
    ],
)
def test_what_a_client_says_of_itself_does_not_change_who_is_counted(
    platform: Platform, database: Rows, name: str
) -> None:
    for number in range(5):
        told = "the-same-each-time" if name == "X-Request-Id" else f"198.51.100.{number}"
        assert post(platform.url, number, **{name: told}).status_code == 200
    last = "the-same-each-time" if name == "X-Request-Id" else "198.51.100.9"
    assert post(platform.url, 6, **{name: last}).status_code == 429
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        assert list(valkey.scan_iter("rate:*")) == ["rate:127.0.0.1"]
    stored = database.execute("select distinct host(ip_address) as ip from leads").fetchall()
    assert [row["ip"] for row in stored] == ["127.0.0.1"]


def test_an_ipv6_network_of_64_bits_is_one_client(platform: Platform, database: Rows) -> None:
    """As the platform hands a request over: with the address it saw."""
    with platform.function("api/leads.py") as function:
        own = f"http://127.0.0.1:{function.port}"

        def seen_from(number: int, address: str) -> int:
            return post(own, number, **{"x-forwarded-for": address}).status_code

        for number in range(5):
            assert seen_from(number, f"2001:db8:1:2::{number + 1}") == 200
        assert seen_from(5, "2001:db8:1:2:ffff::1") == 429
        assert seen_from(6, "2001:db8:1:3::1") == 200
    found = database.execute("select host(ip_address) as ip from leads").fetchall()
    assert "2001:db8:1:2::5" in {row["ip"] for row in found}


def test_above_the_ceiling_a_lead_is_kept_for_review_and_answered_like_success(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", **UNLIMITED, LEADS_CEILING_PER_MINUTE="2") as function:
        answers = [post(function.url, number) for number in range(6)]
    for answer in answers:
        assert answer.status_code == 200
        assert set(answer.json()) == {"success", "id", "ref"}
    assert database.execute("select 1 from spam").fetchall() == []
    kept = database.execute("select id, review from leads").fetchall()
    assert {str(row["id"]) for row in kept} == {answer.json()["id"] for answer in answers}
    waiting = [row["id"] for row in kept if row["review"] == "flood"]
    assert len(waiting) >= 2  # the minute may have changed half-way
    mailed = database.execute("select distinct lead_id as id from outbox").fetchall()
    assert {row["id"] for row in mailed} == {row["id"] for row in kept} - {*waiting}


# ------------------------------------------------------------------ without Redis


def uncounted(function: Function) -> list[str]:
    lines = [str(line["message"]) for line in function.logs()]
    return [json.loads(line)["uncounted"] for line in lines if '"uncounted"' in line]


def test_without_redis_everybody_is_let_in_and_the_log_says_so(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", UPSTASH_REDIS_REST_URL="http://127.0.0.1:1") as function:
        assert statuses(function.url, range(7)) == [200] * 7
        assert post(function.url, 0).status_code == 200
        eventually(lambda: len(uncounted(function)) == 8)
    assert len(database.execute("select 1 from leads").fetchall()) == 7


def test_an_unconfigured_redis_lets_everybody_in_and_the_log_names_the_variable(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", UPSTASH_REDIS_REST_TOKEN=None) as function:
        assert post(function.url, 0).status_code == 200
        assert "UPSTASH_REDIS_REST_TOKEN" in eventually(lambda: uncounted(function))[0]


def test_a_silent_redis_costs_the_first_lead_a_second_and_the_next_nothing(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py") as function:
        post(function.url, 0)  # warm
        platform.upstash.switch(mode="stall")
        first, second = post(function.url, 1), post(function.url, 2)
        platform.upstash.ok()
        assert first.status_code == second.status_code == 200
        assert first.elapsed.total_seconds() < 2
        assert second.elapsed.total_seconds() < 2
        assert eventually(lambda: uncounted(function))
    assert len(database.execute("select 1 from leads").fetchall()) == 3


GARBAGE = [
    "",
    "<html>Masuk ke Wi-Fi</html>",
    "{}",
    "[]",
    "null",
    "5",
    '{"result":null}',
    '{"result":5}',
    '{"result":"OK"}',
    '{"result":[]}',
    '{"result":["entered"]}',
    '{"result":["entered","x","y"]}',
    '{"result":["turned",null,null]}',
    '{"result":["seen",5]}',
    '{"result":["seen","x"]}',
    '{"result":["seen","[]"]}',
    '{"result":["seen","{\\"id\\":5}"]}',
    '{"result":{"a":1}}',
    '{"error":"ERR"}',
]


def test_a_redis_that_answers_nonsense_is_a_redis_that_is_down(
    platform: Platform, database: Rows
) -> None:
    said: list[str] = []

    def lie(_request: Any) -> Response:
        answer = as_text(said[-1])
        answer.headers["Content-Type"] = "application/json"
        return answer

    liar = Server(lie)
    found: dict[str, object] = {}
    for garbage in GARBAGE:
        said.append(garbage)
        cache = Cache(liar.url, "token")
        try:
            found[garbage] = knock(cache, NOW)
        except Exception as fault:  # noqa: BLE001 - shown below, with what was said
            found[garbage] = fault
        cache.close()
    liar.close()
    assert found == dict.fromkeys(GARBAGE)
