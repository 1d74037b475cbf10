"""After a restore, tombstones erase again whom the backup brought back."""

import json

import psycopg
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.leads import tombstones
from lib.privacy import erasure
from lib.services import Services
from lib.settings import Settings
from ops.privacy import tombstone_replay
from tests.conftest import LEAD, both_majors
from tests.privacy.person_data import (
    BY_PHONE,
    NO_REDIS,
    OTHER_PERSON,
    count_rows,
    dump_everything,
    erase,
    journal_lead,
    make_lead,
    now,
    personal_data_in,
    store_everywhere,
    store_lead,
)

type Rows = psycopg.Connection[DictRow]

pytestmark = both_majors


def snapshot(database: Rows) -> dict[str, list[str]]:
    """A backup of the tables with personal data."""
    return {
        table: [
            json.dumps(row["line"])
            for row in database.execute(f"select to_jsonb(t) as line from {table} as t".encode())
        ]
        for table in ("leads", "spam", "incidents", "incident_events")
    }


def restore(database: Rows, backup: dict[str, list[str]]) -> None:
    """The tables as they were, without the tombstones and requests made since."""
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
    assert personal_data_in(dump_everything(database, valkey, services)) != []
    store_lead(services, make_lead(message="Menulis lagi"))
    result = tombstone_replay.reapply(services, now())
    assert (result.tombstones, result.in_redis) == (1, True)
    assert (result.leads, result.spam, result.notes) == (1, 1, 1)
    left = database.execute("select message, email from leads order by created_at").fetchall()
    assert [row["email"] for row in left] == ["budi@example.com", "andi@example.com"]
    assert left[1]["message"] == "Menulis lagi"
    assert count_rows(database, "spam") == 0
    assert tombstone_replay.reapply(services, now()).leads == 0, "a repetition erases nothing"
    assert database.execute("select * from broken_timelines()").fetchall() == []


def test_the_journal_brings_nobody_back_after_a_restore(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    lead = make_lead()
    store_lead(services, lead)
    erase(services)
    journal_lead(services, lead)
    restore(database, {})
    tombstone_replay.reapply(services, now())
    assert valkey.keys("journal:*") == []


def test_tombstones_of_deletes_by_hand_are_reapplied_too(
    services: Services, database: Rows
) -> None:
    double = make_lead(message="Dobel")
    for lead in (make_lead(), double, make_lead(**OTHER_PERSON)):
        store_lead(services, lead)
    backup = snapshot(database)
    database.execute("delete from leads where id = %s", [double.id])
    database.execute("delete from leads where email = 'budi@example.com'")
    erasure.run_pending(services, now())
    restore(database, backup)
    assert tombstone_replay.reapply(services, now()).leads == 2
    (row,) = database.execute("select * from leads").fetchall()
    assert row["message"] == LEAD["message"]


def test_tombstones_from_a_file_replace_those_lost_in_redis(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    store_lead(services, make_lead())
    backup = snapshot(database)
    erase(services)
    copies = tombstones.load_all(services.database.run)
    restore(database, backup)
    valkey.flushall()
    assert tombstone_replay.reapply(services, now()).leads == 0, "no copy is left"
    assert tombstone_replay.reapply(services, now(), copies.items()).leads == 1
    assert valkey.zcard("erased") == 1, "Redis has its copy again"


def test_a_replay_without_redis_reports_it(
    platform: Platform, services: Services, database: Rows
) -> None:
    store_lead(services, make_lead())
    erase(services)
    down = Services(Settings({**platform.environment, **NO_REDIS}))  # fmt: skip
    assert tombstone_replay.reapply(down, now()).in_redis is False
    down.close()
