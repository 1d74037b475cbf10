"""The monitor: its lease, late runs, its tokens; and the canary it sends."""

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib import metrics
from lib.monitoring import canary_probe, monitor
from lib.monitoring.facts import collect_facts
from lib.services import Services
from lib.settings import Settings
from tests.conftest import LEAD, eventually

type Rows = psycopg.Connection[DictRow]

pytestmark = pytest.mark.real_now

NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def services(platform: Platform, valkey: redis.Redis) -> Iterator[Services]:
    environment = {**platform.environment, "CANARY_EVERY_MINUTES": "30"}
    with closing(Services(Settings(environment))) as services:
        services.cache.ping()
        yield services


def call_monitor(platform: Platform, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{platform.url}/api/cron/watch", headers=headers, timeout=60)


def test_the_cron_requires_a_token(platform: Platform, database: Rows) -> None:
    assert call_monitor(platform, "wrong").status_code == 401
    assert httpx.get(f"{platform.url}/api/cron/watch").status_code == 401
    assert platform.cron("watch").status == 200


def test_the_watch_token_opens_this_cron_alone(platform: Platform, database: Rows) -> None:
    own = {"WATCH_TOKEN": "w" * 32}
    headers = {"Authorization": f"Bearer {own['WATCH_TOKEN']}"}
    for function, status in (("watch", 200), ("deliver", 401)):
        with platform.function(f"api/cron/{function}.py", **own) as running:
            answer = httpx.get(f"{running.url}/api/cron/{function}", headers=headers, timeout=60)
            assert answer.status_code == status


def test_an_empty_token_opens_nothing(platform: Platform, database: Rows) -> None:
    with platform.function("api/cron/watch.py", WATCH_TOKEN="") as running:
        headers = {"Authorization": "Bearer"}
        answer = httpx.get(f"{running.url}/api/cron/watch", headers=headers, timeout=60)
        assert answer.status_code == 401


def test_of_many_runs_at_once_one_works_and_the_others_are_busy(
    services: Services, platform: Platform
) -> None:
    reports: list[monitor.Report] = []
    threads = [
        threading.Thread(target=lambda: reports.append(monitor.run(services, None, NOW)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.busy for report in reports) == [False, True, True, True]
    assert monitor.run(services, None, NOW).busy is False, "the lease is released"


def test_without_redis_only_one_run_holds_the_lease(
    platform: Platform, services: Services, database: Rows
) -> None:
    broken = {**platform.environment, "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
    alone = Services(Settings(broken))
    assert monitor.run(alone, None, NOW).busy is False
    insert_lease = "insert into leases values ('watch', 'another', %s)"
    database.execute(insert_lease, [NOW + MINUTE])
    assert monitor.run(alone, None, NOW).busy is True
    assert monitor.run(alone, None, NOW + 2 * MINUTE).busy is False, "a dead holder's lease ends"
    alone.close()


def test_after_hours_without_a_run_it_rolls_up_every_count(
    services: Services, database: Rows
) -> None:
    monitor.run(services, None, NOW)
    database.execute("update job_runs set finished_at = now() - interval '10 hours'")
    for hour in range(1, 10):
        key = metrics.minute_key(metrics.minute_of(NOW - timedelta(hours=hour)))
        services.cache.execute("HINCRBY", key, "products|old|ok|3", 1)
    monitor.run(services, None, NOW + MINUTE)
    row = database.execute(
        "select sum(n)::int as n from metric_minutes where deployment = 'old'"
    ).fetchone()
    assert row == {"n": 9}


def test_a_run_publishes_the_status_page(services: Services, platform: Platform) -> None:
    monitor.run(services, None, NOW)
    document = httpx.get(f"{platform.url}/api/status").json()
    assert document["data"]["source"] == "watch"


# --- The synthetic lead.


def test_the_canary_is_stored_removed_and_throttled(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    facts = collect_facts(services, None, NOW)
    assert facts.canary_fault is None
    assert 0 < valkey.ttl(canary_probe.throttle_key(services.deployment)) <= 1800

    def gone() -> bool:
        """Nothing of it is left."""
        row = database.execute("select count(*) as n from leads").fetchone()
        return row == {"n": 0} and valkey.hlen("queue") == 0 and valkey.zcard("accepted") == 0

    eventually(gone)


def test_a_new_deployment_is_tried_by_a_canary_in_its_first_minute(
    services: Services, platform: Platform, database: Rows
) -> None:
    monitor.run(services, None, NOW)
    wrong = {**platform.environment, "CANARY_SECRET": "x" * 32, "VERCEL_DEPLOYMENT_ID": "dpl_new"}
    with closing(Services(Settings(wrong))) as deployed:
        report = monitor.run(deployed, None, NOW + MINUTE)
    assert [finding.rule for finding in report.findings] == ["canary_failing"]


def test_a_form_that_refuses_leads_is_sev1_until_a_canary_is_stored(
    services: Services, platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    wrong = {**platform.environment, "CANARY_SECRET": "x" * 32}  # a bad deploy
    broken = Services(Settings(wrong))
    report = monitor.run(broken, None, NOW)
    assert [finding.rule for finding in report.findings] == ["canary_failing"]
    key = canary_probe.throttle_key(broken.deployment)
    assert valkey.exists(key) == 0, "sent again by the next run"
    broken.close()
    for minute in (1, 2):
        assert monitor.run(services, None, NOW + minute * MINUTE).findings == ()
    row = database.execute("select state from incidents").fetchone()
    assert row == {"state": "resolve"}


def test_an_accepted_lead_that_no_store_has_is_missing(
    services: Services, platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    answer = httpx.post(f"{platform.url}/api/leads", json={**LEAD, "email": ""}, timeout=20)
    lead_id = answer.json()["id"]
    eventually(lambda: valkey.zscore("accepted", lead_id))
    database.execute("delete from leads")
    valkey.zadd("accepted", {lead_id: (NOW - 10 * MINUTE).timestamp()})
    facts = collect_facts(services, None, NOW)
    assert facts.missing_leads == 1


def test_without_any_backup_its_age_counts_from_the_first_run(
    services: Services, database: Rows
) -> None:
    facts = collect_facts(services, None, NOW)
    assert facts.backup_age is None
    monitor.run(services, None, NOW)
    later = NOW + timedelta(hours=50)
    facts = collect_facts(services, None, later)
    assert facts.backup_age == timedelta(hours=50)
    database.execute(
        "insert into backups (source, taken_at, status) values"
        " ('own', %s, 'COMPLETED'), ('own', %s, 'FAILED')",
        [later - timedelta(hours=3), later],
    )
    facts = collect_facts(services, None, later)
    assert facts.backup_age == timedelta(hours=3)
