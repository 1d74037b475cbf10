"""The status page: exact SLA verdicts, no figures from too few requests, served in any outage."""

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.faults.fault_proxy import FaultProxy
from dev.platform.local_platform import Platform
from lib import metrics
from lib.incidents import rules
from lib.incidents.postgres_store import PostgresStore
from lib.monitoring import monitor, rollup, service_levels, status_page
from lib.services import Services
from lib.settings import Settings
from tests.conftest import ROOT

type Rows = psycopg.Connection[DictRow]

pytestmark = pytest.mark.real_now

NOW = datetime.now(UTC)


@pytest.fixture
def services(platform: Platform, valkey: redis.Redis) -> Iterator[Services]:
    with contextlib.closing(Services(Settings(platform.environment))) as services:
        services.cache.ping()
        yield services


def count_requests(
    services: Services, service: str, counts: dict[float, int], kind: str = "ok"
) -> None:
    """counts: milliseconds -> how many took so long, a minute ago."""
    key = metrics.minute_key(metrics.minute_of(NOW - timedelta(minutes=1)))
    for took_ms, n in counts.items():
        field = f"{service}|dpl|{kind}|{metrics.bucket_of(took_ms)}"
        services.cache.execute("HINCRBY", key, field, n)


def components(services: Services) -> dict[str, Any]:
    run = services.database.run
    since = NOW - timedelta(hours=1)
    rollup.roll_up(run, services.cache.pipeline, since, NOW, service_levels.SLA_BUCKETS)
    return {component["id"]: component for component in rendered(services)["components"]}


def rendered(services: Services) -> dict[str, Any]:
    data = status_page.load(services.database.run, NOW, "database")
    return status_page.render(data, "https://site", None, NOW)


def test_services_and_slas_are_the_handbooks() -> None:
    handbook = {"leads": 1000, "products": 500, "health": 200, "rum": None}
    assert {service.id: service.sla_ms for service in service_levels.SERVICES} == handbook
    assert all((ROOT / f"{service.path[1:]}.py").exists() for service in service_levels.SERVICES)


@pytest.mark.parametrize(
    ("inside", "outside", "verdict"),
    [(95, 5, "met"), (94, 6, "breached"), (19, 0, "insufficient data"), (20, 0, "met")],
)
def test_the_verdict_is_decided_by_exact_counts(
    services: Services, inside: int, outside: int, verdict: str
) -> None:
    count_requests(
        services, "products", {500.0: inside, 500.1: outside} if outside else {500.0: inside}
    )
    window = components(services)["products"]["windows"]["1h"]
    assert window["verdict"] == verdict
    assert window["n"] == inside + outside
    if verdict == "insufficient data":
        assert window["p95_ms"] is None
    else:
        assert window["within_sla"] == inside / (inside + outside)


def test_a_fast_error_is_not_inside_the_sla(services: Services) -> None:
    count_requests(services, "leads", {3.0: 90})
    count_requests(services, "leads", {3.0: 10}, "error")
    window = components(services)["leads"]["windows"]["24h"]
    assert (window["within_sla"], window["error_rate"]) == (0.9, 0.1)
    assert window["verdict"] == "breached"


def test_p95_is_given_with_the_bucket_that_contains_it(services: Services) -> None:
    count_requests(services, "health", {15.0: 90, 130.0: 10})
    window = components(services)["health"]["windows"]["30d"]
    low, high = window["p95_between_ms"]
    assert low < 130 <= high
    assert low <= window["p95_ms"] <= high


def test_ninety_days_are_shown_and_those_without_data_are_empty(services: Services) -> None:
    count_requests(services, "products", {100.0: 40})
    days = components(services)["products"]["days"]
    assert len(days) == 90
    assert days[-1]["n"] == 40
    assert days[0] == {"day": days[0]["day"], "n": 0, "within_sla": None, "error_rate": None}


def test_thirty_days_survive_redis(services: Services, valkey: redis.Redis) -> None:
    count_requests(services, "products", {100.0: 40})
    components(services)
    valkey.flushall()
    assert components(services)["products"]["windows"]["30d"]["n"] == 40


# --- Served whatever is down.


def get_status(url: str) -> dict[str, Any]:
    response = httpx.get(f"{url}/api/status", timeout=30)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == status_cached()
    document: dict[str, Any] = response.json()
    return document


def status_cached() -> str:
    return "public, s-maxage=15"


def test_with_redis_down_it_comes_from_postgres(platform: Platform, database: Rows) -> None:
    with platform.function(
        "api/status.py", UPSTASH_REDIS_REST_URL="http://127.0.0.1:1"
    ) as function:
        assert get_status(function.url)["data"]["source"] == "database"


