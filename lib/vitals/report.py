"""Reading the sketches: quantiles of groups, and a release against the one before.

Groups are made by adding sketches up, never by averaging their quantiles. A group of fewer than
FEWEST values is left out: it would say more about somebody than about a page. Days are those of
Indonesia's western time.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lib import deadlines
from lib.interfaces import Services
from lib.problems import CacheDown, NotConfigured
from lib.vitals import ingest, quantile_sketch
from lib.vitals.ingest import CountRow
from lib.vitals.query import DIMENSIONS, LATEST, WIB_OFFSET, Query
from lib.vitals.samples import METRICS, VIEWS

if TYPE_CHECKING:
    from psycopg import Connection

MIN_GROUP_SIZE = 5
MAX_GROUPS = 3000
PING_TIMEOUT_S = 0.6  # until Postgres has said anything at all
DATABASE_BUDGET_S = 8.0  # a year by everything; the edge asks once a minute
QUANTILE = 0.75  # the quantile that web vitals are judged by

type GroupKey = tuple[str, ...]
"""A group: its values of the dimensions asked for, in their order."""


@dataclass(slots=True)
class ReportData:
    """Sketches by group, and when each release was first heard of."""

    sketches: dict[GroupKey, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    releases: dict[str, datetime] = field(default_factory=dict)


# ------------------------------------------------------------------ what is there

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


def load(means: Services, asked: Query) -> tuple[ReportData, bool]:
    """What is asked for, and whether the newest minutes, which are in Redis, are in it.

    Redis is read first, and Postgres at one moment after it, with the names of the batches that
    it has taken over since: nothing is counted twice. Raises DatabaseDown.
    """
    deadlines.require_database_answer(means.database.run, PING_TIMEOUT_S)
    try:
        fresh = ingest.read_pending(means.cache.execute)
    except (CacheDown, NotConfigured):
        fresh = None
    values: dict[str, Any] = {f"by_{name}": name in asked.by for name in DIMENSIONS}
    values |= {"since": asked.since, "until": asked.until, "batches": list(fresh or ())}
    values |= asked.filters()

    def ask(connection: "Connection[Any]") -> tuple[list[Any], list[Any], set[str]]:
        with connection.transaction():
            connection.execute(SNAPSHOT_ISOLATION)
            taken = {row[0] for row in connection.execute(STORED_BATCHES, values)}
            rows = connection.execute(SKETCHES, values).fetchall()
            return rows, connection.execute(RELEASES).fetchall(), taken

    rows, releases, taken = means.database.run(ask, budget_s=DATABASE_BUDGET_S)
    found = ReportData(releases=dict(releases))
    for day, path, device, metric, release, bucket, n in rows:
        _add_count(found, asked, (day, path, device, metric, release), bucket, n)
    for batch, counts in (fresh or {}).items():
        if batch not in taken:
            _add_pending(found, asked, counts)
    return found, fresh is not None


def _add_count(found: ReportData, asked: Query, values: Sequence[str], bucket: int, n: int) -> None:
    key = tuple(value for name, value in zip(DIMENSIONS, values, strict=True) if name in asked.by)
    found.sketches[key][bucket] += n


def _add_pending(found: ReportData, asked: Query, rows: Iterable[CountRow]) -> None:
    """What Redis holds, chosen and grouped as SKETCHES does it."""
    for hour, path, device, metric, release, bucket, n in rows:
        known = found.releases.setdefault(release, hour)
        found.releases[release] = min(known, hour)
        day = (hour + WIB_OFFSET).date()
        wanted = asked.metric in (None, metric) or metric == VIEWS
        wanted = wanted and asked.path in (None, path) and asked.device in (None, device)
        wanted = wanted and asked.release in (None, release)
        if wanted and asked.since <= day <= asked.until:
            _add_count(found, asked, (day.isoformat(), path, device, metric, release), bucket, n)


# ------------------------------------------------------------------ what is answered


def render(asked: Query, found: ReportData, *, complete: bool) -> dict[str, object]:
    """The answer's body."""
    groups, views, hidden = _render_groups(asked, found)
    body: dict[str, object] = {
        "from": asked.since.isoformat(),
        "to": asked.until.isoformat(),
        "timezone": "Asia/Jakarta",
        "complete": complete,
        "by": list(asked.by),
        "metrics": {
            name: {"unit": scale.unit, "good": scale.good, "poor": scale.poor}
            for name, scale in METRICS.items()
        },
        "groups": groups[:MAX_GROUPS],
        "views": views[:MAX_GROUPS],
        "hidden": hidden + len(groups[MAX_GROUPS:]) + len(views[MAX_GROUPS:]),
        "releases": [
            {"release": name, "first_at": at.astimezone(UTC).isoformat().replace("+00:00", "Z")}
            for name, at in _releases_by_time(found)
        ],
    }
    return body


