"""Idempotency and rate limit: which lead is a duplicate, which is refused, and for how long."""

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
from lib.leads import admission, submission
from lib.leads.admission import Admission, IdempotencyRecord, RateLimits
from lib.leads.lead import Lead
from lib.problems import IdempotencyKeyReused, RateLimited
from lib.services import Services
from lib.settings import Settings
from tests.conftest import LEAD, eventually

type Rows = psycopg.Connection[DictRow]

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
LIMITS = RateLimits(per_minute=5, per_hour=30, ceiling_per_minute=120)
UNLIMITED = {"LEADS_PER_MINUTE": "1000", "LEADS_PER_HOUR": "1000"}


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    services = Services(Settings(platform.environment))
    yield services
    services.close()


def make_lead(
    message: str | None = None, *, key: str | None = None, client: str = "192.0.2.1", **fields: str
) -> Lead:
    """A lead of its own, unless a message is given."""
    return Lead.from_submission(
        submission.parse({**LEAD, "message": message or uuid4().hex, **fields}),
        key=key,
        locale="id",
        now=NOW,
        ip_address=client,
        user_agent=None,
    )


def admit(
    services: Services, now: datetime, lead: Lead | None = None, *, limits: RateLimits = LIMITS
) -> Admission:
    return admission.decide(services, lead or make_lead(), limits, uuid4().hex, now)


def retry_after_s(decision: Admission) -> int:
    """How long a refused client has to wait."""
    assert isinstance(decision.refusal, RateLimited), decision
    return int(decision.refusal.headers["Retry-After"])


def accepted(services: Services, lead: Lead) -> IdempotencyRecord:
    """The record of the lead, remembered as after its answer."""
    record = IdempotencyRecord(lead.id, lead.ref, 200, lead.body_sha256, lead.keyed)
    services.cache.pipeline(admission.remember_command(lead.identity, record))
    return record


def post(url: str, number: int, **headers: str) -> httpx.Response:
    """The lead of that number: another number is another lead."""
    lead = {**LEAD, "message": f"Nomor {number}", "email": ""}
    return httpx.post(f"{url}/api/leads", json=lead, headers=headers, timeout=20)


def statuses(url: str, numbers: range, **headers: str) -> list[int]:
    return [post(url, number, **headers).status_code for number in numbers]


# ------------------------------------------------------------------ by a clock


def test_the_sixth_lead_in_a_minute_is_refused_until_the_first_is_a_minute_old(
    services: Services,
) -> None:
    for second in range(5):
        assert admit(services, NOW + timedelta(seconds=second)).is_counted
    refused = admit(services, NOW + timedelta(seconds=10))
    assert retry_after_s(refused) == 50
    assert refused.refusal
    assert refused.refusal.headers["X-RateLimit-Limit"] == "5"
    assert admit(services, NOW + timedelta(seconds=59)).refusal
    assert admit(services, NOW + timedelta(seconds=60)).is_counted
    assert admit(services, NOW + timedelta(seconds=60)).refusal, "one place came free"


def test_the_thirty_first_lead_in_an_hour_is_refused_until_the_first_is_an_hour_old(
    services: Services,
) -> None:
    for number in range(30):
        assert admit(services, NOW + timedelta(seconds=100 * number)).is_counted
    refused = admit(services, NOW + timedelta(seconds=3000))
    assert retry_after_s(refused) == 600
    assert refused.refusal
    assert refused.refusal.headers["X-RateLimit-Limit"] == "30"
    assert admit(services, NOW + timedelta(seconds=3599)).refusal
    assert admit(services, NOW + timedelta(seconds=3600)).is_counted


def test_whoever_waits_for_retry_after_is_let_in(services: Services) -> None:
    random_choice = random.Random(3).choice
    limits = RateLimits(per_minute=2, per_hour=9, ceiling_per_minute=120)
    now, refusals = NOW, 0
    for _ in range(150):
        decision = admit(services, now, limits=limits)
        if decision.refusal:
            refusals += 1
            now += timedelta(seconds=retry_after_s(decision))
            assert admit(services, now, limits=limits).is_counted
        now += timedelta(seconds=random_choice((0.01, 1, 20, 61, 400)))
    assert refusals > 20


def test_a_refused_request_does_not_prolong_the_wait(services: Services) -> None:
    for _ in range(5):
        admit(services, NOW)
    for second in range(1, 60):
        decision = admit(services, NOW + timedelta(seconds=second))
        assert retry_after_s(decision) == 60 - second


def test_each_client_has_an_allowance_of_its_own(services: Services) -> None:
    for _ in range(6):
        sixth = admit(services, NOW, make_lead(client="192.0.2.1"))
    assert sixth.refusal
    assert admit(services, NOW, make_lead(client="192.0.2.2")).is_counted


def test_a_duplicate_is_recognised_however_often_it_comes_and_is_not_counted(
    services: Services,
) -> None:
    lead = make_lead(key="k-1")
    assert admit(services, NOW, lead).is_counted
    record = accepted(services, lead)
    for _ in range(10):
        assert admit(services, NOW, lead) == Admission(duplicate=record)
    for _ in range(4):
        assert admit(services, NOW).is_counted, "duplicates are not counted"
    assert admit(services, NOW).refusal
    assert admit(services, NOW, lead) == Admission(duplicate=record), "nor are they refused"


