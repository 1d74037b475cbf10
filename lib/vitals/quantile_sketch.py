"""Quantile sketches: counts in buckets whose edges grow by a constant factor, so they add up.

After DDSketch (Masson, Rim, Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
Relative-Error Guarantees", VLDB 2019): a value v belongs to bucket ceil(log v / log gamma), so any
quantile is off by at most RELATIVE_ERROR, however sketches are merged. No library does it here: a
value becomes one number, and Redis and Postgres add the counts. Buckets are never collapsed, since
values are bounded: at most some 1300 buckets, 60 to 100 in use.

The rule a newcomer would break: a bucket's number is stored for ever. RELATIVE_ERROR and a scale's
figures cannot change without a migration. Each bucket is split where the rating changes, so the
shares of good, needs improvement and poor are exact, not estimates.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

RELATIVE_ERROR = 0.018
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
RATINGS = ("good", "needs_improvement", "poor")

_LOG_GAMMA = math.log(GAMMA)
Z_95, Z_99 = 1.96, 2.576  # of the normal distribution: two-sided 95 % and 99 %

type Counts = Mapping[int, int]
"""Bucket number -> how many values."""


class Scale(NamedTuple):
    """A metric's measure. Below `floor` all values are alike (bucket 0) and read as 0; `good` and
    `poor` are inclusive: up to `good` is good, up to `poor` needs improvement."""

    unit: str
    floor: float
    good: float
    poor: float
    maximum: float

    def rating(self, value: float) -> int:
        """An index of RATINGS."""
        return 0 if value <= self.good else 1 if value <= self.poor else 2


class Difference(NamedTuple):
    """How much more the newer of two quantiles is; `low` to `high` holds the truth in 99 of 100
    cases. Both are None where either side has too few values to say."""

    value: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Noise is no regression: only an interval without 0 in it is a verdict."""
        if self.low is not None and self.low > 0:
            return "worse"
        if self.high is not None and self.high < 0:
            return "better"
        return "no clear difference"


def bucket_of(scale: Scale, value: float) -> int:
    """The number of the bucket `value` belongs to; 0 <= value <= scale.maximum."""
    if value < scale.floor:
        return 0
    step = math.ceil(math.log(value / scale.floor) / _LOG_GAMMA)
    return 3 * (step + 1) + scale.rating(value)


def bucket_edges(scale: Scale, number: int) -> tuple[float, float]:
    """The least and the greatest value of a bucket."""
    if number == 0:
        return 0.0, scale.floor
    step, rating = number // 3 - 1, number % 3
    low, high = scale.floor * GAMMA ** (step - 1), scale.floor * GAMMA**step
    above = (0.0, scale.good, scale.poor)[rating]
    below = (scale.good, scale.poor, scale.maximum)[rating]
    return max(low, above), min(high, below)


def bucket_middle(scale: Scale, number: int) -> float:
    """The value nearest, relatively, to all of a bucket: its edges' harmonic mean."""
    if number == 0:
        return 0.0
    low, high = bucket_edges(scale, number)
    return 2 * low * high / (low + high)


def total_count(counts: Counts) -> int:
    return sum(counts.values())


def quantile(scale: Scale, counts: Counts, share: float) -> float | None:
    """The value that `share` of all do not exceed (nearest rank); None of nothing."""
    n = total_count(counts)
    if n == 0:
        return None
    return bucket_middle(scale, _bucket_at_rank(counts, max(1, math.ceil(share * n))))


def rating_shares(counts: Counts) -> dict[str, float]:
    """The exact shares of good, needs improvement and poor. `counts` is not empty."""
    by_rating = Counter[int]()
    for number, n in counts.items():
        by_rating[number % 3] += n
    n = total_count(counts)
    return {name: by_rating[index] / n for index, name in enumerate(RATINGS)}


def confidence_interval(
    scale: Scale, counts: Counts, share: float, z: float = Z_95
) -> tuple[float, float] | None:
    """Where the quantile of all visits lies, these being a sample of them.

    From order statistics: the number of values below the true quantile is binomial, so the values
    at ranks n*share -/+ z*sqrt(n*share*(1-share)) enclose it, whatever the distribution. Taken at
    the outer edges of their buckets, so the sketch's own error is inside. None when the sample is
    so small that the ranks fall off its ends.
    """
    n = total_count(counts)
    spread = z * math.sqrt(n * share * (1 - share))
    first, last = math.floor(n * share - spread), math.ceil(n * share + spread) + 1
    if first < 1 or last > n:
        return None
    low, _ = bucket_edges(scale, _bucket_at_rank(counts, first))
    _, high = bucket_edges(scale, _bucket_at_rank(counts, last))
    return low, high


def quantile_difference(scale: Scale, new: Counts, old: Counts, share: float) -> Difference | None:
    """The newer quantile minus the older, with its 99 % interval; None when one is empty.

    The two intervals are combined by MOVER (Zou and Donner, Statistics in Medicine 2008), which
    wants no symmetry: web vitals have a long right tail.
    """
    newer, older = quantile(scale, new, share), quantile(scale, old, share)
    if newer is None or older is None:
        return None
    new_bounds = confidence_interval(scale, new, share, Z_99)
    old_bounds = confidence_interval(scale, old, share, Z_99)
    change = newer - older
    if new_bounds is None or old_bounds is None:
        return Difference(change, None, None)
    down = math.hypot(newer - new_bounds[0], old_bounds[1] - older)
    up = math.hypot(new_bounds[1] - newer, older - old_bounds[0])
    return Difference(change, change - down, change + up)


def _bucket_at_rank(counts: Counts, rank: int) -> int:
    """The bucket that holds the value at a rank, counted from 1."""
    reached = 0
    for number in sorted(counts):
        reached += counts[number]
        if reached >= rank:
            return number
    raise ValueError("fewer values than that")