def test_with_postgres_down_the_last_copy_serves(services: Services, platform: Platform) -> None:
    monitor.run(services, None, NOW - timedelta(minutes=10))
    down = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"}
    with platform.function("api/status.py", **down) as function:
        document = get_status(function.url)
        assert document["data"]["source"] == "copy"
        assert document["data"]["as_of"] is not None


def test_with_everything_down_it_says_that_nothing_is_known(
    platform: Platform, database: Rows
) -> None:
    down = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa",
        "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1",
    }
    with platform.function("api/status.py", **down) as function:
        document = get_status(function.url)
        assert document["data"] == {"source": "none", "as_of": None}
        assert document["status"]["description"] == status_page.UNKNOWN_DESCRIPTION
        assert [service["sla_ms"] for service in document["components"]] == [1000, 500, 200, None]


@pytest.fixture
def wires(platform: Platform) -> Iterator[tuple[FaultProxy, FaultProxy]]:
    """The ways to Postgres and to Redis, which can fall silent."""
    with contextlib.ExitStack() as parts:
        proxies = [
            FaultProxy("127.0.0.1", port)
            for port in (urlsplit(platform.database_url).port or 0, platform.upstash.port)
        ]
        for proxy in proxies:
            parts.callback(proxy.close)
        yield proxies[0], proxies[1]


@pytest.mark.measures_time
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(
    ("path", "slowest_s", "status_code"),
    [
        ("api/status", 1.0, 200),
        ("api/rum", 1.0, 503),
        ("api/products", 1.2, 200),
        ("api/products?q=oil&facets=1&limit=5", 1.2, 200),
        ("api/health", 0.5, 200),
    ],
)
def test_with_both_stores_silent_every_page_is_answered_in_time(
    platform: Platform,
    database: Rows,
    wires: tuple[FaultProxy, FaultProxy],
    warm: bool,
    path: str,
    slowest_s: float,
    status_code: int,
) -> None:
    to_postgres, to_redis = wires
    silent = {
        "DATABASE_URL": platform.database_url.replace(
            f":{urlsplit(platform.database_url).port}/", f":{to_postgres.port}/"
        ),
        "UPSTASH_REDIS_REST_URL": f"http://127.0.0.1:{to_redis.port}",
    }
    with platform.function(f"{path.partition('?')[0]}.py", **silent) as function:
        if warm:
            httpx.get(f"{function.url}/{path}", timeout=10)
            time.sleep(0.5)
        for proxy in wires:
            proxy.switch("stall")
        took_s = []
        for _ in range(3):
            started = time.monotonic()
            response = httpx.get(f"{function.url}/{path}", timeout=10)
            took_s.append(time.monotonic() - started)
            assert response.status_code == status_code
        # The median: the first of a cold start loads what it needs, which is nobody's silence.
        assert sorted(took_s)[1] < slowest_s, took_s


def test_one_round_trip_to_redis_answers_with_the_maintenance_window(
    services: Services, platform: Platform
) -> None:
    monitor.run(services, None, datetime.now(UTC))
    platform.upstash.forget()
    with platform.function("api/status.py") as function:
        assert get_status(function.url)["data"]["source"] == "watch"
        commands = [request["body"] for request in platform.upstash.received()]
    # Beside the count of the answered request, which is made after its response.
    commands = [c for c in commands if metrics.INCREMENT not in str(c) and "EVAL" not in c]
    all_at_once = [["GET", "status"], ["HGETALL", "incidents"], ["GET", "maintenance"]]
    assert [command for command in commands if "maintenance" in str(command)] == [all_at_once]


# --- Incidents, for the public.


def postgres(services: Services, now: datetime = NOW) -> PostgresStore:
    return PostgresStore(services.database.run, now, "dpl")


def open_incident(services: Services, name: str) -> None:
    findings = [rules.make_finding(rules.BY_NAME[name], "10.0.0.1 said no", NOW)]
    postgres(services).record_findings(findings, "watch")


def test_an_incident_shows_on_the_components_it_hits(services: Services) -> None:
    open_incident(services, "database_down")
    postgres(services).add_note("last", "ops", "a word among us")
    document = rendered(services)
    states = {component["id"]: component["status"] for component in document["components"]}
    assert states == {
        "leads": "partial_outage",
        "products": "partial_outage",
        "health": "operational",
        "rum": "operational",
    }
    [incident] = document["incidents"]
    assert (incident["status"], incident["impact"]) == ("investigating", "critical")
    text = json.dumps(document)
    assert "10.0.0.1" not in text
    assert "a word among us" not in text


def test_what_visitors_do_not_notice_is_not_published(services: Services) -> None:
    open_incident(services, "backup_old")
    document = rendered(services)
    assert (document["incidents"], document["status"]["indicator"]) == ([], "none")
