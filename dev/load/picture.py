"""A run as plain SVG: latencies, errors and memory over time, phases with faults shaded."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from dev.load.phases import Phase
from dev.load.report import SLA_MS, quantile_ms
from dev.load.traffic import Sample

WIDTH, LEFT, RIGHT = 1200, 80, 170
PANEL, GAP, TOP = 220, 70, 150
COLORS = {"leads": "#c0392b", "products": "#2471a3", "rum": "#7d3c98", "health": "#1e8449",
          "status": "#b9770e"}  # fmt: skip
MORE_COLORS = ("#566573", "#af601a", "#117a65", "#6c3483", "#1b4f72")
WINDOW_S = 3.0
LEAST_MS, MOST_MS = 1.0, 30_000.0

type Point = tuple[float, float]
type Line = tuple[str, str, Sequence[Point]]
"""Name, color, and points in the picture."""


class Picture:
    """Panels below each other over one axis of time."""

    def __init__(self, seconds: float, title: str) -> None:
        self._seconds = seconds
        self._parts = [_text(LEFT, 34, title, size=20)]
        self._bottom = TOP

    def x(self, at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, at_s / self._seconds)

    def shade(self, phases: Sequence[Phase], panels: int) -> None:
        height = panels * (PANEL + GAP)
        for phase in phases:
            if phase.fault is not None:
                x, width = self.x(phase.from_s), self.x(phase.to_s) - self.x(phase.from_s)
                self._parts.append(
                    f'<rect x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{height - GAP}" '
                    'fill="#f9e2df"/>'
                )
                label = escape(phase.name)
                at = f"{x + width / 2:.1f} {TOP - 8}"
                self._parts.append(
                    f'<text transform="translate({at}) rotate(-28)" font-size="12">{label}</text>'
                )

    def panel(self, title: str, ticks: Sequence[tuple[float, str]], lines: Sequence[Line]) -> None:
        """ticks: how high (0 to 1) each label stands; lines: points as (seconds, height)."""
        top, bottom = self._bottom, self._bottom + PANEL
        self._parts.append(_text(LEFT, top - 6 if top > TOP else top + 16, title, size=14))
        for height, label in ticks:
            y = bottom - height * PANEL
            self._parts.append(
                f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ccc" stroke-width="0.7"/>'
            )
            self._parts.append(_text(LEFT - 8, y + 4, label, anchor="end"))
        for number, (name, color, points) in enumerate(lines):
            path = " ".join(f"{self.x(s):.1f},{bottom - h * PANEL:.1f}" for s, h in points)
            self._parts.append(
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>'
            )
            y = top + 16 + 18 * number
            self._parts.append(_text(WIDTH - RIGHT + 12, y, name, color=color))
        for at_s in range(0, int(self._seconds) + 1, max(5, round(self._seconds / 10 / 5) * 5)):
            self._parts.append(_text(self.x(at_s), bottom + 18, f"{at_s} s", anchor="middle"))
        self._bottom = bottom + GAP

    def svg(self) -> str:
        height = self._bottom
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">\n'
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def draw(
    samples: Sequence[Sample],
    phases: Sequence[Phase],
    megabytes: Mapping[str, list[tuple[float, float]]],
    title: str,
) -> str:
    seconds = max(phase.to_s for phase in phases)
    picture = Picture(seconds, title)
    picture.shade(phases, 3)
    picture.panel(
        "p95 of the answers, ms",
        [(_log_height(ms), f"{ms:g}") for ms in (1, 10, 100, 1000, 10_000)],
        [
            (_with_sla(service), color, _latencies(samples, service, seconds))
            for service, color in COLORS.items()
        ],
    )
    most = max(1, *(len(group) for group in _by_window(samples, seconds)))
    per_second = most / WINDOW_S
    picture.panel(
        "requests a second",
        [(share, f"{per_second * share:.1f}") for share in (0.0, 0.5, 1.0)],
        [
            ("offered", "#566573", _rates(samples, seconds, most)),
            ("errors (5xx, none)", "#c0392b",
             _rates([s for s in samples if s.is_error], seconds, most)),
        ],
    )  # fmt: skip
    largest = max((size for series in megabytes.values() for _, size in series), default=1.0)
    colors = [*COLORS.values(), *MORE_COLORS]
    picture.panel(
        "memory of each instance, MB",
        [(share, f"{largest * share:.0f}") for share in (0.0, 0.5, 1.0)],
        [
            (part, colors[number % len(colors)], [(at_s, size / largest) for at_s, size in series])
            for number, (part, series) in enumerate(sorted(megabytes.items()))
        ],
    )
    return picture.svg()


def _with_sla(service: str) -> str:
    sla_ms = SLA_MS.get(service)
    return service if sla_ms is None else f"{service} (SLA {sla_ms})"


def _by_window(samples: Sequence[Sample], seconds: float) -> list[list[Sample]]:
    groups: list[list[Sample]] = [[] for _ in range(max(1, math.ceil(seconds / WINDOW_S)))]
    for sample in samples:
        groups[min(len(groups) - 1, int(sample.at_s / WINDOW_S))].append(sample)
    return groups


def _latencies(samples: Sequence[Sample], service: str, seconds: float) -> list[Point]:
    groups = _by_window([s for s in samples if s.service == service and s.status], seconds)
    return [
        ((number + 0.5) * WINDOW_S, _log_height(quantile_ms(group, 0.95)))
        for number, group in enumerate(groups)
        if group
    ]


def _rates(samples: Sequence[Sample], seconds: float, most: int) -> list[Point]:
    groups = _by_window(samples, seconds)
    return [((number + 0.5) * WINDOW_S, len(group) / most) for number, group in enumerate(groups)]


def _log_height(ms: float) -> float:
    bounded = min(MOST_MS, max(LEAST_MS, ms))
    return math.log(bounded / LEAST_MS) / math.log(MOST_MS / LEAST_MS)


def _text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", color: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{color}">{escape(text)}</text>'
    )
