"""The report on vitals: quantiles of groups, and a release against the one before.

Groups are made by adding sketches up, never by averaging their quantiles. A group of fewer than
MIN_GROUP_SIZE values is left out: it would say more about somebody than about a page. Days are
those of Indonesia's western time.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lib import deadlines
from lib.interfaces import Services
from lib.problems import CacheDown, NotConfigured
from lib.vitals import ingest
from lib.vitals import quantile_sketch as sketch
from lib.vitals.ingest import CountRow
from lib.vitals.query import DIMENSIONS, LATEST, WIB_OFFSET, Query
from lib.vitals.samples import METRICS, VIEWS

if TYPE_CHECKING:
    from psycopg import Connection

MIN_GROUP_SIZE = 5
MAX_GROUPS = 3000
PING_TIMEOUT_S = 0.6  # until Postgres has answered at all
DATABASE_BUDGET_S = 8.0  # a year by everything; the edge asks once a minute
QUANTILE = 0.75  # the quantile that web vitals are judged by

type GroupKey = tuple[str, ...]
"""A group's values of the dimensions asked for, in their order."""

SKETCHES = """
select case when %(by_day)s then day::text else '' end as day,
  case when %(by_path)s then path else '' end as path,
  case when %(by_device)s then device else '' end as device,
  metric,
  case when %(by_release)s then release else '' end as release,
  bucket, sum(n)::bigint as n
from (
  select (hour at time zone 'Asia/Jakarta')::date as day, path, device, metric, release,
    buckets, counts
  from rum_hours
  union all
  select day, path, device, metric, release, buckets, counts from rum_days
) as kept, unnest(buckets, counts) as u (bucket, n)
where day between %(since)s and %(until)s
  and (%(path)s::text is null or path = %(path)s)
  and (%(device)s::text is null or device = %(device)s)
  and (%(metric)s::text is null or metric in (%(metric)s, 'views'))
  and (%(release)s::text is null or release = %(release)s)
group by 1, 2, 3, 4, 5, 6
"""

RELEASES = "select release, first_at from rum_releases order by first_at, release"

STORED_BATCHES = "select batch from rum_folds where batch = any(%(batches)s)"

SNAPSHOT_ISOLATION = "set transaction isolation level repeatable read, read only"


@dataclass(slots=True)
class ReportData:
    """Sketches by group, and when each release was first seen.

    complete: whether the newest minutes, which are in Redis, are in it.
    """

    query: Query
    complete: bool
    releases: dict[str, datetime]
    sketches: dict[GroupKey, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, values: tuple[str, ...], bucket: int, n: int) -> None:
        """Add to a group; values: one of each of DIMENSIONS."""
        pairs = zip(DIMENSIONS, values, strict=True)
        self.sketches[tuple(value for name, value in pairs if name in self.query.by)][bucket] += n

    def add_pending(self, row: CountRow) -> None:
        """Add what Redis holds, filtered and grouped as SKETCHES does it."""
        hour, path, device, metric, release, bucket, n = row
        self.releases[release] = min(self.releases.get(release, hour), hour)
        query, day = self.query, (hour + WIB_OFFSET).date()
        if (
            query.since <= day <= query.until
            and query.path in (None, path)
            and query.device in (None, device)
            and (query.metric in (None, metric) or metric == VIEWS)
            and query.release in (None, release)
        ):
            self.add((day.isoformat(), path, device, metric, release), bucket, n)

    def releases_by_time(self) -> list[tuple[str, datetime]]:
        return sorted(self.releases.items(), key=lambda item: (item[1], item[0]))


def load(services: Services, query: Query) -> ReportData:
    """Redis is read first, and Postgres after it in one snapshot, with the names of the batches
    that it has stored meanwhile: nothing is counted twice. Raises DatabaseDown."""
    deadlines.require_database_answer(services.database.run, PING_TIMEOUT_S)
    try:
        pending = ingest.read_pending(services.cache.execute)
    except (CacheDown, NotConfigured):
        pending = None
    values: dict[str, Any] = {f"by_{name}": name in query.by for name in DIMENSIONS}
    values |= {"since": query.since, "until": query.until, "batches": list(pending or ())}
    values |= query.filters()

    def read(connection: "Connection[Any]") -> tuple[list[Any], list[Any], set[str]]:
        with connection.transaction():
            connection.execute(SNAPSHOT_ISOLATION)
            stored = {row[0] for row in connection.execute(STORED_BATCHES, values)}
            rows = connection.execute(SKETCHES, values).fetchall()
            return rows, connection.execute(RELEASES).fetchall(), stored

    rows, releases, stored = services.database.run(read, budget_s=DATABASE_BUDGET_S)
    data = ReportData(query, pending is not None, dict(releases))
    for *dimensions, bucket, n in rows:
        data.add(tuple(dimensions), bucket, n)
    for batch, counts in (pending or {}).items():
        for row in counts if batch not in stored else ():
            data.add_pending(row)
    return data


