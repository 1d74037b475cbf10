"""A million beacons: how much room they take in Postgres, and how far p75 is off.

`python3 -m dev bench rum [--beacons N]`. A platform of its own. The beacons are spread over a year
of ten pages; each is parsed as the function does it (lib.vitals.samples) and counted in this
process, then every day's counts are added to real Postgres as a batch (lib.vitals.rollup): the
same numbers as over HTTP, without hours of waiting. A thousand go through Redis, for a rate.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import psycopg

from dev.bootstrap import ROOT
from dev.platform.local_platform import Platform
from lib.services import Services
from lib.settings import Settings
from lib.vitals import ingest, quantile_sketch, rollup, samples
from lib.vitals import query as vitals_query
from lib.vitals import report as vitals_report
from lib.vitals.samples import METRICS, RequestInfo

PAGES = [f"/halaman-{letter}" for letter in "abcdefghij"]
USER_AGENTS = {
    "mobile": "Mozilla/5.0 (Linux; Android 14) Mobile",
    "tablet": "Mozilla/5.0 (iPad)",
    "desktop": "Mozilla/5.0 (Windows NT 10.0)",
}
DAYS = 365
RELEASE_DAYS = 3
MEDIAN_AND_SIGMA = {"LCP": (1900, 0.5), "INP": (140, 0.7), "FCP": (1300, 0.45), "TTFB": (450, 0.7)}

SIZES = """
select relname, n_live_tup, pg_total_relation_size(relid) as bytes
from pg_stat_user_tables where relname in ('rum_hours', 'rum_days') order by relname
"""

type ExactValues = dict[str, list[float]]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench rum")
    parser.add_argument("--beacons", type=int, default=1_000_000)
    beacons: int = parser.parse_args(arguments).beacons
    with (
        tempfile.TemporaryDirectory() as data,
        Platform(ROOT, Path(data), durable=False) as platform,
    ):
        _measure(platform, beacons)
    return 0


def _measure(platform: Platform, beacons: int) -> None:
    services = Services(Settings(platform.environment))
    now = datetime.now(UTC)
    exact: ExactValues = {name: [] for name in METRICS}
    started = time.perf_counter()
    for number in range(DAYS):
        day = now - timedelta(days=DAYS - number)
        rows = _simulate_day(day, beacons // DAYS + (number < beacons % DAYS), exact)
        add_day = partial(rollup.add_batch, batch=f"bench-{number}", rows=rows, now=now)
        services.database.run(add_day, budget_s=60)
        rollup.roll_up(services, day)  # hours into days, as the cron does it
    took_s = time.perf_counter() - started
    print(f"{beacons:,} beacons over {DAYS} days of {len(PAGES)} pages, 3 devices, 5 metrics,")
    print(f"a release every {RELEASE_DAYS} days: {took_s:.0f} s, {beacons / took_s:,.0f} a second")
    with psycopg.connect(platform.admin_database_url, autocommit=True) as admin:
        _print_size(admin)
        _print_accuracy(admin, exact)
        _print_projection(admin)
    _print_reading(services, now)
    _print_rate(services, now)
    services.close()


def _simulate_day(
    day: datetime, n: int, exact: ExactValues
) -> list[tuple[datetime, str, str, str, str, int, int]]:
    """A day's counts, from beacons parsed one by one."""
    release = f"dpl_{day.toordinal() // RELEASE_DAYS}"
    counts: Counter[tuple[datetime, str, str, str, str, int]] = Counter()
    for _ in range(n):
        moment = day.replace(hour=random.choices(range(24), _HOUR_WEIGHTS)[0])
        device = random.choices(list(USER_AGENTS), (70, 8, 22))[0]
        name = random.choice(list(METRICS))
        value = _value(name)
        exact[name].append(value)
        request = RequestInfo(USER_AGENTS[device], None, "", release, moment)
        for sample in samples.parse(_beacon(name, value), request).samples:
            counts[sample[2:]] += 1
    return [(*dimensions, count) for dimensions, count in counts.items()]


_HOUR_WEIGHTS = [1 + 9 * math.exp(-(((hour - 6) % 24 - 6) ** 2) / 18) for hour in range(24)]