def _render_groups(
    asked: Query, found: ReportData
) -> tuple[list[dict[str, object]], list[dict[str, object]], int]:
    """Groups of vitals and of views, and how many were too small to show."""
    groups: list[dict[str, object]] = []
    views: list[dict[str, object]] = []
    hidden = 0
    for key, counts in sorted(found.sketches.items()):
        shown = {number: n for number, n in counts.items() if n > 0}
        named: dict[str, object] = dict(zip(asked.by, key, strict=True))
        n = quantile_sketch.total_count(shown)
        if n < MIN_GROUP_SIZE:
            hidden += n > 0
        elif named["metric"] == VIEWS:
            del named["metric"]
            views.append({**named, "n": n})
        else:
            groups.append({**named, **_group_figures(str(named["metric"]), shown, asked.histogram)})
    return groups, views, hidden


def _group_figures(metric: str, counts: Mapping[int, int], histogram: bool) -> dict[str, object]:
    scale = METRICS[metric]
    p75 = quantile_sketch.quantile(scale, counts, QUANTILE) or 0.0
    bounds = quantile_sketch.confidence_interval(scale, counts, QUANTILE)
    figures: dict[str, object] = {
        "n": quantile_sketch.total_count(counts),
        "p75": _round(metric, p75),
        "low": _round(metric, bounds[0]) if bounds else None,
        "high": _round(metric, bounds[1]) if bounds else None,
        "rating": quantile_sketch.RATINGS[scale.rating(p75)],
        **{name: round(share, 4) for name, share in quantile_sketch.rating_shares(counts).items()},
    }
    if histogram:
        figures["histogram"] = [
            {"from": _round(metric, low), "to": _round(metric, high), "n": counts[number]}
            for number in sorted(counts)
            for low, high in (quantile_sketch.bucket_edges(scale, number),)
        ]
    return figures


def compare_releases(means: Services, asked: Query, found: ReportData) -> dict[str, object] | None:
    """The release asked for against the one before it; None when there are not two."""
    order = [name for name, _ in _releases_by_time(found)]
    name = order[-1] if asked.compare == LATEST and order else asked.compare
    if name not in order or order.index(name) == 0:
        return None
    before = order[order.index(name) - 1]
    by = tuple(each for each in asked.by if each not in ("day", "release"))
    new, old = (
        load(means, replace(asked, by=by, release=release))[0].sketches
        for release in (name, before)
    )
    compared = [
        {**dict(zip(by, key, strict=True)), **figures}
        for key in sorted(set(new) & set(old))
        if (figures := _compare_groups(key[by.index("metric")], new[key], old[key]))
    ]
    return {"release": name, "before": before, "groups": compared}


def _compare_groups(metric: str, new: Counter[int], old: Counter[int]) -> dict[str, object] | None:
    new, old = +new, +old  # without what is momentarily below one
    if (
        metric == VIEWS
        or min(quantile_sketch.total_count(new), quantile_sketch.total_count(old)) < MIN_GROUP_SIZE
    ):
        return None
    scale = METRICS[metric]
    change = quantile_sketch.quantile_difference(scale, new, old, QUANTILE)
    if change is None:
        return None
    return {
        "n": quantile_sketch.total_count(new),
        "n_before": quantile_sketch.total_count(old),
        "p75": _round(metric, quantile_sketch.quantile(scale, new, QUANTILE) or 0.0),
        "p75_before": _round(metric, quantile_sketch.quantile(scale, old, QUANTILE) or 0.0),
        "difference": _round(metric, change.value),
        "low": None if change.low is None else _round(metric, change.low),
        "high": None if change.high is None else _round(metric, change.high),
        "verdict": change.verdict,
    }


def _releases_by_time(found: ReportData) -> list[tuple[str, datetime]]:
    return sorted(found.releases.items(), key=lambda each: (each[1], each[0]))


def _round(metric: str, value: float) -> float:
    """To a tenth of a millisecond, or to a ten-thousandth of a shift: finer than a bucket."""
    return round(value, 4 if METRICS[metric].unit == "" else 1)
