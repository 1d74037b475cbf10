"""The outbox: each e-mail is delivered once, whatever fails in between."""

import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.db import Database
from lib.interfaces import RunQuery
from lib.leads import outbox
from lib.leads.emails import Email
from lib.leads.outbox import ClaimedEmail, Delivery, SendEmail, Transport
from lib.mail import Mailer
from lib.problems import IdempotencyConflict, PermanentMailError, TransientMailError
from tests.conftest import LEAD, delivered, eventually

type Rows = psycopg.Connection[DictRow]

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
EMAIL = Email("sales", "a@b.co", ("s@b.co",), None, "New Lead: X", "text", "<p>text</p>")


@pytest.fixture
def without_email() -> dict[str, object]:
    return {**LEAD, "email": ""}


def drain(platform: Platform, cron: Function) -> dict[str, Any]:
    """One call of this cron function; its response."""
    token = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    response = httpx.get(f"{cron.url}/api/cron/deliver", headers=token, timeout=60)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def make_due(database: Rows) -> None:
    database.execute(
        "update outbox set next_attempt_at = now() - interval '1 s', leased_until = null"
    )


def mail(database: Rows) -> DictRow:
    rows = database.execute("select * from outbox").fetchall()
    assert len(rows) == 1
    return rows[0]


def test_the_cron_endpoint_requires_its_token(site: httpx.Client, platform: Platform) -> None:
    path = "/api/cron/deliver"
    assert site.get(path).status_code == 401
    assert site.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert site.get(path, headers={b"Authorization": "Bearer é".encode()}).status_code == 401
    answer = platform.cron("deliver")
    assert answer.status == 200


def test_the_cron_token_being_retired_is_accepted_beside_the_new_one(
    platform: Platform, database: Rows
) -> None:
    with platform.function(
        "api/cron/deliver.py", CRON_SECRET="n" * 32, CRON_SECRET_PREVIOUS="o" * 32
    ) as cron:
        for token, status in (("n" * 32, 200), ("o" * 32, 200), ("x" * 32, 401)):
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx.get(f"{cron.url}/api/cron/deliver", headers=headers).status_code == status


def test_a_mail_outage_delays_the_mail_but_keeps_the_lead(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="fail", status=500)
    assert site.post("/api/leads", json=without_email).status_code == 200
    row = eventually(lambda: (m := mail(database))["last_error"] and m)
    assert row["attempts"] == 1
    assert timedelta(0) < row["next_attempt_at"] - row["created_at"] < timedelta(minutes=1.5)
    platform.resend.ok()
    make_due(database)
    assert platform.cron("deliver").status == 200
    assert len(delivered(platform)) == 1
    assert mail(database)["sent_at"] is not None


def test_a_lost_reply_of_resend_does_not_double_the_mail(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="lose_reply", times=1)
    site.post("/api/leads", json=without_email)
    row = eventually(lambda: (m := mail(database))["last_error"] and m)
    assert row["uncertain"] is True
    make_due(database)
    platform.cron("deliver")
    assert mail(database)["sent_at"] is not None
    keys = {r["headers"]["idempotency-key"] for r in platform.resend.received()}
    assert len(keys) == 1
    assert len(platform.resend.received()) == 2
    assert len(delivered(platform)) == 1


def test_a_redeploy_with_another_template_repeats_the_stored_bytes(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="fail", times=1)
    site.post("/api/leads", json=without_email)
    eventually(lambda: mail(database)["last_error"])
    eventually(platform.is_idle)
    database.execute("update outbox set subject = 'As it was rendered then'")
    make_due(database)
    platform.cron("deliver")
    assert delivered(platform)[0]["subject"] == "As it was rendered then"


@pytest.mark.measures_time
def test_a_silent_resend_ends_the_attempt_in_time_as_uncertain(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="stall")
    assert site.post("/api/leads", json=without_email).status_code == 200
    row = eventually(lambda: (m := mail(database))["last_error"] and m)
    assert row["uncertain"] is True


def test_a_rate_limited_request_is_not_counted_as_an_attempt(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="rate_limit", retry_after_s=1, times=1)
    site.post("/api/leads", json=without_email)
    row = eventually(lambda: (m := mail(database))["last_error"] and m)
    assert (row["attempts"], row["uncertain"]) == (0, False)
    make_due(database)
    platform.cron("deliver")
    assert len(delivered(platform)) == 1


