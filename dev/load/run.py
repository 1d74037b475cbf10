"""Runs of `python3 -m dev load`: minutes of traffic with faults, then every lead is counted."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dev.build import source_tree
from dev.faults.oracle import Oracle
from dev.faults.test_site import SiteUnderTest
from dev.load import picture, report, wall
from dev.load.phases import Phase, phases
from dev.load.sampling import MemorySampler
from dev.load.traffic import CALLERS, Traffic, run_beside
from dev.platform.local_platform import Platform
from dev.platform.seed import load_seed

BUDGET_S = 12.0  # an answer's 8 s, and what a busy machine adds
DRAIN_EVERY_S = 10.0  # the cron's minute would leave a short run no mail
WARM_UP_S = 5.0


@contextmanager
def start_site(root: Path) -> Iterator[SiteUnderTest]:
    """One instance of each function, which lets in whatever comes."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        copied = source_tree.copy(root, Path(folder) / "tree")
        with (
            Platform(root, Path(folder) / "data", durable=False) as platform,
            SiteUnderTest(platform, copied, concurrency=CALLERS) as site,
        ):
            _empty_and_stock(site)
            yield site


def main(root: Path, minutes: float, rate: float, out: Path, *, to_the_wall: bool) -> int:
    """Print the figures and write the picture; 1 when a lead was lost or a promise broken."""
    with start_site(root) as site:
        if to_the_wall:
            return wall.main(site)
        return run_traffic(site, minutes * 60, rate, out)


def run_traffic(
    site: SiteUnderTest, seconds: float, rate: float, out: Path, *, budget_s: float = BUDGET_S
) -> int:
    planned = list(phases(seconds))
    Traffic(Oracle(site), site.url).run(rate, WARM_UP_S)  # every function has started
    site.wait_idle(30)
    _empty_and_stock(site)
    oracle = Oracle(site, budget_s=budget_s)
    traffic = Traffic(oracle, site.url)
    with MemorySampler(lambda: function_pids(site), lambda: traffic.elapsed_s) as memory:
        sender = run_beside(lambda: traffic.run(rate, seconds))
        drains = run_beside(lambda: _drain_until(site, traffic, seconds))
        for phase in planned:
            time.sleep(max(0.0, phase.from_s - traffic.elapsed_s))
            print(f"{phase.from_s:6.0f} s  {phase.name}", flush=True)
            _apply(site, phase)
        sender.join()
        drains.join()
    print("Mending, draining, counting …", flush=True)
    invariants = oracle.recover_and_check(insist=True)
    print(f"\n{report.render(traffic.samples, planned, invariants, memory.megabytes)}")
    title = f"{len(traffic.samples)} requests in {seconds:.0f} s; faults shaded"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(picture.draw(traffic.samples, planned, memory.megabytes, title))
    print(f"\npicture: {out}")
    return 0 if invariants.ok else 1


def _empty_and_stock(site: SiteUnderTest) -> None:
    """Nothing but the seed's catalogue."""
    site.reset()
    seed = site.root / "supabase" / "seed" / "catalogue.json"
    load_seed(site.admin, json.loads(seed.read_text("utf-8")))


def function_pids(site: SiteUnderTest) -> Mapping[str, list[int]]:
    names = {running["name"] for running in site.running()}
    return {name: site.pids(name) for name in names}


def _apply(site: SiteUnderTest, phase: Phase) -> None:
    site.clear_faults()
    if phase.fault is not None:
        site.apply([phase.fault])


def _drain_until(site: SiteUnderTest, traffic: Traffic, seconds: float) -> None:
    while traffic.elapsed_s < seconds:
        site.drain()
        time.sleep(DRAIN_EVERY_S)
