"""The rate limit towards Resend, pauses for all workers, and errors that cost no e-mail."""

import itertools
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.db import Database
from lib.interfaces import RunQuery
from lib.leads import delivery_status, outbox
from lib.leads.emails import Email
from lib.leads.outbox import Delivery, Transport
from lib.problems import TransientMailError
from tests.conftest import LEAD, delivered, eventually
from tests.leads.test_outbox import drain, mail, make_due, put_waiting, send

type Rows = psycopg.Connection[DictRow]

WITHOUT_EMAIL = {**LEAD, "email": ""}
NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


@pytest.fixture
def run(platform: Platform, database: Rows) -> Iterator[RunQuery]:
    shared = Database(platform.database_url)
    yield shared.run
    shared.close()


def clock() -> datetime:
    return datetime.now(UTC)


def status(run: RunQuery) -> delivery_status.DeliveryStatus:
    return delivery_status.load(run, clock())


def mails(database: Rows) -> list[DictRow]:
    return database.execute("select * from outbox order by kind desc, created_at").fetchall()


# ------------------------------------------------------------------ a mail that kills its workers


def test_a_mail_whose_every_worker_is_killed_ends_as_a_dead_letter(
    run: RunQuery, database: Rows
) -> None:
    put_waiting(database, 1)
    database.execute("update outbox set next_attempt_at = %s, created_at = %s", [NOW, NOW])
    now, claimed = NOW, 0
    while mail(database)["dead_at"] is None:
        outbox.mark_abandoned_dead(run, now)
        claimed += len(outbox.claim(run, now))
        now += timedelta(minutes=1)
        assert now < NOW + timedelta(hours=48)
    assert claimed == 7, "one attempt, and one after each pause of the schedule"
    row = mail(database)
    assert (row["last_error"], row["uncertain"]) == ("worker_lost", True)
    assert status(run).dead == 1


def test_a_mail_that_killed_its_worker_is_claimed_after_the_others(
    run: RunQuery, database: Rows
) -> None:
    put_waiting(database, 1)
    [fatal] = outbox.claim(run, clock())
    put_waiting(database, 3)
    later = clock() + timedelta(minutes=10)
    taken = [claimed.lead_id for _ in range(4) for claimed in outbox.claim(run, later)]
    assert len(set(taken)) == 4
    database.execute("update outbox set leased_until = null")
    database.execute("update outbox set next_attempt_at = created_at where attempts < 2")
    again = [claimed.lead_id for _ in range(3) for claimed in outbox.claim(run, later)]
    assert fatal.lead_id not in again, "its backoff grows with every claim"


def test_mails_to_sales_are_claimed_before_acknowledgements(run: RunQuery, database: Rows) -> None:
    put_waiting(database, 3)
    database.execute(
        """
        insert into outbox (lead_id, kind, sender, recipients, subject, body_text, body_html,
          created_at, next_attempt_at)
        select lead_id, 'acknowledgement', sender, '{a@b.co}', 'Thanks', 't', 'h', created_at,
          next_attempt_at from outbox
        """
    )
    kinds = [claimed.email.kind for _ in range(6) for claimed in outbox.claim(run, clock())]
    assert kinds == ["sales"] * 3 + ["acknowledgement"] * 3


def test_an_unexpected_error_of_one_mail_stops_no_other(run: RunQuery, database: Rows) -> None:
    put_waiting(database, 3)
    first = database.execute("select lead_id from outbox order by next_attempt_at").fetchone()
    assert first is not None
    sent: list[str] = []

    def send_email(_email: Email, key: str) -> str:
        if str(first["lead_id"]) in key:
            raise UnicodeEncodeError("ascii", "é", 0, 1, "x")
        sent.append(key)
        return key

    stats = Delivery(run, Transport(send_email, 1000), clock).send_due(5)
    assert (stats.sent, stats.delayed, len(sent)) == (2, 1, 2)
    assert isinstance(stats.error, UnicodeEncodeError), "and it is reported"
    left = database.execute("select last_error from outbox where sent_at is null").fetchall()
    assert left == [{"last_error": "fault_UnicodeEncodeError"}]


# ------------------------------------------------------------------ pace


@pytest.mark.measures_time
def test_one_worker_keeps_the_rate_limit(run: RunQuery, database: Rows) -> None:
    put_waiting(database, 30)
    at: list[float] = []

    def send_email(_email: Email, key: str) -> str:
        at.append(time.monotonic())
        return key

    stats = Delivery(run, Transport(send_email, 4), clock).send_due(3)
    assert 5 <= stats.sent <= 13
    assert min(b - a for a, b in itertools.pairwise(at)) > 0.2


