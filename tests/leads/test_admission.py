"""Idempotency and rate limit: which lead is a duplicate, which is refused, and for how long."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.edge.http_server import Response, Server, as_text
from dev.faults.fault_proxy import FaultProxy
from dev.platform.local_platform import Platform
from lib.leads import admission, service, spam, submission
from lib.leads.admission import Admission, RateLimits
from lib.leads.lead import Lead, Recipients
from lib.leads.service import Conditions
from lib.privacy import retention
from lib.problems import CacheDown, IdempotencyKeyReused, RateLimited
from lib.services import Services
from lib.settings import Settings
from tests.conftest import LEAD, eventually

type Rows = psycopg.Connection[DictRow]

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
LIMITS = RateLimits(per_minute=5, per_hour=30, ceiling_per_minute=120)
UNLIMITED = {"LEADS_PER_MINUTE": "1000", "LEADS_PER_HOUR": "1000"}
RECIPIENTS = Recipients("Alfa Beauty <noreply@alfabeauty.test>", ("sales@alfabeauty.test",))
STORES = {
    "database": {},
    "queue": {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"},
}
"""Which store decides, and the variables of an instance where it does."""


@pytest.fixture
def new_services(platform: Platform, database: Rows) -> Iterator[Callable[..., Services]]:
    """Services of an instance of its own, with variables changed."""
    with contextlib.ExitStack() as opened:

        def create(**variables: str) -> Services:
            services = Services(Settings({**platform.environment, **variables}))
            opened.callback(services.close)
            return services

        yield create


@pytest.fixture(params=STORES)
def services(request: pytest.FixtureRequest, new_services: Callable[..., Services]) -> Services:
    return new_services(**STORES[request.param])


@pytest.fixture
def in_postgres(new_services: Callable[..., Services]) -> Services:
    return new_services()


def make_lead(
    message: str | None = None,
    *,
    key: str | None = None,
    client: str | None = "192.0.2.1",
    now: datetime = NOW,
    **fields: str,
) -> Lead:
    """A lead of its own, unless a message is given."""
    return Lead.from_submission(
        submission.parse({**LEAD, "message": message or uuid4().hex, **fields}),
        key=key,
        locale="id",
        now=now,
        ip_address=client,
        user_agent=None,
    )


def admit(
    services: Services,
    now: datetime = NOW,
    lead: Lead | None = None,
    *,
    limits: RateLimits = LIMITS,
    **conditions: Any,
) -> Admission | RateLimited:
    """What became of a lead sent at that moment."""
    lead = (lead or make_lead())._replace(created_at=now)
    service._queue_hint.may_hold_leads = False
    try:
        return service.persist(services, lead, RECIPIENTS, Conditions(limits, **conditions))
    except RateLimited as refusal:
        return refusal


def is_taken(answer: Admission | RateLimited) -> bool:
    return isinstance(answer, Admission) and answer.decision in (
        "stored",
        "queued",
        "corrected",
    )


def is_duplicate(answer: Admission | RateLimited) -> bool:
    return isinstance(answer, Admission) and answer.decision in ("stored_before", "duplicate")


def is_refused(answer: Admission | RateLimited) -> bool:
    return isinstance(answer, RateLimited)


def retry_after_s(answer: Admission | RateLimited) -> int:
    """How long a refused client has to wait."""
    assert isinstance(answer, RateLimited), answer
    return int(answer.headers["Retry-After"])


def post(url: str, number: int, **headers: str) -> httpx.Response:
    """The lead of that number: another number is another lead."""
    lead = {**LEAD, "message": f"Nomor {number}", "email": ""}
    return httpx.post(f"{url}/api/leads", json=lead, headers=headers, timeout=20)


def statuses(url: str, numbers: range, **headers: str) -> list[int]:
    return [post(url, number, **headers).status_code for number in numbers]


def together[T](count: int, work: Callable[[int], T]) -> list[T]:
    """The results of so many calls that begin at the same moment."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> T:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


# ------------------------------------------------------------------ by a clock, in either store


