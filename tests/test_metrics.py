"""Counting answered requests: exact where a promise is about it, once, and never in the way."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib import metrics
from lib.metrics import BUCKET_EDGES_MS, RequestCounter
from lib.monitoring import rollup, service_levels
from lib.problems import CacheDown
from lib.services import Services
from lib.settings import Settings
from ops.incidents import metrics as metrics_command
from tests.conftest import eventually

type Rows = psycopg.Connection[DictRow]

NOW = datetime(2026, 11, 24, 3, 5, tzinfo=UTC)
PROMISED = [200, 500, 1000, 5000]


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    services = Services(Settings(platform.environment))
    yield services
    services.close()


# --- Buckets.


@pytest.mark.parametrize("bound", PROMISED)
def test_an_sla_bound_is_a_bucket_edge_so_counting_decides_it_exactly(bound: int) -> None:
    counts = Counter(metrics.bucket_of(took) for took in (bound - 0.1, bound, bound + 0.1))
    assert metrics.count_within(counts, bound) == 2


def test_the_edges_never_change() -> None:
    assert len(BUCKET_EDGES_MS) == 57
    assert BUCKET_EDGES_MS[:6] == (10, 12, 14, 17, 20, 24)
    assert BUCKET_EDGES_MS[-1] == 81920


@given(st.lists(st.floats(0, 80_000), min_size=1, max_size=300), st.sampled_from([0.5, 0.95]))
def test_a_quantile_lies_between_its_edges_and_they_hold_the_true_one(
    took: list[float], share: float
) -> None:
    estimate = metrics.quantile(Counter(map(metrics.bucket_of, took)), share)
    assert estimate is not None
    value, low, high = estimate
    rank = max(1, -(-share * len(took) // 1))
    true = sorted(took)[int(rank) - 1]
    assert low <= value <= high
    assert low <= true <= high


@given(st.lists(st.floats(0, 30_000), min_size=20, max_size=400), st.sampled_from(PROMISED))
def test_the_share_inside_a_bound_is_the_true_share(took: list[float], bound: int) -> None:
    counts = Counter(map(metrics.bucket_of, took))
    assert metrics.count_within(counts, bound) == sum(ms <= bound for ms in took)


def test_the_figure_is_off_by_a_few_percent_for_usual_latencies() -> None:
    drawn = statistics.NormalDist(5.3, 0.6).samples(4000, seed=7)  # logarithms: about 200 ms
    took = sorted(2.718281828**exponent for exponent in drawn)
    estimate = metrics.quantile(Counter(map(metrics.bucket_of, took)), 0.95)
    assert estimate is not None
    assert estimate[0] == pytest.approx(took[int(0.95 * len(took))], rel=0.05)


@pytest.mark.parametrize(
    ("answered", "kind"),
    [(200, "ok"), (204, "ok"), (304, "ok"), (202, "queued"), (422, "refused"), (503, "error")],
)
def test_an_answer_has_a_class(answered: int, kind: str) -> None:
    assert metrics.outcome_of(answered) == kind


# --- On their way.


class Redis:
    """What a recorder sends, and what it is answered."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.down = False

    def __call__(self, *command: Any) -> object:
        if self.down:
            raise CacheDown
        self.sent.append(command)
        return "switch"


