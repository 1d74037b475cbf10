"""The figures of a run: each service against the handbook's SLA, in calm and under faults."""

from collections.abc import Iterable, Mapping, Sequence

from dev.faults.invariant_report import InvariantReport
from dev.load import sampling
from dev.load.phases import Phase
from dev.load.traffic import MIX, Sample
from lib.monitoring.service_levels import SERVICES

SLA_MS = {service.id: service.sla_ms for service in SERVICES}
FLAT = 1.2  # memory, last quarter by second


def quantile_ms(samples: Sequence[Sample], share: float) -> float:
    """Of the answers that came."""
    ordered = sorted(sample.seconds * 1000 for sample in samples if sample.status)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def render(
    samples: Sequence[Sample],
    phases: Sequence[Phase],
    report: InvariantReport,
    megabytes: Mapping[str, list[tuple[float, float]]],
) -> str:
    calm = [sample for sample in samples if _fault_at(phases, sample.at_s) is None]
    broken = [sample for sample in samples if _fault_at(phases, sample.at_s) is not None]
    lines = [
        f"{'service':10}{'SLA ms':>8}{'phase':>8}{'offered':>9}{'answered':>10}{'p50 ms':>9}"
        f"{'p95 ms':>9}{'errors':>8}{'within SLA':>12}"
    ]
    for service in MIX:
        for name, part in (("calm", calm), ("faults", broken)):
            lines.append(_service_line(service, name, [s for s in part if s.service == service]))
    lines += ["", f"{'phase':34}{'leads p95 ms':>14}{'products p95 ms':>17}{'errors':>8}"]
    for phase in phases:
        inside = [sample for sample in samples if phase.from_s <= sample.at_s < phase.to_s]
        p95 = [
            quantile_ms([sample for sample in inside if sample.service == service], 0.95)
            for service in ("leads", "products")
        ]
        errors = sum(sample.is_error for sample in inside)
        lines.append(f"{phase.name:34}{p95[0]:14.0f}{p95[1]:17.0f}{errors:8}")
    lines += ["", f"{'memory':20}{'MB, 2nd quarter':>17}{'MB, last':>10}{'x':>7}"]
    lines += _memory_lines(megabytes)
    lines += [
        "",
        f"leads: attempted {report.attempted}, accepted {report.accepted}, lost {report.lost}, "
        f"doubled {report.doubled}; mails: due {report.mails_due}, "
        f"delivered {report.mails_delivered}, missing {report.mails_missing}, "
        f"doubled {report.mails_doubled}",
        *(f"! {finding}" for finding in report.findings[:20]),
    ]
    return "\n".join(lines)


def _fault_at(phases: Sequence[Phase], at_s: float) -> Phase | None:
    return next((p for p in phases if p.fault and p.from_s <= at_s < p.to_s), None)


def _service_line(service: str, phase: str, samples: Sequence[Sample]) -> str:
    sla_ms = SLA_MS.get(service)
    answered = [sample for sample in samples if sample.status]
    errors = sum(sample.is_error for sample in samples)
    within = "-"
    if sla_ms is not None and samples:
        within_sla = sum(s.seconds * 1000 <= sla_ms for s in answered if not s.is_error)
        within = f"{within_sla / len(samples):.1%}"
    return (
        f"{service:10}{sla_ms or '-':>8}{phase:>8}{len(samples):9}{len(answered):10}"
        f"{quantile_ms(samples, 0.5):9.0f}{quantile_ms(samples, 0.95):9.0f}{errors:8}{within:>12}"
    )


def _memory_lines(megabytes: Mapping[str, list[tuple[float, float]]]) -> Iterable[str]:
    for part, series in sorted(megabytes.items()):
        quarter = max(1, len(series) // 4)
        second = sampling.mean_size(series[quarter : 2 * quarter] or series)
        last = sampling.mean_size(series[-quarter:])
        ratio = sampling.growth(series)
        yield f"{part:20}{second:17.1f}{last:10.1f}{ratio:7.2f}{'' if ratio <= FLAT else '  grows'}"