def _value(name: str) -> float:
    if name == "CLS":
        shifted = random.random() < 0.55
        return min(10.0, random.lognormvariate(math.log(0.035), 1.1)) if shifted else 0.0
    middle, width = MEDIAN_AND_SIGMA[name]
    return min(600_000.0, random.lognormvariate(math.log(middle), width))


def _beacon(name: str, value: float) -> bytes:
    page = random.choice(PAGES)
    report = {"name": name, "value": value, "id": f"v6-{random.random()}", "page": page}
    return json.dumps([report]).encode()


def _print_size(admin: psycopg.Connection[Any]) -> None:
    admin.execute("vacuum full rum_hours, rum_days")
    admin.execute("analyze rum_hours, rum_days")
    print("\nthe last days by the hour, the rest by the day")
    for table, rows, size in admin.execute(SIZES):
        print(f"  {table:10} {rows:9,} rows  {size / 1e6:7.1f} MB with its index")


def _print_accuracy(admin: psycopg.Connection[Any], exact: ExactValues) -> None:
    print(f"\n{'p75':5} {'exact':>10} {'sketch':>10} {'off by':>8}   (promised: 2 % at most)")
    for name, values in exact.items():
        counts = _load_sketch(admin, name)
        assert quantile_sketch.total_count(counts) == len(values), "every beacon counts once"
        values.sort()
        true = values[max(1, math.ceil(0.75 * len(values))) - 1]
        p75 = quantile_sketch.quantile(METRICS[name], counts, 0.75) or 0.0
        print(f"{name:5} {true:10.4f} {p75:10.4f} {abs(p75 - true) / true:8.2%}")


def _load_sketch(admin: psycopg.Connection[Any], name: str) -> dict[int, int]:
    rows = admin.execute(
        "select bucket, sum(n) from (select metric, buckets, counts from rum_hours union all"
        " select metric, buckets, counts from rum_days) as kept,"
        " unnest(buckets, counts) as u (bucket, n) where metric = %s group by bucket",
        [name],
    )
    return {bucket: int(n) for bucket, n in rows}


def _print_projection(admin: psycopg.Connection[Any]) -> None:
    """What a row can grow to, however much traffic: every bucket in use of a metric's usual 100."""
    row = admin.execute(
        "select count(*), avg(cardinality(buckets)), max(cardinality(buckets)),"
        " avg(pg_column_size(rum_days.*)) from rum_days"
    ).fetchone()
    assert row is not None
    rows, mean, most, size = row
    full = size - 6 * mean + 6 * 100 + 60  # 2 + 4 bytes a bucket; 60 for its share of the index
    print(f"\na year of ten pages: {rows:,} rows of {mean:.0f} buckets (at most {most})")
    print(f"  if every row used 100 buckets, with any traffic: {rows * float(full) / 1e6:.0f} MB")


def _print_reading(services: Services, now: datetime) -> None:
    print()
    for parameters in ("days=28", "days=90&by=day", "days=365&by=path,device&compare=latest",
                  "days=90&by=day,path,device,release"):  # fmt: skip
        started = time.perf_counter()
        query = vitals_query.parse(parse_qs(parameters), now, "en")
        data = vitals_report.load(services, query)
        vitals_report.render(data)
        if query.compare is not None:
            vitals_report.compare_releases(services, data)
        print(f"GET /api/rum?{parameters:38} {(time.perf_counter() - started) * 1000:7.0f} ms")


def _print_rate(services: Services, now: datetime) -> None:
    """Whole beacons of three metrics through Redis, one call each."""
    request = RequestInfo(USER_AGENTS["mobile"], "?1", "", "dpl_rate", now)
    started = time.perf_counter()
    for number in range(1000):
        items = [{"name": name, "value": 0.1, "id": f"r{number}", "page": "/"}
                 for name in ("LCP", "CLS", "INP")]  # fmt: skip
        parsed = samples.parse(json.dumps(items).encode(), request)
        assert ingest.record(services, parsed.samples, now).lost == 0
    ms = time.perf_counter() - started  # seconds for a thousand
    print(f"\none beacon of three metrics into Redis, one call: {ms:.2f} ms")
