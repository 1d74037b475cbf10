"""POST and GET /api/rum: browsers' beacons, and the report made of them."""

import json
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib import services, settings
from lib.problems import CacheDown
from lib.vitals import quantile_sketch, rollup, samples
from lib.vitals import report as vitals_report
from lib.vitals.samples import METRICS, RequestInfo
from tests.conftest import eventually
from tests.vitals import user_agents

type Rows = psycopg.Connection[DictRow]

PHONE = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/131.0.0.0 Mobile Safari/537.36"
)
LAPTOP = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/131.0.0.0 Safari/537.36"
)
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


def vital(name: str = "LCP", value: object = 1800, **more: object) -> dict[str, object]:
    """A report as web-vitals sends it, of a page view of its own."""
    number = random.randrange(10**12)
    return {"name": name, "value": value, "id": f"v6-{number}", "delta": value,
            "rating": "good", "navigationType": "navigate", "page": "/", **more}  # fmt: skip


def post_beacon(
    site: httpx.Client, body: object, *, agent: str = PHONE, **headers: str
) -> httpx.Response:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    all_headers = {"User-Agent": agent, "Content-Type": "text/plain;charset=UTF-8"} | named
    response = site.post("/api/rum", content=text, headers=all_headers)
    assert (response.status_code, response.content) == (204, b""), response.text
    return response


def get_report(site: httpx.Client, **parameters: str) -> dict[str, Any]:
    response = site.get("/api/rum", params=parameters)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def wait_for_count(site: httpx.Client, n: int, **parameters: str) -> list[dict[str, Any]]:
    """The report's groups, once they hold `n` values."""

    def current() -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = get_report(site, **parameters)["groups"]
        assert sum(group["n"] for group in groups) <= n, "something was counted twice"
        return groups if sum(group["n"] for group in groups) == n else []

    return eventually(current)


def is_rated(site: httpx.Client, rating: str) -> bool:
    groups = get_report(site)["groups"]
    return bool(groups) and groups[0]["rating"] == rating


def request_logs(platform: Platform, number: int) -> list[dict[str, Any]]:
    """The log lines of `number` posts, once all are written."""

    def current() -> list[dict[str, Any]]:
        lines = [json.loads(line["message"]) for line in platform.logs()
                 if '"endpoint": "rum"' in line["message"]]  # fmt: skip
        posts = [line for line in lines if line["event"] == "request" and line["method"] == "POST"]
        return posts if len(posts) >= number else []

    return eventually(current)


def nothing_is_counted(platform: Platform, database: Rows) -> bool:
    with redis.Redis.from_url(platform.redis_url) as valkey:
        fresh = valkey.keys("rum:open") or valkey.keys("rum:batch:*")
    return not fresh and not database.execute("select 1 from rum_hours").fetchall()


@pytest.fixture(autouse=True)
def not_due(platform: Platform, database: Rows) -> None:
    """No rollup by itself: it could still run when the next test has emptied everything."""
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.set("rum:folded", 1)


@pytest.fixture
def all_services(platform: Platform) -> Iterator[services.Services]:
    """What a function has, for work that HTTP does not reach."""
    all_services = services.Services(settings.Settings(platform.environment))
    yield all_services
    all_services.close()


# --- Beacons.


def test_a_beacon_is_answered_204_and_its_values_are_in_the_report(site: httpx.Client) -> None:
    for _ in range(5):
        post_beacon(site, [vital("LCP", 1800), vital("CLS", 0.02), vital("INP", 90)])
    groups = {group["metric"]: group for group in wait_for_count(site, 15)}
    assert set(groups) == {"LCP", "CLS", "INP"}
    for name, value in (("LCP", 1800), ("CLS", 0.02), ("INP", 90)):
        assert groups[name]["p75"] == pytest.approx(value, rel=0.02)
        assert (groups[name]["n"], groups[name]["rating"], groups[name]["good"]) == (5, "good", 1)


def test_one_object_and_json_are_accepted_like_an_array_of_text(site: httpx.Client) -> None:
    for _ in range(5):
        post_beacon(site, vital(), Content_Type="application/json")
    assert wait_for_count(site, 5)[0]["metric"] == "LCP"


