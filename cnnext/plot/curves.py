"""``history``: how loss and metrics went from epoch to epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.plot.style import BLUE, ORANGE, QUIET, figure_for, tidy
from cnnext.training.history import History

COLUMNS = 3
WIDTH, HEIGHT = 3.7, 2.7    # inches of a chart with what is written around it
VALIDATION = "val_"
RATE = "learning_rate"
MOST_NAMED = 10             # classes that a legend names


def history(history: History | Mapping[str, Sequence[float]], *, title: str = "", figure: Any = None) -> Any:
    """A chart of the loss, of each metric, and of the learning rate where it is known, over the epochs.

    Training and validation are in one chart; the validation's best epoch is marked with its value. The best loss or error
    rate is the lowest, the best of everything else the highest. Values of classes, ``recall_0``, ``recall_1``, ..., are in
    one chart: those of the validation, where there is one.

    Parameters
    ----------
    history : History or mapping of str to list of float
        What ``fit`` returned, or values of each epoch by name: validation's under ``val_<name>``, the learning rate under
        ``learning_rate``, and, where they do not begin at 1, the numbers of the epochs under ``epoch``.
    title : str
    figure : matplotlib Figure or SubFigure, optional
        Drawn into; a new one by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no epoch, or the values are of different numbers of epochs.
    """
    values, epochs = _values(history)
    names = _chart_names(values)
    columns = 2 if len(names) == 4 else min(len(names), COLUMNS)
    lines = math.ceil(len(names) / columns)
    above = 0.4 + 0.3 * bool(title)
    figure = figure_for(figure, columns * WIDTH, lines * HEIGHT + above)
    width, height = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
    room = {"left": 0.55 / width, "right": 1 - 0.3 / width, "bottom": 0.5 / height, "top": 1 - (above + 0.25) / height,
            "wspace": 0.3, "hspace": 0.42}
    axes = figure.subplots(lines, columns, squeeze=False, gridspec_kw=room).ravel()
    for ax, (name, classes) in zip(axes, names.items(), strict=False):
        if classes:
            _class_chart(ax, name, epochs, values, classes)
        else:
            _chart(ax, name, epochs, values)
        _finish(ax)
    for ax in axes[len(names) :]:
        ax.remove()
    _legend(figure, any(name.startswith(VALIDATION) for name in values), room["left"], 1 - (above - 0.32) / height)
    if title:
        figure.suptitle(title, fontsize=11, x=room["left"], y=1 - 0.06 / height, ha="left", va="top")
    return figure


def _values(history: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The values by name, and the epochs' numbers."""
    where = "plot.history"
    if isinstance(history, History):
        rates = {RATE: history.learning_rates} if history.learning_rates else {}
        history = {**history.history, **rates}
    if not isinstance(history, Mapping):
        raise TypeError(message(where, "history", "be what fit returned, or map names to a value for each epoch", history))
    values = {str(name): np.asarray(v, np.float64).reshape(-1) for name, v in history.items()}
    n = len(next(iter(values.values()), ()))
    for name, array in values.items():
        if len(array) != n:
            raise ValueError(message(where, name, f"hold {n} values, one for each epoch", len(array)))
    epochs = values.pop("epoch", np.arange(1.0, n + 1))
    if not n or not values:
        raise ValueError(message(where, "history", "hold one epoch or more", history))
    return values, epochs


