"""``profile.plot_roofline()``: the steps of a plan beside what the machine's cores and memory allow.

After S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model", 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.plot.style import QUIET, new_figure

if TYPE_CHECKING:
    from cnnext.graph.profile import Profile, StepTime
    from cnnext.machine import Ceilings

COLOURS = ("#1f77b4", "#d1495b", "#2a9d8f", "#e9a03b", "#7b5ea7", "#8c6d46", "#5c6770")
LARGEST_AREA, SMALLEST_AREA = 4000.0, 14.0      # square points, of what takes all the time, and at least
NUMBERED = 12                                   # points that the list names, the longest
FRAME = "#e4e7ea"


@dataclass(frozen=True)
class _Point:
    """Steps of one kernel with as many products and bytes: layers that are repeated."""

    kernel: str
    steps: Sequence[StepTime]

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return 2 * self.steps[0].macs / max(self.steps[0].moved_bytes, 1)

    @property
    def gflops(self) -> float:
        return 2e-9 * sum(step.macs for step in self.steps) / self.seconds

    @property
    def title(self) -> str:
        more = f" and {len(self.steps) - 1} alike" if len(self.steps) > 1 else ""
        return f"{self.steps[0].name}{more}"


def draw(profile: Profile, title: str, ceilings: Ceilings) -> Any:
    """A figure of matplotlib: intensity against speed, areas by time, colours by kernel, the longest steps named."""
    figure = new_figure(12.0, 6.2)
    from matplotlib.ticker import LogLocator

    ax = figure.add_axes((0.065, 0.095, 0.635, 0.79), xscale="log", yscale="log")
    workers = f"{profile.n_threads} thread{'s' * (profile.n_threads > 1)}"
    figure.text(0.065, 0.945, ", ".join(filter(None, (title, workers, profile.level))), fontsize=13)
    figure.text(0.065, 0.905, _subtitle(profile), fontsize=9, color=QUIET)
    points = _points(profile)
    _limits(ax, points, ceilings)
    _roofs(ax, ceilings)
    _scatter(ax, points, profile.seconds)
    _number(figure, ax, points[:NUMBERED])
    ax.set_xlabel("operations for each byte of a step's values and weights")
    ax.set_ylabel("GFLOP/s (Winograd needs fewer operations)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    ax.grid(True, which="major", color=FRAME, linewidth=0.8)
    ax.set_axisbelow(True)
    return figure


def _subtitle(profile: Profile) -> str:
    rest = [step for step in profile.steps if not step.macs]
    text = f"{1e3 * profile.seconds:.3g} ms in {len(profile.steps)} steps; areas by time"
    if rest and profile.seconds:
        share = sum(step.seconds for step in rest) / profile.seconds
        text += f"; not drawn: {len(rest)} without products, {share:.1%} of the time"
    return text


def _points(profile: Profile) -> list[_Point]:
    """What is drawn, the longest first."""
    alike: dict[tuple[str, int, int], list[StepTime]] = {}
    for step in profile.steps:
        if step.macs and step.seconds:
            alike.setdefault((step.kernel, step.macs, step.moved_bytes), []).append(step)
    return sorted((_Point(key[0], steps) for key, steps in alike.items()), key=lambda point: -point.seconds)


def _limits(ax: Any, points: Sequence[_Point], ceilings: Ceilings) -> None:
    intensities = [ceilings.gflops / ceilings.memory, *(point.intensity for point in points)]
    speeds = [ceilings.gflops, *(point.gflops for point in points)]
    ax.set_xlim(min(intensities) / 2.5, max(intensities) * 2.5)
    ax.set_ylim(min(speeds) / 2.5, max(speeds) * 1.9)


def _roofs(ax: Any, ceilings: Ceilings) -> None:
    """The peak as a level line, and copies from memory and from the second-level cache as lines that rise to it."""
    (left, right), (bottom, _) = ax.get_xlim(), ax.get_ylim()
    ridge = max(ceilings.gflops / ceilings.cache, left)
    ax.plot([ridge, right], [ceilings.gflops] * 2, color="black", linewidth=1.4, zorder=1)
    ax.annotate(f"multiply-adds: {ceilings.gflops:.0f} GFLOP/s", (ridge, ceilings.gflops), (6, 5),
                textcoords="offset points", fontsize=9)
    for rate, name, dashes in ((ceilings.memory, "memory", "-"), (ceilings.cache, "L2 cache", "--")):
        start = max(left, bottom / rate)
        if rate * start >= ceilings.gflops:     # left of the picture
            continue
        x = np.array([start, ceilings.gflops / rate])
        ax.plot(x, rate * x, dashes, color="black", linewidth=1.4, zorder=1)
        ax.annotate(f"{name}: {rate:.0f} GB/s", (1.12 * start, 1.12 * rate * start), (0, 5), textcoords="offset points",
                    fontsize=9, rotation=_slope(ax), rotation_mode="anchor")


def _slope(ax: Any) -> float:
    """Degrees on the picture of a line that rises by a decade in a decade."""
    (x0, y0), (x1, y1) = ax.transData.transform([(1.0, 1.0), (10.0, 10.0)])
    return float(np.degrees(np.arctan2(y1 - y0, x1 - x0)))


def _scatter(ax: Any, points: Sequence[_Point], seconds: float) -> None:
    kernels: dict[str, list[_Point]] = {}
    for point in points:
        kernels.setdefault(point.kernel, []).append(point)
    totals = {kernel: sum(point.seconds for point in of) for kernel, of in kernels.items()}
    for i, kernel in enumerate(sorted(kernels, key=lambda kernel: -totals[kernel])):
        of = kernels[kernel]
        n = sum(len(point.steps) for point in of)
        ax.scatter([point.intensity for point in of], [point.gflops for point in of], alpha=0.6, linewidths=0.6,
                   s=[max(LARGEST_AREA * point.seconds / seconds, SMALLEST_AREA) for point in of], edgecolors="white",
                   color=COLOURS[i % len(COLOURS)], zorder=3,
                   label=f"{kernel}: {totals[kernel] / seconds:.0%} of the time, {n} step{'s' * (n > 1)}")
    if points:
        for handle in ax.legend(loc="lower right", fontsize=9, framealpha=0.95, edgecolor=FRAME).legend_handles:
            handle.set_sizes([60])


def _number(figure: Any, ax: Any, points: Sequence[_Point]) -> None:
    """Numbers on the points, and a list of what they stand for."""
    for i, point in enumerate(points):
        ax.annotate(str(i + 1), (point.intensity, point.gflops), ha="center", va="center", fontsize=7.5, zorder=5,
                    fontweight="bold")
        top = 0.865 - 0.064 * i
        figure.text(0.718, top, str(i + 1), fontsize=8.5, fontweight="bold", ha="right")
        figure.text(0.725, top, point.title, fontsize=8.5)
        figure.text(0.725, top - 0.026, f"{1e3 * point.seconds:.3g} ms, {point.gflops:.0f} GFLOP/s, {point.kernel}",
                    fontsize=8, color=QUIET)
