"""Each retention class ends on time, in batches, also concurrently; every column has a class."""

import json
import re
import threading
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
from lib.leads import queue
from lib.privacy import erasure, retention
from lib.services import Services
from lib.settings import Settings
from ops.privacy.data_inventory import OTHER_RETENTION, TABLES
from tests.conftest import LEAD, both_majors
from tests.privacy.person_data import (
    BY_EMAIL,
    NO_REDIS,
    OTHER_PERSON,
    add_note,
    count_rows,
    erase,
    journal_lead,
    make_lead,
    store_lead,
    store_spam,
)

type Rows = psycopg.Connection[DictRow]

pytestmark = [both_majors, pytest.mark.real_now]

RULES = retention.rules(1095)
NOW = datetime.now(UTC)


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
    store_spam(services, make_lead(ago(1), message="Spam"))
    prune(services)
    assert count_rows(database, "leads") == 1
    assert count_rows(database, "spam") == 1, "the same person's"
    assert count_rows(database, "erasure_remains") == 0
    assert erasure.run_pending(services, NOW)["taken_over"] == 0


def test_a_delete_by_hand_right_after_a_pruning_is_an_erasure(
    services: Services, database: Rows
) -> None:
    """Pruning sets alfa.deleting for its transaction, though connections are shared."""
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
        store_spam(services, make_lead(ago(days), message=text))
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
    add_note(database, "INC-20251101-0101-leads", "lama", ago(366))
    add_note(database, "INC-20251101-0101-leads", "baru", ago(3))
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
    "clients": "insert into lead_clients values (decode(md5(%(at)s::text), 'hex'),"
    " array[%(at)s::timestamptz], %(at)s)",
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


def test_every_class_is_tested_here() -> None:
    tested = {"leads", "origins", "mails", "spam", "notes", "mailed", *SAMPLES}
    assert {rule.name for rule in RULES} == tested


def test_an_open_request_never_ends_by_age(services: Services, database: Rows) -> None:
    database.execute(SAMPLES["requests"].encode(), {"at": ago(3000)})
    database.execute("update erasure_requests set finished_at = null")
    assert prune(services) == {}


def test_old_entries_in_redis_end_and_journal_entries_expire(
    services: Services, platform: Platform
) -> None:
    old = make_lead(datetime.now(UTC) - timedelta(hours=49))
    journal_lead(services, make_lead())
    services.cache.execute("ZADD", queue.ACCEPTED, old.created_at.timestamp(), str(old.id))
    services.cache.execute("SET", queue.journal_key(old.id), "sealed")
    services.cache.execute("ZADD", "erased", ago(401).timestamp(), "mark")
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        assert retention.prune_redis(services.cache.execute, datetime.now(UTC)) == 3
        ttls = [valkey.ttl(key) for key in valkey.keys("journal:*")]
        assert len(ttls) == 2
        assert all(0 < seconds <= queue.JOURNAL_TTL_S for seconds in ttls)
        assert (valkey.zcard("accepted"), valkey.zcard("erased")) == (1, 0)


# --------------------------------------------------------------- leads that sales were not told of


@pytest.mark.parametrize(
    "mail",
    [
        "dead_at = now(), last_error = 'validation_error', attempts = 1",
        "attempts = 0, last_error = 'daily_quota_exceeded'",
        "attempts = 3, last_error = 'no_answer'",
    ],
)
def test_a_lead_that_sales_were_never_told_of_is_kept_and_named(
    services: Services, database: Rows, platform: Platform, mail: str
) -> None:
    store_lead(services, make_lead(ago(1200)))
    database.execute(f"update outbox set {mail} where kind = 'sales'".encode())
    database.execute("update outbox set created_at = now() - interval '1200 days'")
    assert "leads" not in prune(services)
    [row] = database.execute("select id::text from leads").fetchall()
    assert retention.unnotified_leads(services.database.run, RULES, NOW) == [row["id"]]
    facts = run_cron(platform)
    assert (facts["ended"]["leads"], facts["unheard"], facts["late"]) == (0, [row["id"]], [])
    assert "lead_unheard" in str(platform.cron("watch").body)
    database.execute("update outbox set sent_at = now(), dead_at = null")
    assert prune(services)["leads"] == 1
    assert retention.unnotified_leads(services.database.run, RULES, NOW) == []


def test_a_mail_to_sales_that_was_given_up_is_kept(services: Services, database: Rows) -> None:
    store_lead(services, make_lead(ago(100)))
    database.execute("update outbox set dead_at = now(), created_at = now() - interval '100 days'")
    assert prune(services) == {"origins": 1, "mails": 1}
    assert count_rows(database, "outbox") == 1


# ------------------------------------------------------------------ batches

INSERT_OLD_SPAM = """
insert into spam (id, ref, received_at, reason, submission, locale)
select gen_random_uuid(), 'ALFA-XXXXX', now() - interval '60 days', 'links', '{}', 'id'
from generate_series(1, %(n)s)
"""


def test_the_next_run_ends_what_a_run_had_no_time_for(services: Services, database: Rows) -> None:
    database.execute(INSERT_OLD_SPAM, {"n": 3 * retention.BATCH})
    assert prune(services, budget_s=0) == {}
    done = prune(services, budget_s=0.001).get("spam", 0)
    assert done < 3 * retention.BATCH
    assert done + prune(services).get("spam", 0) == 3 * retention.BATCH


