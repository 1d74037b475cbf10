"""The tables, and what was promised."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dev.bench.functions.measure import CONNECTIONS, Bench, Cold, Warm
from dev.bench.functions.targets import COMPETITORS, EMPTY, FLOOR, INSERT, JOBS

COLD_AT_MOST = {"health": 1.1, "products": 1.6, "leads": 1.9, "rum": 1.5}
P95_AT_MOST = {"health": 1.25, "products": 1.3, "leads": 1.3, "rum": 1.25}
LARGEST_MB = 236  # 225 MiB: above, packages are installed when a function starts


@dataclass(frozen=True, slots=True)
class Run:
    """What one run found; sizes in bytes and files, of every function of ours."""

    bench: Bench
    cold: dict[str, Cold]
    warm: dict[str, Warm]
    sizes: dict[str, tuple[int, int]]


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cold_ratio(run: Run, name: str, to: str) -> float:
    """The median of what the two took one after the other: a busy moment hits both."""
    pairs = zip(run.cold[name].first_ms, run.cold[to].first_ms, strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def tables(run: Run) -> Iterator[str]:
    if run.cold:
        yield from _cold(run)
    if run.warm:
        yield from _warm(run)
        yield from _trips(run)
    yield from _targets(run)


def _cold(run: Run) -> Iterator[str]:
    yield "\n### Cold start: from making the process to the first real answer\n"
    yield "| function | median ms | 10 %-90 % | x empty werkzeug | userInit ms | peak MB | bundle MB | files |"  # noqa: E501
    yield "| --- | --: | --: | --: | --: | --: | --: | --: |"
    for measured, built in run.bench:
        if measured.name not in run.cold:
            continue
        results = run.cold[measured.name]
        median = statistics.median(results.first_ms)
        spread = f"{percentile(results.first_ms, 0.1):.0f}-{percentile(results.first_ms, 0.9):.0f}"
        size, files = built.size
        init = statistics.median(results.user_init_ms)
        ratio = cold_ratio(run, measured.name, EMPTY)
        yield (
            f"| {measured.name} | {median:.0f} | {spread} | {ratio:.2f} |"
            f" {f'{init:.0f}' if init else '-'} | {statistics.median(results.peak_mb):.0f} |"
            f" {size / 1e6:.1f} | {files} |"
        )


def _warm(run: Run) -> Iterator[str]:
    for n in CONNECTIONS:
        yield f"\n### Warm, {n} connection{'s' if n > 1 else ''}\n"
        yield "| function | requests/s | p50 ms | p95 ms | p99 ms | x empty WSGI's p95 | CPU ms a request |"  # noqa: E501
        yield "| --- | --: | --: | --: | --: | --: | --: |"
        floor = percentile(run.warm[FLOOR].latencies_ms[n], 0.95)
        for measured, _ in run.bench:
            results = run.warm[measured.name]
            p50, p95, p99 = (percentile(results.latencies_ms[n], s) for s in (0.5, 0.95, 0.99))
            cpu_ms = results.cpu_ms[n] / len(results.latencies_ms[n])
            yield (
                f"| {measured.name} | {results.rate(n):.0f} | {p50:.1f} | {p95:.1f} | {p99:.1f} |"
                f" {p95 / floor:.2f} | {cpu_ms:.2f} |"
            )


def _trips(run: Run) -> Iterator[str]:
    yield "\n### Round trips of a request: until its answer + after it\n"
    yield "| function | Redis | Postgres | mail |"
    yield "| --- | --: | --: | --: |"
    for measured, _ in run.bench:
        cells = " | ".join(f"{a} + {b}" for a, b in run.warm[measured.name].trips.values())
        yield f"| {measured.name} | {cells} |"


@dataclass(frozen=True, slots=True)
class Target:
    """value is to be at most (or, above=True, more than) limit."""

    name: str
    value: float
    limit: float
    above: bool = False

    @property
    def line(self) -> str:
        met = self.value > self.limit if self.above else self.value <= self.limit
        sign = "more than" if self.above else "at most"
        return (
            f"| {self.name} | {sign} {self.limit:g} | {self.value:.2f} |"
            f" {'met' if met else '**missed**'} |"
        )


def _targets(run: Run) -> Iterator[str]:
    yield "\n### Targets\n"
    yield "| target | | measured | |"
    yield "| --- | --- | --: | --- |"
    for target in [
        *_cold_targets(run),
        *_warm_targets(run),
        *_competitor_targets(run),
        *_sizes(run),
    ]:
        yield target.line


def _cold_targets(run: Run) -> Iterator[Target]:
    if not run.cold:
        return
    for job in JOBS:
        if job in run.cold:
            ratio = cold_ratio(run, job, EMPTY)
            yield Target(f"{job}: cold, x empty werkzeug", ratio, COLD_AT_MOST[job])


def _warm_targets(run: Run) -> Iterator[Target]:
    def p95(name: str, n: int) -> float:
        return percentile(run.warm[name].latencies_ms[n], 0.95)

    for job in [*JOBS, "products 304"]:
        if job not in run.warm:
            continue
        base = INSERT if job == "leads" else FLOOR
        for n in CONNECTIONS:
            name = f"{job}: p95 at {n}, x {base}"
            yield Target(name, p95(job, n) / p95(base, n), P95_AT_MOST[job.split()[0]])
        if job.startswith("products"):
            for n in CONNECTIONS[1:]:
                ratio = run.warm[job].rate(n) / run.warm[FLOOR].rate(n)
                yield Target(f"{job}: requests/s at {n}, x {FLOOR}", ratio, 1, above=True)
    if "leads" in run.warm:
        trips = run.warm["leads"].trips
        yield Target("leads: Postgres round trips until the answer", trips["postgres"][0], 1)
        yield Target("leads: Redis round trips until the answer", trips["redis"][0], 1)
    if "rum" in run.warm:
        awaited = sum(until for until, _ in run.warm["rum"].trips.values())
        yield Target("rum: round trips until the answer", awaited, 0)


def _competitor_targets(run: Run) -> Iterator[Target]:
    built = {measured.name: made for measured, made in run.bench}
    for job in JOBS:
        for competitor in COMPETITORS:
            name = f"{job}, {competitor}"
            if job not in built or name not in built:
                continue
            if run.cold:
                ratio = cold_ratio(run, job, name)
                yield Target(f"{job}: cold, x {competitor}", ratio, 1)
            for n in CONNECTIONS if run.warm else ():
                ratio = run.warm[name].rate(n) / run.warm[job].rate(n)
                yield Target(f"{job}: time a request at {n}, x {competitor}", ratio, 1)


def _sizes(run: Run) -> Iterator[Target]:
    if not run.sizes:
        return
    largest = max(run.sizes, key=lambda name: run.sizes[name][0])
    yield Target(f"largest bundle, MB ({largest})", run.sizes[largest][0] / 1e6, LARGEST_MB)
