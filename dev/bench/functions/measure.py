"""Cold starts and warm rounds, interleaved: each round takes every function once."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace

from dev.bench.functions.builds import Built
from dev.bench.functions.environment import Dependencies
from dev.bench.functions.instance import Instance
from dev.bench.functions.load import Caller, LoadResult, LoadSpec, fill
from dev.bench.functions.targets import MeasuredFunction
from dev.bootstrap import ROOT

CONNECTIONS = (1, 8, 32)
TRIPS_TRIES = 5
DRAIN_S = 20.0
WARM_UP_S = 0.3

type Bench = Sequence[tuple[MeasuredFunction, Built]]


@dataclass(slots=True)
class Cold:
    """first_ms: from making the process to the body of its first real answer."""

    first_ms: list[float] = field(default_factory=list)
    user_init_ms: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Warm:
    """By number of connections. trips: a request's, to each, until its answer and after it."""

    latencies_ms: dict[int, list[float]] = field(default_factory=dict)
    took_s: dict[int, float] = field(default_factory=dict)
    cpu_ms: dict[int, float] = field(default_factory=dict)
    trips: dict[str, tuple[int, int]] = field(default_factory=dict)
    failed: int = 0

    def rate(self, connections: int) -> float:
        return len(self.latencies_ms[connections]) / self.took_s[connections]


class _Numbers:
    """Every request of a run is another one."""

    def __init__(self) -> None:
        self._next = int(time.time()) % 1000 * 10_000

    def take(self, count: int) -> int:
        first = self._next
        self._next += count
        return first


def cold(
    bench: Bench, dependencies: Dependencies, runs: int, tell: Callable[[str], None]
) -> dict[str, Cold]:
    results = {measured.name: Cold() for measured, _ in bench if measured.cold}
    numbers = _Numbers()
    for run in range(-1, runs):  # the first of each warms the system's file cache, uncounted
        tell(f"cold start {max(run, 0) + 1} of {runs}")
        for measured, built in bench:
            if not measured.cold:
                continue
            dependencies.stock()
            with Instance(built, dependencies.environment) as instance:
                caller = Caller(instance.port)
                request = fill(measured.request.encode("latin-1"), numbers.take(1))
                status, body = caller.ask(request)
                took_ms = (time.perf_counter() - instance.started_at) * 1000
                if status not in (200, 204):
                    raise RuntimeError(f"{measured.name}: {status} {body[:300]!r}")
                instance.settle()
                caller.close()
                if run < 0:
                    continue
                into = results[measured.name]
                into.first_ms.append(took_ms)
                into.user_init_ms.append(float(instance.init.get("userInitDuration", 0)))
                into.peak_mb.append(instance.peak_bytes / 1e6)
    return results


def warm(
    bench: Bench,
    dependencies: Dependencies,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
) -> dict[str, Warm]:
    results = {measured.name: Warm() for measured, _ in bench}
    numbers = _Numbers()
    with ExitStack() as running:
        callers = running.enter_context(_Callers())
        dependencies.stock()
        started = [
            (measured, running.enter_context(Instance(built, dependencies.environment)))
            for measured, built in bench
        ]
        for measured, instance in started:
            callers.run(LoadSpec(instance.port, 2, 0.4, measured.request, numbers.take(100_000)))
            instance.settle()
            results[measured.name].trips = _trips(measured, instance, dependencies, numbers)
        for number in range(rounds):
            tell(f"warm round {number + 1} of {rounds}")
            for connections in CONNECTIONS:
                for measured, instance in started:
                    dependencies.stock()
                    spec = LoadSpec(
                        instance.port, connections, seconds, measured.request, numbers.take(50_000)
                    )
                    # The others had their turns meanwhile: what was kept may have grown old.
                    again = replace(spec, seconds=WARM_UP_S, first=numbers.take(50_000))
                    callers.run(again)
                    instance.settle(DRAIN_S)
                    _round(callers, spec, instance, results[measured.name])
                    dependencies.forget()
    return results


def _round(callers: "_Callers", spec: LoadSpec, instance: Instance, into: Warm) -> None:
    n = spec.connections
    before_ms = instance.cpu_ms
    result = callers.run(spec)
    instance.settle(DRAIN_S)
    into.latencies_ms.setdefault(n, []).extend(result.latencies_ms)
    into.took_s[n] = into.took_s.get(n, 0.0) + result.took_s
    into.cpu_ms[n] = into.cpu_ms.get(n, 0.0) + instance.cpu_ms - before_ms
    into.failed += result.failed
    if result.failed:
        print(f"  {result.failed} failed: {result.last}", file=sys.stderr)


def _trips(
    measured: MeasuredFunction, instance: Instance, dependencies: Dependencies, numbers: _Numbers
) -> dict[str, tuple[int, int]]:
    """A request's round trips: the fewest made when its answer was there, and usually after.

    What follows the answer may already count when the caller has read it; never the other way.
    """
    tries = []
    caller = Caller(instance.port)
    for _ in range(TRIPS_TRIES):
        dependencies.forget()
        caller.ask(fill(measured.request.encode("latin-1"), numbers.take(1)))
        until = dependencies.trips()
        time.sleep(0.05)
        instance.settle()
        tries.append({name: (n, dependencies.trips()[name] - n) for name, n in until.items()})
    caller.close()
    trips = {}
    for name in ("redis", "postgres", "mail"):
        before = min(counts[name][0] for counts in tries)
        in_all = sorted(sum(counts[name]) for counts in tries)[len(tries) // 2]
        trips[name] = (before, in_all - before)
    return trips


class _Callers:
    """The process that makes the load."""

    def __enter__(self) -> "_Callers":
        command = [sys.executable, "-c", "from dev.bench.functions import load; load.main()"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def run(self, spec: LoadSpec) -> LoadResult:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(spec)) + "\n")
        self._process.stdin.flush()
        return LoadResult(**json.loads(self._process.stdout.readline()))
