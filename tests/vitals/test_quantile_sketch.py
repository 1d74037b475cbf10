"""The sketches' arithmetic, and the counting they rest on, for inputs nobody thought of."""

import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import permutations

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dev.platform.local_platform import Platform
from lib import services, settings
from lib.vitals import ingest, quantile_sketch
from lib.vitals import samples as vitals_samples
from lib.vitals.quantile_sketch import RATINGS, Scale
from lib.vitals.samples import METRICS, RequestInfo

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
LCP, CLS = METRICS["LCP"], METRICS["CLS"]

scales = st.sampled_from(list(METRICS.values()))


@st.composite
def samples(draw: st.DrawFn) -> tuple[Scale, list[float]]:
    scale = draw(scales)
    value = st.floats(0, scale.maximum) | st.sampled_from([scale.floor, scale.good, scale.poor])
    return scale, draw(st.lists(value, min_size=1, max_size=200))


def sketch_of(scale: Scale, values: list[float]) -> dict[int, int]:
    return dict(Counter(quantile_sketch.bucket_of(scale, value) for value in values))


@given(samples(), st.floats(0.01, 1))
def test_any_quantile_is_off_by_two_percent_at_most(
    drawn: tuple[Scale, list[float]], share: float
) -> None:
    scale, values = drawn
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    estimate = quantile_sketch.quantile(scale, sketch_of(scale, values), share)
    assert estimate is not None
    if exact < scale.floor:
        assert estimate == 0
    else:
        assert abs(estimate - exact) <= 0.02 * exact


@given(samples())
def test_shares_are_exact(drawn: tuple[Scale, list[float]]) -> None:
    scale, values = drawn
    shares = quantile_sketch.rating_shares(sketch_of(scale, values))
    for index, name in enumerate(RATINGS):
        exact = sum(scale.rating(value) == index for value in values) / len(values)
        assert shares[name] == exact


@given(samples())
def test_a_value_lies_between_the_edges_of_its_bucket_and_buckets_keep_its_order(
    drawn: tuple[Scale, list[float]],
) -> None:
    scale, values = drawn
    numbers = [quantile_sketch.bucket_of(scale, value) for value in sorted(values)]
    assert numbers == sorted(numbers)
    assert all(0 <= number < 32768 for number in numbers), "a smallint in Postgres"
    for value, number in zip(sorted(values), numbers, strict=True):
        low, high = quantile_sketch.bucket_edges(scale, number)
        assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


def test_nothing_has_no_quantile_and_one_value_no_interval() -> None:
    assert quantile_sketch.quantile(LCP, {}, 0.75) is None
    assert quantile_sketch.confidence_interval(LCP, {300: 1}, 0.75) is None
    assert quantile_sketch.quantile_difference(LCP, {}, {300: 1}, 0.75) is None


# --- The interval keeps its promise. Seeded: a promise of chance is tested by its frequency.


def drawn_from(chance: random.Random, n: int, centre: float) -> dict[int, int]:
    return sketch_of(LCP, [chance.lognormvariate(math.log(centre), 0.6) for _ in range(n)])


def test_the_interval_of_a_quantile_holds_the_truth_as_often_as_it_says() -> None:
    chance, z75 = random.Random(4), 0.6744897501960817
    truth = math.exp(math.log(2000) + 0.6 * z75)
    covered = 0
    for _ in range(400):
        bounds = quantile_sketch.confidence_interval(LCP, drawn_from(chance, 200, 2000), 0.75)
        assert bounds is not None
        covered += bounds[0] <= truth <= bounds[1]
    assert covered / 400 >= 0.95


@pytest.mark.parametrize("n", [20, 60, 1000])
def test_equal_releases_are_hardly_ever_reported_as_different(n: int) -> None:
    chance = random.Random(n)
    changes = [
        quantile_sketch.quantile_difference(
            LCP, drawn_from(chance, n, 2000), drawn_from(chance, n, 2000), 0.75
        )
        for _ in range(300)
    ]
    alarms = sum(
        change is not None and change.verdict != "no clear difference" for change in changes
    )
    assert alarms <= 6, "1 in 100 is what the interval allows"


def test_a_real_regression_is_reported_with_enough_visits() -> None:
    chance = random.Random(5)
    detected = 0
    for _ in range(100):
        new, old = drawn_from(chance, 1000, 2400), drawn_from(chance, 1000, 2000)
        change = quantile_sketch.quantile_difference(LCP, new, old, 0.75)
        detected += change is not None and change.verdict == "worse"
    assert detected >= 90


# --- The last value of an id counts once.


@pytest.fixture(scope="module")
def all_services(platform: Platform) -> Iterator[services.Services]:
    all_services = services.Services(settings.Settings(platform.environment))
    yield all_services
    all_services.close()


reports = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.floats(0, 10)),
    min_size=1,
    max_size=12,
    unique_by=lambda report: report[:2],  # a page does not say two things at one moment
)


def beacon(some: list[tuple[str, int, float]]) -> list[vitals_samples.Sample]:
    items = [
        {"name": "CLS", "id": name, "timestamp": at, "value": value, "page": "/"}
        for name, at, value in some
    ]
    visit = RequestInfo("Mozilla/5.0 (Windows NT 10.0)", None, "", "dpl_1", NOW)
    return vitals_samples.parse(json.dumps(items).encode(), visit).samples


def expected(some: list[tuple[str, int, float]]) -> dict[int, int]:
    """One count an id: that of its latest moment."""
    last = {name: value for name, _, value in sorted(some, key=lambda report: report[1])}
    return sketch_of(CLS, list(last.values()))


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(some=reports, chance=st.randoms(use_true_random=False))
def test_the_last_value_of_an_id_counts_once_in_any_order_and_split(
    platform: Platform,
    all_services: services.Services,
    some: list[tuple[str, int, float]],
    chance: random.Random,
) -> None:
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.flushall()
    all_services.database.run(lambda connection: connection.execute("delete from rum_hours"))
    arrivals = [*some, *chance.sample(some, len(some) // 2)]  # some beacons come twice
    chance.shuffle(arrivals)
    cut = chance.randrange(len(arrivals) + 1)
    for part in (arrivals[:cut], arrivals[cut:]):
        if part:
            assert ingest.record(all_services, beacon(part), NOW).lost == 0
    assert counts_of(all_services) == expected(some)


def counts_of(all_services: services.Services) -> dict[int, int]:
    """Every bucket that is not empty, in Redis and Postgres together."""
    pending = [
        (row[5], row[6])
        for rows in ingest.read_pending(all_services.cache.execute).values()
        for row in rows
    ]
    flat = "select bucket, n from rum_hours, unnest(buckets, counts) as u (bucket, n)"
    stored = all_services.database.run(lambda connection: connection.execute(flat).fetchall())
    total = Counter[int]()
    for bucket, n in [*pending, *stored]:
        total[bucket] += n
    return {bucket: n for bucket, n in total.items() if n}


def test_every_order_of_three_reports_says_the_same(
    platform: Platform, all_services: services.Services, database: object
) -> None:
    some = [("a", 1, 0.05), ("a", 2, 0.3), ("a", 3, 0.2)]
    for order in permutations(some):
        with redis.Redis.from_url(platform.redis_url) as valkey:
            valkey.flushall()
        for report in order:
            ingest.record(all_services, beacon([report]), NOW)
        assert counts_of(all_services) == expected(some)