def test_the_same_words_under_two_keys_are_two_leads(services: Services) -> None:
    first, second = make_lead("sama", key="k-1"), make_lead("sama", key="k-2")
    admitted = admit(services, lead=first)
    assert isinstance(admitted, Admission)
    service.record_accepted(services, admitted, first)
    another, again = admit(services, lead=second), admit(services, lead=first)
    assert is_taken(another)
    assert isinstance(another, Admission)
    assert another.lead.id != admitted.lead.id
    assert is_duplicate(again)
    assert isinstance(again, Admission)
    assert again.lead.id == admitted.lead.id


def test_the_sixth_lead_in_a_minute_is_refused_until_the_first_is_a_minute_old(
    services: Services,
) -> None:
    for second in range(5):
        assert is_taken(admit(services, NOW + timedelta(seconds=second)))
    refused = admit(services, NOW + timedelta(seconds=10))
    assert retry_after_s(refused) == 50
    assert isinstance(refused, RateLimited)
    assert refused.headers["X-RateLimit-Limit"] == "5"
    assert refused.headers["X-RateLimit-Reset"] == str(int(NOW.timestamp()) + 60)
    assert is_refused(admit(services, NOW + timedelta(seconds=59)))
    assert is_taken(admit(services, NOW + timedelta(seconds=60)))
    assert is_refused(admit(services, NOW + timedelta(seconds=60))), "one place came free"


def test_the_thirty_first_lead_in_an_hour_is_refused_until_the_first_is_an_hour_old(
    services: Services,
) -> None:
    for number in range(30):
        assert is_taken(admit(services, NOW + timedelta(seconds=100 * number)))
    refused = admit(services, NOW + timedelta(seconds=3000))
    assert retry_after_s(refused) == 600
    assert isinstance(refused, RateLimited)
    assert refused.headers["X-RateLimit-Limit"] == "30"
    assert is_refused(admit(services, NOW + timedelta(seconds=3599)))
    assert is_taken(admit(services, NOW + timedelta(seconds=3600)))


def test_whoever_waits_for_retry_after_is_let_in(services: Services) -> None:
    random_choice = random.Random(3).choice
    limits = RateLimits(per_minute=2, per_hour=9, ceiling_per_minute=120)
    now, refusals = NOW, 0
    for _ in range(100):
        answer = admit(services, now, limits=limits)
        if is_refused(answer):
            refusals += 1
            now += timedelta(seconds=retry_after_s(answer))
            assert is_taken(admit(services, now, limits=limits))
        now += timedelta(seconds=random_choice((0.01, 1, 20, 61, 400)))
    assert refusals > 15


def test_a_refused_request_does_not_prolong_the_wait(services: Services) -> None:
    for _ in range(5):
        admit(services, NOW)
    for second in range(1, 60, 7):
        answer = admit(services, NOW + timedelta(seconds=second))
        assert retry_after_s(answer) == 60 - second


def test_each_client_has_an_allowance_of_its_own(services: Services) -> None:
    for _ in range(6):
        sixth = admit(services, NOW, make_lead(client="192.0.2.1"))
    assert is_refused(sixth)
    assert is_taken(admit(services, NOW, make_lead(client="192.0.2.2")))


def test_a_duplicate_is_recognised_however_often_it_comes_and_is_not_counted(
    services: Services,
) -> None:
    lead = make_lead(key="k-1")
    first = admit(services, NOW, lead)
    assert isinstance(first, Admission)

    def is_first_again() -> bool:
        answer = admit(services, NOW, lead)
        assert isinstance(answer, Admission)
        return is_duplicate(answer) and answer.lead.id == first.lead.id

    assert all(is_first_again() for _ in range(10))
    for _ in range(4):
        assert is_taken(admit(services, NOW)), "duplicates are not counted"
    assert is_refused(admit(services, NOW))
    assert is_first_again(), "nor are they refused"


def test_a_key_with_another_body_is_refused(services: Services) -> None:
    admit(services, NOW, make_lead("Tertarik", key="k-1"))
    with pytest.raises(IdempotencyKeyReused):
        admit(services, NOW, make_lead("Tertarik", key="k-1", city="Binjai"))


def test_a_correction_of_the_same_words_is_counted_and_keeps_its_lead(services: Services) -> None:
    first = admit(services, NOW, make_lead("Tertarik"))
    for number, city in enumerate(("Binjai", "Pematangsiantar", "Tebing Tinggi", "Padang")):
        later = NOW + timedelta(seconds=number + 1)
        corrected = admit(services, later, make_lead("Tertarik", city=city))
        assert is_taken(corrected)
        assert isinstance(corrected, Admission)
        assert isinstance(first, Admission)
        assert (corrected.lead.id, corrected.lead.ref) == (first.lead.id, first.lead.ref)
    later = NOW + timedelta(seconds=9)
    assert is_refused(admit(services, later, make_lead("Tertarik", city="Sibolga")))