def test_the_older_names_are_understood(site: httpx.Client) -> None:
    for number in range(5):
        post_beacon(site, {
            "metric_id": f"m-{number}", "metric_name": "inp", "value": 260, "delta": 260,
            "rating": "good", "navigation_type": "navigate", "device_type": "desktop",
            "page_url_initial": "https://alfabeauty.co.id/", "timestamp": "2026-11-23T09:00:00Z",
            "page_url_current": "https://alfabeauty.co.id/en?utm_source=ig#x",
        }, agent="Something/1.0")  # fmt: skip
    (group,) = wait_for_count(site, 5, by="path,device,metric")
    assert (group["path"], group["device"], group["metric"]) == ("/en", "desktop", "INP")
    assert group["needs_improvement"] == 1, "the rating is our own, not the page's"


def test_the_last_value_of_an_id_counts_once(site: httpx.Client, platform: Platform) -> None:
    for number in range(5):
        for value in (0.01, 0.12, 0.31):
            post_beacon(site, vital("CLS", value, id=f"page-{number}"))
    eventually(platform.is_idle)  # the first of its values alone makes a count
    groups = wait_for_count(site, 5, metric="CLS")
    assert groups[0]["p75"] == pytest.approx(0.31, rel=0.02)
    assert groups[0]["poor"] == 1


def test_a_report_that_arrives_late_does_not_undo_a_newer_one(
    site: httpx.Client, platform: Platform
) -> None:
    for number in range(5):
        newer, older = vital("INP", 700, timestamp=2000), vital("INP", 90, timestamp=1000)
        for report in (newer, older, newer):
            post_beacon(site, {**report, "id": f"page-{number}"})
    eventually(platform.is_idle)
    assert wait_for_count(site, 5)[0]["poor"] == 1


def test_one_id_may_name_two_metrics(site: httpx.Client) -> None:
    for number in range(5):
        post_beacon(site, [vital("LCP", id=f"x{number}"), vital("FCP", 900, id=f"x{number}")])
    assert {group["metric"] for group in wait_for_count(site, 10)} == {"LCP", "FCP"}


BAD = {
    "no name": {"value": 1, "id": "a"},
    "an unknown name": vital("FID", 10),
    "no id": {"name": "LCP", "value": 1},
    "an empty id": vital(id=""),
    "a long id": vital(id="x" * 129),
    "text for a value": vital(value="1800"),
    "true for a value": vital(value=True),
    "a negative value": vital(value=-1),
    "ten minutes and more": vital(value=600_001),
    "a shift beyond all screens": vital("CLS", 10.01),
    "a number with no double": vital(value=10**400),
    "a page from the browser's own memory": vital("TTFB", 0),
    "a driven browser": vital(webdriver=True),
    "no object": ["LCP", 1, None],
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_is_dropped_and_counted(
    site: httpx.Client, platform: Platform, database: Rows, name: str
) -> None:
    post_beacon(site, BAD[name])
    (line,) = request_logs(platform, 1)
    assert line["samples"] == 0
    assert line["dropped"] >= 1
    assert nothing_is_counted(platform, database)


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"{",
    "not a number": b'[{"name":"LCP","value":NaN,"id":"a"}]',
    "infinity": b'[{"name":"LCP","value":1e999,"id":"a"}]',
    "bytes": b"\xff\xfe\x00",
    "half a character": b'[{"name":"LCP\\ud800","value":1,"id":"\\ud800"}]',
    "a number of 5000 digits": b"[" + b"9" * 5000 + b"]",
    "a deep one": b"[" * 50_000,
    "too much": json.dumps([vital(note="x" * 70_000)]).encode(),
}


@pytest.mark.parametrize("name", BODIES)
def test_whatever_comes_is_204(
    site: httpx.Client, platform: Platform, database: Rows, name: str
) -> None:
    post_beacon(site, BODIES[name])
    assert request_logs(platform, 1)[0]["dropped"] >= 1
    assert nothing_is_counted(platform, database)


def test_good_items_are_kept_beside_bad_ones_and_no_more_than_fifty(site: httpx.Client) -> None:
    post_beacon(
        site, [vital() for _ in range(49)] + [vital(value=-1)] + [vital() for _ in range(20)]
    )
    wait_for_count(site, 49)


def test_a_layout_shift_of_zero_is_counted(site: httpx.Client) -> None:
    post_beacon(site, [vital("CLS", 0) for _ in range(5)])
    assert (wait_for_count(site, 5)[0]["p75"], wait_for_count(site, 5)[0]["good"]) == (0, 1)