def test_workers_and_new_leads_together_keep_an_enforced_rate_limit(
    platform: Platform, database: Rows
) -> None:
    """Thirty queued leads and ten new ones with their mails: each once, hardly a 429."""
    put_waiting(database, 30)
    platform.resend.switch("limit", per_second=10)
    environment = {"MAIL_PER_SECOND": "10", "LEADS_PER_MINUTE": "1000", "LEADS_PER_HOUR": "1000"}
    with (
        platform.function("api/cron/deliver.py", **environment) as first,
        platform.function("api/cron/deliver.py", **environment) as second,
        platform.function("api/leads.py", **environment) as leads,
    ):
        drains = [threading.Thread(target=drain, args=(platform, c)) for c in (first, second)]
        for each in drains:
            each.start()
        for number in range(10):
            lead = {**LEAD, "message": f"Nomor {number}"}
            assert httpx.post(f"{leads.url}/api/leads", json=lead).status_code == 200
        for each in drains:
            each.join()
        eventually(lambda: not leads.in_flight, 20)
        drain(platform, first)
    outcomes = [request["outcome"] for request in platform.resend.received()]
    assert len(delivered(platform)) == 50
    assert all(row["sent_at"] for row in mails(database))
    assert outcomes.count("ok") == 50
    assert len(outcomes) <= 55, outcomes


def test_a_lead_whose_send_slot_is_far_off_leaves_its_mails_to_the_worker(
    run: RunQuery, database: Rows
) -> None:
    put_waiting(database, 1)
    database.execute(
        "update outbox set attempts = 1, uncertain = true, leased_until = now() + interval '1 min'"
    )
    database.execute("insert into mail_pace (next_at) values (now() + interval '10 s')")
    [row] = mails(database)
    email = Email("sales", "a@b.co", ("s@b.co",), None, "New", "t", "h")

    def never(_email: Email, _key: str) -> str:
        raise AssertionError("without a send slot")

    Delivery(run, Transport(never, 2), clock).send_new(row["lead_id"], [email], clock())
    [row] = mails(database)
    assert (row["attempts"], row["uncertain"], row["leased_until"]) == (0, False, None)
    assert row["next_attempt_at"] <= clock()


@pytest.mark.parametrize(
    ("fault", "mended"),
    [
        ("alter table mail_pace rename to tempo", "alter table tempo rename to mail_pace"),
        ("alter table mail_pace rename next_at to soon",
         "alter table mail_pace rename soon to next_at"),
        ("revoke all on mail_pace from alfa_app",
         "grant select, insert, update, delete on mail_pace to alfa_app"),
    ],
)  # fmt: skip
def test_a_broken_rate_limit_table_costs_no_mail(
    platform: Platform, database: Rows, fault: str, mended: str
) -> None:
    put_waiting(database, 2)
    database.execute(fault.encode())
    try:
        assert httpx.post(f"{platform.url}/api/leads", json=WITHOUT_EMAIL).status_code == 200
        platform.cron("deliver")
        eventually(lambda: len(delivered(platform)) == 3)
    finally:
        database.execute(mended.encode())


# ------------------------------------------------------------------ held for all


def test_a_429_pauses_every_instance_until_it_is_over(platform: Platform, database: Rows) -> None:
    put_waiting(database, 5)
    platform.resend.switch("rate_limit", retry_after_s=30)
    with (
        platform.function("api/cron/deliver.py") as cron,
        platform.function("api/leads.py") as leads,
    ):
        drain(platform, cron)
        platform.resend.ok()
        assert len(platform.resend.received()) == 1
        assert httpx.post(f"{leads.url}/api/leads", json=WITHOUT_EMAIL).status_code == 200
        eventually(lambda: not leads.in_flight)
        drain(platform, cron)
        platform.cron("deliver")
        assert len(platform.resend.received()) == 1, "nobody asks meanwhile"
        assert {row["attempts"] for row in mails(database)} == {0}
        database.execute("update mail_pace set held_until = now()")
        make_due(database)
        drain(platform, cron)
    assert len(delivered(platform)) == 6


QUOTAS = ["daily_quota_exceeded", "monthly_quota_exceeded"]