def test_two_runs_at_once_share_the_work(
    services: Services, database: Rows, platform: Platform
) -> None:
    n = 8 * retention.BATCH
    database.execute(INSERT_OLD_SPAM, {"n": n})
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


def test_a_locked_row_is_skipped(services: Services, database: Rows, platform: Platform) -> None:
    database.execute(INSERT_OLD_SPAM, {"n": 5})
    with psycopg.connect(platform.admin_database_url) as other:
        other.execute("select from spam limit 1 for update")
        assert prune(services) == {"spam": 4}
    assert prune(services) == {"spam": 1}


# ------------------------------------------------------------------ the cron


def run_cron(platform: Platform) -> dict[str, Any]:
    response = platform.cron("prune")
    assert response.status == 200
    assert isinstance(response.body, bytes)
    facts: dict[str, Any] = json.loads(response.body)
    return facts


def test_the_cron_job_prunes_and_reports_it(
    site: httpx.Client, platform: Platform, services: Services, database: Rows
) -> None:
    store_lead(services, make_lead(ago(1200)))
    facts = run_cron(platform)
    assert facts["ended"]["leads"] == 1
    assert facts["late"] == []
    assert facts["erasures"] == {"taken_over": 0, "swept": 0}
    assert (facts["in_redis"], facts["tombstones"]) == (0, 0)
    assert site.get("/api/cron/prune").status_code == 401
    messages = [str(line["message"]) for line in platform.logs() if "cron/prune" in str(line)]
    assert "andi" not in "".join(messages).lower()


def test_the_cron_job_prunes_rows_with_redis_down(
    platform: Platform, services: Services, database: Rows
) -> None:
    store_lead(services, make_lead(ago(1200)))
    headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    with platform.function("api/cron/prune.py", **NO_REDIS) as function:
        response = httpx.get(f"{function.url}/api/cron/prune", headers=headers, timeout=20)
    assert response.json()["ended"]["leads"] == 1
    assert response.json()["in_redis"] is None


def test_the_cron_job_copies_every_tombstone_to_redis(
    services: Services, platform: Platform, database: Rows
) -> None:
    erase(services, BY_EMAIL)
    services.cache.execute("DEL", "erased")
    platform.cron("prune")
    assert services.cache.execute("ZCARD", "erased") == 1


# ------------------------------------------------------------------ data inventory

COLUMNS = """
select c.table_name as table, c.column_name as column
from information_schema.columns as c
  join information_schema.tables as t using (table_schema, table_name)
where c.table_schema = 'public' and t.table_type = 'BASE TABLE'
"""

# Words in the names of personal columns, and the columns with such a word that are not personal.
PERSONAL_WORDS = re.compile(
    r"mail|phone|name|address|^ip|agent|message|body|recipient|reply|subject|submission|note|city"
    r"|referrer|url|contact|client|text|identity"
)
NOT_PERSONAL = {
    "incident_events.note_sha256",
    "synonyms.same_as",
    "brands.name", "products.name", "products.name_key", "products.image_url",
    "key_sightings.name", "key_rotations.name",
}  # fmt: skip


def test_every_column_of_every_table_is_declared(database: Rows) -> None:
    existing = {f"{row['table']}.{row['column']}" for row in database.execute(COLUMNS)}
    declared = {
        f"{table}.{column}" for table, inventory in TABLES.items() for column in inventory.columns()
    }
    assert existing - declared == set(), (
        "declare it in ops/privacy/data_inventory.py, with what ends it"
    )
    assert declared - existing == set(), (
        "it no longer exists: delete it from ops/privacy/data_inventory.py"
    )


def test_no_column_is_declared_twice() -> None:
    for table, inventory in TABLES.items():
        assert len(inventory.columns()) == len(set(inventory.columns())), table


def test_every_personal_column_has_a_class_that_ends_it() -> None:
    classes = {rule.name for rule in RULES} | set(OTHER_RETENTION)
    for table, inventory in TABLES.items():
        assert {inventory.retention_class, *inventory.personal_columns} <= classes, table
        assert "kept" not in inventory.personal_columns, table


def test_a_column_with_a_personal_name_is_declared_personal() -> None:
    undeclared = {
        f"{table}.{column}"
        for table, inventory in TABLES.items()
        for column in inventory.other_columns.split()
        if PERSONAL_WORDS.search(column)
    }
    assert undeclared - NOT_PERSONAL == set()


def test_each_class_ends_the_columns_it_is_declared_for(services: Services, database: Rows) -> None:
    """A class whose statement misses a column would pass every test above."""
    store_lead(services, make_lead(ago(1200)))
    database.execute("update outbox set sent_at = now()")
    store_spam(services, make_lead(ago(1200)))
    add_note(database, "INC-20210101-0101-leads", "Andi", ago(1200))
    prune(services)
    for table, inventory in TABLES.items():
        for column in " ".join(inventory.personal_columns.values()).split():
            row = database.execute(f"select count({column}) as n from {table}".encode()).fetchone()
            assert row == {"n": 0}, f"{table}.{column}"