@pytest.mark.parametrize("agent", [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/131.0 Safari/537.36",
    f"{PHONE} Chrome-Lighthouse",
    "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
])  # fmt: skip
def test_bots_and_headless_browsers_are_left_out(
    site: httpx.Client, platform: Platform, database: Rows, agent: str
) -> None:
    post_beacon(site, vital(), agent=agent)
    assert request_logs(platform, 1)[0]["why"] == "bot"
    assert nothing_is_counted(platform, database)


@pytest.mark.parametrize("agent", user_agents.PEOPLE)
def test_a_phone_is_no_bot_whatever_it_is_called(agent: str) -> None:
    assert not samples.is_bot(agent)


@pytest.mark.parametrize("agent", user_agents.MACHINES)
def test_a_crawler_or_monitor_is_a_bot_whatever_phone_it_names(agent: str) -> None:
    assert samples.is_bot(agent)


def test_a_cubot_phone_is_counted(site: httpx.Client) -> None:
    post_beacon(site, [vital() for _ in range(5)], agent=user_agents.PEOPLE[0])
    assert wait_for_count(site, 5)[0]["n"] == 5


def test_an_item_with_a_key_twice_is_dropped_alone(site: httpx.Client, platform: Platform) -> None:
    twice = json.dumps(vital()).replace("{", '{"value": 1, ', 1)
    good = json.dumps([vital() for _ in range(5)])[1:-1]
    site.post("/api/rum", content=f"[{twice}, {good}]", headers={"User-Agent": PHONE})
    assert request_logs(platform, 1)[0]["dropped"] == 1
    assert wait_for_count(site, 5)[0]["n"] == 5


def test_empty_parameters_are_as_if_left_out(site: httpx.Client) -> None:
    bare = site.get("/api/rum").json()
    empty = "days=&from=&to=&path=&device=&metric=&release=&by=&compare=&histogram="
    assert site.get(f"/api/rum?{empty}").json() == bare
    assert site.get("/api/rum?days=7&days=").json()["from"] == get_report(site, days="7")["from"]
    assert "histogram" not in site.get("/api/rum?histogram=false").text


def test_other_methods_are_refused(site: httpx.Client) -> None:
    response = site.put("/api/rum", content="{}")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")


def test_the_answer_does_not_wait_for_redis_or_postgres(platform: Platform) -> None:
    with silent() as (redis_url, database_url):
        changed = {"UPSTASH_REDIS_REST_URL": redis_url, "DATABASE_URL": database_url}
        with platform.function("api/rum.py", **changed) as function:
            started = time.monotonic()
            host, port = function.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=10) as line:
                body = json.dumps(vital())
                line.sendall(
                    f"POST /api/rum HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {PHONE}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
                )
                assert b" 204 " in line.recv(200)
            assert time.monotonic() - started < 1.0


# --- Dimensions, and what is not stored.


@pytest.mark.parametrize(("address", "path"), [
    ("https://alfabeauty.co.id/", "/"),
    ("https://alfabeauty.co.id", "/"),
    ("https://alfabeauty.co.id/en?email=a@b.id#chat", "/en"),
    ("/products/keratin-therapy/", "/products/keratin-therapy"),
    ("/produk/shampoo-500ml-anti-dandruff", "/produk/shampoo-500ml-anti-dandruff"),
    ("/orders/18273", "/orders/:id"),
    ("/x/3f2504e0-4f89-11d3-9a0c-0305e82c3301/y", "/x/:id/y"),
    ("/reset/eyJhbGciOiJIUzI1NiJ9", "/reset/:id"),
    ("/terima-kasih/ALFA-7KQ2M", "/terima-kasih/:id"),
    ("/u/budi@example.com", "/u/:id"),
    ("/u/budi%40example.com", "/u/:id"),
    ("/wa/+628123456789", "/wa/:id"),
    ("/nama/Sri%20Wahyuni", "/nama/:id"),
    ("//a//b", "/b"),
    ("/" + "a/" * 30, "/a/a/a/a/a/a/a/a"),
    ("http://[", "(other)"),
    ("", "/"),
])  # fmt: skip
def test_a_page_is_counted_without_query_host_or_ids(address: str, path: str) -> None:
    assert samples.normalize_path(address) == path


