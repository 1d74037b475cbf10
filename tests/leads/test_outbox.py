"""Mails on their way: delivered once, whatever happens in between."""

import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
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
from lib.leads.outbox import ClaimedEmail, DeliveryStats
from lib.mail import Mailer
from lib.problems import IdempotencyConflict, PermanentMailError, TransientMailError
from tests.conftest import LEAD, delivered, eventually

type Rows = psycopg.Connection[DictRow]

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
LETTER = Email("sales", "a@b.co", ("s@b.co",), None, "New Lead: X", "text", "<p>text</p>")


@pytest.fixture
def without_email() -> dict[str, object]:
    return {**LEAD, "email": ""}


def drain(platform: Platform, cron: Function) -> dict[str, Any]:
    """One call of a cron of our own; its answer."""
    token = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    answer = httpx.get(f"{cron.url}/api/cron/deliver", headers=token, timeout=60)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def make_due(database: Rows) -> None:
    database.execute(
        "update outbox set next_attempt_at = now() - interval '1 s', leased_until = null"
    )


def mail(database: Rows) -> DictRow:
    rows = database.execute("select * from outbox").fetchall()
    assert len(rows) == 1
    return rows[0]


def test_the_cron_address_wants_its_token(site: httpx.Client, platform: Platform) -> None:
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
    database.execute("update outbox set subject = 'As it was rendered then'")
    make_due(database)
    platform.cron("deliver")
    assert delivered(platform)[0]["subject"] == "As it was rendered then"


def test_a_silent_resend_is_given_up_in_time_and_tried_again(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="stall")
    assert site.post("/api/leads", json=without_email).status_code == 200
    row = eventually(lambda: (m := mail(database))["last_error"] and m)
    assert row["uncertain"] is True


def test_when_told_to_slow_down_nothing_is_counted_as_an_attempt(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="rate_limit", retry_after_s=1, times=1)
    site.post("/api/leads", json=without_email)
    row = eventually(lambda: (m := mail(database))["last_error"] and m)
    assert (row["attempts"], row["uncertain"]) == (0, False)
    make_due(database)
    platform.cron("deliver")
    assert len(delivered(platform)) == 1


def test_a_mail_resend_will_never_take_is_a_dead_letter_at_once(
    site: httpx.Client, platform: Platform, database: Rows, without_email: dict[str, object]
) -> None:
    platform.resend.switch(mode="fail", status=422)
    site.post("/api/leads", json=without_email)
    assert eventually(lambda: mail(database)["dead_at"])
    assert mail(database)["last_error"] == "validation_error"


def test_many_drains_at_once_deliver_each_mail_once(platform: Platform, database: Rows) -> None:
    _put_waiting(database, 60)
    with platform.function("api/cron/deliver.py", MAIL_PER_SECOND="1000") as cron:
        drains = [threading.Thread(target=drain, args=(platform, cron)) for _ in range(5)]
        for each in drains:
            each.start()
        for each in drains:
            each.join()
    assert len(platform.resend.received()) == 60
    assert len(delivered(platform)) == 60
    left = database.execute("select 1 from outbox where sent_at is null").fetchone()
    assert left is None


@pytest.mark.parametrize("killed_after_s", [0.05, 0.3, 0.7])
def test_a_drain_killed_midway_is_finished_by_the_next_without_doubles(
    platform: Platform, database: Rows, killed_after_s: float
) -> None:
    _put_waiting(database, 3)
    platform.resend.switch(mode="slow", delay_s=0.25)
    with platform.function("api/cron/deliver.py") as cron:
        headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
        address = f"{cron.url}/api/cron/deliver"
        asking = threading.Thread(target=_ignore_errors, args=(address, headers))
        asking.start()
        threading.Event().wait(killed_after_s)
        cron.kill(signal.SIGKILL)
        asking.join()
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


def _put_waiting(database: Rows, count: int) -> None:
    for number in range(count):
        lead = uuid4()
        database.execute(
            """
            insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp,
              city, salon_type, locale, consent_at, consent_version, consent_locale,
              identity, same_until, body_sha256)
            values (%(id)s, %(ref)s, now(), 'Salon', 'Ani', '+6281234567890', 'Medan', 'SALON',
              'id', now(), '2026-11', 'id', decode(md5(%(ref)s), 'hex'), now(), '')
            """,
            {"id": lead, "ref": f"ALFA-{number:05d}"},
        )
        database.execute(
            """
            insert into outbox (lead_id, kind, sender, recipients, subject, body_text, body_html,
              created_at, next_attempt_at)
            values (%s, 'sales', 'a@b.co', '{s@b.co}', 'New Lead: Salon', 't', 'h', now(), now())
            """,
            [lead],
        )


# ------------------------------------------------------------------ the schedule, by a clock


@pytest.fixture
def run(platform: Platform, database: Rows) -> Iterator[RunQuery]:
    shared = Database(platform.database_url)
    yield shared.run
    shared.close()


def _waiting(database: Rows) -> None:
    _put_waiting(database, 1)
    database.execute("update outbox set next_attempt_at = %s, created_at = %s", [NOW, NOW])


def _same(at: datetime) -> datetime:
    return at


