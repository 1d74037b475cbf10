"""The rate at which the first promise breaks on this machine, and what breaks it."""

import os
from collections.abc import Mapping, Sequence

from dev.faults.oracle import Oracle
from dev.faults.test_site import SiteUnderTest
from dev.load import report, sampling
from dev.load.traffic import MIX, Sample, Traffic

STEP_S = 12.0
FIRST_RATE, FACTOR, LAST_RATE = 1.0, 1.5, 60.0
MOST_ERRORS = 0.01


def main(site: SiteUnderTest) -> int:
    """Prints a line a rate until a promise breaks."""
    requests_per_s = sum(MIX.values())
    oracle = Oracle(site, budget_s=float("inf"))
    Traffic(oracle, site.url).run(FIRST_RATE, 5.0)
    print(f"{'offered/s':>10}{'leads/s':>9}" + "".join(f"{name + ' p95':>14}" for name in MIX)
          + f"{'errors':>8}   cores used")  # fmt: skip
    rate, broken = FIRST_RATE, list[str]()
    while not broken and rate <= LAST_RATE:
        meter = sampling.CpuMeter(lambda: parts(site))
        traffic = Traffic(oracle, site.url)
        traffic.run(rate, STEP_S)
        cores = meter.cores()
        broken = broken_promises(traffic.samples)
        print(_line(rate * requests_per_s, rate * MIX["leads"], traffic.samples, cores), flush=True)
        site.wait_idle(60)
        rate *= FACTOR
    counts = oracle.recover_and_check()
    print(f"\nfirst to break: {'; '.join(broken) or 'nothing'}, on {os.cpu_count()} cores that the "
          "callers, the platform and the stand-ins share")  # fmt: skip
    print(f"leads: accepted {counts.accepted}, lost {counts.lost}, doubled {counts.doubled}; "
          f"mails missing {counts.mails_missing}, doubled {counts.mails_doubled}")  # fmt: skip
    return 1 if counts.lost or counts.doubled else 0


def parts(site: SiteUnderTest) -> Mapping[str, list[int]]:
    """Processes by part; the callers and the stand-ins are threads of this one."""
    functions = {
        running["name"].removeprefix("api/"): site.pids(running["name"])
        for running in site.running()
    }
    return {**functions, "postgres": [site.platform.postgres.pid]}


def broken_promises(samples: Sequence[Sample]) -> list[str]:
    """SLAs of the handbook that p95 is beyond, and services with errors."""
    broken = []
    for service in MIX:
        own = [sample for sample in samples if sample.service == service]
        p95, sla_ms = report.quantile_ms(own, 0.95), report.SLA_MS.get(service)
        if sla_ms is not None and p95 > sla_ms:
            broken.append(f"{service}: p95 {p95:.0f} ms, SLA {sla_ms}")
        errors = sum(sample.is_error for sample in own)
        if errors > MOST_ERRORS * len(own):
            broken.append(f"{service}: {errors} errors of {len(own)}")
    return broken


def _line(
    offered: float, leads: float, samples: Sequence[Sample], cores: Mapping[str, float]
) -> str:
    latencies = "".join(
        f"{report.quantile_ms([s for s in samples if s.service == name], 0.95):14.0f}"
        for name in MIX
    )
    errors = sum(sample.is_error for sample in samples)
    used = ", ".join(
        f"{part} {n:.2f}" for part, n in sorted(cores.items(), key=lambda c: -c[1]) if n >= 0.01
    )
    return f"{offered:10.0f}{leads:9.1f}{latencies}{errors:8}   {used}"