@pytest.mark.parametrize(("agent", "hint", "device"), [
    (PHONE, None, "mobile"),
    (LAPTOP, None, "desktop"),
    ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/131", "?1", "tablet"),
    ("Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X)", None, "tablet"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)", None, "mobile"),
    ("", "?1", "mobile"),
    ("", "?0", "desktop"),
    ("", None, "unknown"),
])  # fmt: skip
def test_a_device_is_classified_by_its_hint_and_its_user_agent(
    agent: str, hint: str | None, device: str
) -> None:
    assert samples.device_class(agent, hint) == device


def test_a_page_that_is_not_named_is_the_referrer(
    site: httpx.Client,
) -> None:
    reports = [{name: value for name, value in vital().items() if name != "page"}
               for _ in range(5)]  # fmt: skip
    post_beacon(site, reports, Referer="https://alfabeauty.co.id/en/thank-you?ref=ALFA-7KQ2M")
    assert wait_for_count(site, 5, by="path")[0]["path"] == "/en/thank-you"


def test_nothing_of_the_visitor_is_stored(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    page = "https://alfabeauty.co.id/en?name=Budi&phone=08-555-12"
    for number in range(5):
        post_beacon(site, vital(page=page, id=f"metric-id-{number}", timestamp=number + 1))
    wait_for_count(site, 5)
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        stored = list(valkey.scan_iter("rum:*"))
        stored += [str(valkey.hgetall(key)) for key in stored if valkey.type(key) == "hash"]
    for table in ("rum_hours", "rum_days", "rum_lasts", "rum_releases", "rum_folds"):
        stored += [str(row) for row in database.execute(f"select * from {table}").fetchall()]
    text = " ".join(
        [*stored, *(line["message"] for line in platform.logs() if '"event"' in line["message"])]
    )
    for secret in ("Budi", "08-555", "127.0.0.1", "Pixel", "metric-id", "name=", "Mozilla"):
        assert secret not in text, secret


def test_invented_pages_cannot_crowd_out_the_sites_own(site: httpx.Client) -> None:
    for start in range(0, 250, 50):
        post_beacon(site, [vital(page=f"/invented-{start + number}") for number in range(50)])
    post_beacon(site, [vital(page="/en") for _ in range(5)])
    body = eventually(
        lambda: next((g for g in get_report(site, by="path")["groups"] if g["path"] == "/en"), None)
    )
    assert body is not None
    assert body["n"] == 5
    paths = {group["path"]: group["n"] for group in get_report(site, by="path")["groups"]}
    assert paths == {"/en": 5, "(other)": 50}


def test_every_page_of_the_site_is_known() -> None:
    public = Path(__file__).parents[2] / "public"
    rewritten = {"/thanks/id": "/terima-kasih", "/thanks/en": "/en/thank-you"}
    pages = {
        "/" + page.relative_to(public).with_suffix("").as_posix() for page in public.rglob("*.html")
    }
    addresses = {
        rewritten.get(page, page.removesuffix("index").rstrip("/") or "/") for page in pages
    }
    assert addresses - {"/404"} == samples.KNOWN_PATHS


# --- The report.


def test_p75_is_the_merged_sketches_own_and_never_an_average(site: httpx.Client) -> None:
    slow = [vital(value=6000, page="/en") for _ in range(10)]
    quick = [vital(value=1000) for _ in range(40)]
    post_beacon(site, slow + quick)
    (group,) = wait_for_count(site, 50)
    assert group["p75"] == pytest.approx(1000, rel=0.02), "an average would say 2000 or 3500"
    assert (group["good"], group["poor"]) == (0.8, 0.2)


@pytest.mark.parametrize("name", METRICS)
def test_the_thresholds_are_inclusive_and_shares_exact(site: httpx.Client, name: str) -> None:
    scale = METRICS[name]
    values = (scale.good, scale.good * 1.0001, scale.poor, scale.poor * 1.0001)
    post_beacon(site, [vital(name, value) for value in values for _ in range(3)])
    (group,) = wait_for_count(site, 12)
    assert (group["good"], group["needs_improvement"], group["poor"]) == (0.25, 0.5, 0.25)


def test_a_small_group_is_hidden_and_counted_as_hidden(site: httpx.Client) -> None:
    post_beacon(site, [vital(page="/en") for _ in range(4)] + [vital() for _ in range(5)])
    wait_for_count(site, 9)
    body = get_report(site, by="path")
    assert [group["path"] for group in body["groups"]] == ["/"]
    assert body["hidden"] == 1


def test_groups_and_filters_by_every_dimension(site: httpx.Client) -> None:
    post_beacon(site, [vital() for _ in range(5)])
    post_beacon(site, [vital(page="/en") for _ in range(6)], agent=LAPTOP)
    wait_for_count(site, 11)
    today = (datetime.now(UTC) + timedelta(hours=7)).date().isoformat()
    groups = get_report(site, by="day,path,device,metric,release")["groups"]
    named = [(g["day"], g["path"], g["device"], g["metric"], g["release"], g["n"]) for g in groups]
    assert named == [
        (today, "/", "mobile", "LCP", "dpl_local", 5),
        (today, "/en", "desktop", "LCP", "dpl_local", 6),
    ]
    for filters in ({"path": "/en"}, {"device": "desktop"}, {"path": "/en", "metric": "LCP"}):
        assert wait_for_count(site, 6, **filters)
    assert get_report(site, release="dpl_other")["groups"] == []
    assert get_report(site, metric="CLS")["groups"] == []
    assert [release["release"] for release in get_report(site)["releases"]] == ["dpl_local"]


@pytest.mark.parametrize(("parameters", "names"), [
    ({"day": "3"}, {"day"}),
    ({"days": "0"}, {"days"}),
    ({"days": "١"}, {"days"}),
    ({"from": "2026-11-01"}, {"to"}),
    ({"from": "2026-11-02", "to": "2026-11-01"}, {"from"}),
    ({"from": "2026-11-02", "to": "20261103"}, {"to"}),
    ({"from": "2024-11-02", "to": "2026-11-01"}, {"from"}),
    ({"device": "phone", "metric": "lcp"}, {"device", "metric"}),
    ({"by": "country"}, {"by"}),
    ({"by": "path,path"}, {"by"}),
    ({"by": "day,path", "days": "91"}, {"by"}),
    ({"path": "x" * 201}, {"path"}),
    ({"release": "x" * 201}, {"release"}),
    ({"histogram": "yes"}, {"histogram"}),
    ([("path", "/"), ("path", "/en")], {"path"}),
])  # fmt: skip
def test_a_faulty_parameter_is_named(platform: Platform, parameters: Any, names: set[str]) -> None:
    response = httpx.get(f"{platform.url}/api/rum", params=parameters)
    assert (response.status_code, set(response.json()["details"])) == (400, names)


def test_the_answer_is_public_and_cached_for_a_minute(site: httpx.Client) -> None:
    assert site.get("/api/rum").headers["Cache-Control"] == "public, s-maxage=60"
    assert site.head("/api/rum").content == b""


def test_a_histogram_adds_up_to_n_within_its_edges(site: httpx.Client) -> None:
    post_beacon(site, [vital(value=value) for value in (0, 900, 901, 2500, 2501, 599_999)])
    (group,) = wait_for_count(site, 6, histogram="1")
    assert sum(bar["n"] for bar in group["histogram"]) == 6
    edges = [(bar["from"], bar["to"]) for bar in group["histogram"]]
    assert all(low < high for low, high in edges)
    assert [high for _, high in edges][:-1] <= [low for low, _ in edges][1:]


# --- Releases.


def store_release(database: Rows, release: str, first_at: datetime, values: list[float]) -> None:
    """Store a release's visits in Postgres."""
    counts = Counter(quantile_sketch.bucket_of(METRICS["LCP"], value) for value in values)
    database.execute(
        "insert into rum_hours values (%s, '/', 'mobile', 'LCP', %s, %s, %s)",
        [first_at, release, sorted(counts), [counts[bucket] for bucket in sorted(counts)]],
    )
    database.execute("insert into rum_releases values (%s, %s)", [release, first_at])


def visits(chance: random.Random, n: int, centre: float) -> list[float]:
    return [chance.lognormvariate(0, 0.5) * centre for _ in range(n)]


def two_releases(database: Rows, before: list[float], after: list[float]) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    store_release(database, "dpl_1", hour, before)
    store_release(database, "dpl_2", hour + timedelta(hours=1), after)


def test_a_release_that_is_slower_is_called_worse(site: httpx.Client, database: Rows) -> None:
    chance = random.Random(1)
    two_releases(database, visits(chance, 1500, 1800), visits(chance, 1500, 2300))
    comparison = get_report(site, compare="latest")["comparison"]
    assert (comparison["release"], comparison["before"]) == ("dpl_2", "dpl_1")
    (group,) = comparison["groups"]
    assert group["verdict"] == "worse"
    assert 0 < group["low"] < group["difference"] < group["high"]
    assert get_report(site, compare="dpl_1")["comparison"] is None, "nothing was before the first"


def test_noise_between_two_releases_is_not_called_a_regression(
    site: httpx.Client, database: Rows
) -> None:
    chance = random.Random(2)
    two_releases(database, visits(chance, 60, 1800), visits(chance, 60, 1950))
    (group,) = get_report(site, compare="dpl_2")["comparison"]["groups"]
    assert group["verdict"] == "no clear difference"
    assert group["low"] < 0 < group["high"]


def test_two_releases_of_a_few_visits_are_shown_without_an_interval(
    site: httpx.Client, database: Rows
) -> None:
    two_releases(database, [1000.0] * 6, [9000.0] * 6)
    (group,) = get_report(site, compare="latest")["comparison"]["groups"]
    assert (group["low"], group["high"], group["verdict"]) == (None, None, "no clear difference")


# --- Rollup.


def test_counts_are_stored_once_however_often_a_rollup_is_cut_off(
    site: httpx.Client, platform: Platform, all_services: services.Services, database: Rows
) -> None:
    post_beacon(site, [vital() for _ in range(20)])
    wait_for_count(site, 20)
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        valkey.delete("rum:folded")
        assert rollup.roll_up(all_services, datetime.now(UTC)) is not None
        assert rollup.roll_up(all_services, datetime.now(UTC)) is None, "not due again so soon"
        batch = database.execute("select batch from rum_folds").fetchall()[-1]["batch"]
        # As after a crash between the transaction and the deletion: the batch is there again.
        hour = int(samples.hour_start(int(datetime.now(UTC).timestamp() * 1000)).timestamp())
        valkey.hset(f"rum:batch:{batch}", f"{hour}|/|mobile|LCP|dpl_local|900", 20)
        valkey.sadd("rum:batches", batch)
        assert wait_for_count(site, 20), "a batch taken over already is not read again either"
        valkey.delete("rum:folded")
        rollup.roll_up(all_services, datetime.now(UTC))
        assert valkey.smembers("rum:batches") == set()
    wait_for_count(site, 20)


def test_a_value_that_grows_after_its_count_was_stored_still_counts_once(
    site: httpx.Client, platform: Platform, all_services: services.Services
) -> None:
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        for value in (0.01, 0.3):
            post_beacon(site, [vital("CLS", value, id=f"page-{number}") for number in range(6)])
            rating = quantile_sketch.RATINGS[METRICS["CLS"].rating(value)]
            eventually(partial(is_rated, site, rating))
            valkey.delete("rum:folded")
            rollup.roll_up(all_services, datetime.now(UTC))
        assert valkey.keys("rum:open") == []
    (group,) = wait_for_count(site, 6)
    assert group["poor"] == 1


def test_hours_become_days_and_say_the_same(
    site: httpx.Client, platform: Platform, all_services: services.Services, database: Rows
) -> None:
    chance = random.Random(3)
    old = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=6)
    store_release(database, "dpl_1", old, visits(chance, 300, 2000))
    store_release(database, "dpl_2", old + timedelta(hours=1), visits(chance, 300, 2500))
    before = get_report(site, by="metric,release")
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.delete("rum:folded")
    assert rollup.roll_up(all_services, datetime.now(UTC)) is not None
    assert database.execute("select 1 from rum_hours").fetchall() == []
    assert len(database.execute("select 1 from rum_days").fetchall()) == 2
    assert get_report(site, by="metric,release")["groups"] == before["groups"]


