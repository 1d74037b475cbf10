"""The sketches' arithmetic, and the counting they rest on, for inputs nobody thought of."""

import json
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

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

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
LCP, CLS = METRICS["LCP"], METRICS["CLS"]

scales = st.sampled_from(list(METRICS.values()))


@st.composite
def samples(draw: st.DrawFn) -> tuple[Scale, list[float]]:
    scale = draw(scales)
    value = st.floats(0, scale.maximum) | st.sampled_from([scale.floor, scale.good, scale.poor])
    return scale, draw(st.lists(value, min_size=1, max_size=200))


def sketched(scale: Scale, values: list[float]) -> dict[int, int]:
    return dict(
        quantile_sketch.merge({quantile_sketch.bucket_of(scale, value): 1} for value in values)
    )


@given(samples(), st.floats(0.01, 1))
def test_any_quantile_is_off_by_two_percent_at_most(
    drawn: tuple[Scale, list[float]], share: float
) -> None:
    scale, values = drawn
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = quantile_sketch.quantile(scale, sketched(scale, values), share)
    assert found is not None
    if exact < scale.floor:
        assert found == 0
    else:
        assert abs(found - exact) <= 0.02 * exact


@given(samples())
def test_shares_are_exact(drawn: tuple[Scale, list[float]]) -> None:
    scale, values = drawn
    shares = quantile_sketch.rating_shares(sketched(scale, values))
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


counts = st.dictionaries(st.integers(0, 1400), st.integers(1, 10**6), max_size=30)


@given(counts, counts, counts)
def test_merging_is_associative_and_commutative(
    one: dict[int, int], two: dict[int, int], three: dict[int, int]
) -> None:
    left = quantile_sketch.merge([quantile_sketch.merge([one, two]), three])
    right = quantile_sketch.merge([one, quantile_sketch.merge([two, three])])
    assert left == right == quantile_sketch.merge([three, one, two])
    assert quantile_sketch.total_count(left) == sum(
        quantile_sketch.total_count(each) for each in (one, two, three)
    )


@given(samples(), st.integers(0, 200))
def test_a_merged_sketch_is_the_sketch_of_all(drawn: tuple[Scale, list[float]], cut: int) -> None:
    scale, values = drawn
    parts = [sketched(scale, values[:cut]), sketched(scale, values[cut:])]
    assert dict(quantile_sketch.merge(parts)) == sketched(scale, values)


def test_nothing_has_no_quantile_and_one_value_no_interval() -> None:
    assert quantile_sketch.quantile(LCP, {}, 0.75) is None
    assert quantile_sketch.confidence_interval(LCP, {300: 1}, 0.75) is None
    assert quantile_sketch.quantile_difference(LCP, {}, {300: 1}, 0.75) is None


# --- The interval keeps its promise. Seeded: a promise of chance is tested by its frequency.


def drawn_from(chance: random.Random, n: int, centre: float) -> dict[int, int]:
    return sketched(LCP, [chance.lognormvariate(math.log(centre), 0.6) for _ in range(n)])


def test_the_interval_of_a_quantile_holds_the_truth_as_often_as_it_says() -> None:
    chance, z75 = random.Random(4), 0.6744897501960817
    truth = math.exp(math.log(2000) + 0.6 * z75)
    held = 0
    for _ in range(400):
        bounds = quantile_sketch.confidence_interval(LCP, drawn_from(chance, 200, 2000), 0.75)
        assert bounds is not None
        held += bounds[0] <= truth <= bounds[1]
    assert held / 400 >= 0.95


@pytest.mark.parametrize("n", [20, 60, 1000])
def test_two_releases_alike_are_hardly_ever_told_apart(n: int) -> None:
    chance = random.Random(n)
    verdicts = [
        quantile_sketch.quantile_difference(
            LCP, drawn_from(chance, n, 2000), drawn_from(chance, n, 2000), 0.75
        )
        for _ in range(300)
    ]
    alarms = sum(each is not None and each.verdict != "no clear difference" for each in verdicts)
    assert alarms <= 6, "1 in 100 is what the interval allows"


def test_a_real_regression_is_told_with_enough_visits() -> None:
    chance = random.Random(5)
    told = 0
    for _ in range(100):
        new, old = drawn_from(chance, 1000, 2400), drawn_from(chance, 1000, 2000)
        change = quantile_sketch.quantile_difference(LCP, new, old, 0.75)
        told += change is not None and change.verdict == "worse"
    assert told >= 90


# --- The last value of an id counts once, in Redis itself and in Postgres itself.


@pytest.fixture(scope="module")
def means(platform: Platform) -> Iterator[services.Services]:
    made = services.Services(settings.Settings(platform.environment))
    yield made
    made.cache.close()
    made.database.close()


class OnlyPostgres:
    """What a function has at hand while Redis is down."""

    def __init__(self, platform: Platform, database: object) -> None:
        nowhere = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
        self.cache = services.Services(settings.Settings(platform.environment | nowhere)).cache
        self.database = database


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
    return sketched(CLS, list(last.values()))


@pytest.mark.parametrize("where", ["redis", "postgres"])
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(some=reports, chance=st.randoms(use_true_random=False))
def test_the_last_value_of_an_id_counts_once_in_any_order_and_split(
    platform: Platform,
    means: services.Services,
    where: str,
    some: list[tuple[str, int, float]],
    chance: random.Random,
) -> None:
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.flushall()
    means.database.run(lambda connection: connection.execute("delete from rum_lasts"))
    means.database.run(lambda connection: connection.execute("delete from rum_hours"))
    hands: Any = means if where == "redis" else OnlyPostgres(platform, means.database)
    arrivals = [*some, *chance.sample(some, len(some) // 2)]  # some beacons come twice
    chance.shuffle(arrivals)
    cut = chance.randrange(len(arrivals) + 1)
    for part in (arrivals[:cut], arrivals[cut:]):
        if part:
            assert ingest.record(hands, beacon(part), NOW).where == where
    assert held(means) == expected(some)


def held(means: services.Services) -> dict[int, int]:
    """Every bucket that is not empty, wherever it lies."""
    fresh = [
        (row[5], row[6])
        for rows in ingest.read_pending(means.cache.execute).values()
        for row in rows
    ]
    flat = "select bucket, n from rum_hours, unnest(buckets, counts) as u (bucket, n)"
    kept = means.database.run(lambda connection: connection.execute(flat).fetchall())
    total = quantile_sketch.merge({bucket: n} for bucket, n in [*fresh, *kept])
    return {bucket: n for bucket, n in total.items() if n}


def test_every_order_of_three_reports_says_the_same(
    platform: Platform, means: services.Services, database: object
) -> None:
    some = [("a", 1, 0.05), ("a", 2, 0.3), ("a", 3, 0.2)]
    for order in permutations(some):
        with redis.Redis.from_url(platform.redis_url) as valkey:
            valkey.flushall()
        for report in order:
            ingest.record(means, beacon([report]), NOW)
        assert held(means) == expected(some)
