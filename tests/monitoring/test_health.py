"""GET, HEAD /api/health: the process answers, whatever else does not; asked deeply, it looks."""

import contextlib
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.edge.runtime import Function
from dev.faults.fault_proxy import FaultProxy
from dev.platform.local_platform import Platform
from tests.conftest import LEAD, eventually

# Deep health gives every service a second, whatever else the machine does.
pytestmark = pytest.mark.measures_time

type Rows = psycopg.Connection[DictRow]

NO_DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"}
NO_REDIS = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
SERVICES = {
    "database",
    "outbox",
    "products",
    "redis",
    "encryption_key",
    "mail",
    "slack",
    "sentry",
}
RECOVERY = {"backup", "restore_drill"}


def test_health_answers_ok_with_its_first_bytes_fixed(platform: Platform) -> None:
    response = httpx.get(f"{platform.url}/api/health")
    assert response.status_code == 200
    assert response.text.startswith('{"status":"ok"')
    at = datetime.fromisoformat(response.json()["timestamp"])
    assert datetime.now(UTC) - at < timedelta(minutes=1)


def test_head_is_answered_like_get_without_a_body(platform: Platform) -> None:
    response = httpx.head(f"{platform.url}/api/health")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Type"].startswith("application/json")


def test_health_json_tells_pass_and_the_release(platform: Platform) -> None:
    response = httpx.get(
        f"{platform.url}/api/health", headers={"Accept": "application/health+json"}
    )
    assert response.headers["Content-Type"] == "application/health+json"
    assert response.json()["status"] == "pass"
    assert "releaseId" in response.json()
    assert response.json()["serviceId"] == platform.environment["VERCEL_DEPLOYMENT_ID"]


def test_health_answers_with_no_configuration_at_all(platform: Platform) -> None:
    nothing = dict.fromkeys(platform.environment)
    with platform.function("api/health.py", **nothing) as health:
        assert httpx.get(f"{health.url}/api/health").json()["status"] == "ok"


def test_other_methods_are_refused(platform: Platform) -> None:
    response = httpx.post(f"{platform.url}/api/health")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert json.loads(response.text)["error"] == "method_not_allowed"


# ------------------------------------------------------------------ asked deeply


def deep(platform: Platform, at: Platform | Function, token: str | None = None) -> httpx.Response:
    token = platform.environment["HEALTH_CHECK_TOKEN"] if token is None else token
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{at.url}/api/health?deep=true", headers=headers, timeout=10)


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_without_a_configured_token_a_deep_check_is_forbidden(platform: Platform) -> None:
    with platform.function("api/health.py", HEALTH_CHECK_TOKEN=None) as health:
        for token in ("None", "x" * 32):
            response = deep(platform, health, token)
            assert (response.status_code, response.json()["error"]) == (403, "forbidden")
        assert httpx.get(f"{health.url}/api/health").status_code == 200