def test_a_beacon_starts_a_rollup_that_is_due(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.delete("rum:folded")
        post_beacon(site, [vital() for _ in range(6)])
        eventually(lambda: database.execute("select 1 from rum_folds").fetchone())
        eventually(lambda: not valkey.exists("rum:batches"))
    wait_for_count(site, 6)


def test_the_cron_rolls_up_too(site: httpx.Client, platform: Platform, database: Rows) -> None:
    post_beacon(site, [vital() for _ in range(6)])
    wait_for_count(site, 6)
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.delete("rum:folded")
        platform.cron("deliver")
        eventually(lambda: not valkey.exists("rum:open", "rum:batches"))
    wait_for_count(site, 6)


# --- Outages.


@contextmanager
def silent() -> Iterator[tuple[str, str]]:
    """Addresses of a Redis and a Postgres that accept and never response."""
    with socket.create_server(("127.0.0.1", 0)) as ear:
        port = ear.getsockname()[1]
        yield f"http://127.0.0.1:{port}", f"postgresql://a:b@127.0.0.1:{port}/x"


@contextmanager
def function_of(platform: Platform, **variables: str | None) -> Iterator[httpx.Client]:
    """A client of a function of its own, with variables changed or removed."""
    with (
        platform.function("api/rum.py", **variables) as function,
        httpx.Client(base_url=function.url, timeout=20) as client,
    ):
        yield client


@pytest.mark.parametrize("how", ["refuses", "is silent", "is not configured"])
def test_samples_are_lost_and_logged_while_redis_is_down(
    platform: Platform, database: Rows, how: str
) -> None:
    with silent() as (address, _):
        url = {"refuses": "http://127.0.0.1:1", "is silent": address}.get(how)
        with function_of(platform, UPSTASH_REDIS_REST_URL=url) as client:
            post_beacon(client, [vital(), vital()])

            def dropped() -> list[str]:
                return [str(line["message"]) for line in platform.logs()
                        if "rum_dropped" in line["message"]]  # fmt: skip

            assert json.loads(eventually(dropped)[0])["samples"] == 2
    assert nothing_is_counted(platform, database)


@pytest.mark.parametrize("how", ["refuses", "is silent", "is not configured"])
def test_a_report_is_503_without_postgres(platform: Platform, how: str) -> None:
    with silent() as (_, address):
        url = {"refuses": "postgresql://a:b@127.0.0.1:1/x", "is silent": address}.get(how)
        with function_of(platform, DATABASE_URL=url) as client:
            assert client.get("/api/rum").status_code == 503


def test_postgres_is_pruned_although_redis_is_down(platform: Platform, database: Rows) -> None:
    store_release(database, "dpl_1", datetime.now(UTC) - timedelta(days=6), [1000.0] * 6)
    database.execute(
        "insert into rum_lasts (id, at, hour, path, device, metric, release, bucket, seen_at)"
        " values ('x', 1, now(), '/', 'mobile', 'LCP', 'dpl_1', 1, now() - interval '2 days')"
    )
    settings_without_redis = settings.Settings(
        platform.environment | {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
    )
    without_redis = services.Services(settings_without_redis)
    with pytest.raises(CacheDown):
        rollup.roll_up(without_redis, datetime.now(UTC))
    without_redis.close()
    stored = "select 1 from rum_lasts union all select 1 from rum_hours"
    assert database.execute(stored).fetchall() == []
    assert len(database.execute("select 1 from rum_days").fetchall()) == 1


def test_with_redis_down_the_report_is_what_postgres_holds(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    store_release(
        database, "dpl_1", datetime.now(UTC).replace(minute=0, second=0, microsecond=0), [1.0] * 9
    )
    with silent() as (url, _), function_of(platform, UPSTASH_REDIS_REST_URL=url) as client:
        body = get_report(client)
    assert (body["complete"], body["groups"][0]["n"]) == (False, 9)
    assert get_report(site)["complete"] is True


def test_a_visit_reads_the_same_whatever_its_shape() -> None:
    visit = RequestInfo(PHONE, "?1", "https://alfabeauty.co.id/en", "dpl_1", NOW)
    parsed = samples.parse(json.dumps([vital(), vital("CLS", 0.1)]).encode(), visit)
    assert [(sample.metric, sample.device, sample.release) for sample in parsed.samples] == [
        ("LCP", "mobile", "dpl_1"),
        ("CLS", "mobile", "dpl_1"),
    ]
    assert all(re.fullmatch(r"[0-9a-f]{22}", sample.id) for sample in parsed.samples)
    assert vitals_report.MIN_GROUP_SIZE == 5
