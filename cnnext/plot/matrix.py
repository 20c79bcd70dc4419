"""``confusion``: which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.plot.style import FRAME, QUIET, figure_for
from cnnext.training.confusion import averaged, confusion_matrix, f1_score, precision, recall

MOST_WRITTEN = 30       # classes whose counts are written into the cells
MOST_NAMED = 60         # names along a side; of more, every second, third, ... is written
LEAST, MOST = 0.12, 0.52    # inches of a cell with a name
LETTER = 0.6                # width of a letter, of the height of its font


def confusion(matrix: Any, labels: Sequence[str] | None = None, *, title: str = "", figure: Any = None) -> Any:
    """A confusion matrix: counts, coloured by their share of the row; right answers blue, mistakes red.

    Beside the rows stand their recalls, below the columns their precisions. The colours grow with the square root of the
    share, so that rare mistakes are seen.

    Parameters
    ----------
    matrix : array, shape (K, K), or tuple (targets, predictions)
        Counts as ``cnnext.confusion_matrix`` gives them (rows: the class of the target), or what it makes them of.
    labels : list of str, optional
        The classes' names; numbers by default.
    title : str
    figure : matplotlib Figure or SubFigure, optional
        Drawn into; a new one by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If that is no square matrix of counts, or there is another number of labels.
    """
    counts, names = _checked(matrix, labels)
    step = -(-len(counts) // MOST_NAMED)
    cell = min(max(6.0 / len(counts), LEAST / step), MOST)
    text = min(9.0, 72 * cell * step * 0.8)     # points of the names
    upright = max(map(len, names)) * LETTER * text > 72 * cell * step
    longest = max(map(len, names)) * LETTER * text / 72
    left, right, top = max(0.45 + longest, 0.95), 0.8, 0.6 + 0.3 * bool(title)
    bottom = 0.5 + (longest if upright else 0.15)
    figure = figure_for(figure, max(len(counts) * cell + left + right, 4.2), len(counts) * cell + bottom + top)
    width, height = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
    side = min(width - left - right, height - bottom - top, MOST * len(counts))     # the cells are squares in any figure
    ax = figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))
    _cells(ax, counts, side / len(counts))
    _axis_names(ax, names, step, text, upright)
    _shares(ax, counts, side / len(counts))
    figure.text(0.15 / width, 1 - (top - 0.5) / height, _summary(counts), fontsize=9, color=QUIET, va="top")
    if title:
        figure.suptitle(title, fontsize=11, x=0.15 / width, y=1 - 0.1 / height, ha="left", va="top")
    return figure


def _checked(matrix: Any, labels: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    where = "plot.confusion"
    if isinstance(matrix, tuple):
        if len(matrix) != 2:
            raise ValueError(message(where, "matrix", "be a matrix or a pair (targets, predictions)", matrix))
        matrix = confusion_matrix(*matrix, classes=None if labels is None else len(labels))
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(message(where, "matrix", "have shape (classes, classes)", counts))
    if counts.dtype.kind not in "iuf" or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError(message(where, "matrix", "hold counts, 0 or more", counts))
    if labels is not None and len(labels) != len(counts):
        raise ValueError(message(where, "labels", f"be {len(counts)} names, one for each class", labels))
    return counts, [str(name) for name in (range(len(counts)) if labels is None else labels)]


def _cells(ax: Any, counts: np.ndarray, cell: float) -> None:
    from matplotlib import colormaps

    share = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300))
    right = np.eye(len(counts), dtype=bool)
    colours = np.where(right[..., np.newaxis], colormaps["Blues"](0.85 * share), colormaps["Reds"](0.85 * share))
    colours[counts == 0] = 1.0
    ax.imshow(colours, interpolation="nearest")
    for spine in ax.spines.values():
        spine.set_edgecolor(FRAME)
    if len(counts) <= MOST_NAMED:
        ax.set_xticks(np.arange(0.5, len(counts) - 1), minor=True)
        ax.set_yticks(np.arange(0.5, len(counts) - 1), minor=True)
        ax.grid(True, which="minor", color="#eaeef2", linewidth=0.6)
        ax.tick_params(which="minor", length=0)
    if len(counts) > MOST_WRITTEN:
        return
    longest = max(len(f"{n:g}") for n in counts.flat)
    size = min(9.0, 72 * cell / (LETTER * longest + 0.8))
    for i, j in np.argwhere(counts):
        colour = "white" if share[i, j] > 0.65 else "black"
        ax.text(j, i, f"{counts[i, j]:g}", ha="center", va="center", fontsize=size, color=colour)


def _axis_names(ax: Any, names: Sequence[str], step: int, size: float, upright: bool) -> None:
    places = range(0, len(names), step)
    ax.set_xticks(places, names[::step], fontsize=size, rotation=90 if upright else 0)
    ax.set_yticks(places, names[::step], fontsize=size)
    ax.tick_params(which="major", length=0, pad=3)
    ax.set_xlabel("predicted class", fontsize=9, color=QUIET)
    ax.set_ylabel("true class", fontsize=9, color=QUIET)


def _shares(ax: Any, counts: np.ndarray, cell: float) -> None:
    """Recall beside each row, precision above each column, in per cent."""
    size = min(8.0, 72 * cell / 2.6)
    if size < 4.5:
        return
    last = len(counts) - 0.5
    for i, (found, sure) in enumerate(zip(recall(counts), precision(counts), strict=True)):
        ax.text(last + 0.12, i, f"{100 * found:.0f}", ha="left", va="center", fontsize=size, color=QUIET)
        ax.text(i, -0.62, f"{100 * sure:.0f}", ha="center", va="bottom", fontsize=size, color=QUIET)
    ax.annotate("precision, %", (0, 1), (-4, 4), xycoords="axes fraction", textcoords="offset points", fontsize=size,
                color=QUIET, ha="right", va="bottom", annotation_clip=False)
    ax.annotate("recall, %", (1, 0), (4, -4), xycoords="axes fraction", textcoords="offset points", fontsize=size,
                color=QUIET, ha="left", va="top", annotation_clip=False)


def _summary(counts: np.ndarray) -> str:
    total = counts.sum()
    accuracy = np.trace(counts) / total if total else 0.0
    return f"{total:,.0f} examples: accuracy {accuracy:.2%}, macro F1 {averaged(f1_score, counts, 'macro'):.4f}"
