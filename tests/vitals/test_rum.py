"""POST and GET /api/rum: what browsers report, and what is made of it."""

import json
import random
import re
import socket
import time
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
    """A report as web-vitals makes it, of a page view of its own."""
    number = random.randrange(10**12)
    return {"name": name, "value": value, "id": f"v6-{number}", "delta": value,
            "rating": "good", "navigationType": "navigate", "page": "/", **more}  # fmt: skip


def send(site: httpx.Client, body: object, *, agent: str = PHONE, **headers: str) -> httpx.Response:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"User-Agent": agent, "Content-Type": "text/plain;charset=UTF-8"} | named
    answer = site.post("/api/rum", content=text, headers=sent)
    assert (answer.status_code, answer.content) == (204, b""), answer.text
    return answer


def read(site: httpx.Client, **parameters: str) -> dict[str, Any]:
    answer = site.get("/api/rum", params=parameters)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def counted(site: httpx.Client, n: int, **parameters: str) -> list[dict[str, Any]]:
    """The groups, once they hold `n` values."""

    def look() -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = read(site, **parameters)["groups"]
        assert sum(group["n"] for group in groups) <= n, "something was counted twice"
        return groups if sum(group["n"] for group in groups) == n else []

    return eventually(look)


def rated(site: httpx.Client, rating: str) -> bool:
    groups = read(site)["groups"]
    return bool(groups) and groups[0]["rating"] == rating


def said(platform: Platform, number: int) -> list[dict[str, Any]]:
    """The log lines of `number` posts, once all are there."""

    def look() -> list[dict[str, Any]]:
        lines = [json.loads(line["message"]) for line in platform.logs()
                 if '"endpoint": "rum"' in line["message"]]  # fmt: skip
        posts = [line for line in lines if line["event"] == "request" and line["method"] == "POST"]
        return posts if len(posts) >= number else []

    return eventually(look)


def nothing_is_counted(platform: Platform, database: Rows) -> bool:
    with redis.Redis.from_url(platform.redis_url) as valkey:
        fresh = valkey.keys("rum:open") or valkey.keys("rum:batch:*")
    return not fresh and not database.execute("select 1 from rum_hours").fetchall()


@pytest.fixture(autouse=True)
def not_due(platform: Platform, database: Rows) -> None:
    """No fold by itself: it could still be at work when the next test has emptied everything."""
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.set("rum:folded", 1)


@pytest.fixture
def means(platform: Platform) -> Iterator[services.Services]:
    """What a function has at hand, for work that HTTP does not reach."""
    made = services.Services(settings.Settings(platform.environment))
    yield made
    made.cache.close()
    made.database.close()


# --- What comes in.


def test_a_beacon_is_answered_204_and_its_vitals_are_read_back(site: httpx.Client) -> None:
    for _ in range(5):
        send(site, [vital("LCP", 1800), vital("CLS", 0.02), vital("INP", 90)])
    groups = {group["metric"]: group for group in counted(site, 15)}
    assert set(groups) == {"LCP", "CLS", "INP"}
    for name, value in (("LCP", 1800), ("CLS", 0.02), ("INP", 90)):
        assert groups[name]["p75"] == pytest.approx(value, rel=0.02)
        assert (groups[name]["n"], groups[name]["rating"], groups[name]["good"]) == (5, "good", 1)


def test_one_object_and_json_are_taken_like_an_array_of_text(site: httpx.Client) -> None:
    for _ in range(5):
        send(site, vital(), Content_Type="application/json")
    assert counted(site, 5)[0]["metric"] == "LCP"


def test_the_older_names_are_understood(site: httpx.Client) -> None:
    for number in range(5):
        send(site, {
            "metric_id": f"m-{number}", "metric_name": "inp", "value": 260, "delta": 260,
            "rating": "good", "navigation_type": "navigate", "device_type": "desktop",
            "page_url_initial": "https://alfabeauty.co.id/", "timestamp": "2026-11-23T09:00:00Z",
            "page_url_current": "https://alfabeauty.co.id/en?utm_source=ig#x",
        }, agent="Something/1.0")  # fmt: skip
    (group,) = counted(site, 5, by="path,device,metric")
    assert (group["path"], group["device"], group["metric"]) == ("/en", "desktop", "INP")
    assert group["needs_improvement"] == 1, "the rating is our own, not the page's"


