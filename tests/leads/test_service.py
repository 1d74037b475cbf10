"""Accepting a lead: duplicates are one lead; whatever is down, it is stored or honestly refused."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.edge.http_server import Response, Server, as_text
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.cache import Cache
from lib.db import Database
from lib.encryption import SecretBoxCipher
from lib.interfaces import RunQuery
from lib.leads import queue, reference, repository, submission
from lib.leads.lead import Lead, Recipients
from lib.problems import CacheDown
from lib.settings import encryption_keys
from ops import cli
from tests.conftest import BROWSER, FORM, LEAD, delivered, eventually

type Rows = psycopg.Connection[DictRow]

NO_DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"}
NO_REDIS = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
NO_MAIL = {"RESEND_API_URL": "http://127.0.0.1:1"}

SALES = ["sales@alfabeauty.test"]
RECIPIENTS = Recipients("Alfa Beauty <noreply@alfabeauty.test>", ("sales@alfabeauty.test",))
PERSONAL = ("Maju Jaya", "Andi", "81234567890", "example.com", "Medan", "Tertarik")


@pytest.fixture(scope="module")
def without_database(platform: Platform) -> Iterator[Function]:
    with platform.function("api/leads.py", **NO_DATABASE) as function:
        yield function


@pytest.fixture(scope="module")
def with_mail_alone(platform: Platform) -> Iterator[Function]:
    with platform.function("api/leads.py", **NO_DATABASE, **NO_REDIS) as function:
        yield function


@pytest.fixture(scope="module")
def without_key(platform: Platform) -> Iterator[Function]:
    """Postgres is down, and nothing may be queued unsealed."""
    with platform.function("api/leads.py", **NO_DATABASE, LEADS_ENCRYPTION_KEY=None) as function:
        yield function


@pytest.fixture
def run(platform: Platform, database: Rows) -> Iterator[RunQuery]:
    shared = Database(platform.database_url)
    yield shared.run
    shared.close()


def post(
    at: Platform | Function, lead: dict[str, Any] = LEAD, key: str | None = None, **headers: str
) -> httpx.Response:
    headers = headers if key is None else {**headers, "Idempotency-Key": key}
    return httpx.post(f"{at.url}/api/leads", json=lead, headers=headers, timeout=20)


def rows(database: Rows, table: str = "leads") -> list[DictRow]:
    return database.execute(f"select * from {table}".encode()).fetchall()


def mails_to(platform: Platform, recipients: list[str]) -> list[dict[str, Any]]:
    return [mail for mail in delivered(platform) if mail["to"] == recipients]


def everything_in(valkey: redis.Redis) -> str:
    """Every key and every value, as one text."""
    readers: dict[str, Callable[[str], Any]] = {
        "string": valkey.get,
        "hash": valkey.hgetall,
        "zset": lambda key: valkey.zrange(key, 0, -1),
    }
    values = {key: readers[str(valkey.type(key))](key) for key in valkey.scan_iter()}
    assert values
    return json.dumps(values, ensure_ascii=False)


def is_remembered(valkey: redis.Redis) -> bool:
    """The idempotency record of an accepted submission is there."""
    return any(valkey.get(key) for key in valkey.scan_iter("seen:*"))


def alerts(function: Function) -> list[dict[str, Any]]:
    lines = [str(line["message"]) for line in function.logs()]
    return [json.loads(line) for line in lines if '"event": "alarm"' in line]


@contextlib.contextmanager
def leads_locked(platform: Platform) -> Iterator[None]:
    """Hold an exclusive lock on the table, so that writers wait."""
    with psycopg.connect(platform.admin_database_url) as locking:
        locking.execute("lock table leads in access exclusive mode")
        yield


# ------------------------------------------------------------------ the same is the same


def test_the_same_key_and_body_get_the_same_answer_and_make_one_lead(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    first = post(platform, key="k-1")
    eventually(lambda: len(delivered(platform)) == 2)
    written_otherwise = dict(reversed({**LEAD, "city": " Medan "}.items()))
    for again in (post(platform, key="k-1"), post(platform, written_otherwise, key="k-1")):
        assert (again.status_code, again.json()) == (200, first.json())
    eventually(platform.is_idle)
    valkey.flushall()
    again = post(platform, key="k-1")
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(rows(database)) == 1
    assert len(rows(database, "outbox")) == 2
    assert len(delivered(platform)) == 2


def test_a_duplicate_right_after_the_answer_gets_the_same_answer(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", LEADS_PER_MINUTE="100") as function:
        for number in range(8):
            first = post(function, {**LEAD, "message": str(number)}, key=f"k-{number}")
            again = post(function, {**LEAD, "message": str(number)}, key=f"k-{number}")
            assert (again.status_code, again.json()) == (200, first.json())


def test_the_same_key_with_another_body_is_refused(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    first = post(platform, key="k-1")
    eventually(lambda: is_remembered(valkey))
    for flushed in (False, True):
        if flushed:  # Postgres alone decides
            valkey.flushall()
        answer = post(platform, {**LEAD, "city": "Binjai"}, key="k-1")
        assert (answer.status_code, answer.json()["error"]) == (422, "idempotency_key_reused")
    assert [row["city"] for row in rows(database)] == ["Medan"]
    again = post(platform, key="k-1")
    assert (again.status_code, again.json()) == (200, first.json()), "nothing is in progress"


def test_a_key_may_be_used_again_after_a_validation_error(
    platform: Platform, database: Rows
) -> None:
    refused = post(platform, {**LEAD, "phone_whatsapp": "12"}, key="k-1")
    assert refused.status_code == 400
    corrected = post(platform, key="k-1")
    assert corrected.status_code == 200, "a fault of the form is not remembered"
    assert len(rows(database)) == 1


def test_without_a_key_phone_business_and_message_make_the_lead(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    first = post(platform).json()
    eventually(lambda: is_remembered(valkey))
    same = post(platform, {**LEAD, "phone_whatsapp": "+62 812 3456 7890"})
    assert (same.status_code, same.json()) == (200, first)
    eventually(platform.is_idle)
    valkey.flushall()
    assert post(platform, {**LEAD, "email": ""}).json() == first
    for change in (
        {"phone_whatsapp": "0813-3456-7890"},
        {"business_name": "Barber Maju"},
        {"message": "Tertarik."},
    ):
        assert post(platform, {**LEAD, **change}).json()["id"] != first["id"]
    assert len(rows(database)) == 4


def test_a_key_of_more_than_255_characters_is_named(platform: Platform, database: Rows) -> None:
    answer = post(platform, key="k" * 256)
    assert answer.status_code == 400
    assert answer.json()["error"] == "validation_error"
    assert list(answer.json()["details"]) == ["Idempotency-Key"]
    assert rows(database) == []
    assert post(platform, key="k" * 255).status_code == 200


@pytest.mark.parametrize("keys", [("k-1", "k-1"), (None, None), ("k-1", None), (None, "k-1")])
def test_two_requests_at_once_of_the_same_lead_get_the_same_answer(
    platform: Platform, database: Rows, keys: tuple[str | None, str | None]
) -> None:
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' having count(*) = 2"
    warm = post(
        platform, {**LEAD, "message": "Before"}
    )  # both have to come before a statement times out
    assert warm.status_code == 200
    with ThreadPoolExecutor() as pool:
        with leads_locked(platform):
            both = [pool.submit(post, platform, key=key) for key in keys]
            eventually(lambda: database.execute(waiting).fetchone())
        first, second = (future.result() for future in both)
    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert len(rows(database)) == 2


# ------------------------------------------------------------------ for 24 hours


MIDNIGHT = datetime.fromtimestamp(86_400 * 20_780, UTC)


def make(now: datetime, key: str | None = "k-1", **fields: object) -> Lead:
    return Lead.from_submission(
        submission.parse({**LEAD, **fields}),
        key=key,
        locale="id",
        now=now,
        ip_address="192.0.2.7",
        user_agent="test",
    )


def put(run: RunQuery, lead: Lead) -> Lead:
    return repository.insert(
        run, lead, RECIPIENTS, now=lead.created_at, deliver_now=False, erasure_keys=()
    )[0]


@pytest.mark.parametrize("key", ["k-1", None])
def test_after_24_hours_the_same_is_a_new_lead(
    platform: Platform, database: Rows, run: RunQuery, key: str | None
) -> None:
    yesterday = put(run, make(datetime.now(UTC) - timedelta(hours=24, seconds=1), key))
    answer = post(platform, key=key)
    assert answer.status_code == 200
    assert answer.json()["id"] != str(yesterday.id)
    assert len(rows(database)) == 2


@pytest.mark.parametrize("key", ["k-1", None])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (timedelta(seconds=-1), timedelta(seconds=1)),
        (timedelta(0), timedelta(microseconds=-1)),
        (timedelta(hours=-1), timedelta(hours=22, minutes=59)),
        (timedelta(0), timedelta(hours=24, microseconds=-1)),
        (timedelta(seconds=1), timedelta(seconds=-1)),
    ],
    ids=["over midnight", "clocks apart", "a day later", "at the end", "a clock behind"],
)
def test_within_24_hours_the_first_is_found_wherever_the_day_ends(
    run: RunQuery, database: Rows, first: timedelta, then: timedelta, key: str | None
) -> None:
    stored = put(run, make(MIDNIGHT + first, key))
    again = put(run, make(MIDNIGHT + then, key))
    assert (again.id, again.ref, again.created_at) == (stored.id, stored.ref, stored.created_at)
    assert len(rows(database)) == 1
    assert len(rows(database, "outbox")) == 2


def test_at_24_hours_to_the_microsecond_it_is_a_new_lead(run: RunQuery, database: Rows) -> None:
    first = put(run, make(MIDNIGHT + timedelta(hours=5)))
    second = put(run, make(MIDNIGHT + timedelta(hours=29)))
    assert first.id != second.id
    assert len(rows(database)) == 2


def test_fifty_threads_around_midnight_store_one_lead(run: RunQuery, database: Rows) -> None:
    together = threading.Barrier(50)

    def store(number: int) -> Lead:
        together.wait()
        return put(run, make(MIDNIGHT + timedelta(milliseconds=number - 25)))

    with ThreadPoolExecutor(50) as pool:
        stored = list(pool.map(store, range(50)))
    assert len({lead.id for lead in stored}) == 1
    assert len({lead.ref for lead in stored}) == 1
    assert [row["id"] for row in rows(database)] == [stored[0].id]
    assert len(rows(database, "outbox")) == 2


# ------------------------------------------------------------------ its reference


def test_a_reference_is_short_and_safe_to_speak(run: RunQuery, database: Rows) -> None:
    for number in range(20):
        lead = put(run, make(MIDNIGHT, f"k-{number}"))
        assert re.fullmatch(r"ALFA-[2-9ACHJKMQRWXYZ]{5}", lead.ref)
        assert reference.is_valid(lead.ref)
    assert len({row["ref"] for row in rows(database)}) == 20


def test_a_reference_that_is_taken_grows(platform: Platform, database: Rows, run: RunQuery) -> None:
    coming = make(datetime.now(UTC))
    other = put(run, make(datetime.now(UTC), "another"))
    database.execute("update leads set ref = %s where id = %s", [coming.ref, other.id])
    answer = post(platform, key="k-1").json()
    assert answer["id"] == str(coming.id)
    assert answer["ref"] == reference.for_lead(coming.id, 6)
    assert answer["ref"].startswith(coming.ref)
    eventually(lambda: any(answer["ref"] in mail["text"] for mail in mails_to(platform, SALES)))


# ------------------------------------------------------------------ Postgres down: the queue


def test_a_lead_that_postgres_cannot_take_waits_sealed_in_redis(
    platform: Platform, valkey: redis.Redis, without_database: Function
) -> None:
    answer = post(without_database, key="k-1")
    assert answer.status_code == 202
    body = answer.json()
    assert (body["success"], body["queued"]) == (True, True)
    assert reference.is_valid(body["ref"])
    eventually(lambda: is_remembered(valkey))
    assert valkey.hkeys("queue") == [body["id"]]
    everything = everything_in(valkey)
    for personal in PERSONAL:
        assert personal not in everything
    assert alerts(without_database) == []


def test_a_queued_lead_is_stored_once_by_the_cron_and_its_mails_are_sent_once(
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    without_database: Function,
) -> None:
    queued = post(without_database).json()
    for _ in range(2):
        assert platform.cron("deliver").status == 200
    [row] = rows(database)
    assert (row["id"], row["ref"], row["arrival"]) == (UUID(queued["id"]), queued["ref"], "queue")
    assert (row["phone_whatsapp"], row["message"]) == ("+6281234567890", LEAD["message"])
    assert row["consent_at"] == row["created_at"]
    assert len(mails_to(platform, SALES)) == len(mails_to(platform, ["andi@example.com"])) == 1
    assert len(delivered(platform)) == 2
    assert valkey.hlen("queue") == 0


def test_a_lead_answered_202_is_answered_202_again_once_it_is_stored(
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    without_database: Function,
) -> None:
    queued = post(without_database, key="k-1").json()
    eventually(lambda: is_remembered(valkey))
    assert post(without_database, key="k-1").json() == queued
    platform.cron("deliver")
    assert len(rows(database)) == 1
    for flushed in (False, True):
        if flushed:
            valkey.flushall()
        again = post(platform, key="k-1")
        assert (again.status_code, again.json()) == (202, queued)
    assert len(rows(database)) == 1
    assert len(mails_to(platform, SALES)) == 1


def test_a_queued_lead_sent_again_to_a_healthy_instance_is_one_lead(
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    without_database: Function,
) -> None:
    queued = post(without_database, key="k-1").json()
    eventually(lambda: is_remembered(valkey))
    valkey.delete(*valkey.scan_iter("seen:*"))
    again = post(platform, key="k-1")
    assert again.json()["id"] == queued["id"]
    platform.cron("deliver")
    assert len(rows(database)) == 1
    assert len(mails_to(platform, SALES)) == 1


def test_a_browser_form_gets_the_thank_you_page_for_a_queued_lead(
    platform: Platform, database: Rows, without_database: Function
) -> None:
    answer = httpx.post(f"{without_database.url}/api/leads", data=FORM, headers=BROWSER)
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/terima-kasih?ref=ALFA-")


def test_a_lead_encrypted_with_a_retired_key_is_stored_after_the_rotation(
    platform: Platform, database: Rows, without_database: Function
) -> None:
    post(without_database)
    old = platform.environment["LEADS_ENCRYPTION_KEY"]
    new = "A" * 43 + "="
    with platform.function("api/cron/deliver.py", LEADS_ENCRYPTION_KEY=f"{new},{old}") as cron:
        assert drain(platform, cron)["queue"] == {"stored": 1, "dead": 0, "left": 0}
    assert len(rows(database)) == 1


def test_a_queued_lead_that_cannot_be_decrypted_becomes_a_dead_letter_and_blocks_no_other(
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    without_database: Function,
) -> None:
    good = post(without_database).json()
    strange = {
        "not sealed": "hello",
        "another key": SecretBoxCipher((b"x" * 32,)).encrypt("{}"),
        "no lead": SecretBoxCipher(
            encryption_keys(platform.environment["LEADS_ENCRYPTION_KEY"])
        ).encrypt('{"id": 5}'),
        "no object": SecretBoxCipher(
            encryption_keys(platform.environment["LEADS_ENCRYPTION_KEY"])
        ).encrypt("[5]"),
    }
    sealed = {str(uuid4()): text for text in strange.values()}
    for lead_id, text in sealed.items():
        valkey.hset("queue", lead_id, text)
    with platform.function("api/cron/deliver.py") as cron:
        assert drain(platform, cron)["queue"] == {"stored": 1, "dead": 4, "left": 0}
        assert eventually(lambda: alerts(cron))[0]["name"] == "leads_set_aside"
        assert drain(platform, cron)["queue"] == {"stored": 0, "dead": 0, "left": 0}
    assert [str(row["id"]) for row in rows(database)] == [good["id"]]
    assert valkey.hgetall("queue:dead") == sealed, "set aside, and not lost"


def drain(platform: Platform, cron: Function) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    answer = httpx.get(f"{cron.url}/api/cron/deliver", headers=headers, timeout=60)
    assert answer.status_code == 200
    stats: dict[str, Any] = answer.json()
    return stats


def test_a_reply_that_is_none_of_redis_is_not_taken_for_a_queued_lead(
    platform: Platform, database: Rows
) -> None:
    server = Server(lambda _request: _json_text('{"result":null}'))
    environment = {"UPSTASH_REDIS_REST_URL": server.url}
    try:
        with platform.function("api/leads.py", **NO_DATABASE, **environment) as function:
            assert post(function).status_code == 202
    finally:
        server.close()
    assert "BEGIN ALFA LEAD" in mails_to(platform, SALES)[0]["text"], "it is in the mail at least"


@pytest.mark.parametrize(
    "reply",
    [
        "[]",
        "{}",
        "null",
        '{"result":"Welcome to our Wi-Fi"}',
        '[{"result":null},{"result":null}]',
        '[{"result":1},{"result":"x"}]',
        '[{"result":0},{"result":0}]',
        '[{"result":1},{"error":"ERR"}]',
    ],
)
def test_any_reply_but_the_queued_lead_means_that_it_is_not_queued(reply: str) -> None:
    server = Server(lambda _request: _json_text(reply))
    cache, cipher, lead = Cache(server.url, "token"), SecretBoxCipher((b"x" * 32,)), make(MIDNIGHT)
    try:
        with pytest.raises(CacheDown):
            queue.confirm(cache.pipeline, cipher, lead, (queue.seal(cipher, lead),), "?" * 200)
    finally:
        cache.close()
        server.close()


def _json_text(text: str) -> Response:
    answer = as_text(text)
    answer.headers["Content-Type"] = "application/json"
    return answer


# ------------------------------------------------------------------ Redis down too: the mail


def imported(platform: Platform, tmp_path: Path, *options: str) -> int:
    saved = tmp_path / "sales.eml"
    saved.write_text(mails_to(platform, SALES)[0]["text"], encoding="utf-8")
    return cli.main(["leads", "import", *options, str(saved)], platform.environment)


def test_with_postgres_and_redis_down_the_mail_to_sales_carries_the_lead(
    platform: Platform, database: Rows, with_mail_alone: Function, tmp_path: Path
) -> None:
    answer = post(with_mail_alone)
    assert (answer.status_code, answer.json()["queued"]) == (202, True)
    [mail] = delivered(platform)
    assert mail["to"] == SALES
    assert mail["subject"] == "New Lead: Barber Maju Jaya"
    assert answer.json()["ref"] in mail["text"]
    alert = eventually(lambda: alerts(with_mail_alone))[0]
    assert alert["name"] == "lead_not_stored_nor_queued"
    assert (alert["severity"], alert["lead"]) == ("sev1", answer.json()["id"])

    for _ in range(2):
        assert imported(platform, tmp_path) == 0
    platform.cron("deliver")
    [row] = rows(database)
    assert (str(row["id"]), row["ref"]) == (answer.json()["id"], answer.json()["ref"])
    assert row["arrival"] == "mail"
    assert len(mails_to(platform, SALES)) == 1, "sales had it already"
    assert len(mails_to(platform, ["andi@example.com"])) == 1
    assert len(delivered(platform)) == 2


def test_a_lead_answered_by_mail_is_answered_so_again_once_it_is_imported(
    platform: Platform, database: Rows, with_mail_alone: Function, tmp_path: Path
) -> None:
    mailed = post(with_mail_alone, key="k-1").json()
    imported(platform, tmp_path)
    again = post(platform, key="k-1")
    assert (again.status_code, again.json()) == (202, mailed)
    assert len(rows(database)) == 1
    assert len(mails_to(platform, SALES)) == 1


def test_a_lead_whose_mail_lost_its_reply_is_mailed_to_sales_once(
    platform: Platform, database: Rows, with_mail_alone: Function
) -> None:
    platform.resend.switch(mode="lose_reply", times=1)
    refused = post(with_mail_alone, key="k-1")
    assert (refused.status_code, refused.json()["error"]) == (503, "persistence_failed")
    assert len(delivered(platform)) == 1
    assert post(with_mail_alone, key="k-1").status_code == 202
    assert post(platform, key="k-1").status_code == 200
    sent = "select 1 from outbox having count(*) = 2 and count(sent_at) = 2"
    eventually(lambda: database.execute(sent).fetchone())
    assert len(rows(database)) == 1
    assert len(mails_to(platform, SALES)) == len(mails_to(platform, ["andi@example.com"])) == 1


def test_without_an_encryption_key_nothing_is_queued_as_plain_text(
    platform: Platform, valkey: redis.Redis, without_key: Function
) -> None:
    assert post(without_key).status_code == 202
    assert valkey.hlen("queue") == 0
    assert [mail["to"] for mail in delivered(platform)] == [SALES]
    assert without_key.wait_idle(10)
    for personal in PERSONAL:
        assert personal not in everything_in(valkey)


# ------------------------------------------------------------------ everything down


def test_a_lead_stored_nowhere_is_refused_and_raises_an_alert(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", **NO_DATABASE, **NO_REDIS, **NO_MAIL) as function:
        answer = post(function)
        assert (answer.status_code, answer.json()["error"]) == (503, "persistence_failed")
        assert int(answer.headers["Retry-After"]) > 0
        [alert] = eventually(lambda: alerts(function))
        assert (alert["name"], alert["severity"]) == ("lead_not_kept", "sev1")
        eventually(lambda: "alarm: lead_not_kept" in json.dumps(platform.sentry.received()))
        logged = json.dumps([function.logs(), platform.sentry.received()], ensure_ascii=False)
        for personal in PERSONAL:
            assert personal not in logged
        page = httpx.post(f"{function.url}/api/leads", data=FORM, headers=BROWSER, timeout=20)
    assert page.status_code == 503
    assert int(page.headers["Retry-After"]) > 0
    assert page.headers["Content-Type"].startswith("text/html")
    assert 'value="Barber Maju Jaya"' in page.text
    assert "Data Anda belum tersimpan" in page.text


def test_a_refused_lead_may_be_sent_again_at_once_and_was_not_counted(
    platform: Platform, database: Rows, valkey: redis.Redis, without_key: Function
) -> None:
    platform.resend.switch(mode="fail", status=500)
    for _ in range(6):
        assert post(without_key, key="k-1").status_code == 503
        eventually(lambda: not valkey.keys("seen:*"))
    platform.resend.ok()
    assert post(platform, key="k-1").status_code == 200, "what was refused is not counted"


# ------------------------------------------------------------------ the journal, and the nudge


def decrypt(platform: Platform, sealed: object) -> dict[str, Any]:
    vault = SecretBoxCipher(encryption_keys(platform.environment["LEADS_ENCRYPTION_KEY"]))
    entry: dict[str, Any] = json.loads(vault.decrypt(str(sealed)))
    return entry


def test_an_accepted_lead_is_in_the_journal_sealed_for_48_hours(
    platform: Platform, valkey: redis.Redis
) -> None:
    lead = post(platform).json()
    sealed = eventually(lambda: valkey.get(f"journal:{lead['id']}"))
    copy = decrypt(platform, sealed)
    assert (copy["id"], copy["ref"]) == (lead["id"], lead["ref"])
    assert copy["submission"]["phone_whatsapp"] == "+6281234567890"
    assert 47.9 * 3600 < int(valkey.ttl(f"journal:{lead['id']}")) <= 48 * 3600
    assert valkey.zrange("accepted", 0, -1) == [lead["id"]]
    for personal in PERSONAL:
        assert personal not in everything_in(valkey)


def test_a_lead_accepted_while_redis_was_down_is_added_to_the_journal_later(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    with platform.function("api/leads.py", **NO_REDIS) as function:
        lead = post(function).json()
        eventually(lambda: database.execute("select 1 from outbox where sent_at is not null"))
    assert valkey.keys("journal:*") == []
    journaled = [json.loads(platform.cron("deliver").text)["journaled"] for _ in range(2)]
    assert journaled == [1, 0]
    assert valkey.zrange("accepted", 0, -1) == [lead["id"]]
    assert decrypt(platform, valkey.get(f"journal:{lead['id']}"))["ref"] == lead["ref"]


def test_a_journal_entry_added_later_equals_the_one_of_the_request(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    lead = post(platform, {**LEAD, "utm_source": "ig", "locale": "en"}).json()
    at_once = decrypt(platform, eventually(lambda: valkey.get(f"journal:{lead['id']}")))
    eventually(platform.is_idle)
    valkey.flushall()
    database.execute("update leads set journaled = false")
    platform.cron("deliver")
    later = decrypt(platform, valkey.get(f"journal:{lead['id']}"))
    # Known to the request alone, and of no use once the lead is stored.
    for request_field in ("text_sha256", "keyed"):
        del at_once[request_field], later[request_field]
    # Written out by the table where the form left it to us.
    del later["submission"]["consent_version"]
    assert later == at_once


def test_the_worker_runs_after_a_leads_answer_without_the_cron(
    platform: Platform, database: Rows, valkey: redis.Redis, without_database: Function
) -> None:
    waiting = post(without_database, {**LEAD, "message": "Menunggu."}).json()
    with platform.function("api/leads.py") as function:
        assert post(function).status_code == 200
        eventually(lambda: len(delivered(platform)) == 4)
    assert {row["arrival"] for row in rows(database)} == {"direct", "queue"}
    assert waiting["id"] in {str(row["id"]) for row in rows(database)}
    assert valkey.hlen("queue") == 0
