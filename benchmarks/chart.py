"""Bar charts of ratios, in ``benchmarks/results``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "results"


def draw_ratios(file_name: str, groups: Sequence[str], bars: Mapping[str, Sequence[float]], label: str, title: str = "",
                rotation: float = 0) -> None:
    """For each group a bar of each kind, with its number, beside a line at 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13 if len(groups) > 5 else 8, 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for i, (name, ratios) in enumerate(bars.items()):
        drawn = axes.bar(np.arange(len(groups)) + (i - (len(bars) - 1) / 2) * width, ratios, width, label=name)
        axes.bar_label(drawn, fmt="%.2f", fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups, rotation=rotation, ha="right" if rotation else "center")
    axes.set_ylabel(label)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=len(bars))
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / file_name
    figure.savefig(path, dpi=150)
    print(f"Chart: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
