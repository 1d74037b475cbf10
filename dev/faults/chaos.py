"""`python3 -m dev chaos`: a longer run of random trouble, by a seed, and what became of each lead.

Faults, client behaviour, kills and freezes follow dev/faults/plan.py; then everything is mended and
drained, and the oracle counts.
"""

import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from dev.build import source_tree
from dev.faults import plan
from dev.faults.invariant_report import InvariantReport, find_leaks
from dev.faults.mutations import MUTATIONS
from dev.faults.oracle import Oracle
from dev.faults.plan import FaultEvent, Load, Phase
from dev.faults.test_site import SiteUnderTest
from dev.platform.local_platform import Platform

# The answer's 8 s, and what we add ourselves: a freeze, and a cold start on a busy machine.
BUDGET_S = 8.0 + plan.MAX_FREEZE_S + 2.0


def main(root: Path, seed: int | None, minutes: float, variant: str | None) -> int:
    """Run and print the figures; 1 when any promise was broken, 2 when it could not run."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    if variant is not None and variant not in MUTATIONS:
        print(f"No variant {variant!r}; there are {', '.join(MUTATIONS)}.", file=sys.stderr)
        return 2
    print(f"Seed {seed}, {minutes:g} min{f', variant {variant}' if variant else ''}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        changes = MUTATIONS[variant] if variant else ()
        copied = source_tree.copy(root, Path(folder) / "tree", changes)
        with (
            Platform(root, Path(folder) / "data", durable=False) as platform,
            SiteUnderTest(platform, copied) as site,
        ):
            report = run(site, seed, minutes * 60, lambda text: print(text, flush=True))
    print(f"\nSeed {seed}\n{report.render()}")
    return 0 if report.ok else 1


def run(
    site: SiteUnderTest, seed: int, seconds: float, tell: Callable[[str], None]
) -> InvariantReport:
    """Rounds of trouble for so many seconds, then the report. It ends by itself."""
    site.reset()
    oracle = Oracle(site, budget_s=BUDGET_S)
    end = time.monotonic() + seconds
    for planned in plan.phases(seed):
        if time.monotonic() + planned.seconds > end and planned.number > 1:
            break
        before = len(oracle.attempts)
        _run_phase(oracle, planned)
        tell(f"{planned}; {len(oracle.attempts) - before} leads")
        # The log is a ring: look before it comes round.
        oracle.problems += find_leaks(site, oracle.attempts)
        site.log.forget()
    tell("Mending, draining, counting …")
    return oracle.recover_and_check(insist=True)


def _run_phase(oracle: Oracle, planned: Phase) -> None:
    site = oracle.site
    site.apply(planned.faults)
    works: list[tuple[float, Callable[[], object]]] = []
    for load in planned.loads:
        works += [(load.at_s, work) for work in _senders(oracle, load)]
    works += [(event.at_s, _signal_sender(site, event)) for event in planned.fault_events]
    works += [(at_s, site.drain) for at_s in planned.drains_at_s]
    started = time.monotonic()
    threads = []
    for at_s, work in sorted(works, key=lambda timed: timed[0]):
        time.sleep(max(0.0, started + at_s - time.monotonic()))
        threads.append(threading.Thread(target=work))
        threads[-1].start()
    time.sleep(max(0.0, started + planned.seconds - time.monotonic()))
    site.clear_faults()
    for thread in threads:
        thread.join()


def _senders(oracle: Oracle, load: Load) -> list[Callable[[], object]]:
    attempts = [oracle.new_attempt(keyed=load.client.sends_key) for _ in range(load.leads)]
    times = 2 if load.sent_twice else 1
    return [
        partial(oracle.send, attempt, load.client) for attempt in attempts for _ in range(times)
    ]


def _signal_sender(site: SiteUnderTest, event: FaultEvent) -> Callable[[], None]:
    def strike() -> None:
        pids = site.signal(event.function, event.signum)
        if event.signum == signal.SIGSTOP:
            time.sleep(event.resume_after_s)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    return strike