def test_the_same_words_under_a_key_are_the_lead_they_were_before(services: Services) -> None:
    first = admit(services, NOW, make_lead("Tertarik"))
    keyed = admit(services, NOW, make_lead("Tertarik", key="k-1"))
    assert isinstance(first, Admission)
    assert isinstance(keyed, Admission)
    assert keyed.lead.id == first.lead.id


def test_twenty_four_at_once_are_counted_one_by_one(services: Services) -> None:
    answers = together(24, lambda _number: admit(services, NOW))
    assert sum(map(is_taken, answers)) == 5
    assert sum(map(is_refused, answers)) == 19


def test_all_clients_together_have_a_ceiling(services: Services) -> None:
    limits = RateLimits(per_minute=5, per_hour=30, ceiling_per_minute=3)
    send = partial(admit, services, limits=limits)
    for number in range(3):
        assert is_taken(send(NOW, make_lead(client=f"192.0.2.{number}")))
    assert is_taken(send(NOW, make_lead(client="192.0.2.9"))), "it refuses nobody"
    assert is_taken(send(NOW + timedelta(minutes=1), make_lead(client="192.0.2.9")))
    if isinstance(services.__dict__.get("cipher"), object) and "cipher" in services.__dict__:
        copies = services.cache.execute("HVALS", "queue")
        reviews = [Lead.from_json(services.cipher.decrypt(copy)).review for copy in copies]
    else:
        rows = services.database.run(lambda c: c.execute("select review from leads").fetchall())
        reviews = [row[0] for row in rows]
    assert sorted(map(str, reviews)) == ["None"] * 4 + ["flood"]


def test_a_message_sent_often_is_checked_for_spam_again(services: Services) -> None:
    def screen(lead: Lead, repeats: int) -> Lead:
        return lead._replace(spam="hasty+repeated_text" if repeats > spam.MAX_REPEATS else None)

    for number in range(spam.MAX_REPEATS + 1):
        lead = make_lead("Promo", client=f"192.0.2.{number}", business_name=f"Salon {number}")
        answer = admit(services, NOW, lead, screen=screen)
        assert isinstance(answer, Admission)
        assert (answer.lead.spam is not None) == (number == spam.MAX_REPEATS)


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


# ------------------------------------------------------------------ in Postgres


def _admit_number(services: Services, leads: list[Lead], number: int) -> Admission | RateLimited:
    return admit(services, NOW, leads[number])


def test_eight_at_once_of_one_lead_are_one_row_and_eight_equal_answers(
    in_postgres: Services, database: Rows
) -> None:
    """Whether they come from one client, whose last place it is, or from eight."""
    for _ in range(4):
        admit(in_postgres, NOW)
    for message, clients in (
        ("satu", ["192.0.2.1"]),
        ("dua", [f"198.51.100.{n}" for n in range(8)]),
    ):
        sent = partial(make_lead, message)
        leads = [sent(client=clients[number % len(clients)]) for number in range(8)]
        answers = together(8, partial(_admit_number, in_postgres, leads))
        assert all(isinstance(answer, Admission) for answer in answers), answers
        assert len({a.lead.id for a in answers if isinstance(a, Admission)}) == 1
        decisions = sorted(a.decision for a in answers if isinstance(a, Admission))
        assert decisions == ["stored"] + ["stored_before"] * 7
    assert len(database.execute("select from leads").fetchall()) == 6
    counts = database.execute(
        "select coalesce(sum(cardinality(moments)), 0) as n from lead_clients"
    ).fetchone()
    assert counts == {"n": 6}, "the duplicates gave back what they had taken"


