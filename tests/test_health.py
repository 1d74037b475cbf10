"""GET, HEAD /api/health: the process answers, whatever else does not."""

import json
from datetime import UTC, datetime, timedelta

import httpx

from dev.platform import Platform


def test_health_answers_ok_with_its_first_bytes_fixed(platform: Platform) -> None:
    answer = httpx.get(f"{platform.url}/api/health")
    assert answer.status_code == 200
    assert answer.text.startswith('{"status":"ok"')
    at = datetime.fromisoformat(answer.json()["timestamp"])
    assert datetime.now(UTC) - at < timedelta(minutes=1)


def test_head_is_answered_like_get_without_a_body(platform: Platform) -> None:
    answer = httpx.head(f"{platform.url}/api/health")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Type"].startswith("application/json")


def test_health_json_tells_pass_and_the_release(platform: Platform) -> None:
    answer = httpx.get(f"{platform.url}/api/health", headers={"Accept": "application/health+json"})
    assert answer.headers["Content-Type"] == "application/health+json"
    assert answer.json()["status"] == "pass"
    assert "releaseId" in answer.json()


def test_health_answers_with_no_configuration_at_all(platform: Platform) -> None:
    nothing = dict.fromkeys(platform.environment)
    with platform.function("api/health.py", **nothing) as health:
        assert httpx.get(f"{health.url}/api/health").json()["status"] == "ok"


def test_other_methods_are_refused(platform: Platform) -> None:
    answer = httpx.post(f"{platform.url}/api/health")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert json.loads(answer.text)["error"] == "method_not_allowed"