def _chart_names(values: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The charts in their order, and how many classes each shows; 0 for one that shows one quantity."""
    names = list(dict.fromkeys(name.removeprefix(VALIDATION) for name in values if name != RATE))
    charts: dict[str, int] = {}
    for name in names:
        family = name.removesuffix("_0")
        classes = next(i for i in range(len(names) + 1) if f"{family}_{i}" not in names) if family != name else 0
        if classes > 1:
            charts[family] = classes
        elif not any(name == f"{base}_{i}" for base, n in charts.items() for i in range(n)):
            charts[name] = 0
    return charts | {RATE: 0} if RATE in values else charts


def _chart(ax: Any, name: str, epochs: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    marker = "o" if len(epochs) == 1 else ""
    kinds = {name: QUIET if name == RATE else BLUE, VALIDATION + name: ORANGE}
    for key, colour in kinds.items():
        if key in values:
            ax.plot(epochs, values[key], color=colour, linewidth=1.6, marker=marker, markersize=5)
    ax.set_title(name.replace("_", " "), fontsize=10, loc="left")
    ax.margins(x=0.04, y=0.12)
    if name == RATE:
        _rate_axis(ax, values[RATE])
    elif VALIDATION + name in values:
        _mark_best(ax, name, epochs, values[VALIDATION + name], values.get(name))


def _class_chart(ax: Any, name: str, epochs: np.ndarray, values: Mapping[str, np.ndarray], classes: int) -> None:
    """A line for each class; of many classes, dark to light."""
    from matplotlib import colormaps

    prefix = VALIDATION if f"{VALIDATION}{name}_0" in values else ""
    for i in range(classes):
        colour = colormaps["viridis"](0.95 * i / classes) if classes > MOST_NAMED else colormaps["tab10"](i)
        ax.plot(epochs, values[f"{prefix}{name}_{i}"], color=colour, linewidth=1.3, marker="o" if len(epochs) == 1 else "",
                markersize=4, label=str(i))
    of = f"class 0 (dark) to {classes - 1} (light)" if classes > MOST_NAMED else "by class"
    ax.set_title(f"{name.replace('_', ' ')}, {of}{', validation' if prefix else ''}", fontsize=10, loc="left")
    ax.margins(x=0.04, y=0.12)
    if classes <= MOST_NAMED:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False, handlelength=0.9,
                  handletextpad=0.4, labelspacing=0.3, borderaxespad=0.2)


def _finish(ax: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("epoch", fontsize=8.5, color=QUIET)
    tidy(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=7))


def _rate_axis(ax: Any, rates: np.ndarray) -> None:
    """Logarithmic where the rate goes in steps by factors: otherwise the small ones hide in the bottom line."""
    if (rates > 0).all() and rates.max() > 10 * rates.min() and len(np.unique(rates)) < len(rates):
        ax.set_yscale("log")
    else:
        ax.yaxis.set_major_formatter("{x:.3g}")
        ax.set_ylim(bottom=0)


def _mark_best(ax: Any, name: str, epochs: np.ndarray, values: np.ndarray, training: np.ndarray | None) -> None:
    """A dot with its value, on the side where the training's curve is not."""
    falls = "loss" in name or "error" in name
    signed = np.where(np.isfinite(values), values if falls else -values, np.inf)
    best = int(signed.argmin())
    if not np.isfinite(values[best]):
        return
    from matplotlib.patheffects import withStroke

    ax.plot(epochs[best], values[best], "o", color=ORANGE, markersize=5)
    x_share = (epochs[best] - epochs[0]) / max(epochs[-1] - epochs[0], 1)
    align = "left" if x_share < 0.2 else "right" if x_share > 0.8 else "center"
    below = falls if training is None else bool(training[best] > values[best])
    ax.annotate(f"{values[best]:.4g}", (epochs[best], values[best]), (0, -13 if below else 7), textcoords="offset points",
                fontsize=8.5, color=ORANGE, ha=align, fontweight="bold",
                path_effects=[withStroke(linewidth=2.5, foreground="white")])


def _legend(figure: Any, validation: bool, left: float, y: float) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=BLUE, linewidth=1.6, label="training")]
    if validation:
        handles.append(Line2D([], [], color=ORANGE, linewidth=1.6, marker="o", markersize=5,
                              label="validation, its best marked"))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(left, y), ncols=2, fontsize=8.5, frameon=False,
                  borderpad=0, borderaxespad=0)