@pytest.mark.parametrize("name", QUOTAS)
def test_an_exceeded_quota_delays_mails_and_makes_no_dead_letter(
    platform: Platform, database: Rows, run: RunQuery, name: str
) -> None:
    put_waiting(database, 3)
    platform.resend.switch("fail", status=429, name=name, message="You have reached your quota.")
    for _ in range(10):  # days of it
        platform.cron("deliver")
        make_due(database)
        database.execute("update mail_pace set held_until = now()")
    assert len(platform.resend.received()) == 10, "one mail asks for all"
    assert {(row["attempts"], row["dead_at"]) for row in mails(database)} == {(0, None)}
    outbox_status = status(run)
    assert (outbox_status.blocked_by, outbox_status.dead) == (name, 0)
    assert outbox_status.blocked >= 1
    answer = platform.cron("watch")
    assert isinstance(answer.body, bytes)
    assert b"mail_stopped" in answer.body
    platform.resend.ok()
    make_due(database)
    database.execute("update mail_pace set held_until = now()")
    platform.cron("deliver")
    assert len([m for m in delivered(platform) if m["to"] == ["s@b.co"]]) == 3
    assert status(run).blocked_by is None


# As documented, in the older edition and the newest.
KEY_REFUSALS = [
    (403, "invalid_api_key", "API key is invalid", "invalid_api_key"),
    (401, "validation_error", "API key is invalid", "invalid_api_key"),
    (400, "validation_error", "API key is invalid", "invalid_api_key"),
    (401, "missing_api_key", "Missing API Key", "missing_api_key"),
    (401, "restricted_api_key", "This API key is restricted to only send emails",
     "restricted_api_key"),
    (403, "suspended_api_key", "This API key is suspended", "suspended_api_key"),
    (404, "not_found", "The requested endpoint does not exist", "not_found"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "name", "message", "reason"), KEY_REFUSALS)
def test_a_refused_key_delays_mails_and_is_known_to_the_monitor(
    platform: Platform, database: Rows, run: RunQuery,
    code: int, name: str, message: str, reason: str,
) -> None:  # fmt: skip
    put_waiting(database, 2)
    platform.resend.switch("fail", status=code, name=name, message=message)
    for _ in range(9):
        platform.cron("deliver")
        make_due(database)
        database.execute("update mail_pace set held_until = now()")
    assert {(row["attempts"], row["dead_at"]) for row in mails(database)} == {(0, None)}
    assert status(run).blocked_by == reason
    platform.resend.ok()
    platform.cron("deliver")
    assert len(delivered(platform)) == 2


@pytest.mark.parametrize("key", ["", "re_“pasted”"])
def test_a_missing_key_delays_mails_and_is_known_to_the_monitor(
    platform: Platform, database: Rows, run: RunQuery, key: str
) -> None:
    with (
        platform.function("api/leads.py", RESEND_API_KEY=key) as leads,
        platform.function("api/cron/deliver.py", RESEND_API_KEY=key) as cron,
    ):
        assert httpx.post(f"{leads.url}/api/leads", json=LEAD).status_code == 200
        eventually(lambda: not leads.in_flight)
        drain(platform, cron)
    assert status(run).blocked_by == "missing_api_key"
    assert {(row["attempts"], row["dead_at"]) for row in mails(database)} == {(0, None)}
    make_due(database)
    database.execute("update mail_pace set held_until = now()")
    platform.cron("deliver")
    assert len(delivered(platform)) == 2


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (403, "validation_error", "The alfabeauty.test domain is not verified."),
        (403, "validation_error", "You can only send testing emails to your own email address"),
        (403, "invalid_from_address", "The from address is not valid."),
        (422, "invalid_from_address", "Invalid `from` field."),
        (422, "validation_error", "Invalid `from` field. The email address needs to follow …"),
    ],
)
def test_a_refused_sender_delays_its_mails_alone(
    platform: Platform, database: Rows, run: RunQuery, code: int, name: str, message: str
) -> None:
    put_waiting(database, 2)
    database.execute(
        "update outbox set sender = 'old@b.co' where id = (select min(id::text)::uuid from outbox)"
    )
    platform.resend.switch("fail", status=code, name=name, message=message, match="old@b.co")
    for _ in range(9):
        platform.cron("deliver")
        make_due(database)
    assert len(delivered(platform)) == 1
    [left] = [row for row in mails(database) if row["sent_at"] is None]
    assert (left["attempts"], left["dead_at"], left["last_error"]) == (0, None, "sender_refused")
    assert status(run).blocked_by == "sender_refused"


