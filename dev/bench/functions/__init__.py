"""The functions as deployed, against the platform's floor and what would usually be written.

`python3 -m dev bench functions`: builds all with Vercel's builder, starts them over the runtime's
IPC protocol, and measures them interleaved in one run, with Redis 2 ms away, Postgres 1 ms and
mail 150 ms. About ten minutes; `--quick` about four. Trust the ratios of one run, nothing else.
"""

import argparse
import sys
import time
from pathlib import Path

from dev.bench.functions import builds, measure, report, targets
from dev.bench.functions.environment import Dependencies


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    runs, rounds = (5, 1) if given.quick else (given.cold, given.rounds)
    seconds = 0.5 if given.quick else given.seconds
    started = time.monotonic()
    outputs = _outputs(given.commit, competitors=not given.no_competitors)
    with Dependencies() as dependencies:
        bench = _bench(outputs, dependencies.etag, tuple(given.only), given.commit)
        cold = measure.cold(bench, dependencies, runs, _tell) if runs else {}
        warm = measure.warm(bench, dependencies, rounds, seconds, _tell) if rounds else {}
    ours = outputs["ours"]
    home = ours / "functions"
    names = [f.relative_to(home).with_suffix("").as_posix() for f in home.rglob("*.func")]
    sizes = {name: builds.function(ours, name).size for name in names}
    print(f"{runs} cold starts each, {rounds} warm rounds of {seconds:g} s")
    for line in report.tables(report.Run(bench, cold, warm, sizes)):
        print(line)
    print(f"\n{time.monotonic() - started:.0f} s in all")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench functions")
    parser.add_argument("--cold", type=int, default=15, help="fresh processes of each (15)")
    parser.add_argument("--rounds", type=int, default=3, help="warm rounds; 0: none (3)")
    parser.add_argument("--seconds", type=float, default=0.8, help="of load a round (0.8)")
    parser.add_argument("--quick", action="store_true", help="5 cold starts, one short round")
    parser.add_argument("--only", nargs="+", default=list(targets.JOBS), choices=targets.JOBS)
    parser.add_argument("--no-competitors", action="store_true", help="ours and the floors alone")
    parser.add_argument(
        "--commit", nargs="+", default=[], help="our functions of these commits beside this tree's"
    )
    return parser


def _outputs(commits: list[str], *, competitors: bool) -> dict[str, Path]:
    names = ["wsgi", "werkzeug", "insert", *(("fastapi", "flask") if competitors else ())]
    outputs = {"ours": builds.ours()} | {name: builds.competitor(name) for name in names}
    return outputs | {commit: builds.of_commit(commit) for commit in commits}


def _bench(
    outputs: dict[str, Path], etag: str, jobs: tuple[str, ...], commits: list[str]
) -> measure.Bench:
    chosen = targets.floors()
    for build in ("ours", *commits):
        chosen += targets.ours(jobs, build, etag)
    if "fastapi" in outputs:
        chosen += targets.competitors(jobs)
    return [
        (measured, builds.hono() if measured.build == "hono" else
         builds.function(outputs[measured.build], measured.function))
        for measured in chosen
    ]  # fmt: skip


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