def render(data: ReportData) -> dict[str, object]:
    """The response's body."""
    query = data.query
    groups: list[dict[str, object]] = []
    views: list[dict[str, object]] = []
    hidden = 0
    for key, sums in sorted(data.sketches.items()):
        counts = +sums  # without what is below one for a moment
        labels: dict[str, object] = dict(zip(query.by, key, strict=True))
        n = counts.total()
        if n < MIN_GROUP_SIZE:
            hidden += n > 0
        elif labels["metric"] == VIEWS:
            del labels["metric"]
            views.append({**labels, "n": n})
        else:
            groups.append({**labels, **_figures(str(labels["metric"]), counts, query.histogram)})
    return {
        "from": query.since.isoformat(),
        "to": query.until.isoformat(),
        "timezone": "Asia/Jakarta",
        "complete": data.complete,
        "by": list(query.by),
        "metrics": {
            name: {"unit": scale.unit, "good": scale.good, "poor": scale.poor}
            for name, scale in METRICS.items()
        },
        "groups": groups[:MAX_GROUPS],
        "views": views[:MAX_GROUPS],
        "hidden": hidden + len(groups[MAX_GROUPS:]) + len(views[MAX_GROUPS:]),
        "releases": [
            {"release": name, "first_at": at.astimezone(UTC).isoformat().replace("+00:00", "Z")}
            for name, at in data.releases_by_time()
        ],
    }


def _figures(metric: str, counts: Mapping[int, int], histogram: bool) -> dict[str, object]:
    scale = METRICS[metric]
    p75 = sketch.quantile(scale, counts, QUANTILE) or 0.0
    low, high = sketch.confidence_interval(scale, counts, QUANTILE) or (None, None)
    figures: dict[str, object] = {
        "n": sketch.total_count(counts),
        "p75": _round(metric, p75),
        "low": _round(metric, low),
        "high": _round(metric, high),
        "rating": sketch.RATINGS[scale.rating(p75)],
        **{name: round(share, 4) for name, share in sketch.rating_shares(counts).items()},
    }
    if histogram:
        figures["histogram"] = [
            {"from": _round(metric, start), "to": _round(metric, end), "n": counts[number]}
            for number in sorted(counts)
            for start, end in (sketch.bucket_edges(scale, number),)
        ]
    return figures


def compare_releases(services: Services, data: ReportData) -> dict[str, object] | None:
    """The release asked for against the one before it; None when there are not two."""
    query = data.query
    names = [name for name, _ in data.releases_by_time()]
    name = names[-1] if query.compare == LATEST and names else query.compare
    if name not in names or names.index(name) == 0:
        return None
    before = names[names.index(name) - 1]
    by = tuple(dimension for dimension in query.by if dimension not in ("day", "release"))
    new, old = (
        load(services, replace(query, by=by, release=release)).sketches
        for release in (name, before)
    )
    groups = [
        {**dict(zip(by, key, strict=True)), **figures}
        for key in sorted(set(new) & set(old))
        if (figures := _compare(key[by.index("metric")], +new[key], +old[key]))
    ]
    return {"release": name, "before": before, "groups": groups}


def _compare(metric: str, new: Counter[int], old: Counter[int]) -> dict[str, object] | None:
    if metric == VIEWS or min(new.total(), old.total()) < MIN_GROUP_SIZE:
        return None
    scale = METRICS[metric]
    change = sketch.quantile_difference(scale, new, old, QUANTILE)
    if change is None:
        return None
    return {
        "n": new.total(),
        "n_before": old.total(),
        "p75": _round(metric, sketch.quantile(scale, new, QUANTILE)),
        "p75_before": _round(metric, sketch.quantile(scale, old, QUANTILE)),
        "difference": _round(metric, change.value),
        "low": _round(metric, change.low),
        "high": _round(metric, change.high),
        "verdict": change.verdict,
    }


def _round(metric: str, value: float | None) -> float | None:
    """To a tenth of a millisecond, or to a ten-thousandth of a shift: finer than a bucket."""
    return None if value is None else round(value, 4 if METRICS[metric].unit == "" else 1)
