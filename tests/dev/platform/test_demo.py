"""`python3 -m dev demo`: a marked month on the local platform, and its exact removal."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform import demo
from dev.platform.local_platform import Platform
from tests.conftest import LEAD, eventually

type Rows = psycopg.Connection[DictRow]

TABLES = (
    "leads",
    "outbox",
    "spam",
    "incidents",
    "incident_events",
    "metric_minutes",
    "metric_hours",
    "service_days",
    "rum_days",
    "rum_hours",
    "rum_releases",
    "erasure_remains",
    "erasure_tombstones",
)
MAIL_SENT = "select 1 from outbox where kind = 'sales' and sent_at is not null"
INSERT_HOUR = """
insert into metric_hours (hour, service, deployment, class, bucket, n)
values (%s, 'leads', 'dpl_real', 'ok', 3, 40)
"""
INSERT_DAY = """
insert into service_days (day, service, n, errors, within_sla) values (%s, 'leads', 40, 0, 40)
"""


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


def contents(database: Rows) -> dict[str, set[str]]:
    """Every row of the tables that the demo writes."""
    return {
        table: {
            json.dumps(row, default=str, sort_keys=True)
            for row in database.execute(f"select * from {table}".encode())
        }
        for table in TABLES
    }


def test_the_demo_is_removed_exactly(
    platform: Platform, site: httpx.Client, database: Rows, now: datetime
) -> None:
    assert site.post("/api/leads", json=LEAD).status_code == 200
    eventually(lambda: database.execute(MAIL_SENT).fetchone(), 30)
    eventually(lambda: not any(function["in_flight"] for function in platform.functions()), 30)
    real_hour = (now - timedelta(days=4)).replace(hour=5, minute=0, second=0, microsecond=0)
    database.execute(INSERT_HOUR, [real_hour])
    database.execute(INSERT_DAY, [real_hour.date()])
    before = contents(database)

    demo.fill(platform.state(), now)
    filled = contents(database)
    assert demo.remove(platform.state(), now) > 1000

    assert len(filled["leads"]) == 1 + demo.LEADS
    assert filled["service_days"] != before["service_days"]
    assert contents(database) == before


def test_the_demo_filled_twice_is_there_once(
    platform: Platform, database: Rows, now: datetime
) -> None:
    demo.fill(platform.state(), now - timedelta(days=1))
    rows = demo.fill(platform.state(), now)
    row = database.execute("select count(*) as n from leads").fetchone()
    assert row is not None
    assert row["n"] == rows["leads"] == demo.LEADS


def test_status_and_vitals_show_the_demo(
    platform: Platform, site: httpx.Client, database: Rows, now: datetime
) -> None:
    demo.fill(platform.state(), now)
    watch = json.loads(platform.cron("watch").text)
    status = site.get("/api/status").json()
    vitals = site.get("/api/rum", params={"days": 28}).json()
    assert watch["findings"] == []
    assert {incident["name"] for incident in status["incidents"]} == {
        "Postgres is down",
        "Requests are too slow",
    }
    leads = status["components"][0]
    assert leads["windows"]["30d"]["verdict"] == "met"
    assert sum(day["n"] > 0 for day in leads["days"]) >= demo.DAYS
    assert "LCP" in json.dumps(vitals)
    assert database.execute("select * from broken_timelines()").fetchall() == []


@pytest.mark.parametrize(
    "other",
    [
        {"environment": {"DATABASE_URL": "postgresql://db.example.com/alfa"}},
        {"superuser_database_url": "postgresql://db.example.com/alfa"},
    ],
)
def test_another_database_than_the_platforms_own_is_refused(
    platform: Platform, database: Rows, now: datetime, other: dict[str, Any]
) -> None:
    for act in (demo.fill, demo.remove):
        with pytest.raises(demo.NotLocal):
            act(platform.state() | other, now)
    assert database.execute("select 1 from leads").fetchone() is None