def test_the_last_value_of_an_id_counts_once(site: httpx.Client) -> None:
    for number in range(5):
        for value in (0.01, 0.12, 0.31):
            send(site, vital("CLS", value, id=f"page-{number}"))
    groups = counted(site, 5, metric="CLS")
    assert groups[0]["p75"] == pytest.approx(0.31, rel=0.02)
    assert groups[0]["poor"] == 1


def test_a_report_that_arrives_late_does_not_undo_a_newer_one(site: httpx.Client) -> None:
    for number in range(5):
        newer, older = vital("INP", 700, timestamp=2000), vital("INP", 90, timestamp=1000)
        for report in (newer, older, newer):
            send(site, {**report, "id": f"page-{number}"})
    assert counted(site, 5)[0]["poor"] == 1


def test_one_id_may_name_two_metrics(site: httpx.Client) -> None:
    for number in range(5):
        send(site, [vital("LCP", id=f"x{number}"), vital("FCP", 900, id=f"x{number}")])
    assert {group["metric"] for group in counted(site, 10)} == {"LCP", "FCP"}


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
    send(site, BAD[name])
    (line,) = said(platform, 1)
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
    send(site, BODIES[name])
    assert said(platform, 1)[0]["dropped"] >= 1
    assert nothing_is_counted(platform, database)


def test_good_items_are_kept_beside_bad_ones_and_no_more_than_fifty(site: httpx.Client) -> None:
    send(site, [vital() for _ in range(49)] + [vital(value=-1)] + [vital() for _ in range(20)])
    counted(site, 49)


def test_zero_is_a_real_shift(site: httpx.Client) -> None:
    send(site, [vital("CLS", 0) for _ in range(5)])
    assert (counted(site, 5)[0]["p75"], counted(site, 5)[0]["good"]) == (0, 1)


@pytest.mark.parametrize("agent", [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/131.0 Safari/537.36",
    f"{PHONE} Chrome-Lighthouse",
    "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
])  # fmt: skip
def test_bots_and_headless_browsers_are_left_out(
    site: httpx.Client, platform: Platform, database: Rows, agent: str
) -> None:
    send(site, vital(), agent=agent)
    assert said(platform, 1)[0]["why"] == "bot"
    assert nothing_is_counted(platform, database)


@pytest.mark.parametrize("agent", user_agents.PEOPLE)
def test_a_phone_is_no_bot_whatever_it_is_called(agent: str) -> None:
    assert not samples.is_bot(agent)


@pytest.mark.parametrize("agent", user_agents.MACHINES)
def test_a_crawler_or_monitor_is_one_on_whatever_phone(agent: str) -> None:
    assert samples.is_bot(agent)


def test_a_cubot_phone_is_counted(site: httpx.Client) -> None:
    send(site, [vital() for _ in range(5)], agent=user_agents.PEOPLE[0])
    assert counted(site, 5)[0]["n"] == 5


def test_an_item_with_a_key_twice_is_dropped_alone(site: httpx.Client, platform: Platform) -> None:
    twice = json.dumps(vital()).replace("{", '{"value": 1, ', 1)
    good = json.dumps([vital() for _ in range(5)])[1:-1]
    site.post("/api/rum", content=f"[{twice}, {good}]", headers={"User-Agent": PHONE})
    assert said(platform, 1)[0]["dropped"] == 1
    assert counted(site, 5)[0]["n"] == 5


def test_empty_parameters_are_as_if_left_out(site: httpx.Client) -> None:
    bare = site.get("/api/rum").json()
    empty = "days=&from=&to=&path=&device=&metric=&release=&by=&compare=&histogram="
    assert site.get(f"/api/rum?{empty}").json() == bare
    assert site.get("/api/rum?days=7&days=").json()["from"] == read(site, days="7")["from"]
    assert "histogram" not in site.get("/api/rum?histogram=false").text


def test_other_methods_are_refused(site: httpx.Client) -> None:
    answer = site.put("/api/rum", content="{}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")


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


