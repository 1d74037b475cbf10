"""A person is erased from every store, and stays so; nobody else is, and nothing newer."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.leads import canary, submission
from lib.leads import queue as lead_queue
from lib.leads.lead import Lead
from lib.privacy import erasure, requests
from lib.privacy.data_subject import Subject
from lib.problems import ErasedSubject, NotConfigured
from lib.services import Services
from lib.settings import Settings
from tests.conftest import LEAD, both_majors, eventually
from tests.privacy.person_data import (
    BY_EMAIL,
    BY_PHONE,
    MINUTE,
    NO_REDIS,
    OTHER_PERSON,
    PERSON,
    add_note,
    count_rows,
    drain_queue,
    dump_everything,
    enqueue_lead,
    erase,
    journal_lead,
    lines,
    make_lead,
    now,
    personal_data_in,
    store_everywhere,
    store_lead,
    store_spam,
)

type Rows = psycopg.Connection[DictRow]
type Headers = dict[str, str]

pytestmark = both_majors

PATH = "/api/leads/subject"


@pytest.mark.parametrize("by", ["email", "phone"])
def test_nothing_of_an_erased_person_is_left_in_any_table_or_in_redis(
    site: httpx.Client,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
    operator: Headers,
    by: str,
) -> None:
    lead = store_everywhere(services, database)
    assert len(personal_data_in(dump_everything(database, valkey, services))) == 5
    response = site.delete(PATH, params={by: PERSON[by]}, headers=operator)
    assert response.status_code == 200, response.text
    receipt = response.json()
    assert receipt["dry_run"] is False
    assert lines(receipt) == {
        "leads": ("done", 1),
        "mails": ("done", 2),
        "spam": ("done", 1),
        "incident_notes": ("done", 1 if by == "phone" else 0),
        "queue": ("done", 1),
        "set_aside": ("done", 1),
        "journal": ("done", 1),
        "ledger": ("done", 1),
        "door": ("done", 3),
        "caches": ("done", 0),
        "sales_mailbox": ("instruction", 1),
        "resend": ("done", 0),
        "sentry": ("instruction", 1),
        "logs": ("expires", 0),
        "backups": ("expires", 0),
    }
    if by == "email":  # the note holds only the number
        database.execute("update incident_events set note = null")
    assert personal_data_in(dump_everything(database, valkey, services)) == []
    instructions = {line["place"]: line["ids"] for line in receipt["places"] if line["ids"]}
    assert instructions == {"sales_mailbox": [lead.ref], "sentry": [str(lead.id)]}
    assert receipt["receipt"].startswith(f"ERASE-{now():%Y%m%d}-")
    assert datetime.fromisoformat(receipt["due_at"]) - datetime.fromisoformat(
        receipt["received_at"]
    ) == timedelta(hours=72)


def test_the_mails_that_resend_has_are_named_by_their_ids(
    services: Services, database: Rows
) -> None:
    store_lead(services, make_lead())
    database.execute("update outbox set attempts = 1, sent_at = now()")
    database.execute("update outbox set provider_id = 'id-at-resend' where kind = 'sales'")
    (lead,) = database.execute("select id from leads").fetchall()
    receipt = erase(services)
    (resend,) = (line for line in receipt["places"] if line["place"] == "resend")
    assert resend["state"] == "instruction"
    assert resend["ids"] == [f"acknowledgement/{lead['id']}", "id-at-resend"]


def test_nobody_else_is_touched(services: Services, database: Rows, valkey: redis.Redis) -> None:
    store_everywhere(services, database)
    store_lead(services, make_lead(**OTHER_PERSON))
    enqueue_lead(services, make_lead(**OTHER_PERSON, message="Antre"))
    journal_lead(services, make_lead(**OTHER_PERSON))
    store_spam(services, make_lead(**OTHER_PERSON, message="Spam"))
    add_note(database, "INC-20261124-0202-leads", "Budi 0812 9999 8888 sudah dihubungi")
    erase(services, Subject(emails=BY_EMAIL.emails, phones=BY_PHONE.phones))
    assert [row["email"] for row in database.execute("select * from leads")] == ["budi@example.com"]
    assert (count_rows(database, "outbox"), count_rows(database, "spam")) == (2, 1)
    assert (valkey.hlen("queue"), len(valkey.keys("journal:*"))) == (1, 1)
    notes = database.execute("select note from incident_events where note is not null").fetchall()
    assert [row["note"][:4] for row in notes] == ["Budi"]
    assert database.execute("select * from broken_timelines()").fetchall() == []


def test_erasing_twice_does_no_harm(services: Services, database: Rows) -> None:
    store_everywhere(services, database)
    first, second = erase(services), erase(services)
    assert lines(first)["leads"] == ("done", 1)
    assert lines(second)["leads"] == ("done", 0)
    assert first["receipt"] != second["receipt"]
    assert count_rows(database, "erasure_tombstones") == 1


def test_a_lost_reply_does_not_erase_twice(services: Services, database: Rows) -> None:
    store_lead(services, make_lead())
    run, calls = services.database.run, 0

    class RepeatingDatabase:
        """Runs the deletion twice, as after a lost reply."""

        def __getattr__(self, name: str) -> Any:
            return getattr(services.database, name)

        def run(self, work: Callable[[Any], Any], *, budget_s: float = 3.5) -> Any:
            nonlocal calls
            if budget_s == erasure.TRANSACTION_BUDGET_S:
                calls += 1
                run(work, budget_s=budget_s)
            return run(work, budget_s=budget_s)

    repeating = Services(services.settings)
    repeating.__dict__["database"] = RepeatingDatabase()
    assert lines(erase(repeating))["leads"] == ("done", 1)
    assert calls == 1
    repeating.cache.close()


def test_the_log_holds_the_receipt_number_and_the_tombstones_but_no_address(
    site: httpx.Client, platform: Platform, services: Services, operator: Headers
) -> None:
    store_lead(services, make_lead())
    receipt = site.delete(PATH, params=PERSON, headers=operator).json()

    def erasure_lines() -> list[str]:
        """the log line of the request"""
        messages = [str(line["message"]) for line in platform.logs()]
        return [message for message in messages if '"decision": "erased"' in message]

    (message,) = eventually(erasure_lines)
    assert receipt["receipt"] in message
    for subject in (BY_EMAIL, BY_PHONE):
        for mark in subject.tombstone_hashes(services.erasure_keys):
            assert mark in message
    for line in platform.logs():
        assert personal_data_in(str(line["message"])) == [], line


# ------------------------------------------------------------------ erased data does not come back


def test_a_queued_copy_from_before_the_erasure_is_not_stored(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    copy = make_lead(message="Sebelum")
    erase(services)
    enqueue_lead(services, copy)
    journal_lead(services, copy)
    stats = drain_queue(services)
    assert (stats.stored, stats.erased, stats.dead, stats.left) == (0, 1, 0, 0)
    assert count_rows(database, "leads") == 0
    assert valkey.zcard("accepted") == 0
    assert valkey.keys("journal:*") == []


def test_queued_spam_from_before_the_erasure_is_not_stored(
    services: Services, database: Rows
) -> None:
    copy = make_lead()._replace(spam="links")
    erase(services)
    enqueue_lead(services, copy)
    drain_queue(services)
    assert count_rows(database, "spam") == 0


def test_a_person_who_writes_again_is_a_new_lead(
    site: httpx.Client,
    platform: Platform,
    services: Services,
    database: Rows,
    operator: Headers,
) -> None:
    def is_journaled() -> bool:
        """the lead is in the journal, which is written after the response"""
        return len(services.cache.execute("KEYS", "journal:*")) == 1

    first = site.post("/api/leads", json=LEAD).json()
    eventually(is_journaled)
    site.delete(PATH, params=PERSON, headers=operator)
    assert count_rows(database, "leads") == 0
    again = site.post("/api/leads", json=LEAD)
    assert again.status_code == 200
    assert again.json()["id"] == first["id"], "the same words of the same day"
    assert count_rows(database, "leads") == 1
    eventually(is_journaled)
    platform_is_idle(platform)  # the worker after an answer would add the next lead to the journal
    enqueue_lead(services, make_lead(message="Lewat antrean"))
    assert drain_queue(services).stored == 1
    assert count_rows(database, "leads") == 2
    erasure.run_pending(services, now() + 3 * MINUTE)
    assert count_rows(database, "leads") == 2, "the second pass deletes nothing newer"
    assert services.cache.execute("ZRANGE", "accepted", 0, -1) == [first["id"]]
    assert is_journaled()


@pytest.mark.parametrize("first", ["drain", "erasure"])
def test_a_concurrent_drain_brings_nothing_back(
    platform: Platform, services: Services, database: Rows, first: str
) -> None:
    enqueue_lead(services, make_lead())
    other = Services(services.settings)
    works: dict[str, Callable[[], object]] = {
        "drain": lambda: drain_queue(other),
        "erasure": lambda: erase(services),
    }
    order = [first, *({"drain", "erasure"} - {first})]
    with psycopg.connect(platform.admin_database_url) as holding:
        holding.execute("lock table leads in share row exclusive mode")
        threads = []
        for number, name in enumerate(order, start=1):
            threads.append(threading.Thread(target=works[name]))
            threads[-1].start()
            waiting = "select count(*) as n from pg_stat_activity where wait_event_type = 'Lock'"

            def all_wait(n: int = number, query: str = waiting) -> bool:
                """every thread that was started waits for the table"""
                row = database.execute(query.encode()).fetchone()
                return row is not None and row["n"] == n

            eventually(all_wait)
    for thread in threads:
        thread.join(20)
    assert count_rows(database, "leads") == 0
    assert services.cache.execute("HLEN", "queue") == 0
    other.close()


def test_a_mailed_copy_of_an_erased_person_is_not_stored(
    services: Services, database: Rows
) -> None:
    copy = make_lead()
    erase(services)
    with pytest.raises(ErasedSubject):
        store_lead(services, copy, is_copy=True)


def test_a_rotated_key_still_matches_older_tombstones(
    platform: Platform, services: Services
) -> None:
    copy = make_lead()
    erase(services)
    new = "A" * 43 + "="
    rotated = Services(Settings({**platform.environment,
        "ERASURE_KEY": f"{new},{platform.environment['ERASURE_KEY']}"}))  # fmt: skip
    enqueue_lead(rotated, copy)
    assert drain_queue(rotated).erased == 1
    rotated.close()


def test_tombstones_depend_on_the_key(services: Services) -> None:
    (mark,) = BY_EMAIL.tombstone_hashes(services.erasure_keys)
    assert BY_EMAIL.tombstone_hashes((b"x" * 32,)) != [mark]
    assert len(mark) == 64


# ------------------------------------------------------------------ passes over Redis


def test_with_redis_down_its_steps_wait_and_a_cron_job_completes_them(
    platform: Platform,
    site: httpx.Client,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
    operator: Headers,
) -> None:
    store_everywhere(services, database)
    with platform.function("api/leads_subject.py", **NO_REDIS) as function:
        response = httpx.delete(
            f"{function.url}{PATH}", params=PERSON, headers=operator, timeout=20
        )
    places = lines(response.json())
    assert {place for place, (state, _) in places.items() if state == "waiting"} == {
        "queue", "set_aside", "journal", "ledger", "door"}  # fmt: skip
    assert valkey.hlen("queue") == 1
    cron = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    assert site.get("/api/cron/deliver", headers=cron).status_code == 200
    after = requests.load_receipt(services.database.run, response.json()["receipt"])
    assert lines(after)["set_aside"] == ("done", 1)
    assert lines(after)["door"] == ("done", 3)
    assert personal_data_in(dump_everything(database, valkey, services)) == []


def test_after_a_crash_a_cron_job_completes_the_steps(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    store_everywhere(services, database)
    broken = Services(services.settings)
    broken.__dict__["cache"] = None  # the process dies before Redis

    with pytest.raises(AttributeError):
        erasure.erase(broken, BY_EMAIL, now(), asked_by="api")
    broken.database.close()
    assert count_rows(database, "leads") == 0
    assert valkey.keys("journal:*") != []
    assert erasure.run_pending(services, now())["swept"] == 1
    assert valkey.keys("journal:*") == []
    assert valkey.hlen("queue") == 0


def test_a_second_pass_finds_what_was_written_during_the_erasure(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    lead = make_lead()
    store_lead(services, lead)
    receipt = erase(services)
    journal_lead(services, lead)  # the work after its response
    assert erasure.run_pending(services, now())["swept"] == 0, "not yet"
    assert erasure.run_pending(services, now() + 3 * MINUTE)["swept"] == 1
    assert valkey.keys("journal:*") == []
    assert valkey.zcard("accepted") == 0
    assert count_rows(database, "erasure_remains") == 0
    after = requests.load_receipt(services.database.run, receipt["receipt"])
    assert lines(after)["journal"] == ("done", 1)
    assert after is not None
    assert after["sweep_at"] is None


@pytest.mark.parametrize(("place", "put"), [("queue", enqueue_lead), ("journal", journal_lead)])
def test_a_newer_copy_under_the_same_key_is_not_deleted(
    services: Services,
    valkey: redis.Redis,
    place: str,
    put: Callable[[Services, Lead], None],
) -> None:
    put(services, make_lead())
    (older,) = lead_queue.iter_sealed_leads(services.cache.execute, services.cipher)
    assert older.location == place
    valkey.flushall()
    put(services, make_lead())  # the same content, sent again
    assert not lead_queue.delete_if_unchanged(services.cache.execute, older)
    (newer,) = lead_queue.iter_sealed_leads(services.cache.execute, services.cipher)
    assert lead_queue.delete_if_unchanged(services.cache.execute, newer)


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a-key-of-a-honeypot"}])
def test_traces_of_spam_in_redis_are_deleted(
    services: Services, database: Rows, platform: Platform, valkey: redis.Redis, key: dict[str, str]
) -> None:
    form = {**LEAD, "company": "SEO Inc"}
    response = httpx.post(f"{platform.url}/api/leads", json=form, headers=key)
    assert response.status_code == 200
    eventually(lambda: valkey.keys("seen:*"))
    platform_is_idle(platform)
    erasure.erase(services, Subject(emails=("andi@example.com",)), now(), asked_by="api")
    left = [*valkey.scan_iter("seen:*"), *valkey.scan_iter("text:*"), *valkey.scan_iter("rate:*")]
    assert left == [], "the receipt reports them done"
    assert count_rows(database, "spam") == 0


def platform_is_idle(platform: Platform) -> None:
    eventually(lambda: not any(running["in_flight"] for running in platform.functions()))


# ------------------------------------------------------------------ a DELETE by hand, in SQL


def test_the_handbooks_delete_statement_is_an_erasure(
    site: httpx.Client,
    platform: Platform,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
) -> None:
    store_everywhere(services, database)
    store_lead(services, make_lead(**OTHER_PERSON))
    database.execute("delete from leads where email = 'andi@example.com'")
    assert (count_rows(database, "leads"), count_rows(database, "outbox")) == (1, 2)
    assert count_rows(database, "spam") == 0
    notes = database.execute("select note from incident_events").fetchall()
    assert [row["note"] for row in notes] == [None]
    cron = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    site.get("/api/cron/deliver", headers=cron)
    left = dump_everything(database, valkey, services)
    assert [line for line in left.splitlines() if personal_data_in(line)] == []
    assert count_rows(database, "leads") == 1
    (request,) = database.execute("select * from erasure_requests").fetchall()
    assert request["asked_by"] == "sql"
    receipt = lines(requests.load_receipt(services.database.run, request["receipt"]))
    assert (receipt["leads"], receipt["queue"]) == (("done", 1), ("done", 1))
    enqueue_lead(services, make_lead(request["answered_at"] - 9 * MINUTE, message="Lama"))
    assert drain_queue(services).erased == 1
    enqueue_lead(services, make_lead(message="Baru"))
    assert drain_queue(services).stored == 1


def test_a_delete_by_the_functions_role_is_an_erasure_too(
    services: Services, database: Rows, platform: Platform
) -> None:
    store_lead(services, make_lead())
    with psycopg.connect(platform.database_url) as connection:
        connection.execute("delete from leads where email = 'andi@example.com'")
    assert erasure.run_pending(services, now()) == {"taken_over": 1, "swept": 1}


def test_a_delete_by_hand_counts_as_a_request_at_once(services: Services, database: Rows) -> None:
    store_lead(services, make_lead())
    database.execute("delete from leads")
    run = services.database.run
    assert requests.list_due(run, now() + timedelta(hours=71)) == []
    (late,) = requests.list_due(run, now() + timedelta(hours=73))
    assert (late.receipt, late.places) == ("by hand", ("leads",))
    (row,) = database.execute("select * from erasure_remains").fetchall()
    assert (row["email"], row["phone"]) == (PERSON["email"], PERSON["phone"])
    erasure.run_pending(services, now())
    (row,) = database.execute("select * from erasure_remains").fetchall()
    assert (row["email"], row["phone"]) == (None, None), "replaced by tombstones"


def test_what_was_stored_after_a_delete_by_hand_is_deleted_again(
    services: Services, database: Rows
) -> None:
    store_lead(services, make_lead())
    enqueue_lead(services, make_lead(now() - MINUTE, message="Antre"))
    database.execute("delete from leads where email = 'andi@example.com'")
    assert drain_queue(services).stored == 1, "there is no tombstone yet"
    erasure.run_pending(services, now())
    assert count_rows(database, "leads") == 0


def test_deleting_one_of_several_leads_erases_only_that_lead(
    services: Services, database: Rows
) -> None:
    double = make_lead(message="Dobel")
    store_lead(services, make_lead())
    store_lead(services, double)
    enqueue_lead(services, make_lead(message="Antre"))
    store_spam(services, make_lead(message="Spam"))
    database.execute("delete from leads where id = %s", [double.id])
    erasure.run_pending(services, now())
    assert (count_rows(database, "leads"), count_rows(database, "spam")) == (1, 1)
    assert drain_queue(services).stored == 1
    enqueue_lead(services, double)
    assert drain_queue(services).erased == 1, "that lead stays deleted"


def test_a_delete_by_hand_waits_for_the_erasure_key(
    platform: Platform, services: Services, database: Rows
) -> None:
    keyless = Services(Settings({**platform.environment, "ERASURE_KEY": ""}))
    assert erasure.run_pending(keyless, now()) == {"taken_over": 0, "swept": 0}
    store_lead(services, make_lead())
    database.execute("delete from leads")
    with pytest.raises(NotConfigured, match="ERASURE_KEY"):
        erasure.run_pending(keyless, now())
    keyless.close()
    assert erasure.run_pending(services, now())["taken_over"] == 1


def test_deleting_a_canary_is_no_erasure(services: Services, database: Rows) -> None:
    lead = Lead.from_submission(
        submission.parse(canary.payload(now())),
        key=None, locale="id", now=now(), ip_address=None, user_agent=None, canary=True,
    )  # fmt: skip
    store_lead(services, lead)
    canary.remove(services.database.run, services.cache.pipeline, lead.id)
    assert count_rows(database, "leads") == 0
    assert count_rows(database, "erasure_remains") == 0
