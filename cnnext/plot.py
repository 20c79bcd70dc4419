"""Pictures of predictions, filters and feature maps, with matplotlib (extra ``plot``).

Each function returns a figure: a notebook shows it, ``figure.savefig("name.png")`` writes it. Nothing is displayed and no
global state of matplotlib is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import message, unknown

if TYPE_CHECKING:
    from cnnext.layers.layer import Layer
    from cnnext.model import Model

RIGHT, WRONG, QUIET = "#1a7f37", "#c62828", "#57606a"
CELL = 1.05         # inches of a small picture with the space around it
CAPTION = 0.33      # inches of the two lines above a small picture
MAX_CHANNELS = 16   # input channels of a filter bank that are drawn


def predictions(images: np.ndarray, probabilities: np.ndarray, labels: np.ndarray | None = None, *,
                names: Sequence[str] | None = None, columns: int = 10, title: str = "", figure: Any = None) -> Any:
    """Images in a grid, each with its most probable class; a wrong one is framed and shows the right class too.

    Parameters
    ----------
    images : ndarray, shape (images, rows, columns, 1 or 3)
        Values between 0 and 1.
    probabilities : ndarray, shape (images, classes)
    labels : ndarray of int, shape (images,), optional
        The right classes.
    names : list of str, optional
        The classes' names; numbers by default.
    columns : int
        Images in a line.
    title : str
    figure : matplotlib Figure or SubFigure, optional
        Drawn into; a new one by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    images, probabilities = _checked(images, probabilities, labels)
    lines = ceil(len(images) / columns)
    figure = _figure(figure, columns * CELL, lines * (CELL + CAPTION) + _title_space(title))
    axes = _axes(figure, lines, columns, title, CAPTION)
    for i, (ax, image) in enumerate(zip(axes, images, strict=False)):
        guess = int(probabilities[i].argmax())
        name = names[guess] if names else str(guess)
        wrong = labels is not None and int(labels[i]) != guess
        colour = QUIET if labels is None else WRONG if wrong else RIGHT
        caption = f"{name}  {100 * probabilities[i, guess]:.0f} %"
        if wrong and labels is not None:
            caption += f"\nis {names[labels[i]] if names else labels[i]}"
            _frame(ax, WRONG)
        _draw(ax, image)
        ax.set_title(caption, fontsize=9, color=colour, pad=3, linespacing=1.1)
    return figure


def filters(layer: Layer, *, title: str = "", figure: Any = None) -> Any:
    """The filters of a convolution: red weighs positively, blue negatively, white is 0; filters of three channels in
    colour.

    A bank with another number of input channels has a line for each of the first 16.

    Parameters
    ----------
    layer : Layer
        A built layer with weights (KH, KW, channels, filters).
    title : str
    figure : matplotlib Figure or SubFigure, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the layer has no such weights.
    """
    weights = layer.weights["weights"].data if "weights" in layer.weights else None
    if weights is None or weights.ndim != 4:
        raise ValueError(message("plot.filters", "layer", "have weights of shape (KH, KW, channels, filters)", layer))
    bank = _filter_pictures(weights)
    lines, columns = bank.shape[:2] if bank.shape[0] > 1 else _near_square(bank.shape[1])
    figure = _figure(figure, columns * CELL, lines * CELL + _title_space(title))
    axes = _axes(figure, lines, columns, title)
    limit = float(np.abs(weights).max()) or 1.0
    for ax, picture in zip(axes, bank.reshape(-1, *bank.shape[2:]), strict=False):
        if picture.ndim == 2:
            ax.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
        else:
            ax.imshow((picture / limit + 1) / 2)
        _frame(ax, "#d0d7de")
    return figure


def feature_maps(net: Model, image: np.ndarray, layer: str | Layer | None = None, *, title: str = "",
                 figure: Any = None) -> Any:
    """What a layer makes of one image: a picture of each of its channels, dark where the value is large.

    Parameters
    ----------
    net : Model
        With one input.
    image : ndarray
        One example, of the input's shape without the batch axis.
    layer : str or Layer, optional
        By default the net's first layer.
    title : str
    figure : matplotlib Figure or SubFigure, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the net has no such layer or its output is no image.
    """
    maps = np.moveaxis(_layer_output(net, np.asarray(image, np.float32), layer), -1, 0)
    lines, columns = _near_square(len(maps))
    figure = _figure(figure, columns * CELL, lines * CELL + _title_space(title))
    axes = _axes(figure, lines, columns, title)
    for ax, channel in zip(axes, maps, strict=False):
        ax.imshow(channel, cmap="Greys")
        _frame(ax, "#d0d7de")
    return figure