def test_a_token_that_is_too_short_counts_as_none(platform: Platform) -> None:
    with platform.function("api/health.py", HEALTH_CHECK_TOKEN="short") as health:
        assert deep(platform, health, "short").status_code == 403


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", "Basic eA==", "{token}"])
def test_a_wrong_token_is_unauthorized(platform: Platform, authorization: str) -> None:
    authorization = authorization.format(token=platform.environment["HEALTH_CHECK_TOKEN"])
    headers = {"Authorization": authorization}
    response = httpx.get(f"{platform.url}/api/health?deep=true", headers=headers)
    assert (response.status_code, response.json()["error"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "services" not in response.json()


def test_with_any_other_value_of_deep_health_stays_shallow(platform: Platform) -> None:
    for query in ("deep=false", "deep=", "deep=0", "deep=no", "deep", "deeper=true"):
        assert httpx.get(f"{platform.url}/api/health?{query}").json()["status"] == "ok"


@pytest.mark.parametrize("spelled", ["true", "1", "TRUE", "True", "%201"])
def test_deep_is_true_however_it_is_spelled(
    platform: Platform, database: Rows, spelled: str
) -> None:
    address = f"{platform.url}/api/health?deep={spelled}"
    assert httpx.get(address).status_code == 401
    token = platform.environment["HEALTH_CHECK_TOKEN"]
    response = httpx.get(address, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert response.json()["services"]["database"] == "connected"


def test_a_healthy_platform_reports_every_service(platform: Platform, database: Rows) -> None:
    deep(platform, platform)  # warm
    response = deep(platform, platform)
    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["version"]) == (
        "healthy",
        platform.environment["VERCEL_GIT_COMMIT_SHA"],
    )
    services = body["services"]
    assert set(services) == SERVICES | RECOVERY | {f"{name}_ms" for name in SERVICES}
    assert {services[name] for name in SERVICES} == {
        "connected",
        "configured",
        "ready",
    }
    for name in SERVICES:
        assert 0 <= services[f"{name}_ms"] < 1000
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    assert body["ledger"]["missing"] == body["ledger"]["untold"] == []


def test_loading_on_a_cold_instance_does_not_count_as_silence(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/health.py") as health:
        response = deep(platform, health)
    assert (response.status_code, response.json()["status"]) == (200, "healthy")
    for name in SERVICES:
        assert response.json()["services"][f"{name}_ms"] < 400, response.json()


def test_the_reconciliation_is_in_it_and_a_difference_degrades(
    platform: Platform, database: Rows
) -> None:
    platform.resend.switch(mode="fail", status=500)
    lead = httpx.post(f"{platform.url}/api/leads", json=LEAD).json()
    failed = "select 1 from outbox having count(*) = 2 and count(last_error) = 2"
    eventually(lambda: database.execute(failed).fetchone())
    database.execute("update leads set created_at = created_at - interval '10 min'")
    response = deep(platform, platform)
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    ledger = response.json()["ledger"]
    assert (ledger["stored"], ledger["told"], ledger["untold"]) == (1, 0, [lead["id"]])


def test_without_redis_it_is_degraded(platform: Platform, database: Rows) -> None:
    with platform.function("api/health.py", **NO_REDIS) as health:
        response = deep(platform, health)
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["services"]["redis"] == "disconnected"
        assert response.json()["services"]["database"] == "connected"
        assert response.json()["ledger"] is None


def test_a_silent_redis_costs_a_second_and_degrades(platform: Platform, database: Rows) -> None:
    with platform.function("api/health.py") as health:
        deep(platform, health)  # warm
        platform.upstash.switch(mode="stall")
        response = deep(platform, health)
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["services"]["redis"] in ("silent", "disconnected")
        assert response.elapsed.total_seconds() < 2


def test_without_a_database_it_is_unhealthy(platform: Platform, database: Rows) -> None:
    with platform.function("api/health.py", **NO_DATABASE) as health:
        response = deep(platform, health)
        assert (response.status_code, response.json()["status"]) == (503, "unhealthy")
        assert response.json()["services"]["database"] == "disconnected"
        assert response.json()["services"]["redis"] == "connected"
        assert "127.0.0.1" not in response.text, "no configuration reaches a caller"


def test_a_silent_database_is_unhealthy_within_two_seconds(
    platform: Platform, database: Rows
) -> None:
    with silence() as port:
        url = f"postgresql://nobody@127.0.0.1:{port}/alfa"
        with platform.function("api/health.py", DATABASE_URL=url) as health:
            first, second = (deep(platform, health) for _ in range(2))
    for response in (first, second):
        assert (response.status_code, response.json()["status"]) == (503, "unhealthy")
    assert second.elapsed.total_seconds() < 2


def test_a_database_that_is_back_is_connected_at_the_next_check(
    platform: Platform, database: Rows
) -> None:
    port = urlsplit(platform.database_url).port or 5432
    way = FaultProxy("127.0.0.1", port)
    url = platform.database_url.replace(f":{port}/", f":{way.port}/")
    with platform.function("api/health.py", DATABASE_URL=url) as health:
        assert deep(platform, health).status_code == 200
        way.switch(mode="refuse")
        assert deep(platform, health).status_code == 503
        way.ok()
        assert deep(platform, health).json()["services"]["database"] == "connected"
    way.close()


def test_a_missing_variable_is_named_by_its_service(platform: Platform, database: Rows) -> None:
    missing = {
        "DATABASE_URL": "database",
        "UPSTASH_REDIS_REST_TOKEN": "redis",
        "LEADS_ENCRYPTION_KEY": "encryption_key",
        "RESEND_API_KEY": "mail",
    }
    with platform.function("api/health.py", **dict.fromkeys(missing)) as health:
        response = deep(platform, health)
    assert (response.status_code, response.json()["status"]) == (503, "unhealthy")
    for variable, service in missing.items():
        assert response.json()["services"][service] == f"unconfigured: {variable} is not set"


@pytest.mark.parametrize("missing", ["LEADS_ENCRYPTION_KEY", "RESEND_API_KEY"])
def test_what_a_lead_can_be_stored_without_only_degrades(
    platform: Platform, database: Rows, missing: str
) -> None:
    with platform.function("api/health.py", **{missing: None}) as health:
        response = deep(platform, health)
    assert (response.status_code, response.json()["status"]) == (200, "degraded")


def test_a_deep_head_has_the_status_and_no_body(platform: Platform, database: Rows) -> None:
    headers = {"Authorization": f"Bearer {platform.environment['HEALTH_CHECK_TOKEN']}"}
    response = httpx.head(f"{platform.url}/api/health?deep=true", headers=headers)
    assert (response.status_code, response.content) == (200, b"")
    assert httpx.head(f"{platform.url}/api/health?deep=true").status_code == 401
