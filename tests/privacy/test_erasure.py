"""A person is shown, and erased from every place, for good; nobody else is, and nothing new."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.leads import canary, repository, submission
from lib.leads import queue as lead_queue
from lib.leads.lead import Lead
from lib.privacy import data_subject, erasure, replay, requests
from lib.privacy.data_subject import Subject
from lib.problems import ErasedSubject, NotConfigured
from lib.services import Services
from lib.settings import Settings
from tests.conftest import LEAD, both_majors, eventually
from tests.privacy import person_data
from tests.privacy.person_data import (
    OTHER_PERSON,
    PERSON,
    count_rows,
    drain_queue,
    dump_everything,
    enqueue_lead,
    make_lead,
    store_everywhere,
    store_lead,
)

type Rows = psycopg.Connection[DictRow]

pytestmark = both_majors

PATH = "/api/leads/subject"
MINUTE = timedelta(minutes=1)
ANDI = Subject(emails=(PERSON["email"],))
BY_PHONE = Subject(phones=(PERSON["phone"],))


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    with closing(Services(Settings(platform.environment))) as made:
        yield made


@pytest.fixture
def valkey(platform: Platform, database: Rows) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def token(platform: Platform) -> dict[str, str]:
    return {"Authorization": f"Bearer {platform.environment['LEADS_ADMIN_TOKEN']}"}


def now() -> datetime:
    return datetime.now(UTC)


def lines(receipt: dict[str, Any] | None) -> dict[str, tuple[str, int]]:
    """(state, count) by place."""
    assert receipt is not None
    return {line["place"]: (line["state"], line["count"]) for line in receipt["places"]}


def erase(services: Services, whom: Subject = ANDI, at: datetime | None = None) -> dict[str, Any]:
    request = erasure.erase(services, whom, at or now(), asked_by="api")
    receipt = requests.load_receipt(services.database.run, request)
    assert receipt is not None
    return receipt


# ------------------------------------------------------------------ shown


@pytest.mark.parametrize("by", [{"email": " Andi@EXAMPLE.com"}, {"phone": "0812-3456 7890"}])
def test_everything_held_on_a_person_is_shown_however_they_are_written(
    site: httpx.Client,
    services: Services,
    database: Rows,
    token: dict[str, str],
    by: dict[str, str],
) -> None:
    made = store_everywhere(services, database)
    store_lead(services, make_lead(**OTHER_PERSON))
    answer = site.get(PATH, params=by, headers=token)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    (row,) = found["leads"]
    assert (row["id"], row["message"]) == (str(made.id), LEAD["message"])
    assert (row["ip_address"], row["user_agent"]) == ("203.0.113.7", "Mozilla/5.0")
    assert {mail["kind"] for mail in found["mails"]} == {"sales", "acknowledgement"}
    assert all("Barber Maju" in mail["body_text"] + mail["subject"] + str(mail["recipients"])
               or mail["kind"] == "acknowledgement" for mail in found["mails"])  # fmt: skip
    (spam,) = found["spam"]
    assert spam["submission"]["message"] == "Promo http://a http://b"
    assert [copy["submission"]["message"] for copy in found["queue"]] == ["Menunggu"]
    assert [copy["submission"]["message"] for copy in found["set_aside"]] == ["Disisihkan"]
    assert [copy["id"] for copy in found["journal"]] == [str(made.id)]
    if "phone" in by:
        (note,) = found["incident_notes"]
        assert note["note"].startswith("Dihubungi")
    assert found["not_searched"] == []
    assert set(found["elsewhere"]) == {"sales_mailbox", "resend", "sentry", "logs", "backups"}
    assert "budi" not in answer.text


def test_leads_that_share_only_the_number_are_counted_and_not_shown(
    site: httpx.Client, services: Services, token: dict[str, str]
) -> None:
    store_lead(services, make_lead())
    store_lead(services, make_lead(email="rekan@example.com", message="Lain"))
    store_lead(services, make_lead(email="", message="Tanpa alamat"))
    found = site.get(PATH, params={"email": "andi@example.com"}, headers=token).json()
    assert len(found["leads"]) == 1
    assert found["related_leads"] == 2
    both = site.get(PATH, params={"email": "andi@example.com", "phone": "081234567890"},
                    headers=token).json()  # fmt: skip
    assert (len(both["leads"]), both["related_leads"]) == (3, 0)


def test_what_could_not_be_searched_is_named(
    platform: Platform, services: Services, token: dict[str, str]
) -> None:
    store_lead(services, make_lead())
    down = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
    with platform.function("api/leads_subject.py", **down) as function:
        answer = httpx.get(f"{function.url}{PATH}", params=PERSON, headers=token, timeout=20)
        counted = httpx.delete(
            f"{function.url}{PATH}", params={**PERSON, "dry_run": "1"}, headers=token, timeout=20
        )
    assert len(answer.json()["leads"]) == 1
    assert answer.json()["not_searched"] == ["queue", "set_aside", "journal"]
    places = {line["place"]: line["count"] for line in counted.json()["places"]}
    assert (places["leads"], places["queue"]) == (1, None)


# ------------------------------------------------------------------ erased


@pytest.mark.parametrize("by", ["email", "phone"])
def test_nothing_of_an_erased_person_is_left_in_any_table_or_in_redis(
    site: httpx.Client,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
    token: dict[str, str],
    by: str,
) -> None:
    made = store_everywhere(services, database)
    assert len(person_data.personal_data_in(dump_everything(database, valkey, services))) == 5
    answer = site.delete(PATH, params={by: PERSON[by]}, headers=token)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["dry_run"] is False
    assert lines(told) == {
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
    if by == "email":  # a note that holds the number alone is found by the number
        database.execute("update incident_events set note = null")
    assert person_data.personal_data_in(dump_everything(database, valkey, services)) == []
    instructions = {line["place"]: line["ids"] for line in told["places"] if line["ids"]}
    assert instructions == {"sales_mailbox": [made.ref], "sentry": [str(made.id)]}
    assert told["receipt"].startswith(f"ERASE-{now():%Y%m%d}-")
    assert datetime.fromisoformat(told["due_at"]) - datetime.fromisoformat(
        told["received_at"]
    ) == timedelta(hours=72)


def test_the_mails_that_resend_has_are_named_by_their_ids(
    services: Services, database: Rows
) -> None:
    store_lead(services, make_lead())
    database.execute("update outbox set attempts = 1, sent_at = now()")
    database.execute("update outbox set provider_id = 'id-at-resend' where kind = 'sales'")
    (made,) = database.execute("select id from leads").fetchall()
    receipt = erase(services)
    (resend,) = (line for line in receipt["places"] if line["place"] == "resend")
    assert resend["state"] == "instruction"
    assert resend["ids"] == [f"acknowledgement/{made['id']}", "id-at-resend"]


def test_nobody_else_is_touched(services: Services, database: Rows, valkey: redis.Redis) -> None:
    store_everywhere(services, database)
    store_lead(services, make_lead(**OTHER_PERSON))
    enqueue_lead(services, make_lead(**OTHER_PERSON, message="Antre"))
    services.cache.pipeline(
        *lead_queue.journal_commands(services.cipher, make_lead(**OTHER_PERSON))
    )
    repository.insert_spam(
        services.database.run, make_lead(**OTHER_PERSON, message="Spam"), "links", ()
    )
    person_data.add_note(database, "INC-20261124-0202-leads", "Budi 0812 9999 8888 sudah dihubungi")
    erase(services, Subject(emails=ANDI.emails, phones=BY_PHONE.phones))
    assert [row["email"] for row in database.execute("select * from leads")] == ["budi@example.com"]
    assert (count_rows(database, "outbox"), count_rows(database, "spam")) == (2, 1)
    assert (valkey.hlen("queue"), len(valkey.keys("journal:*"))) == (1, 1)
    notes = database.execute("select note from incident_events where note is not null").fetchall()
    assert [row["note"][:4] for row in notes] == ["Budi"]
    assert database.execute("select * from broken_timelines()").fetchall() == []


def test_a_dry_run_counts_and_changes_nothing(
    site: httpx.Client,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
    token: dict[str, str],
) -> None:
    store_everywhere(services, database)
    before = dump_everything(database, valkey, services)
    answer = site.delete(PATH, params={"phone": PERSON["phone"], "dry_run": "1"}, headers=token)
    assert answer.json()["dry_run"] is True
    counts = {line["place"]: line["count"] for line in answer.json()["places"]}
    assert counts == {"leads": 1, "mails": 2, "spam": 1, "incident_notes": 1,
                      "queue": 1, "set_aside": 1, "journal": 1}  # fmt: skip
    assert dump_everything(database, valkey, services) == before


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

    class Stammering:
        """Runs the deletion twice, as after a lost reply."""

        def __getattr__(self, name: str) -> Any:
            return getattr(services.database, name)

        def run(self, work: Callable[[Any], Any], *, budget_s: float = 3.5) -> Any:
            nonlocal calls
            if budget_s == erasure.TRANSACTION_BUDGET_S:
                calls += 1
                run(work, budget_s=budget_s)
            return run(work, budget_s=budget_s)

    twice = Services(services.settings)
    twice.__dict__["database"] = Stammering()
    assert lines(erase(twice))["leads"] == ("done", 1)
    assert calls == 1
    twice.cache.close()


def test_the_log_holds_the_receipt_and_the_marks_and_no_address(
    site: httpx.Client, platform: Platform, services: Services, token: dict[str, str]
) -> None:
    store_lead(services, make_lead())
    told = site.delete(PATH, params=PERSON, headers=token).json()

    def line() -> list[str]:
        """the request's line"""
        said = [str(line["message"]) for line in platform.logs()]
        return [each for each in said if '"decision": "erased"' in each]

    (said,) = eventually(line)
    assert told["receipt"] in said
    for mark in (
        *ANDI.tombstone_hashes(services.erasure_keys),
        *BY_PHONE.tombstone_hashes(services.erasure_keys),
    ):
        assert mark in said
    for each in platform.logs():
        assert person_data.personal_data_in(str(each["message"])) == [], each