def test_a_mail_that_resend_refuses_for_good_is_a_dead_letter_at_once(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="fail", status=422)
    site.post("/api/leads", json=without_email)
    assert eventually(lambda: mail(database)["dead_at"])
    assert mail(database)["last_error"] == "validation_error"


def test_many_drains_at_once_deliver_each_mail_once(platform: Platform, database: Rows) -> None:
    put_waiting(database, 60)
    with platform.function("api/cron/deliver.py", MAIL_PER_SECOND="1000") as cron:
        drains = [threading.Thread(target=drain, args=(platform, cron)) for _ in range(5)]
        for thread in drains:
            thread.start()
        for thread in drains:
            thread.join()
    assert len(platform.resend.received()) == 60
    assert len(delivered(platform)) == 60
    left = database.execute("select 1 from outbox where sent_at is null").fetchone()
    assert left is None


@pytest.mark.parametrize("killed_after_s", [0.05, 0.3, 0.7])
def test_a_drain_killed_midway_is_finished_by_the_next_without_doubles(
    platform: Platform, database: Rows, killed_after_s: float
) -> None:
    put_waiting(database, 3)
    platform.resend.switch(mode="slow", delay_s=0.25)
    with platform.function("api/cron/deliver.py") as cron:
        headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
        address = f"{cron.url}/api/cron/deliver"
        request = threading.Thread(target=_ignore_errors, args=(address, headers))
        request.start()
        threading.Event().wait(killed_after_s)
        cron.kill(signal.SIGKILL)
        request.join()
    platform.resend.ok()
    make_due(database)
    platform.cron("deliver")
    assert len(delivered(platform)) == 3
    assert database.execute("select 1 from outbox where sent_at is null").fetchone() is None


def _ignore_errors(url: str, headers: dict[str, str]) -> None:
    try:
        httpx.get(url, headers=headers, timeout=10)
    except httpx.HTTPError:
        return


def put_waiting(database: Rows, count: int) -> None:
    """Leads, each with an e-mail to sales that is due."""
    for _ in range(count):
        lead_id = uuid4()
        database.execute(
            """
            insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp,
              city, salon_type, locale, consent_at, consent_version, consent_locale,
              identity, same_until, body_sha256)
            values (%(id)s, 'ALFA-' || upper(left(replace(%(id)s::text, '-', ''), 10)), now(),
              'Salon', 'Ani', '+6281234567890', 'Medan', 'SALON', 'id', now(), '2026-11', 'id',
              decode(md5(%(id)s::text), 'hex'), now(), '')
            """,
            {"id": lead_id},
        )
        database.execute(
            """
            insert into outbox (lead_id, kind, sender, recipients, subject, body_text, body_html,
              created_at, next_attempt_at)
            values (%s, 'sales', 'a@b.co', '{s@b.co}', 'New Lead: Salon', 't', 'h', now(), now())
            """,
            [lead_id],
        )


# ------------------------------------------------------------------ the schedule, by a clock


@pytest.fixture
def run(platform: Platform, database: Rows) -> Iterator[RunQuery]:
    shared = Database(platform.database_url)
    yield shared.run
    shared.close()


def put_one_waiting(database: Rows) -> None:
    put_waiting(database, 1)
    database.execute("update outbox set next_attempt_at = %s, created_at = %s", [NOW, NOW])


def send(run: RunQuery, send_email: SendEmail, now: datetime, *claimed: ClaimedEmail) -> Delivery:
    """One attempt of each e-mail at `now`."""
    delivery = Delivery(run, Transport(send_email, 2), lambda: now)
    delivery.send(claimed)
    return delivery


def test_retries_follow_the_schedule_and_end_as_a_dead_letter(
    run: RunQuery, database: Rows
) -> None:
    """1 m, 5 m, 15 m, 1 h, 6 h, 24 h, each with a little jitter on top."""
    put_one_waiting(database)
    now = NOW
    waits = []

    def refuse(_email: Email, _key: str) -> str:
        raise TransientMailError("invalid_api_key", may_be_sent=False)

    while mail(database)["dead_at"] is None:
        send(run, refuse, now, *outbox.claim(run, now))
        row = mail(database)
        if row["dead_at"] is None:
            waits.append((row["next_attempt_at"] - now) / timedelta(minutes=1))
            now = row["next_attempt_at"]
    assert len(waits) == 6
    for wait, backoff in zip(waits, (1, 5, 15, 60, 360, 1440), strict=True):
        assert backoff <= wait <= backoff * 1.2


