"""What is kept ends in time: by class, in batches, whatever else runs. No column is forgotten."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.leads import queue, repository
from lib.privacy import erasure, retention
from lib.privacy.data_subject import Subject
from lib.services import Services
from lib.settings import Settings
from ops.privacy.data_inventory import OTHER_RETENTION, TABLES
from tests.conftest import LEAD, both_majors
from tests.privacy import person_data
from tests.privacy.person_data import OTHER_PERSON, count_rows, make_lead, store_lead

type Rows = psycopg.Connection[DictRow]

pytestmark = [both_majors, pytest.mark.real_now]

RULES = retention.rules(1095)
NOW = datetime.now(UTC)


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    with closing(Services(Settings(platform.environment))) as made:
        yield made


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def prune(services: Services, budget_s: float = 30) -> dict[str, int]:
    ended = retention.prune(services.database.run, RULES, NOW, budget_s=budget_s)
    return {name: n for name, n in ended.items() if n}


# ------------------------------------------------------------------ each class


def test_a_lead_loses_its_origin_after_90_days_and_keeps_the_rest(
    services: Services, database: Rows
) -> None:
    store_lead(services, make_lead(ago(89), **OTHER_PERSON))
    store_lead(services, make_lead(ago(91)))
    assert prune(services) == {"origins": 1}
    rows = database.execute("select * from leads order by created_at desc").fetchall()
    assert [row["user_agent"] for row in rows] == ["Mozilla/5.0", None]
    assert [row["ip_address"] is None for row in rows] == [False, True]
    assert rows[1]["message"] == LEAD["message"]


def test_a_lead_is_kept_three_years_or_as_the_setting_says(
    services: Services, database: Rows, platform: Platform
) -> None:
    store_lead(services, make_lead(ago(1094), **OTHER_PERSON))
    store_lead(services, make_lead(ago(1096)))
    assert prune(services)["leads"] == 1
    assert count_rows(database, "leads") == 1
    assert count_rows(database, "outbox") == 2
    shorter = Settings({**platform.environment, "LEADS_RETENTION_DAYS": "30"})
    rules = retention.rules(shorter.leads_retention_days)
    assert retention.prune(services.database.run, rules, NOW, budget_s=9)["leads"] == 1


def test_a_lead_that_ends_by_age_is_no_erasure(services: Services, database: Rows) -> None:
    store_lead(services, make_lead(ago(1096)))
    store_lead(services, make_lead(ago(10), message="Baru"))
    repository.insert_spam(services.database.run, make_lead(ago(1), message="Spam"), "links", ())
    prune(services)
    assert count_rows(database, "leads") == 1
    assert count_rows(database, "spam") == 1, "the same person's"
    assert count_rows(database, "erasure_remains") == 0
    assert erasure.run_pending(services, NOW)["taken_over"] == 0


def test_but_a_delete_by_hand_right_after_is_one(services: Services, database: Rows) -> None:
    """What retention says is said for one transaction, though connections are shared."""
    store_lead(services, make_lead(ago(1096)))
    prune(services)
    store_lead(services, make_lead())
    services.database.run(lambda c: c.execute("delete from leads"))
    assert count_rows(database, "erasure_remains") == 1


def test_mails_end_after_90_days_unless_they_still_wait(services: Services, database: Rows) -> None:
    store_lead(services, make_lead(ago(100)))
    database.execute("update outbox set sent_at = now() where kind = 'sales'")
    assert prune(services)["mails"] == 1
    assert [row["kind"] for row in database.execute("select * from outbox")] == ["acknowledgement"]


def test_spam_ends_after_30_days(services: Services, database: Rows) -> None:
    for days, text in ((29, "a"), (31, "b")):
        repository.insert_spam(
            services.database.run, make_lead(ago(days), message=text), "links", ()
        )
    assert prune(services) == {"spam": 1}
    assert count_rows(database, "spam") == 1


def test_an_entry_of_a_mailed_lead_ends_after_90_days_unless_it_is_open(
    services: Services, database: Rows
) -> None:
    old = make_lead(ago(95))
    store_lead(services, old)
    for lead_id, ref, dismissed in (
        (old.id, "ALFA-22222", None),
        (uuid4(), "ALFA-33333", ago(91)),
        (uuid4(), "ALFA-44444", None),
    ):
        database.execute(
            "insert into mailed_leads (lead_id, ref, accepted_at, registered_at, dismissed_at,"
            " dismissed_by, reason) values (%s, %s, %s, %s, %s, %s, %s)",
            [lead_id, ref, ago(95), ago(95), dismissed, dismissed and "me", dismissed and "why"],
        )
    assert prune(services)["mailed"] == 2
    assert [row["ref"] for row in database.execute("select ref from mailed_leads")] == [
        "ALFA-44444"
    ]


def test_a_notes_text_ends_after_a_year_and_the_timeline_holds(
    services: Services, database: Rows
) -> None:
    person_data.add_note(database, "INC-20251101-0101-leads", "lama", ago(366))
    person_data.add_note(database, "INC-20251101-0101-leads", "baru", ago(3))
    assert prune(services) == {"notes": 1}
    notes = database.execute("select note from incident_events order by seq").fetchall()
    assert [row["note"] for row in notes] == [None, "baru"]
    assert database.execute("select * from broken_timelines()").fetchall() == []


SAMPLES = {
    "minutes": "insert into metric_minutes values (%(at)s, 'leads', 'd', 'ok', 1, 1)",
    "hours": "insert into metric_hours values (%(at)s, 'leads', 'd', 'ok', 1, 1)",
    "days": "insert into service_days values (%(at)s::date, 'leads', 1, 0, 1)",
    "sightings": "insert into key_sightings values ('k', 'f' || %(at)s::text, 'd', %(at)s, %(at)s)",
    "backups": "insert into backups values ('own', %(at)s, 'COMPLETED')",
    "drills": "insert into drills (kind, at, verdict) values ('restore', %(at)s, 'PASS')",
    "requests": "insert into erasure_requests (id, receipt, kind, asked_by, marks, received_at,"
    " due_at, finished_at) values (gen_random_uuid(),"
    " 'ERASE-20200101-' || substr(md5(%(at)s::text), 1, 8),"
    " 'erasure', 'api', '{}', %(at)s, %(at)s, %(at)s)",
    "tombstones": "insert into erasure_tombstones values ('m' || %(at)s::text, %(at)s)",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_class_keeps_its_days_and_no_more(services: Services, database: Rows, name: str) -> None:
    (rule,) = (rule for rule in RULES if rule.name == name)
    for days in (rule.days - 1.1, rule.days + 1.1, rule.days + 40):
        database.execute(SAMPLES[name].encode(), {"at": ago(days)})
    (age,) = (a for a in retention.ages(services.database.run, RULES, NOW) if a.name == name)
    assert age.late
    assert prune(services) == {name: 2}
    (age,) = (a for a in retention.ages(services.database.run, RULES, NOW) if a.name == name)
    assert not age.late
    assert age.oldest_at is not None
    assert age.oldest_at >= ago(rule.days)


def test_every_class_is_tried_here() -> None:
    here = {"leads", "origins", "mails", "spam", "notes", "mailed", *SAMPLES}
    assert {rule.name for rule in RULES} == here


def test_an_open_request_never_ends_by_age(services: Services, database: Rows) -> None:
    database.execute(SAMPLES["requests"].encode(), {"at": ago(3000)})
    database.execute("update erasure_requests set finished_at = null")
    assert prune(services) == {}


def test_the_journal_ends_in_redis_and_what_would_not_is_made_to(
    services: Services, platform: Platform
) -> None:
    old = make_lead(datetime.now(UTC) - timedelta(hours=49))
    services.cache.pipeline(*queue.journal_commands(services.cipher, make_lead()))
    services.cache.execute("ZADD", queue.ACCEPTED, old.created_at.timestamp(), str(old.id))
    services.cache.execute("SET", queue.journal_key(old.id), "sealed")
    services.cache.execute("ZADD", "erased", ago(401).timestamp(), "mark")
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        assert retention.prune_redis(services.cache.execute, datetime.now(UTC)) == 3
        ends = [valkey.ttl(key) for key in valkey.keys("journal:*")]
        assert len(ends) == 2
        assert all(0 < seconds <= queue.JOURNAL_TTL_S for seconds in ends)
        assert (valkey.zcard("accepted"), valkey.zcard("erased")) == (1, 0)


# ------------------------------------------------------------------ what sales never heard of


@pytest.mark.parametrize(
    "how",
    [
        "dead_at = now(), last_error = 'validation_error', attempts = 1",
        "attempts = 0, last_error = 'daily_quota_exceeded'",
        "attempts = 3, last_error = 'no_answer'",
    ],
)
def test_a_lead_that_sales_never_heard_of_is_kept_and_named(
    services: Services, database: Rows, platform: Platform, how: str
) -> None:
    store_lead(services, make_lead(ago(1200)))
    database.execute(f"update outbox set {how} where kind = 'sales'".encode())
    database.execute("update outbox set created_at = now() - interval '1200 days'")
    assert "leads" not in prune(services)
    [row] = database.execute("select id::text from leads").fetchall()
    assert retention.unnotified_leads(services.database.run, RULES, NOW) == [row["id"]]
    answer = platform.cron("prune")
    assert isinstance(answer.body, bytes)
    told = json.loads(answer.body)
    assert (told["ended"]["leads"], told["unheard"], told["late"]) == (0, [row["id"]], [])
    assert "lead_unheard" in str(platform.cron("watch").body)
    database.execute("update outbox set sent_at = now(), dead_at = null")
    assert prune(services)["leads"] == 1
    assert retention.unnotified_leads(services.database.run, RULES, NOW) == []


def test_a_mail_to_sales_that_was_given_up_stays_until_somebody_saw_to_it(
    services: Services, database: Rows
) -> None:
    store_lead(services, make_lead(ago(100)))
    database.execute("update outbox set dead_at = now(), created_at = now() - interval '100 days'")
    assert prune(services) == {"origins": 1, "mails": 1}
    assert count_rows(database, "outbox") == 1


# ------------------------------------------------------------------ batches

MANY = """
insert into spam (id, ref, received_at, reason, submission, locale)
select gen_random_uuid(), 'ALFA-XXXXX', now() - interval '60 days', 'links', '{}', 'id'
from generate_series(1, %(n)s)
"""


def test_a_run_that_is_out_of_time_leaves_the_rest_to_the_next(
    services: Services, database: Rows
) -> None:
    database.execute(MANY, {"n": 3 * retention.BATCH})
    assert prune(services, budget_s=0) == {}
    done = prune(services, budget_s=0.001).get("spam", 0)
    assert done < 3 * retention.BATCH
    assert done + prune(services).get("spam", 0) == 3 * retention.BATCH


def test_two_runs_at_once_share_the_work(
    services: Services, database: Rows, platform: Platform
) -> None:
    n = 8 * retention.BATCH
    database.execute(MANY, {"n": n})
    ended: list[int] = []

    def work() -> None:
        with closing(Services(Settings(platform.environment))) as own:
            ended.append(prune(own).get("spam", 0))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(ended) == n
    assert count_rows(database, "spam") == 0


def test_a_row_that_somebody_holds_is_skipped(
    services: Services, database: Rows, platform: Platform
) -> None:
    database.execute(MANY, {"n": 5})
    with psycopg.connect(platform.admin_database_url) as holding:
        holding.execute("select from spam limit 1 for update")
        assert prune(services) == {"spam": 4}
    assert prune(services) == {"spam": 1}


# ------------------------------------------------------------------ the cron


def test_the_cron_prunes_and_says_what_it_did(
    site: httpx.Client, platform: Platform, services: Services, database: Rows
) -> None:
    store_lead(services, make_lead(ago(1200)))
    answer = platform.cron("prune")
    assert answer.status == 200
    assert isinstance(answer.body, bytes)
    told: dict[str, Any] = json.loads(answer.body)
    assert told["ended"]["leads"] == 1
    assert told["late"] == []
    assert told["erasures"] == {"taken_over": 0, "swept": 0}
    assert (told["in_redis"], told["tombstones"]) == (0, 0)
    assert site.get("/api/cron/prune").status_code == 401
    line = [str(line["message"]) for line in platform.logs() if "cron/prune" in str(line)]
    assert "andi" not in "".join(line).lower()


def test_the_cron_prunes_rows_with_redis_down(
    platform: Platform, services: Services, database: Rows
) -> None:
    store_lead(services, make_lead(ago(1200)))
    headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    down = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
    with platform.function("api/cron/prune.py", **down) as function:
        answer = httpx.get(f"{function.url}/api/cron/prune", headers=headers, timeout=20)
    assert answer.json()["ended"]["leads"] == 1
    assert answer.json()["in_redis"] is None


def test_redis_learns_of_every_tombstone_again(
    services: Services, platform: Platform, database: Rows
) -> None:
    andi = Subject(emails=("andi@example.com",))
    erasure.erase(services, andi, datetime.now(UTC), asked_by="api")
    services.cache.execute("DEL", "erased")
    platform.cron("prune")
    assert services.cache.execute("ZCARD", "erased") == 1


# ------------------------------------------------------------------ no column is forgotten

COLUMNS = """
select c.table_name as table, c.column_name as column
from information_schema.columns as c
  join information_schema.tables as t using (table_schema, table_name)