def _checked(images: np.ndarray, probabilities: np.ndarray,
             labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    images, probabilities = np.asarray(images), np.asarray(probabilities)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(message("plot.predictions", "images", "have shape (images, rows, columns, 1 or 3)", images))
    if probabilities.ndim != 2 or len(probabilities) != len(images):
        raise ValueError(message("plot.predictions", "probabilities", f"have shape ({len(images)}, classes)",
                                 probabilities))
    if labels is not None and np.shape(labels) != (len(images),):
        raise ValueError(message("plot.predictions", "labels", f"have shape ({len(images)},)", labels))
    return images, probabilities


def _filter_pictures(weights: np.ndarray) -> np.ndarray:
    """(KH, KW, channels, filters) as (lines, filters, KH, KW), or (1, filters, KH, KW, 3) for three channels."""
    if weights.shape[2] == 3:
        return weights.transpose(3, 0, 1, 2)[np.newaxis]
    return weights[:, :, :MAX_CHANNELS].transpose(2, 3, 0, 1)


def _layer_output(net: Model, image: np.ndarray, layer: str | Layer | None) -> np.ndarray:
    """(rows, columns, channels)"""
    from cnnext.model import Model

    known = {x.name: x for x in net.layers}
    name = next(iter(known)) if layer is None else layer if isinstance(layer, str) else layer.name
    if name not in known:
        raise ValueError("plot.feature_maps: " + unknown("layer", name, known))
    node = next(node for node in net.graph.nodes if node.layer is known[name])
    output = Model(net.graph.inputs, node.outputs[0]).predict(image[np.newaxis])
    if output.ndim != 4:
        raise ValueError(message("plot.feature_maps", "layer", "make images, (N, H, W, C)", name,
                                 f"output shape {output.shape}"))
    return output[0].transpose(1, 2, 0) if known[name].data_format == "channels_first" else output[0]


def _near_square(n: int) -> tuple[int, int]:
    """Lines and columns of a grid for n pictures: one line up to eight, no more than 16 columns."""
    columns = n if n <= 8 else min(16, ceil(n**0.5 * 1.4))
    return ceil(n / columns), columns


def _figure(figure: Any, width: float, height: float) -> Any:
    return figure if figure is not None else new_figure(max(width, 3.0), height)


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches that no window knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib. Install it: pip install matplotlib") from None
    return Figure(figsize=(width, height), dpi=120, facecolor="white")


def _title_space(title: str) -> float:
    return 0.35 if title else 0.05


def _axes(figure: Any, lines: int, columns: int, title: str, caption: float = 0.0) -> Any:
    """A grid of empty axes below the figure's title, each with so many inches for its caption."""
    height = figure.bbox.height / figure.dpi
    free = height - _title_space(title) - lines * caption - 0.05
    grid = {"left": 0.02, "right": 0.98, "bottom": 0.05 / height, "top": 1 - (_title_space(title) + caption) / height,
            "wspace": 0.12, "hspace": max(0.12, caption * lines / free)}
    axes = figure.subplots(lines, columns, squeeze=False, gridspec_kw=grid).ravel()
    for ax in axes:
        ax.axis("off")
    if title:
        figure.suptitle(title, fontsize=11, x=0.02, y=1 - 0.06 / height, ha="left", va="top")
    return axes


def _draw(ax: Any, image: np.ndarray) -> None:
    if image.shape[-1] == 1:
        ax.imshow(image[..., 0], cmap="Greys", vmin=0, vmax=1)
    else:
        ax.imshow(np.clip(image, 0, 1))


def _frame(ax: Any, colour: str) -> None:
    """Bring the frame of a picture back, without its ticks."""
    ax.axis("on")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_edgecolor(colour)
        spine.set_linewidth(1.5 if colour == WRONG else 0.8)