def test_a_lost_reply_to_the_statement_stores_once_and_answers_once(
    platform: Platform, new_services: Callable[..., Services], database: Rows
) -> None:
    port = platform.postgres.port
    proxy = FaultProxy("127.0.0.1", port)
    url = platform.database_url.replace(f":{port}/", f":{proxy.port}/")
    with contextlib.closing(proxy):
        services = new_services(DATABASE_URL=url)
        assert is_taken(admit(services, NOW))
        proxy.switch("drop_reply", match="accept_lead", times=1)
        answer = admit(services, NOW, make_lead("Tertarik"))
        assert isinstance(answer, Admission)
        assert answer.decision == "stored_before"
    assert len(database.execute("select from leads where message = 'Tertarik'").fetchall()) == 1
    [counted] = database.execute("select cardinality(moments) as n from lead_clients").fetchall()
    assert counted["n"] == 2


def test_a_clients_row_holds_no_address_ends_after_a_day_and_goes_with_the_person(
    platform: Platform, in_postgres: Services, database: Rows
) -> None:
    lead = make_lead(now=datetime.now(UTC))
    service.persist(in_postgres, lead, RECIPIENTS, Conditions(LIMITS))
    [row] = database.execute("select * from lead_clients").fetchall()
    assert row["client"] == admission.client_hash(in_postgres.rate_limit_key, "192.0.2.1")
    assert "192.0.2" not in str(row)
    rules = [rule for rule in retention.rules(1095) if rule.name == "clients"]
    run = in_postgres.database.run
    assert retention.prune(run, tuple(rules), datetime.now(UTC), budget_s=5) == {"clients": 0}
    later = datetime.now(UTC) + timedelta(days=1, seconds=5)
    assert retention.prune(run, tuple(rules), later, budget_s=5) == {"clients": 1}
    another = make_lead(now=datetime.now(UTC))
    service.persist(in_postgres, another, RECIPIENTS, Conditions(LIMITS))
    service.persist(
        in_postgres,
        make_lead(client="192.0.2.2", phone_whatsapp="081377778888", email="b@b.example.com"),
        RECIPIENTS,
        Conditions(LIMITS),
    )
    operator = {"X-Admin-Token": platform.environment["LEADS_ADMIN_TOKEN"]}
    erased = httpx.delete(
        f"{platform.url}/api/leads/subject",
        params={"phone": "081234567890"},
        headers=operator,
        timeout=20,
    )
    assert erased.status_code == 200
    [left] = database.execute("select client from lead_clients").fetchall()
    assert left["client"] == admission.client_hash(in_postgres.rate_limit_key, "192.0.2.2")


PLANS = {
    "the ceiling": """
        select count(*) >= 120 from (
          (select from leads where created_at > now() - interval '1 minute'
           order by created_at desc limit 120)
          union all
          (select from spam where received_at > now() - interval '1 minute'
           order by received_at desc limit 120)) as recent""",
    "repeated text": """
        select count(*) from (
          (select from leads where md5(message) = md5('pesan 7') and message is not null
             and created_at > now() - interval '1 day' limit 5)
          union all
          (select from spam where md5(submission ->> 'message') = md5('pesan 7')
             and submission ->> 'message' is not null
             and received_at > now() - interval '1 day' limit 5)) as recent""",
    "the same lead": """
        select * from leads as l
        where l.id = '00000000-0000-0000-0000-000000000001' or (
          tstzrange(l.created_at, l.same_until) && tstzrange(now(), now() + interval '1 day')
          and (l.identity = '\\x07' or (l.content_identity = '\\x07' and l.key_span && '(,)')))""",
    "a client": "select moments from lead_clients where client = '\\x07'",
}


def test_no_part_of_the_statement_reads_a_table_from_end_to_end(
    platform: Platform, database: Rows
) -> None:
    database.execute("""
        insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp, city,
          salon_type, message, locale, consent_at, consent_version, consent_locale, identity,
          same_until, body_sha256, content_identity, key_span)
        select gen_random_uuid(), 'ALFA-' || upper(lpad(to_hex(n), 6, '0')), at, 'Salon', 'Ani',
          '+628120000000', 'Medan', 'SALON', 'pesan ' || n, 'id', at, '2026-11', 'id', identity,
          at + interval '1 day', '', identity, '(,)'
        from generate_series(1, 5000) as n, lateral (
          select now() - n * interval '1 hour' as at, sha256(n::text::bytea) as identity
        ) as made""")
    database.execute("""
        insert into spam (id, ref, received_at, reason, submission, locale)
        select gen_random_uuid(), 'ALFA-22222', now() - n * interval '1 minute', 'links',
          jsonb_build_object('message', 'pesan ' || n), 'id'
        from generate_series(1, 5000) as n""")
    database.execute("""
        insert into lead_clients (client, moments, last_at)
        select sha256(n::text::bytea), array[now()], now() from generate_series(1, 5000) as n""")
    for table in ("leads", "spam", "lead_clients"):
        database.execute(f"analyze {table}".encode())
    for name, statement in PLANS.items():
        plan = database.execute(f"explain {statement}".encode()).fetchall()
        assert "Seq Scan" not in str(plan), (name, plan)