def test_an_uncertain_mail_is_a_dead_letter_before_its_idempotency_key_expires(
    run: RunQuery, database: Rows
) -> None:
    """Past 24 h a retry would be a new mail to Resend."""
    put_one_waiting(database)
    attempts: list[datetime] = []
    now = NOW

    def lose_reply(_email: Email, _key: str) -> str:
        attempts.append(now)
        raise TransientMailError("HttpClientError", may_be_sent=True)

    while mail(database)["dead_at"] is None:
        send(run, lose_reply, now, *outbox.claim(run, now))
        now = max(mail(database)["next_attempt_at"], now + timedelta(minutes=1))
    assert timedelta(hours=22) < attempts[-1] - attempts[0] < timedelta(hours=24)


def test_a_mail_whose_worker_was_killed_is_not_sent_after_its_key_expired(
    run: RunQuery, database: Rows
) -> None:
    put_one_waiting(database)
    assert len(outbox.claim(run, NOW)) == 1  # and its worker is killed
    two_days_later = NOW + timedelta(days=2)
    [claimed] = outbox.claim(run, two_days_later)

    def never(_email: Email, _key: str) -> str:
        raise AssertionError("sent again without a key")

    send(run, never, two_days_later, claimed)
    assert mail(database)["dead_at"] is not None


def test_a_lease_keeps_others_away_until_it_ends(run: RunQuery, database: Rows) -> None:
    put_one_waiting(database)
    assert len(outbox.claim(run, NOW)) == 1
    assert outbox.claim(run, NOW + timedelta(seconds=59)) == []
    assert len(outbox.claim(run, NOW + timedelta(seconds=60))) == 1


def test_a_late_update_by_a_worker_that_lost_its_lease_changes_nothing(
    run: RunQuery, database: Rows
) -> None:
    put_one_waiting(database)
    [late] = outbox.claim(run, NOW)
    [newer] = outbox.claim(run, NOW + timedelta(minutes=2))

    def refuse(_email: Email, _key: str) -> str:
        raise PermanentMailError("validation_error")

    send(run, refuse, NOW, late)
    assert mail(database)["dead_at"] is None
    assert newer.attempt == late.attempt + 1


def test_a_sent_mail_is_marked_whatever_error_the_next_one_meets(
    run: RunQuery, database: Rows
) -> None:
    put_one_waiting(database)
    [first] = outbox.claim(run, NOW)
    second = first._replace(email=EMAIL._replace(kind="acknowledgement"))

    def send_to_sales(email: Email, _key: str) -> str:
        if email.kind == "sales":
            return "provider-1"
        raise RuntimeError("an error of ours")

    stats = send(run, send_to_sales, NOW, first, second).stats
    assert isinstance(stats.error, RuntimeError)
    row = mail(database)
    assert (row["sent_at"], row["provider_id"], row["leased_until"]) == (NOW, "provider-1", None)
    assert stats.sent == 1


def test_an_attempt_is_due_again_only_while_the_schedule_lasts() -> None:
    spent = ClaimedEmail(uuid4(), 7, NOW, False, EMAIL)
    assert outbox.next_attempt_at(spent, False, NOW) is None


# ------------------------------------------------------------------ Resend, as it answers


def test_a_wrong_api_key_delays_a_mail_and_makes_no_dead_letter(
    platform: Platform, database: Rows
) -> None:
    mailer = Mailer("re_wrong", platform.resend.url)
    with pytest.raises(TransientMailError) as delay:
        mailer.send(EMAIL, "sales/1")
    mailer.close()
    assert (delay.value.reason, delay.value.may_be_sent) == ("invalid_api_key", False)


def test_the_same_idempotency_key_with_other_bytes_is_a_conflict(
    platform: Platform, database: Rows
) -> None:
    mailer = Mailer(platform.environment["RESEND_API_KEY"], platform.resend.url)
    mailer.send(EMAIL, "sales/1")
    other = Email("sales", "a@b.co", ("s@b.co",), None, "Other", "text", "html")
    with pytest.raises(IdempotencyConflict):
        mailer.send(other, "sales/1")
    mailer.close()