def test_a_key_with_another_body_is_refused(services: Services) -> None:
    accepted(services, make_lead("Tertarik", key="k-1"))
    decision = admit(services, NOW, make_lead("Tertarik", key="k-1", city="Binjai"))
    assert isinstance(decision.refusal, IdempotencyKeyReused)


def test_a_correction_of_the_same_words_is_admitted_and_counted_and_its_lead_known(
    services: Services,
) -> None:
    lead = make_lead("Tertarik")
    record = accepted(services, lead)
    assert admit(services, NOW, lead) == Admission(duplicate=record)
    correction = make_lead("Tertarik", city="Binjai")
    for number in range(1, 6):
        assert admit(services, NOW, correction) == Admission(earlier=record, repeats=number)
    assert admit(services, NOW, correction).refusal


def test_the_same_words_under_a_key_are_admitted_with_the_lead_they_were_before(
    services: Services,
) -> None:
    record = accepted(services, make_lead("Tertarik"))
    keyed = make_lead("Tertarik", key="k-1")
    assert admit(services, NOW, keyed) == Admission(earlier=record, repeats=1)


def test_thirty_at_once_are_counted_one_by_one(services: Services) -> None:
    barrier = threading.Barrier(30)

    def admit_together(_number: int) -> Admission:
        barrier.wait()
        return admit(services, NOW)

    with ThreadPoolExecutor(30) as pool:
        decisions = list(pool.map(admit_together, range(30)))
    assert sum(decision.is_counted for decision in decisions) == 5
    assert sum(decision.refusal is not None for decision in decisions) == 25


def test_all_clients_together_have_a_ceiling(services: Services) -> None:
    limits = RateLimits(per_minute=5, per_hour=30, ceiling_per_minute=3)
    for number in range(3):
        lead = make_lead(client=f"192.0.2.{number}")
        assert admit(services, NOW, lead, limits=limits) == Admission(repeats=1)
    last = make_lead(client="192.0.2.9")
    assert admit(services, NOW, last, limits=limits) == Admission(flooded=True, repeats=1)
    later = NOW + timedelta(minutes=1)
    another = make_lead(client="192.0.2.9")
    assert admit(services, later, another, limits=limits) == Admission(repeats=1)


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
    eventually(platform.is_idle)  # its record is written after its answer
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


def not_counted(function: Function) -> list[str]:
    lines = [str(line["message"]) for line in function.logs()]
    return [json.loads(line)["not_counted"] for line in lines if '"not_counted"' in line]


def test_without_redis_everybody_is_let_in_and_the_log_says_so(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", UPSTASH_REDIS_REST_URL="http://127.0.0.1:1") as function:
        assert statuses(function.url, range(7)) == [200] * 7
        assert post(function.url, 0).status_code == 200
        eventually(lambda: len(not_counted(function)) == 8)
    assert len(database.execute("select 1 from leads").fetchall()) == 7


def test_an_unconfigured_redis_lets_everybody_in_and_the_log_names_the_variable(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", UPSTASH_REDIS_REST_TOKEN=None) as function:
        assert post(function.url, 0).status_code == 200
        assert "UPSTASH_REDIS_REST_TOKEN" in eventually(lambda: not_counted(function))[0]


@pytest.mark.measures_time
def test_a_silent_redis_costs_the_first_lead_a_second_and_the_next_nothing(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py") as function:
        post(function.url, 0)  # warm
        assert function.wait_idle(10)
        platform.upstash.switch(mode="stall")
        first, second = post(function.url, 1), post(function.url, 2)
        platform.upstash.ok()
        assert first.status_code == second.status_code == 200
        assert first.elapsed.total_seconds() < 2
        assert second.elapsed.total_seconds() < 2
        assert eventually(lambda: not_counted(function))
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
    '{"result":["admitted"]}',
    '{"result":["admitted","x","y"]}',
    '{"result":["rate_limited",null,null]}',
    '{"result":["duplicate",5]}',
    '{"result":["duplicate","x"]}',
    '{"result":["duplicate","[]"]}',
    '{"result":["duplicate","{\\"id\\":5}"]}',
    '{"result":{"a":1}}',
    '{"error":"ERR"}',
]


def test_a_redis_that_answers_nonsense_is_a_redis_that_is_down(
    platform: Platform, database: Rows
) -> None:
    replies: list[str] = []

    def answer_nonsense(_request: Any) -> Response:
        response = as_text(replies[-1])
        response.headers["Content-Type"] = "application/json"
        return response

    server = Server(answer_nonsense)
    decisions: dict[str, object] = {}
    for reply in GARBAGE:
        replies.append(reply)
        services = Services(
            Settings({**platform.environment, "UPSTASH_REDIS_REST_URL": server.url})
        )
        try:
            decisions[reply] = admit(services, NOW)
        except Exception as error:  # noqa: BLE001 - shown below, with the reply
            decisions[reply] = error
        services.close()
    server.close()
    assert decisions == dict.fromkeys(GARBAGE, Admission(not_counted_because="redis is down"))