# ------------------------------------------------------------------ as callers see it


def test_the_sixth_lead_in_a_minute_gets_a_retry_after(platform: Platform, database: Rows) -> None:
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
def test_forged_client_headers_do_not_change_the_rate_limit_key(
    platform: Platform, database: Rows, name: str
) -> None:
    for number in range(5):
        header_value = "the-same-each-time" if name == "X-Request-Id" else f"198.51.100.{number}"
        assert post(platform.url, number, **{name: header_value}).status_code == 200
    last = "the-same-each-time" if name == "X-Request-Id" else "198.51.100.9"
    assert post(platform.url, 6, **{name: last}).status_code == 429
    counted = database.execute("select cardinality(moments) as n from lead_clients").fetchall()
    assert counted == [{"n": 5}]
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        assert list(valkey.scan_iter("rate:*")) == [], "asked only when Postgres takes no lead"
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
    rows = database.execute("select host(ip_address) as ip from leads").fetchall()
    assert "2001:db8:1:2::5" in {row["ip"] for row in rows}


def test_above_the_ceiling_a_lead_is_kept_for_review_and_answered_like_success(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", **UNLIMITED, LEADS_CEILING_PER_MINUTE="2") as function:
        answers = [post(function.url, number) for number in range(6)]
    for answer in answers:
        assert answer.status_code == 200
        assert set(answer.json()) == {"success", "id", "ref"}
    assert database.execute("select 1 from spam").fetchall() == []
    rows = database.execute("select id, review from leads").fetchall()
    assert {str(row["id"]) for row in rows} == {answer.json()["id"] for answer in answers}
    waiting = [row["id"] for row in rows if row["review"] == "flood"]
    assert len(waiting) >= 2  # the minute may have changed half-way
    mailed = database.execute("select distinct lead_id as id from outbox").fetchall()
    assert {row["id"] for row in mailed} == {row["id"] for row in rows} - {*waiting}


# ------------------------------------------------------------------ without Redis


@pytest.mark.parametrize(
    "variables",
    [{"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}, {"UPSTASH_REDIS_REST_TOKEN": None}],
    ids=["down", "not configured"],
)
def test_without_redis_the_limits_hold(
    platform: Platform, database: Rows, variables: dict[str, str | None]
) -> None:
    with platform.function("api/leads.py", **variables) as function:
        assert statuses(function.url, range(7)) == [200] * 5 + [429] * 2
        assert post(function.url, 0).status_code == 200
    assert len(database.execute("select 1 from leads").fetchall()) == 5


@pytest.mark.measures_time
def test_a_silent_redis_costs_a_lead_nothing(platform: Platform, database: Rows) -> None:
    with platform.function("api/leads.py") as function:
        post(function.url, 0)  # warm
        assert function.wait_idle(10)
        platform.upstash.switch(mode="stall")
        try:
            assert post(function.url, 1).status_code == 200
            assert not [r for r in platform.upstash.received() if "queue" in str(r["body"][:1])]
        finally:
            platform.upstash.ok()
    assert len(database.execute("select 1 from leads").fetchall()) == 2


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
    '{"result":["queued"]}',
    '{"result":["queued","x"]}',
    '{"result":["earlier","x"]}',
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
    outcomes: dict[str, object] = {}
    for reply in GARBAGE:
        replies.append(reply)
        services = Services(
            Settings({**platform.environment, "UPSTASH_REDIS_REST_URL": server.url})
        )
        try:
            service._enqueue(services, make_lead(), RECIPIENTS, Conditions(LIMITS))
        except Exception as error:  # noqa: BLE001 - shown below, with the reply
            outcomes[reply] = type(error)
        services.close()
    server.close()
    assert outcomes == dict.fromkeys(GARBAGE, CacheDown)