# ------------------------------------------------------------------ addresses


def test_an_acknowledgement_to_no_address_ends_quietly(
    platform: Platform, database: Rows, run: RunQuery
) -> None:
    message = "Invalid `to` field. The email address needs to follow the `email@example.com` format"
    platform.resend.switch(
        "fail", status=422, name="validation_error", message=message, match="'to': ['andi@example"
    )
    assert httpx.post(f"{platform.url}/api/leads", json=LEAD).status_code == 200
    eventually(lambda: status(run).refused == 1)
    eventually(lambda: mails(database)[0]["sent_at"])  # sales', recorded beside it
    _, acknowledgement = mails(database)
    assert (acknowledgement["last_error"], acknowledgement["attempts"]) == ("address_refused", 1)
    assert status(run).dead == 0
    answer = platform.cron("watch")
    assert isinstance(answer.body, bytes)
    assert b"dead_letters" not in answer.body


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (422, "Invalid `reply_to` field. The email address needs to follow …"),
        (400, "Invalid `replyTo` field."),
        (422, "We found an error with one or more fields in the request."),
    ],
)
def test_a_refused_reply_to_costs_sales_no_mail(
    platform: Platform, database: Rows, code: int, message: str
) -> None:
    platform.resend.switch(
        "fail", status=code, name="validation_error", message=message, match="'reply_to'"
    )
    assert httpx.post(f"{platform.url}/api/leads", json=LEAD).status_code == 200
    [sales] = eventually(lambda: [m for m in delivered(platform) if "New Lead" in m["subject"]])
    assert sales["reply_to"] == []
    assert "refused andi@example.com" in sales["text"]
    assert "refused andi@example.com" in sales["html"]
    assert "E-mail: andi@example.com" in sales["text"]
    keys = [request["headers"]["idempotency-key"] for request in platform.resend.received()
            if "New Lead" in str(request["body"])]  # fmt: skip
    assert len(keys) == len(set(keys)) == 2, "other bytes have a key of their own"


def test_a_refused_reply_to_costs_no_lead_that_only_a_mail_can_carry(
    platform: Platform, database: Rows
) -> None:
    message = "Invalid `reply_to` field."
    platform.resend.switch(
        "fail", status=422, name="validation_error", message=message, match="'reply_to'"
    )
    nowhere = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa",
        "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1",
    }
    with platform.function("api/leads.py", **nowhere) as function:
        answer = httpx.post(f"{function.url}/api/leads", json=LEAD, timeout=20)
    assert answer.status_code == 202
    assert "BEGIN ALFA LEAD" in delivered(platform)[0]["text"]


def test_domains_go_to_resend_in_punycode(platform: Platform, database: Rows) -> None:
    with platform.function("api/leads.py", MAIL_SALES_TO="jual@kecantikan-é.id") as function:
        lead = {**LEAD, "email": "sari@bücher.example"}
        taken = httpx.post(f"{function.url}/api/leads", json=lead)
        if taken.status_code == 400:
            lead["email"] = "sari@bücher.de"
            taken = httpx.post(f"{function.url}/api/leads", json=lead)
        assert taken.status_code == 200, taken.text
        eventually(lambda: len(delivered(platform)) == 2)
    sent = {mail["subject"][:8]: mail for mail in delivered(platform)}
    assert sent["New Lead"]["to"] == ["jual@xn--kecantikan--qeb.id"] or sent["New Lead"]["to"][
        0
    ].startswith("jual@xn--")
    assert sent["New Lead"]["reply_to"][0].startswith("sari@xn--bcher-kva.")
    assert any(mail["to"][0].startswith("sari@xn--bcher-kva.") for mail in delivered(platform))


def test_a_delay_counts_only_what_was_tried(run: RunQuery, database: Rows) -> None:
    put_waiting(database, 1)
    for delay in (
        TransientMailError("rate_limit_exceeded", may_be_sent=False, retry_after_s=1),
        TransientMailError("application_error", may_be_sent=True),
    ):
        make_due(database)
        send(run, partial(_raise, delay), clock(), *outbox.claim(run, clock()))
    assert (mail(database)["attempts"], mail(database)["uncertain"]) == (1, True)


def _raise(fault: Exception, letter: Email, key: str) -> Any:
    raise fault