def test_retries_follow_the_schedule_and_end_as_a_dead_letter(
    run: RunQuery, database: Rows
) -> None:
    """1 m, 5 m, 15 m, 1 h, 6 h, 24 h, each with a little jitter on top."""
    _waiting(database)
    clock = NOW
    waits = []

    def refuse(letter: Email, key: str) -> str:
        raise TransientMailError("invalid_api_key", may_be_sent=False)

    while mail(database)["dead_at"] is None:
        tally = DeliveryStats()
        for claimed in outbox.claim(run, clock):
            outbox.send_claimed(run, refuse, [claimed], partial(_same, clock), tally)
        row = mail(database)
        if row["dead_at"] is None:
            waits.append((row["next_attempt_at"] - clock) / timedelta(minutes=1))
            clock = row["next_attempt_at"]
    assert len(waits) == 6
    for waited, least in zip(waits, (1, 5, 15, 60, 360, 1440), strict=True):
        assert least <= waited <= least * 1.2


def test_an_uncertain_mail_is_parked_before_its_key_runs_out(run: RunQuery, database: Rows) -> None:
    """Past 24 h a retry would be a new mail to Resend."""
    _waiting(database)
    tried: list[datetime] = []
    clock = NOW

    def lose(letter: Email, key: str) -> str:
        tried.append(clock)
        raise TransientMailError("HttpClientError", may_be_sent=True)

    while mail(database)["dead_at"] is None:
        for claimed in outbox.claim(run, clock):
            outbox.send_claimed(run, lose, [claimed], partial(_same, clock), DeliveryStats())
        clock = max(mail(database)["next_attempt_at"], clock + timedelta(minutes=1))
    assert tried[-1] - tried[0] < timedelta(hours=24)
    assert tried[-1] - tried[0] > timedelta(hours=22)


def test_a_worker_killed_while_sending_is_not_followed_after_the_key_ran_out(
    run: RunQuery, database: Rows
) -> None:
    _waiting(database)
    assert len(outbox.claim(run, NOW)) == 1  # and then nothing more was heard of it
    two_days_later = NOW + timedelta(days=2)
    [claimed] = outbox.claim(run, two_days_later)

    def never(letter: Email, key: str) -> str:
        raise AssertionError("sent again without a key")

    outbox.send_claimed(run, never, [claimed], lambda: two_days_later, DeliveryStats())
    assert mail(database)["dead_at"] is not None


def test_a_lease_keeps_others_away_until_it_ends(run: RunQuery, database: Rows) -> None:
    _waiting(database)
    assert len(outbox.claim(run, NOW)) == 1
    assert outbox.claim(run, NOW + timedelta(seconds=59)) == []
    assert len(outbox.claim(run, NOW + timedelta(seconds=60))) == 1


def test_a_late_word_from_a_worker_that_lost_its_lease_changes_nothing(
    run: RunQuery, database: Rows
) -> None:
    _waiting(database)
    [late] = outbox.claim(run, NOW)
    [newer] = outbox.claim(run, NOW + timedelta(minutes=2))

    def refuse(letter: Email, key: str) -> str:
        raise PermanentMailError("validation_error")

    outbox.send_claimed(run, refuse, [late], lambda: NOW, DeliveryStats())
    assert mail(database)["dead_at"] is None
    assert newer.attempt == late.attempt + 1


def test_what_was_sent_is_written_down_whatever_the_next_one_meets(
    run: RunQuery, database: Rows
) -> None:
    _waiting(database)
    [first] = outbox.claim(run, NOW)
    second = first._replace(email=LETTER._replace(kind="acknowledgement"))

    def once(letter: Email, key: str) -> str:
        if letter.kind == "sales":
            return "provider-1"
        raise RuntimeError("a fault of ours")

    tally = DeliveryStats()
    with pytest.raises(RuntimeError):
        outbox.send_claimed(run, once, [first, second], lambda: NOW, tally)
    row = mail(database)
    assert (row["sent_at"], row["provider_id"], row["leased_until"]) == (NOW, "provider-1", None)
    assert tally.sent == 1


def test_an_attempt_is_due_again_only_while_the_schedule_lasts() -> None:
    spent = ClaimedEmail(uuid4(), 7, NOW, False, LETTER)
    assert outbox.next_attempt_at(spent, False, NOW) is None


# ------------------------------------------------------------------ Resend, as it answers


def test_a_wrong_key_delays_and_never_buries_a_mail(platform: Platform, database: Rows) -> None:
    mailer = Mailer("re_wrong", platform.resend.url)
    with pytest.raises(TransientMailError) as delay:
        mailer.send(LETTER, "sales/1")
    mailer.close()
    assert (delay.value.reason, delay.value.may_be_sent) == ("invalid_api_key", False)


def test_the_same_key_with_other_bytes_means_the_mail_was_taken_before(
    platform: Platform, database: Rows
) -> None:
    mailer = Mailer(platform.environment["RESEND_API_KEY"], platform.resend.url)
    mailer.send(LETTER, "sales/1")
    other = Email("sales", "a@b.co", ("s@b.co",), None, "Other", "text", "html")
    with pytest.raises(IdempotencyConflict):
        mailer.send(other, "sales/1")
    mailer.close()