where c.table_schema = 'public' and t.table_type = 'BASE TABLE'
"""

# Words that tell of a person, and the columns that have one and still hold nothing of anybody.
TELLING = re.compile(
    r"mail|phone|name|address|^ip|agent|message|body|recipient|reply|subject|submission|note|city"
    r"|referrer|url|contact|client|text|identity"
)
TELL_NOTHING = {
    "incident_events.note_sha256",
    "synonyms.same_as",
    "brands.name", "products.name", "products.name_key", "products.image_url",
    "key_sightings.name", "key_rotations.name",
}  # fmt: skip


def test_every_column_of_every_table_is_declared(database: Rows) -> None:
    there = {f"{row['table']}.{row['column']}" for row in database.execute(COLUMNS)}
    declared = {f"{table}.{column}" for table, held in TABLES.items() for column in held.columns()}
    assert there - declared == set(), (
        "say in ops/privacy/data_inventory.py what it holds and what ends it"
    )
    assert declared - there == set(), (
        "no longer there: take it out of ops/privacy/data_inventory.py"
    )


def test_no_column_is_declared_twice() -> None:
    for table, held in TABLES.items():
        assert len(held.columns()) == len(set(held.columns())), table


def test_whatever_holds_something_of_a_person_has_a_class_that_ends_it() -> None:
    classes = {rule.name for rule in RULES} | set(OTHER_RETENTION)
    for table, held in TABLES.items():
        assert {held.retention_class, *held.personal_columns} <= classes, table
        assert "kept" not in held.personal_columns, table


def test_a_column_whose_name_tells_of_a_person_is_not_passed_off_as_nobodys() -> None:
    passed_off = {
        f"{table}.{column}"
        for table, held in TABLES.items()
        for column in held.other_columns.split()
        if TELLING.search(column)
    }
    assert passed_off - TELL_NOTHING == set()


def test_each_class_ends_the_columns_it_is_declared_for(services: Services, database: Rows) -> None:
    """A declared class whose statement forgets a column would pass every test above."""
    store_lead(services, make_lead(ago(1200)))
    database.execute("update outbox set sent_at = now()")
    repository.insert_spam(services.database.run, make_lead(ago(1200)), "links", ())
    person_data.add_note(database, "INC-20210101-0101-leads", "Andi", ago(1200))
    prune(services)
    for table, held in TABLES.items():
        for column in " ".join(held.personal_columns.values()).split():
            left = database.execute(f"select count({column}) as n from {table}".encode()).fetchone()
            assert left == {"n": 0}, f"{table}.{column}"
