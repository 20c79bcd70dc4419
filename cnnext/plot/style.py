"""What all pictures share: figures without windows, grids of small pictures, colours."""

from __future__ import annotations

from math import ceil
from typing import Any

BLUE, ORANGE, QUIET, FRAME = "#1f6fb4", "#d9662a", "#57606a", "#d0d7de"
RIGHT, WRONG = "#1a7f37", "#c62828"
CELL = 1.05         # inches of a small picture with the space around it
CAPTION = 0.33      # inches of the two lines above one


def near_square(n: int) -> tuple[int, int]:
    """Lines and columns of a grid for n pictures: one line up to eight, no more than 16 columns."""
    columns = n if n <= 8 else min(16, ceil(n**0.5 * 1.4))
    return ceil(n / columns), columns


def figure_for(figure: Any, width: float, height: float) -> Any:
    """The given figure, or a new one of so many inches."""
    return figure if figure is not None else new_figure(max(width, 3.0), height)


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches that no window knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib. Install it: pip install matplotlib") from None
    return Figure(figsize=(width, height), dpi=120, facecolor="white")


def title_space(title: str, note: str = "") -> float:
    """Inches that a title and the note below it take."""
    return 0.05 + 0.3 * bool(title) + 0.15 * len(note.splitlines()) + 0.05 * bool(note)


def grid(figure: Any, lines: int, columns: int, title: str, caption: float = 0.0, note: str = "") -> Any:
    """A grid of empty axes below the figure's title and a note, each with so many inches for its caption."""
    height, above = figure.bbox.height / figure.dpi, title_space(title, note)
    free = height - above - lines * caption - 0.05
    room = {"left": 0.02, "right": 0.98, "bottom": 0.05 / height, "top": 1 - (above + caption) / height,
            "wspace": 0.12, "hspace": max(0.12, caption * lines / free)}
    axes = figure.subplots(lines, columns, squeeze=False, gridspec_kw=room).ravel()
    for ax in axes:
        ax.axis("off")
    if title:
        figure.suptitle(title, fontsize=11, x=0.02, y=1 - 0.06 / height, ha="left", va="top")
    if note:
        figure.text(0.02, 1 - (above - 0.03) / height, note, fontsize=8, color=QUIET, va="bottom")
    return axes


def frame(ax: Any, colour: str = FRAME, width: float = 0.8) -> None:
    """Bring the frame of a picture back, without its ticks."""
    ax.axis("on")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_edgecolor(colour)
        spine.set_linewidth(width)


def tidy(ax: Any) -> None:
    """Axes of a chart: thin frame on two sides, a quiet grid, small print."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_edgecolor(FRAME)
    ax.grid(True, color="#eaeef2", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8.5, color=FRAME)
