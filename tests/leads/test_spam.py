"""Spam is stored, mails nobody, and can be restored as a lead by a person."""

from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.leads import spam, submission
from ops import cli
from tests.conftest import LEAD, delivered, eventually

type Rows = psycopg.Connection[DictRow]

PROMOTION = "Promo! https://a.example dan http://b.example"
HASTY_PROMOTION = {**LEAD, "message": PROMOTION}
UNLIMITED = {"LEADS_PER_MINUTE": "1000", "LEADS_PER_HOUR": "1000"}


def classify(seconds: int | None = 60, repeats: int = 1, **fields: object) -> str | None:
    read = submission.parse({**LEAD, **fields})
    return spam.classify(read, seconds_to_fill=seconds, repeats=repeats)


def post(url: str, lead: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/api/leads", json=lead, headers=headers, timeout=20)


def rows(database: Rows, table: str) -> list[DictRow]:
    return database.execute(f"select * from {table}".encode()).fetchall()


# ------------------------------------------------------------------ the marks


@pytest.mark.parametrize(
    "honest",
    [
        {},
        {"seconds": None},
        {"seconds": 0},
        {"repeats": 500},
        {"message": PROMOTION},
        {"business_name": "www.salonayu.example"},
        {"email": "ayu@mailinator.com"},
        {"seconds": 3, "email": "ayu@mailinator.com"},
        {"repeats": 5, "message": PROMOTION},
        {"seconds": 0, "message": "Lihat https://salonayu.example"},
        {"message": None, "email": None, "seconds": 1},
    ],
    ids=str,
)
def test_one_signal_alone_is_not_spam(honest: dict[str, Any]) -> None:
    assert classify(**honest) is None


@pytest.mark.parametrize(
    ("signals", "reason"),
    [
        ({"seconds": 2, "message": PROMOTION}, "hasty+links"),
        ({"seconds": -5, "message": PROMOTION.upper()}, "hasty+links"),
        ({"seconds": 0, "contact_name": "HTTP://A.EXAMPLE"}, "hasty+link_in_name"),
        ({"city": "www.a.example", "email": "x@MailInator.com"}, "link_in_name+disposable_address"),
        ({"repeats": 6, "email": "x@mailinator.com"}, "disposable_address+repeated_text"),
        ({"repeats": 6, "seconds": 1}, "hasty+repeated_text"),
        (
            {
                "specialization": "https://a.example",
                "current_brands_used": "http://b",
                "seconds": 1,
            },
            "hasty+links",
        ),
        (
            {
                "seconds": 1,
                "repeats": 9,
                "message": PROMOTION,
                "business_name": "www.a.example",
                "email": "x@mailinator.com",
            },
            "hasty+links+link_in_name+disposable_address+repeated_text",
        ),
        ({"company": "SEO Inc"}, "honeypot"),
        ({"company": "SEO Inc", "seconds": 1, "message": PROMOTION}, "honeypot"),
    ],
)
def test_two_signals_or_the_honeypot_are_spam(signals: dict[str, Any], reason: str) -> None:
    assert classify(**signals) == reason


# ------------------------------------------------------------------ as it happens


def test_spam_is_answered_like_success_and_mails_nobody(platform: Platform, database: Rows) -> None:
    answers = [post(platform.url, HASTY_PROMOTION, **{"X-Form-Seconds": "1"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert set(answers[0].json()) == {"success", "id", "ref"}
    [row] = rows(database, "spam")
    assert (str(row["id"]), row["ref"]) == (answers[0].json()["id"], answers[0].json()["ref"])
    assert row["reason"] == "hasty+links"
    assert row["submission"]["message"] == PROMOTION
    assert rows(database, "leads") == rows(database, "outbox") == []
    assert platform.resend.received() == []


@pytest.mark.parametrize("seconds", ["4", "", "soon", "1.5", "1e9", "9" * 5000])
def test_a_time_to_fill_that_is_long_or_no_number_is_no_signal(
    platform: Platform, database: Rows, seconds: str
) -> None:
    assert post(platform.url, HASTY_PROMOTION, **{"X-Form-Seconds": seconds}).status_code == 200
    assert rows(database, "spam") == []


def test_the_same_message_from_many_people_is_a_signal(platform: Platform, database: Rows) -> None:
    with platform.function("api/leads.py", **UNLIMITED) as function:
        for number in range(7):
            sender = {
                "phone_whatsapp": f"0812-3456-789{number}",
                "email": f"a{number}@mailinator.com",
            }
            assert post(function.url, {**LEAD, **sender}).status_code == 200
        last = {"phone_whatsapp": "0812-3456-7899", "email": "b@mailinator.com", "message": ""}
        assert post(function.url, {**LEAD, **last}).status_code == 200
    assert len(rows(database, "leads")) == 6
    assert [row["reason"] for row in rows(database, "spam")] == [
        "disposable_address+repeated_text"
    ] * 2


def test_an_allowed_origin_may_send_the_fill_time(platform: Platform, database: Rows) -> None:
    headers = {
        "Origin": platform.url,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,idempotency-key,x-form-seconds",
    }
    answer = httpx.options(f"{platform.url}/api/leads", headers=headers)
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert {name.strip() for name in allowed.split(",")} >= {
        "content-type",
        "idempotency-key",
        "x-form-seconds",
    }


# ------------------------------------------------------------------ and back


def test_spam_is_listed_and_restored_with_its_mails(
    platform: Platform, database: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    lead = {**HASTY_PROMOTION, "locale": "en", "consent_version": "2026-11", "chair_count": "6"}
    answer = post(platform.url, lead, **{"X-Form-Seconds": "1"}).json()
    assert cli.main(["spam", "list"], platform.environment) == 0
    listed = capsys.readouterr().out
    for value in (answer["id"], answer["ref"], "hasty+links", "Barber Maju Jaya"):
        assert value in listed

    assert cli.main(["spam", "restore", answer["id"], "--yes"], platform.environment) == 0
    assert answer["ref"] in capsys.readouterr().out
    assert rows(database, "spam") == []
    [row] = rows(database, "leads")
    assert (str(row["id"]), row["ref"]) == (answer["id"], answer["ref"])
    assert (row["email"], row["chair_count"], row["locale"]) == ("andi@example.com", 6, "en")
    assert (row["consent_version"], str(row["ip_address"])) == ("2026-11", "127.0.0.1")
    platform.cron("deliver")
    assert sorted(mail["to"][0] for mail in delivered(platform)) == [
        "andi@example.com",
        "sales@alfabeauty.test",
    ]

    assert cli.main(["spam", "restore", answer["id"], "--yes"], platform.environment) == 1
    assert answer["id"] in capsys.readouterr().err
    assert cli.main(["spam", "list"], platform.environment) == 0
    assert answer["id"] not in capsys.readouterr().out


def test_a_honeypot_filled_by_mistake_costs_no_lead(platform: Platform, database: Rows) -> None:
    answer = post(platform.url, {**LEAD, "company": "SEO Inc"}).json()
    assert cli.main(["spam", "restore", answer["id"], "--yes"], platform.environment) == 0
    [row] = rows(database, "leads")
    assert row["business_name"] == "Barber Maju Jaya"


@pytest.mark.parametrize("key", ["k-1", None])
def test_a_restored_lead_that_is_sent_again_is_still_one_lead(
    platform: Platform, database: Rows, key: str | None
) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = post(platform.url, HASTY_PROMOTION, **headers, **{"X-Form-Seconds": "1"}).json()
    assert cli.main(["spam", "restore", answer["id"], "--yes"], platform.environment) == 0
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.flushall()  # Postgres alone decides
    again = post(platform.url, HASTY_PROMOTION, **headers)
    assert (again.status_code, again.json()) == (200, answer)
    assert len(rows(database, "leads")) == 1
    platform.cron("deliver")
    assert eventually(lambda: len(delivered(platform)) == 2)