# ------------------------------------------------------------------ and stays so


def test_a_copy_taken_before_the_erasure_does_not_come_back(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    taken = make_lead(message="Sebelum")
    erase(services)
    enqueue_lead(services, taken)  # it was on its way
    services.cache.pipeline(*lead_queue.journal_commands(services.cipher, taken))
    tally = drain_queue(services)
    assert (tally.stored, tally.erased, tally.dead, tally.left) == (0, 1, 0, 0)
    assert count_rows(database, "leads") == 0
    assert valkey.zcard("accepted") == 0
    assert valkey.keys("journal:*") == []


def test_spam_taken_before_the_erasure_does_not_come_back(
    services: Services, database: Rows
) -> None:

    taken = make_lead()._replace(spam="links")
    erase(services)
    enqueue_lead(services, taken)
    drain_queue(services)
    assert count_rows(database, "spam") == 0


def test_whoever_writes_again_is_a_new_lead(
    site: httpx.Client, services: Services, database: Rows, token: dict[str, str]
) -> None:
    def journal() -> bool:
        """the work after the answer is done"""
        return len(services.cache.execute("KEYS", "journal:*")) == 1

    first = site.post("/api/leads", json=LEAD).json()
    eventually(journal)
    site.delete(PATH, params=PERSON, headers=token)
    assert count_rows(database, "leads") == 0
    again = site.post("/api/leads", json=LEAD)
    assert again.status_code == 200
    assert again.json()["id"] == first["id"], "the same words of the same day"
    assert count_rows(database, "leads") == 1
    eventually(journal)
    enqueue_lead(services, make_lead(message="Lewat antrean"))
    assert drain_queue(services).stored == 1
    assert count_rows(database, "leads") == 2
    erasure.run_pending(services, now() + 3 * MINUTE)
    assert count_rows(database, "leads") == 2, "a later sweep takes nothing that is newer"
    assert services.cache.execute("ZRANGE", "accepted", 0, -1) == [first["id"]]
    assert journal()


@pytest.mark.parametrize("first", ["drain", "erasure"])
def test_a_drain_that_runs_meanwhile_brings_nothing_back(
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

            def both_wait(n: int = number, query: str = waiting) -> bool:
                """both wait for the table"""
                row = database.execute(query.encode()).fetchone()
                return row is not None and row["n"] == n

            eventually(both_wait)
    for thread in threads:
        thread.join(20)
    assert count_rows(database, "leads") == 0
    assert services.cache.execute("HLEN", "queue") == 0
    other.close()


def test_a_mailed_copy_of_an_erased_person_is_not_stored(
    services: Services, database: Rows
) -> None:
    taken = make_lead()
    erase(services)
    with pytest.raises(ErasedSubject):
        repository.insert(
            services.database.run,
            taken,
            person_data.RECIPIENTS,
            now=now(),
            deliver_now=False,
            erasure_keys=services.erasure_keys,
        )


def test_an_old_key_still_finds_whom_it_buried(platform: Platform, services: Services) -> None:
    taken = make_lead()
    erase(services)
    new = "A" * 43 + "="
    rotated = Services(Settings({**platform.environment,
        "ERASURE_KEY": f"{new},{platform.environment['ERASURE_KEY']}"}))  # fmt: skip
    enqueue_lead(rotated, taken)
    assert drain_queue(rotated).erased == 1
    rotated.close()


def test_without_the_key_marks_say_nothing(services: Services) -> None:
    (mark,) = ANDI.tombstone_hashes(services.erasure_keys)
    assert ANDI.tombstone_hashes((b"x" * 32,)) != [mark]
    assert len(mark) == 64


# ------------------------------------------------------------------ steps that somebody finishes


def test_with_redis_down_its_places_wait_and_a_round_finishes_them(
    platform: Platform,
    site: httpx.Client,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
    token: dict[str, str],
) -> None:
    store_everywhere(services, database)
    down = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
    with platform.function("api/leads_subject.py", **down) as function:
        answer = httpx.delete(f"{function.url}{PATH}", params=PERSON, headers=token, timeout=20)
    told = lines(answer.json())
    assert {place for place, (state, _) in told.items() if state == "waiting"} == {
        "queue", "set_aside", "journal", "ledger", "door"}  # fmt: skip
    assert valkey.hlen("queue") == 1
    cron = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    assert site.get("/api/cron/deliver", headers=cron).status_code == 200
    after = requests.load_receipt(services.database.run, answer.json()["receipt"])
    assert lines(after)["set_aside"] == ("done", 1)
    assert lines(after)["door"] == ("done", 3)
    assert person_data.personal_data_in(dump_everything(database, valkey, services)) == []


def test_a_process_that_dies_after_the_rows_leaves_steps_that_a_round_finishes(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    store_everywhere(services, database)
    broken = Services(services.settings)
    broken.__dict__["cache"] = None  # as if it died here: nothing of Redis is done

    with pytest.raises(AttributeError):
        erasure.erase(broken, ANDI, now(), asked_by="api")
    broken.database.close()
    assert count_rows(database, "leads") == 0
    assert valkey.keys("journal:*") != []
    assert erasure.run_pending(services, now())["swept"] == 1
    assert valkey.keys("journal:*") == []
    assert valkey.hlen("queue") == 0


def test_what_was_on_its_way_is_swept_once_more(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    made = make_lead()
    store_lead(services, made)
    receipt = erase(services)
    services.cache.pipeline(
        *lead_queue.journal_commands(services.cipher, made)
    )  # the work after its answer
    assert erasure.run_pending(services, now())["swept"] == 0, "not yet"
    assert erasure.run_pending(services, now() + 3 * MINUTE)["swept"] == 1
    assert valkey.keys("journal:*") == []
    assert valkey.zcard("accepted") == 0
    assert count_rows(database, "erasure_remains") == 0
    after = requests.load_receipt(services.database.run, receipt["receipt"])
    assert lines(after)["journal"] == ("done", 1)
    assert after is not None
    assert after["sweep_at"] is None


def test_a_copy_that_made_room_for_a_newer_one_is_not_taken_for_it(
    services: Services, valkey: redis.Redis
) -> None:
    for place, put in (
        ("queue", lambda made: enqueue_lead(services, made)),
        (
            "journal",
            lambda made: services.cache.pipeline(
                *lead_queue.journal_commands(services.cipher, made)
            ),
        ),
    ):
        put(make_lead())
        (seen,) = lead_queue.iter_sealed_leads(services.cache.execute, services.cipher)
        assert seen.location == place
        valkey.flushall()
        put(make_lead())  # the same words, sent again
        assert not lead_queue.delete_if_unchanged(services.cache.execute, seen)
        (newer,) = lead_queue.iter_sealed_leads(services.cache.execute, services.cipher)
        assert lead_queue.delete_if_unchanged(services.cache.execute, newer)
        valkey.flushall()


def test_a_request_is_finished_when_every_instruction_was_followed(
    services: Services, database: Rows
) -> None:
    run = services.database.run
    store_lead(services, make_lead())
    number = erase(services)["receipt"]
    erasure.run_pending(services, now() + 3 * MINUTE)
    assert requests.complete_step(run, number, "sales_mailbox", now())
    assert not requests.complete_step(run, number, "sales_mailbox", now())
    assert not requests.complete_step(run, number, "logs", now())
    receipt = requests.load_receipt(run, number)
    assert receipt is not None
    assert receipt["finished_at"] is None
    assert requests.complete_step(run, number, "sentry", now())
    receipt = requests.load_receipt(run, number)
    assert receipt is not None
    assert receipt["finished_at"] is not None
    assert all(line["ids"] == [] for line in receipt["places"]), "no id outlives its use"


def test_the_clock_runs_from_when_the_person_asked(services: Services) -> None:
    run = services.database.run
    asked = now() - timedelta(hours=71)
    marks = ANDI.tombstone_hashes(services.erasure_keys)
    number = requests.register(run, "erasure", marks, asked)
    assert requests.list_due(run, now()) == []
    (soon,) = requests.list_due(run, now(), within=timedelta(hours=2))
    assert (soon.receipt, soon.kind) == (number, "erasure")
    (late,) = requests.list_due(run, now() + timedelta(hours=2))
    assert late.due_at == asked + timedelta(hours=72)
    receipt = erase(services)
    assert receipt["receipt"] == number, "the erasure answers the request that waited"
    assert datetime.fromisoformat(receipt["received_at"]) == asked
    (late,) = requests.list_due(run, now() + timedelta(hours=2))
    assert late.places == ("sales_mailbox",)
    requests.complete_step(run, number, "sales_mailbox", now())
    erasure.run_pending(services, now() + 3 * MINUTE)
    assert requests.list_due(run, now() + timedelta(days=9)) == []


def test_a_request_to_see_is_closed_by_its_receipt_once(services: Services) -> None:
    run, marks = services.database.run, ANDI.tombstone_hashes(services.erasure_keys)
    number = requests.register(run, "access", marks, now())
    assert number.startswith("ACCESS-")
    assert len(requests.list_due(run, now() + timedelta(hours=73))) == 1
    assert requests.finish_access_request(run, number, now())
    assert not requests.finish_access_request(run, number, now())
    assert requests.list_due(run, now() + timedelta(hours=73)) == []


# ------------------------------------------------------------------ which number is meant

JAPAN, XL = "+819012345699", "+62819012345699"  # the same digits behind a lost +


@pytest.mark.parametrize(
    "query",
    [
        "phone=+819012345699",
        "phone=%20819012345699",
        "phone=+81-90-1234-5699&dry_run=1",
        "phone=819012345699",
        "phone=+81 90 1234 5699&email=andi%40example.com",
    ],
)
def test_a_number_that_may_have_lost_its_plus_erases_nobody(
    site: httpx.Client, services: Services, database: Rows, token: dict[str, str], query: str
) -> None:
    store_lead(services, make_lead(phone_whatsapp=JAPAN))
    store_lead(services, make_lead(**{**OTHER_PERSON, "phone_whatsapp": XL}))
    answer = site.delete(f"{PATH}?{query}", headers=token)
    assert answer.status_code == 400, answer.text
    (words,) = answer.json()["details"]["phone"]
    assert JAPAN in words
    assert XL in words
    assert "%2B" in words
    assert count_rows(database, "leads") == 2
    assert count_rows(database, "erasure_requests") == 0


@pytest.mark.parametrize("query", ["phone=%2B819012345699"])
def test_a_number_with_its_plus_erases_its_owner_alone(
    site: httpx.Client, services: Services, database: Rows, token: dict[str, str], query: str
) -> None:
    store_lead(services, make_lead(phone_whatsapp=JAPAN))
    store_lead(services, make_lead(**{**OTHER_PERSON, "phone_whatsapp": XL}))
    answer = site.delete(f"{PATH}?{query}", headers=token)
    assert answer.status_code == 200, answer.text
    (left,) = database.execute("select phone_whatsapp from leads").fetchall()
    assert left["phone_whatsapp"] == XL


@pytest.mark.parametrize(
    ("query", "stored"),
    [("phone=+442079460958", "+442079460958"), ("phone=+6281234567890", "+6281234567890")],
)
def test_a_plus_that_was_lost_beyond_doubt_is_put_back(
    site: httpx.Client,
    services: Services,
    database: Rows,
    token: dict[str, str],
    query: str,
    stored: str,
) -> None:
    store_lead(services, make_lead(phone_whatsapp=stored))
    store_lead(services, make_lead(**OTHER_PERSON))
    assert site.delete(f"{PATH}?{query}", headers=token).status_code == 200
    (left,) = database.execute("select phone_whatsapp from leads").fetchall()
    assert left["phone_whatsapp"] == OTHER_PERSON["phone_whatsapp"]


@pytest.mark.parametrize("query", ["email=+andi@example.com", "email=andi+salon@example.com"])
def test_an_address_that_lost_its_plus_erases_nobody(
    site: httpx.Client, services: Services, database: Rows, token: dict[str, str], query: str
) -> None:
    store_lead(services, make_lead())
    answer = site.delete(f"{PATH}?{query}", headers=token)
    assert answer.status_code == 400
    assert list(answer.json()["details"]) == ["email"]
    assert count_rows(database, "leads") == 1


def test_a_showing_says_which_other_number_may_be_meant(
    site: httpx.Client, services: Services, token: dict[str, str]
) -> None:
    store_lead(services, make_lead(phone_whatsapp=JAPAN))
    store_lead(services, make_lead(**{**OTHER_PERSON, "phone_whatsapp": XL}))
    for query, read, other in (
        ("phone=+819012345699", JAPAN, [XL]),
        ("phone=819012345699", XL, [JAPAN]),
        ("phone=%2B819012345699", JAPAN, []),
    ):
        found = site.get(f"{PATH}?{query}", headers=token).json()
        assert (found["subject"]["phone"], found["other_readings"]) == ([read], other)
        assert [row["phone_whatsapp"] for row in found["leads"]] == [read]


# As they were stored before: a trunk zero kept, 62 twice, 008 taken for 00.
OLDER = [
    ("+4402079460958", "+44 (0)20 7946 0958", "+442079460958"),
    ("+610412345678", "+61 412 345 678", "+61412345678"),
    ("+626281234567890", "0812 3456 7890", "+6281234567890"),
    ("+8628123456789", "008 62 812 3456 789", "+628123456789"),
]


@pytest.mark.parametrize(("older", "typed", "stored"), OLDER)
def test_a_number_stored_in_an_older_form_is_found_and_erased_for_good(
    site: httpx.Client,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
    token: dict[str, str],
    older: str,
    typed: str,
    stored: str,
) -> None:
    def as_before(made: Any) -> Any:
        return made._replace(submission=made.submission._replace(phone_whatsapp=older))

    old = as_before(make_lead(email=""))
    store_lead(services, old)
    store_lead(services, make_lead(phone_whatsapp=stored, email="", message="Lagi"))
    enqueue_lead(services, as_before(make_lead(email="", message="Menunggu")))
    repository.insert_spam(
        services.database.run, as_before(make_lead(email="", message="x")), "links", ()
    )
    person_data.add_note(database, "INC-20261124-0101-leads", f"Ditelepon: {typed} – benar")
    store_lead(services, make_lead(**OTHER_PERSON))

    shown = site.get(PATH, params={"phone": typed}, headers=token).json()
    assert {row["phone_whatsapp"] for row in shown["leads"]} == {older, stored}
    assert (len(shown["spam"]), len(shown["queue"]), len(shown["incident_notes"])) == (1, 1, 1)
    receipt = site.delete(PATH, params={"phone": typed}, headers=token).json()
    counts = {place: found for place, (_, found) in lines(receipt).items()}
    assert (counts["leads"], counts["spam"], counts["incident_notes"]) == (2, 1, 1)
    assert counts["queue"] == 1
    assert older not in dump_everything(database, valkey, services)

    store_lead(services, old)  # as a restored backup has it
    person_data.add_note(
        database, "INC-20261124-0101-leads", f"Ditelepon: {typed} – benar", old.created_at
    )
    replayed = replay.reapply(services, now())
    assert (replayed.leads, replayed.notes) == (1, 1)
    with pytest.raises(ErasedSubject):
        repository.insert(
            services.database.run,
            old,
            person_data.RECIPIENTS,
            now=now(),
            deliver_now=False,
            erasure_keys=services.erasure_keys,
        )
    (left,) = database.execute("select phone_whatsapp from leads").fetchall()
    assert left["phone_whatsapp"] == OTHER_PERSON["phone_whatsapp"]


def test_a_valid_number_is_nobody_elses_older_form(
    site: httpx.Client, services: Services, database: Rows, token: dict[str, str]
) -> None:
    """001 65 9234 5678 was stored as this American number, which may be its owner's."""
    store_lead(services, make_lead(phone_whatsapp="+16592345678"))
    assert site.delete(PATH, params={"phone": "+65 9234 5678"}, headers=token).status_code == 200
    assert count_rows(database, "leads") == 1


# ------------------------------------------------------------------ by hand, in SQL


def test_the_handbooks_own_statement_goes_everywhere(
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
    assert [line for line in left.splitlines() if person_data.personal_data_in(line)] == []
    assert count_rows(database, "leads") == 1
    (request,) = database.execute("select * from erasure_requests").fetchall()
    assert request["asked_by"] == "sql"
    receipt = lines(requests.load_receipt(services.database.run, request["receipt"]))
    assert (receipt["leads"], receipt["queue"]) == (("done", 1), ("done", 1))
    enqueue_lead(services, make_lead(request["answered_at"] - 9 * MINUTE, message="Lama"))
    assert drain_queue(services).erased == 1
    enqueue_lead(services, make_lead(message="Baru"))
    assert drain_queue(services).stored == 1


def test_it_works_as_the_functions_role_too(
    services: Services, database: Rows, platform: Platform
) -> None:
    store_lead(services, make_lead())
    with psycopg.connect(platform.database_url) as connection:
        connection.execute("delete from leads where email = 'andi@example.com'")
    assert erasure.run_pending(services, now()) == {"taken_over": 1, "swept": 1}


def test_until_a_round_came_the_leftovers_are_a_request_that_can_be_overdue(
    services: Services, database: Rows
) -> None:
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
    assert (row["email"], row["phone"]) == (None, None), "marks are there now"


def test_what_a_drain_stored_in_between_is_deleted_again(
    services: Services, database: Rows
) -> None:
    store_lead(services, make_lead())
    enqueue_lead(services, make_lead(now() - MINUTE, message="Antre"))
    database.execute("delete from leads where email = 'andi@example.com'")
    assert drain_queue(services).stored == 1, "nobody knew yet"
    erasure.run_pending(services, now())
    assert count_rows(database, "leads") == 0


def test_removing_one_of_a_persons_leads_erases_no_person(
    services: Services, database: Rows
) -> None:
    double = make_lead(message="Dobel")
    store_lead(services, make_lead())
    store_lead(services, double)
    enqueue_lead(services, make_lead(message="Antre"))
    repository.insert_spam(services.database.run, make_lead(message="Spam"), "links", ())
    database.execute("delete from leads where id = %s", [double.id])
    erasure.run_pending(services, now())
    assert (count_rows(database, "leads"), count_rows(database, "spam")) == (1, 1)
    assert drain_queue(services).stored == 1
    enqueue_lead(services, double)
    assert drain_queue(services).erased == 1, "that one lead stays removed"


def test_without_the_key_a_delete_by_hand_waits_and_says_so(
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


def test_a_canary_that_removes_itself_is_no_erasure(services: Services, database: Rows) -> None:
    made = Lead.from_submission(
        submission.parse(canary.payload(now())),
        key=None, locale="id", now=now(), ip_address=None, user_agent=None, canary=True,
    )  # fmt: skip
    store_lead(services, made)
    canary.remove(services.database.run, services.cache.pipeline, made.id)
    assert count_rows(database, "leads") == 0
    assert count_rows(database, "erasure_remains") == 0


# ------------------------------------------------------------------ after a restore


def snapshot(database: Rows) -> dict[str, list[str]]:
    """A backup of what holds persons."""
    return {
        table: [
            json.dumps(row["line"])
            for row in database.execute(f"select to_jsonb(t) as line from {table} as t".encode())
        ]
        for table in ("leads", "spam", "incidents", "incident_events")
    }


def restore(database: Rows, backup: dict[str, list[str]]) -> None:
    """The tables as they were then: without the tombstones and requests made since."""
    tables = database.execute(
        "select string_agg(quote_ident(tablename), ', ') as all from pg_tables"
        " where schemaname = 'public'"
    ).fetchone()
    assert tables is not None
    database.execute(f"truncate {tables['all']} cascade".encode())
    database.execute("set session_replication_role = replica")
    for table, lines in backup.items():
        for line in lines:
            overriding = "overriding system value" if table == "incidents" else ""
            database.execute(
                f"insert into {table} {overriding}"
                f" select * from jsonb_populate_record(null::{table}, %s)".encode(),
                [line],
            )
    database.execute("set session_replication_role = origin")


def test_a_restore_does_not_bring_an_erased_person_back(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    store_everywhere(services, database)
    store_lead(services, make_lead(**OTHER_PERSON))
    backup = snapshot(database)
    erase(services, BY_PHONE)
    restore(database, backup)
    assert count_rows(database, "leads") == 2
    assert person_data.personal_data_in(dump_everything(database, valkey, services)) != []
    store_lead(services, make_lead(message="Menulis lagi"))
    replayed = replay.reapply(services, now())
    assert (replayed.tombstones, replayed.in_redis) == (1, True)
    assert (replayed.leads, replayed.spam, replayed.notes) == (1, 1, 1)
    left = database.execute("select message, email from leads order by created_at").fetchall()
    assert [row["email"] for row in left] == ["budi@example.com", "andi@example.com"]
    assert left[1]["message"] == "Menulis lagi"
    assert count_rows(database, "spam") == 0
    assert replay.reapply(services, now()).leads == 0, "again is harmless"
    assert database.execute("select * from broken_timelines()").fetchall() == []


def test_the_journal_brings_nobody_back_after_a_restore(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    made = make_lead()
    store_lead(services, made)
    erase(services)
    services.cache.pipeline(*lead_queue.journal_commands(services.cipher, made))
    restore(database, {})
    replay.reapply(services, now())
    assert valkey.keys("journal:*") == []


def test_a_single_removed_lead_and_a_handbook_delete_are_replayed_too(
    services: Services, database: Rows
) -> None:
    double = make_lead(message="Dobel")
    for made in (make_lead(), double, make_lead(**OTHER_PERSON)):
        store_lead(services, made)
    backup = snapshot(database)
    database.execute("delete from leads where id = %s", [double.id])
    database.execute("delete from leads where email = 'budi@example.com'")
    erasure.run_pending(services, now())
    restore(database, backup)
    assert replay.reapply(services, now()).leads == 2
    (row,) = database.execute("select * from leads").fetchall()
    assert row["message"] == LEAD["message"]


def test_with_redis_lost_as_well_kept_tombstones_do(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    store_lead(services, make_lead())
    backup = snapshot(database)
    erase(services)
    kept = replay.all_tombstones(services)
    restore(database, backup)
    valkey.flushall()
    assert replay.reapply(services, now()).leads == 0, "nobody knows"
    assert replay.reapply(services, now(), kept.items()).leads == 1
    assert valkey.zcard("erased") == 1, "and Redis knows again"


def test_a_replay_without_redis_says_what_it_did_not_know(
    platform: Platform, services: Services, database: Rows
) -> None:
    store_lead(services, make_lead())
    erase(services)
    down = Services(Settings({**platform.environment,
                              "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}))  # fmt: skip
    assert replay.reapply(down, now()).in_redis is False
    down.close()


# ------------------------------------------------------------------ who may, and how to ask


@pytest.mark.parametrize(
    ("method", "query", "faulty"),
    [
        ("GET", "", {"_"}),
        ("GET", "email=&phone=", {"_"}),
        ("GET", "email=andi", {"email"}),
        ("GET", "phone=12", {"phone"}),
        ("GET", "email=andi@example.com&dry_run=1", {"dry_run"}),
        ("DELETE", "email=a@example.com&email=b@example.com", {"email"}),
        ("DELETE", "email=a@example.com&dry_run=maybe", {"dry_run"}),
        ("DELETE", "email=a@example.com&dry_run", {"dry_run"}),
        ("DELETE", "email=a@example.com&dry_run=", {"dry_run"}),
        ("DELETE", "name=Andi&phone=1&dry_run=x", {"name", "phone", "dry_run"}),
    ],
)
def test_a_malformed_question_is_refused_with_every_fault(
    site: httpx.Client, token: dict[str, str], method: str, query: str, faulty: set[str]
) -> None:
    answer = site.request(method, f"{PATH}?{query}", headers=token)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["details"]) == faulty


def test_only_operators_may_ask(site: httpx.Client, services: Services, database: Rows) -> None:
    store_lead(services, make_lead())
    for method in ("GET", "HEAD", "DELETE"):
        answer = site.request(method, PATH, params=PERSON)
        assert answer.status_code == 401
    assert count_rows(database, "leads") == 1
    assert site.post(PATH, params=PERSON).headers["Allow"] == "DELETE, GET, HEAD, OPTIONS"


def test_nobody_is_erased_without_the_key_that_makes_the_mark(
    platform: Platform, services: Services, database: Rows, token: dict[str, str]
) -> None:
    store_lead(services, make_lead())
    with platform.function("api/leads_subject.py", ERASURE_KEY="") as function:
        address = f"{function.url}{PATH}"
        assert httpx.get(address, params=PERSON, headers=token).status_code == 200
        answer = httpx.delete(address, params=PERSON, headers=token)
    assert (answer.status_code, answer.json()["error"]) == (503, "service_not_configured")
    assert count_rows(database, "leads") == 1


def test_a_person_can_be_found_by_what_they_wrote_first(services: Services) -> None:
    assert (
        data_subject.from_person(submission.parse_person({"phone": "0812 3456 7890"})) == BY_PHONE
    )


# ------------------------------------------------------------------ the spam box


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a-key-of-a-honeypot"}])
def test_nothing_of_what_was_kept_as_spam_stays_in_redis(
    services: Services, database: Rows, platform: Platform, valkey: redis.Redis, key: dict[str, str]
) -> None:
    form = {**LEAD, "company": "SEO Inc"}
    answer = httpx.post(f"{platform.url}/api/leads", json=form, headers=key)
    assert answer.status_code == 200
    eventually(lambda: valkey.keys("seen:*"))
    platform_is_idle(platform)
    erasure.erase(services, Subject(emails=("andi@example.com",)), now(), asked_by="api")
    left = [*valkey.scan_iter("seen:*"), *valkey.scan_iter("text:*"), *valkey.scan_iter("rate:*")]
    assert left == [], "the receipt says done"
    assert count_rows(database, "spam") == 0


def platform_is_idle(platform: Platform) -> None:
    eventually(lambda: not any(running["in_flight"] for running in platform.functions()))