# --- Where it belongs, and what is forgotten.


@pytest.mark.parametrize(("address", "kept"), [
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
def test_a_page_is_kept_as_a_template_without_query_host_or_ids(address: str, kept: str) -> None:
    assert samples.normalize_path(address) == kept


@pytest.mark.parametrize(("agent", "hint", "kept"), [
    (PHONE, None, "mobile"),
    (LAPTOP, None, "desktop"),
    ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/131", "?1", "tablet"),
    ("Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X)", None, "tablet"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)", None, "mobile"),
    ("", "?1", "mobile"),
    ("", "?0", "desktop"),
    ("", None, "unknown"),
])  # fmt: skip
def test_a_device_is_a_class_by_its_hint_and_its_user_agent(
    agent: str, hint: str | None, kept: str
) -> None:
    assert samples.device_class(agent, hint) == kept


def test_a_page_that_is_not_named_is_the_one_the_browser_says_it_was_on(
    site: httpx.Client,
) -> None:
    reports = [{name: value for name, value in vital().items() if name != "page"}
               for _ in range(5)]  # fmt: skip
    send(site, reports, Referer="https://alfabeauty.co.id/en/thank-you?ref=ALFA-7KQ2M")
    assert counted(site, 5, by="path")[0]["path"] == "/en/thank-you"


def test_nothing_of_the_visitor_is_stored(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    page = "https://alfabeauty.co.id/en?name=Budi&phone=08-555-12"
    for number in range(5):
        send(site, vital(page=page, id=f"metric-id-{number}", timestamp=number + 1))
    counted(site, 5)
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        held = list(valkey.scan_iter("rum:*"))
        held += [str(valkey.hgetall(key)) for key in held if valkey.type(key) == "hash"]
    for table in ("rum_hours", "rum_days", "rum_lasts", "rum_releases", "rum_folds"):
        held += [str(row) for row in database.execute(f"select * from {table}").fetchall()]
    text = " ".join(
        [*held, *(line["message"] for line in platform.logs() if '"event"' in line["message"])]
    )
    for secret in ("Budi", "08-555", "127.0.0.1", "Pixel", "metric-id", "name=", "Mozilla"):
        assert secret not in text, secret


def test_invented_pages_cannot_crowd_out_the_sites_own(site: httpx.Client) -> None:
    for start in range(0, 250, 50):
        send(site, [vital(page=f"/invented-{start + each}") for each in range(50)])
    send(site, [vital(page="/en") for _ in range(5)])
    body = eventually(
        lambda: next((g for g in read(site, by="path")["groups"] if g["path"] == "/en"), None)
    )
    assert body is not None
    assert body["n"] == 5
    paths = {group["path"]: group["n"] for group in read(site, by="path")["groups"]}
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


# --- What is read.


def test_p75_is_the_merged_sketches_own_and_never_an_average(site: httpx.Client) -> None:
    slow = [vital(value=6000, page="/en") for _ in range(10)]
    quick = [vital(value=1000) for _ in range(40)]
    send(site, slow + quick)
    (group,) = counted(site, 50)
    assert group["p75"] == pytest.approx(1000, rel=0.02), "an average would say 2000 or 3500"
    assert (group["good"], group["poor"]) == (0.8, 0.2)


@pytest.mark.parametrize("name", METRICS)
def test_the_thresholds_are_inclusive_and_shares_exact(site: httpx.Client, name: str) -> None:
    scale = METRICS[name]
    values = (scale.good, scale.good * 1.0001, scale.poor, scale.poor * 1.0001)
    send(site, [vital(name, value) for value in values for _ in range(3)])
    (group,) = counted(site, 12)
    assert (group["good"], group["needs_improvement"], group["poor"]) == (0.25, 0.5, 0.25)


def test_a_small_group_is_hidden_and_said_to_be(site: httpx.Client) -> None:
    send(site, [vital(page="/en") for _ in range(4)] + [vital() for _ in range(5)])
    counted(site, 9)
    body = read(site, by="path")
    assert [group["path"] for group in body["groups"]] == ["/"]
    assert body["hidden"] == 1


def test_groups_and_filters_by_every_dimension(site: httpx.Client) -> None:
    send(site, [vital() for _ in range(5)])
    send(site, [vital(page="/en") for _ in range(6)], agent=LAPTOP)
    counted(site, 11)
    today = (datetime.now(UTC) + timedelta(hours=7)).date().isoformat()
    groups = read(site, by="day,path,device,metric,release")["groups"]
    named = [(g["day"], g["path"], g["device"], g["metric"], g["release"], g["n"]) for g in groups]
    assert named == [
        (today, "/", "mobile", "LCP", "dpl_local", 5),
        (today, "/en", "desktop", "LCP", "dpl_local", 6),
    ]
    for filters in ({"path": "/en"}, {"device": "desktop"}, {"path": "/en", "metric": "LCP"}):
        assert counted(site, 6, **filters)
    assert read(site, release="dpl_other")["groups"] == []
    assert read(site, metric="CLS")["groups"] == []
    assert [each["release"] for each in read(site)["releases"]] == ["dpl_local"]


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
    answer = httpx.get(f"{platform.url}/api/rum", params=parameters)
    assert (answer.status_code, set(answer.json()["details"])) == (400, names)


def test_the_answer_is_public_and_cached_for_a_minute(site: httpx.Client) -> None:
    assert site.get("/api/rum").headers["Cache-Control"] == "public, s-maxage=60"
    assert site.head("/api/rum").content == b""


def test_a_histogram_adds_up_to_n_within_its_edges(site: httpx.Client) -> None:
    send(site, [vital(value=value) for value in (0, 900, 901, 2500, 2501, 599_999)])
    (group,) = counted(site, 6, histogram="1")
    assert sum(bar["n"] for bar in group["histogram"]) == 6
    edges = [(bar["from"], bar["to"]) for bar in group["histogram"]]
    assert all(low < high for low, high in edges)
    assert [high for _, high in edges][:-1] <= [low for low, _ in edges][1:]


# --- Releases.


def seeded(database: Rows, release: str, first_at: datetime, values: list[float]) -> None:
    """A release's visits, as they lie in Postgres."""
    counts = quantile_sketch.merge(
        {quantile_sketch.bucket_of(METRICS["LCP"], value): 1} for value in values
    )
    database.execute(
        "insert into rum_hours values (%s, '/', 'mobile', 'LCP', %s, %s, %s)",
        [first_at, release, sorted(counts), [counts[each] for each in sorted(counts)]],
    )
    database.execute("insert into rum_releases values (%s, %s)", [release, first_at])


def visits(chance: random.Random, n: int, centre: float) -> list[float]:
    return [chance.lognormvariate(0, 0.5) * centre for _ in range(n)]


def two_releases(database: Rows, before: list[float], after: list[float]) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    seeded(database, "dpl_1", hour, before)
    seeded(database, "dpl_2", hour + timedelta(hours=1), after)


def test_a_release_that_is_slower_is_called_worse(site: httpx.Client, database: Rows) -> None:
    chance = random.Random(1)
    two_releases(database, visits(chance, 1500, 1800), visits(chance, 1500, 2300))
    comparison = read(site, compare="latest")["comparison"]
    assert (comparison["release"], comparison["before"]) == ("dpl_2", "dpl_1")
    (group,) = comparison["groups"]
    assert group["verdict"] == "worse"
    assert 0 < group["low"] < group["difference"] < group["high"]
    assert read(site, compare="dpl_1")["comparison"] is None, "nothing was before the first"


def test_noise_between_two_releases_is_not_called_a_regression(
    site: httpx.Client, database: Rows
) -> None:
    chance = random.Random(2)
    two_releases(database, visits(chance, 60, 1800), visits(chance, 60, 1950))
    (group,) = read(site, compare="dpl_2")["comparison"]["groups"]
    assert group["verdict"] == "no clear difference"
    assert group["low"] < 0 < group["high"]


def test_two_releases_of_a_few_visits_are_shown_without_an_interval(
    site: httpx.Client, database: Rows
) -> None:
    two_releases(database, [1000.0] * 6, [9000.0] * 6)
    (group,) = read(site, compare="latest")["comparison"]["groups"]
    assert (group["low"], group["high"], group["verdict"]) == (None, None, "no clear difference")


# --- Folding.


def test_counts_are_taken_over_once_however_often_a_fold_is_cut_off(
    site: httpx.Client, platform: Platform, means: services.Services, database: Rows
) -> None:
    send(site, [vital() for _ in range(20)])
    counted(site, 20)
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        valkey.delete("rum:folded")
        assert rollup.roll_up(means, datetime.now(UTC)) is not None
        assert rollup.roll_up(means, datetime.now(UTC)) is None, "not due again so soon"
        batch = database.execute("select batch from rum_folds").fetchall()[-1]["batch"]
        # As after a crash between the transaction and the deletion: the batch is there again.
        hour = int(samples.hour_start(int(datetime.now(UTC).timestamp() * 1000)).timestamp())
        valkey.hset(f"rum:batch:{batch}", f"{hour}|/|mobile|LCP|dpl_local|900", 20)
        valkey.sadd("rum:batches", batch)
        assert counted(site, 20), "a batch taken over already is not read again either"
        valkey.delete("rum:folded")
        rollup.roll_up(means, datetime.now(UTC))
        assert valkey.smembers("rum:batches") == set()
    counted(site, 20)


def test_a_value_that_grows_after_its_count_was_taken_over_still_counts_once(
    site: httpx.Client, platform: Platform, means: services.Services
) -> None:
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        for value in (0.01, 0.3):
            send(site, [vital("CLS", value, id=f"page-{each}") for each in range(6)])
            rating = quantile_sketch.RATINGS[METRICS["CLS"].rating(value)]
            eventually(partial(rated, site, rating))
            valkey.delete("rum:folded")
            rollup.roll_up(means, datetime.now(UTC))
        assert valkey.keys("rum:open") == []
    (group,) = counted(site, 6)
    assert group["poor"] == 1


def test_hours_become_days_and_say_the_same(
    site: httpx.Client, platform: Platform, means: services.Services, database: Rows
) -> None:
    chance = random.Random(3)
    old = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=6)
    seeded(database, "dpl_1", old, visits(chance, 300, 2000))
    seeded(database, "dpl_2", old + timedelta(hours=1), visits(chance, 300, 2500))
    before = read(site, by="metric,release")
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.delete("rum:folded")
    assert rollup.roll_up(means, datetime.now(UTC)) is not None
    assert database.execute("select 1 from rum_hours").fetchall() == []
    assert len(database.execute("select 1 from rum_days").fetchall()) == 2
    assert read(site, by="metric,release")["groups"] == before["groups"]


def test_a_beacon_takes_counts_over_when_that_is_due(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.delete("rum:folded")
        send(site, [vital() for _ in range(6)])
        eventually(lambda: database.execute("select 1 from rum_folds").fetchone())
        eventually(lambda: not valkey.exists("rum:batches"))
    counted(site, 6)


def test_the_cron_takes_counts_over_too(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    send(site, [vital() for _ in range(6)])
    counted(site, 6)
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.delete("rum:folded")
        platform.cron("deliver")
        eventually(lambda: not valkey.exists("rum:open", "rum:batches"))
    counted(site, 6)


# --- Trouble.


@contextmanager
def silent() -> Iterator[tuple[str, str]]:
    """Addresses of a Redis and a Postgres that accept and never answer."""
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


REFUSING = {
    "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1",
    "DATABASE_URL": "postgresql://a:b@127.0.0.1:1/x",
}


@pytest.mark.parametrize("how", ["refuses", "is silent", "is not configured"])
def test_with_redis_down_postgres_counts_by_the_same_rule(
    site: httpx.Client, platform: Platform, database: Rows, how: str
) -> None:
    with silent() as (address, _):
        url = {"refuses": "http://127.0.0.1:1", "is silent": address}.get(how)
        with function_of(platform, UPSTASH_REDIS_REST_URL=url) as client:
            for value in (0.31, 0.01):
                moment = int(value * 100_000)  # the late one is the older
                reports = [vital("CLS", value, id=f"p{each}", timestamp=moment)
                           for each in range(6)]  # fmt: skip
                send(client, reports)
                send(client, reports)
            eventually(partial(rated, client, "poor"))
            counted(client, 6)
            assert read(client)["complete"] is False


def test_what_postgres_counted_is_handed_back_and_moves_on_in_redis(
    site: httpx.Client, platform: Platform, means: services.Services, database: Rows
) -> None:
    with function_of(platform, UPSTASH_REDIS_REST_URL="http://127.0.0.1:1") as client:
        send(client, [vital("INP", 90, id=f"p{each}", timestamp=10) for each in range(6)])
        counted(client, 6)
    # One of them had reached Redis after all: its reply alone was lost.
    send(site, vital("INP", 90, id="p0", timestamp=10))
    said(platform, 2)
    with redis.Redis.from_url(platform.redis_url) as valkey:
        eventually(lambda: valkey.exists("rum:folded"))
        for _ in range(2):
            valkey.delete("rum:folded")
            rollup.roll_up(means, datetime.now(UTC))
    assert database.execute("select 1 from rum_lasts").fetchall() == []
    assert counted(site, 6)[0]["good"] == 1
    send(site, [vital("INP", 900, id=f"p{each}", timestamp=20) for each in range(6)])
    eventually(partial(rated, site, "poor"))
    counted(site, 6)


@pytest.mark.parametrize("how", ["refuse", "are silent", "are not configured"])
def test_with_both_down_samples_are_dropped_and_counted_in_the_log(
    platform: Platform, database: Rows, how: str
) -> None:
    with silent() as (redis_url, database_url):
        changes: dict[str, dict[str, str | None]] = {
            "refuse": dict(REFUSING),
            "are silent": {"UPSTASH_REDIS_REST_URL": redis_url, "DATABASE_URL": database_url},
            "are not configured": dict.fromkeys(REFUSING),
        }
        with platform.function("api/rum.py", **changes[how]) as function:
            with httpx.Client(base_url=function.url, timeout=20) as client:
                send(client, [vital(), vital()])

            def dropped() -> list[str]:
                return [str(line["message"]) for line in platform.logs()
                        if "rum_dropped" in line["message"]]  # fmt: skip

            assert json.loads(eventually(dropped)[0])["samples"] == 2
            answer = httpx.get(f"{function.url}/api/rum", timeout=20)
            assert answer.status_code == 503


def test_without_a_redis_at_all_postgres_is_kept_tidy(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    with function_of(platform, UPSTASH_REDIS_REST_URL=None) as client:
        send(client, [vital() for _ in range(6)])
        counted(client, 6)
    database.execute("update rum_lasts set seen_at = seen_at - interval '2 days'")
    database.execute("update rum_hours set hour = hour - interval '5 days'")
    nowhere = platform.environment | {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
    lonely = services.Services(settings.Settings(nowhere))
    with pytest.raises(CacheDown):
        rollup.roll_up(lonely, datetime.now(UTC))
    lonely.cache.close()
    lonely.database.close()
    assert (
        database.execute("select 1 from rum_lasts union all select 1 from rum_hours").fetchall()
        == []
    )
    counted(site, 6)


def test_with_redis_down_reading_goes_on_from_postgres(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    seeded(
        database, "dpl_1", datetime.now(UTC).replace(minute=0, second=0, microsecond=0), [1.0] * 9
    )
    with silent() as (url, _), function_of(platform, UPSTASH_REDIS_REST_URL=url) as client:
        body = read(client)
    assert (body["complete"], body["groups"][0]["n"]) == (False, 9)
    assert read(site)["complete"] is True


def test_a_visit_reads_the_same_whatever_its_shape() -> None:
    visit = RequestInfo(PHONE, "?1", "https://alfabeauty.co.id/en", "dpl_1", NOW)
    found = samples.parse(json.dumps([vital(), vital("CLS", 0.1)]).encode(), visit)
    assert [(each.metric, each.device, each.release) for each in found.samples] == [
        ("LCP", "mobile", "dpl_1"),
        ("CLS", "mobile", "dpl_1"),
    ]
    assert all(re.fullmatch(r"[0-9a-f]{22}", each.id) for each in found.samples)
    assert vitals_report.MIN_GROUP_SIZE == 5