def counted(sent: list[tuple[Any, ...]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for command in sent:
        args = command[3 + command[2] + 1 :]
        for field, n in zip(args[1::3], args[2::3], strict=True):
            total[field] += n
    return total


def test_a_lone_request_is_one_command_and_hears_the_maintenance_switch() -> None:
    sink, windows = Redis(), list[object]()
    RequestCounter(sink, windows.append).count("health", "dpl", 200, 3.0, NOW)
    assert len(sink.sent) == 1
    assert sink.sent[0][0] == "EVAL"
    assert counted(sink.sent) == {"health|dpl|ok|0": 1}
    assert windows == ["switch"]


def test_requests_close_together_share_a_command_and_every_one_is_counted() -> None:
    sink = Redis()
    recorder = RequestCounter(sink, lambda _: None)
    for _ in range(100):
        recorder.count("products", "dpl", 200, 3.0, NOW)
    eventually(lambda: counted(sink.sent)["products|dpl|ok|0"] == 100, 3)
    assert len(sink.sent) <= 3


def test_an_error_is_sent_at_once() -> None:
    sink = Redis()
    recorder = RequestCounter(sink, lambda _: None)
    recorder.count("leads", "dpl", 200, 3.0, NOW)
    recorder.count("leads", "dpl", 500, 3.0, NOW)
    assert counted(sink.sent)["leads|dpl|error|0"] == 1


def test_many_threads_count_each_request_once() -> None:
    sink = Redis()
    recorder = RequestCounter(sink, lambda _: None)

    def work() -> None:
        for _ in range(200):
            recorder.count("rum", "dpl", 204, 1.0, NOW)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: counted(sink.sent)["rum|dpl|ok|0"] == 1600, 3)


def test_with_redis_down_counts_are_lost_and_the_next_ones_are_not() -> None:
    sink = Redis()
    recorder = RequestCounter(sink, lambda _: None)
    sink.down = True
    with pytest.raises(CacheDown):
        recorder.count("leads", "dpl", 500, 3.0, NOW)
    sink.down = False
    recorder.count("leads", "dpl", 500, 3.0, NOW)
    assert counted(sink.sent) == {"leads|dpl|error|0": 1}


# --- Of the running functions.


def minutes(valkey: redis.Redis) -> Counter[tuple[str, str, str]]:
    """(service, deployment, class) -> how many, over every minute there is."""
    total: Counter[tuple[str, str, str]] = Counter()
    for key in valkey.keys("metrics:*"):
        for (service, deployment, kind, _), n in metrics.parse_minute(valkey.hgetall(key)).items():
            total[service, deployment, kind] += n
    return total


def test_every_answer_of_every_service_is_counted_by_deployment_and_class(
    site: httpx.Client, valkey: redis.Redis
) -> None:
    for _ in range(3):
        site.get("/api/health")
    site.post("/api/leads", json={})
    site.post("/api/rum", content=b"[]")
    site.get("/api/products")
    site.options("/api/products")
    expected = {
        ("health", "dpl_local", "ok"): 3,
        ("leads", "dpl_local", "refused"): 1,
        ("rum", "dpl_local", "ok"): 1,
        ("products", "dpl_local", "ok"): 1,
    }
    eventually(lambda: minutes(valkey) == expected)
    assert 0 < valkey.ttl(valkey.keys("metrics:*")[0]) <= metrics.RETENTION_S


def test_a_request_costs_one_command_after_its_answer(
    site: httpx.Client, platform: Platform
) -> None:
    site.get("/api/health")
    time.sleep(1.2)  # what is near enough to share has been sent
    platform.upstash.forget()
    site.get("/api/health")
    [request] = eventually(platform.upstash.received)
    assert request["body"][0] == "EVAL"


@pytest.mark.measures_time
def test_with_redis_stalled_a_request_waits_for_nothing(platform: Platform, database: Rows) -> None:
    with platform.function("api/health.py") as health:
        httpx.get(f"{health.url}/api/health")
        platform.upstash.switch("stall")
        started = time.monotonic()
        assert httpx.get(f"{health.url}/api/health").status_code == 200
        assert time.monotonic() - started < 0.5
        platform.upstash.ok()


# --- Taken over, and summed.


def put(services: Services, at: datetime, field: str, n: int) -> None:
    services.cache.execute("HINCRBY", metrics.minute_key(metrics.minute_of(at)), field, n)


def fold(services: Services, since: datetime, now: datetime) -> int:
    run, run_all = services.database.run, services.cache.pipeline
    return rollup.roll_up(run, run_all, since, now, service_levels.SLA_BUCKETS)


def total(database: Rows, table: str) -> int:
    row = database.execute(f"select coalesce(sum(n), 0)::int as n from {table}".encode()).fetchone()
    assert row is not None
    return int(row["n"])


def test_a_minute_is_rolled_up_once_however_often_the_rollup_runs(
    services: Services, database: Rows
) -> None:
    put(services, NOW, "leads|a|ok|5", 7)
    put(services, NOW - timedelta(minutes=70), "leads|b|error|5", 2)
    for _ in range(3):
        fold(services, NOW - timedelta(hours=2), NOW)
    for table in ("metric_minutes", "metric_hours", "service_days"):
        assert total(database, table) == 9
    put(services, NOW, "leads|a|ok|5", 1)  # late
    fold(services, NOW, NOW + timedelta(minutes=2))
    assert total(database, "metric_hours") == 10


def test_after_a_day_without_a_monitor_run_every_minute_is_rolled_up(
    services: Services, database: Rows
) -> None:
    for hour in range(30):
        put(services, NOW - timedelta(hours=hour), "products|a|ok|3", 1)
    fold(services, NOW - timedelta(hours=30), NOW)
    assert total(database, "metric_minutes") == 30


def test_rolled_up_counts_survive_the_loss_of_redis(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    put(services, NOW, "health|a|ok|0", 50)
    fold(services, NOW - timedelta(hours=1), NOW)
    valkey.flushall()
    put(services, NOW, "health|a|ok|0", 1)  # it begins again, below what was taken over
    fold(services, NOW - timedelta(hours=1), NOW)
    assert total(database, "metric_minutes") == 50


def test_garbage_among_the_minutes_is_passed_over(services: Services, database: Rows) -> None:
    put(services, NOW, "leads|a|ok|5", 1)
    key = metrics.minute_key(metrics.minute_of(NOW))
    services.cache.execute("HSET", key, "nonsense", "x", "leads|a|ok|six", "1")
    assert fold(services, NOW - timedelta(hours=1), NOW) == 1


def test_burn_rates_tell_how_fast_the_error_budget_goes(services: Services, database: Rows) -> None:
    put(services, NOW - timedelta(minutes=2), "leads|a|ok|5", 90)
    put(services, NOW - timedelta(minutes=2), "leads|a|error|5", 10)
    put(services, NOW - timedelta(hours=3), "leads|a|ok|5", 900)
    fold(services, NOW - timedelta(hours=5), NOW)
    rates = services.database.run(lambda c: metrics_command.burn_rates(c, NOW))
    assert rates["leads"]["5m"] == pytest.approx(20)  # 10 % where 0.5 % is allowed
    assert rates["leads"]["6h"] == pytest.approx(2)
