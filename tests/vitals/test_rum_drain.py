"""POST /api/rum by Vercel's drains: signed bytes, counted once, in the same sketches."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from tests.conftest import eventually
from tests.vitals.test_rum import get_report, not_due, nothing_is_counted, wait_for_count

type Rows = psycopg.Connection[DictRow]


__all__ = ["not_due"]


def vital(number: int, **more: object) -> dict[str, object]:
    """As Vercel documents schema vercel.speed_insights.v1."""
    return {
        "schema": "vercel.speed_insights.v1",
        "timestamp": datetime.now(UTC).isoformat(),
        "projectId": "prj_1", "ownerId": "team_1", "deviceId": 1000 + number,
        "metricType": "LCP", "value": 1800.5, "origin": "https://alfabeauty.co.id",
        "path": "/en", "route": "/en", "country": "ID", "region": "SU", "city": "Medan",
        "osName": "Android", "osVersion": "14", "clientName": "Chrome", "clientType": "browser",
        "clientVersion": "131", "deviceType": "mobile", "deviceBrand": "Google",
        "connectionSpeed": "4g", "browserEngine": "Blink", "browserEngineVersion": "131",
        "scriptVersion": "0.1.3", "sdkVersion": "1.2.0", "sdkName": "@vercel/speed-insights",
        "vercelEnvironment": "production", "vercelUrl": "alfa.vercel.app",
        "deploymentId": "dpl_drained", **more,
    }  # fmt: skip


def view(number: int, **more: object) -> dict[str, object]:
    """As Vercel documents schema vercel.analytics.v1."""
    return {
        "schema": "vercel.analytics.v1", "eventType": "pageview", "eventName": "",
        "eventData": "{}", "timestamp": int(datetime.now(UTC).timestamp() * 1000) - number,
        "sessionId": number, "deviceId": number, "origin": "https://alfabeauty.co.id",
        "path": "/en", "referrer": "", "queryParams": "?phone=08123456789", "deviceType": "desktop",
        **more,
    }  # fmt: skip


def deliver(
    site: httpx.Client, platform: Platform, body: bytes, signature: str | None = None
) -> httpx.Response:
    secret = platform.environment["RUM_DRAIN_SECRET"]
    good = hmac.new(secret.encode(), body, hashlib.sha1).hexdigest()
    headers = {
        "x-vercel-signature": good if signature is None else signature,
        "User-Agent": "Vercel-Drain-bot/1.0",
    }
    return site.post("/api/rum", content=body, headers=headers)


def lines(events: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(event) for event in events).encode() + b"\n"


@pytest.mark.parametrize("form", ["array", "lines"])
def test_a_delivery_is_counted_like_beacons(
    site: httpx.Client, platform: Platform, form: str
) -> None:
    events = [vital(number) for number in range(6)]
    body = json.dumps(events).encode() if form == "array" else lines(events)
    assert deliver(site, platform, body).status_code == 204
    (group,) = wait_for_count(site, 6, by="path,device,metric,release")
    assert group["p75"] == pytest.approx(1800.5, rel=0.02)
    named = (group["path"], group["device"], group["release"])
    assert named == ("/en", "mobile", "dpl_drained")


def test_one_line_alone_is_a_delivery_too(site: httpx.Client, platform: Platform) -> None:
    for number in range(5):
        deliver(site, platform, json.dumps(vital(number)).encode())
    wait_for_count(site, 5)


def test_a_delivery_that_comes_again_counts_once(site: httpx.Client, platform: Platform) -> None:
    events = [vital(number) for number in range(6)]
    for body in (json.dumps(events).encode(), json.dumps(events).encode(), lines(events[:3])):
        assert deliver(site, platform, body).status_code == 204
        wait_for_count(site, 6)


def test_a_delivery_may_be_larger_than_a_beacon(site: httpx.Client, platform: Platform) -> None:
    body = lines([vital(number) for number in range(700)])
    assert len(body) > 64 * 1024
    deliver(site, platform, body)
    wait_for_count(site, 700)


@pytest.mark.parametrize("signature", ["", "0" * 40, "é", "sha1=abc"])
def test_a_wrong_signature_is_forbidden(
    site: httpx.Client, platform: Platform, database: Rows, signature: str
) -> None:
    body = json.dumps([vital(1)]).encode()
    raw = {b"x-vercel-signature": signature.encode()}
    response = site.post("/api/rum", content=body, headers=list(raw.items()))
    assert (response.status_code, response.json()["error"]) == (403, "forbidden")
    assert nothing_is_counted(platform, database)


def test_the_raw_bytes_are_what_is_signed(site: httpx.Client, platform: Platform) -> None:
    body = json.dumps([vital(1)]).encode()
    secret = platform.environment["RUM_DRAIN_SECRET"].encode()
    signature = hmac.new(secret, body, hashlib.sha1).hexdigest()
    assert deliver(site, platform, body, signature).status_code == 204
    assert deliver(site, platform, body + b" ", signature).status_code == 403


def test_without_a_secret_every_drain_is_forbidden(platform: Platform) -> None:
    body = b"[]"
    empty = hmac.new(b"", body, hashlib.sha1).hexdigest()
    with platform.function("api/rum.py", RUM_DRAIN_SECRET=None) as function:
        headers = {"x-vercel-signature": empty}
        response = httpx.post(f"{function.url}/api/rum", content=body, headers=headers)
    assert response.status_code == 403


def test_what_cannot_be_parsed_is_dropped_beside_the_rest(
    site: httpx.Client, platform: Platform
) -> None:
    good = [vital(number, something="new", flags=[{}]) for number in range(5)]
    bad: list[Any] = [
        vital(10, metricType="FID"), vital(11, value="1800"), vital(12, value=None),
        vital(13, path=None), vital(14, schema="vercel.other.v1"), 7, None, {},
    ]  # fmt: skip
    assert deliver(site, platform, json.dumps([*good, *bad]).encode()).status_code == 204
    assert deliver(site, platform, b"[{]\nnot json\n").status_code == 204
    wait_for_count(site, 5)


@pytest.mark.parametrize("schema", ["vercel.analytics.v1", "vercel.analytics.v2"])
def test_page_views_are_counted_without_their_query(
    site: httpx.Client, platform: Platform, database: Rows, schema: str
) -> None:
    views = [view(number, schema=schema) for number in range(7)]
    other = view(9, schema=schema, eventType="event", eventName="click")
    deliver(site, platform, lines([*views, other]))
    views_by_path = eventually(lambda: get_report(site, by="path,device")["views"])
    assert views_by_path == [{"path": "/en", "device": "desktop", "n": 7}]
    assert get_report(site)["groups"] == []
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        stored_in_redis = str([valkey.hgetall(key) for key in valkey.scan_iter("rum:last:*")])
    stored = str(database.execute("select * from rum_hours").fetchall())
    assert "0812" not in stored_in_redis + stored


def test_an_event_counts_in_the_hour_it_happened(site: httpx.Client, platform: Platform) -> None:
    then = "2026-01-05T20:00:00.000Z"  # past the 30 days that are believed: counted today
    deliver(site, platform, lines([vital(number, timestamp=then) for number in range(5)]))
    wait_for_count(site, 5, days="1")
