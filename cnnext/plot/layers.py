"""``filters`` and ``feature_maps``: what a layer has learned, and what it makes of an image."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import message, unknown
from cnnext.plot.style import CELL, QUIET, figure_for, frame, grid, near_square, title_space

if TYPE_CHECKING:
    from cnnext.graph.graph import Node
    from cnnext.layers.layer import Layer
    from cnnext.model import Model

MAX_CHANNELS, MAX_FILTERS = 16, 32      # of a filter bank with a line for each channel, what is drawn
NUMBER = 0.17                           # inches of a channel's number above its picture
LETTERS = 14                            # of a note, in an inch


def filters(layer: Layer, *, title: str = "", figure: Any = None) -> Any:
    """The filters of a convolution: red weighs positively, blue negatively, white is 0; filters of three channels in
    colour, where grey is 0.

    A bank with another number of input channels has a line for each of the first 16, and a column for each of the first 32
    filters.

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
    lines, columns = bank.shape[:2] if bank.shape[0] > 1 else near_square(bank.shape[1])
    limit = float(np.abs(weights).max()) or 1.0
    note = fill(_scale(weights, limit), width=int(max(columns * CELL, 3.0) * LETTERS))
    figure = figure_for(figure, columns * CELL, lines * CELL + title_space(title, note))
    axes = grid(figure, lines, columns, title, note=note)
    for ax, picture in zip(axes, bank.reshape(-1, *bank.shape[2:]), strict=False):
        if picture.ndim == 2:
            ax.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
        else:
            ax.imshow((picture / limit + 1) / 2)
        frame(ax)
    return figure


def _scale(weights: np.ndarray, limit: float) -> str:
    """What colours stand for, and what is not drawn."""
    _, _, channels, n = weights.shape
    if channels == 3:
        return f"black -{limit:.2g}, white +{limit:.2g}"
    text = f"blue -{limit:.2g}, red +{limit:.2g}"
    if channels > 1:
        text += f"; a line for each input channel ({min(channels, MAX_CHANNELS)} of {channels})"
        text += f", a column for each filter ({min(n, MAX_FILTERS)} of {n})"
    return text


def feature_maps(net: Model, image: np.ndarray, layer: str | Layer | None = None, *, title: str = "",
                 figure: Any = None) -> Any:
    """What a layer makes of one image: a picture of each of its channels, dark where the value is large.

    The greys of each channel reach from its least to its greatest value, which stand above it.

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
    lines, columns = near_square(len(maps))
    figure = figure_for(figure, columns * CELL, lines * (CELL + NUMBER) + title_space(title))
    axes = grid(figure, lines, columns, title, NUMBER)
    for i, (ax, channel) in enumerate(zip(axes, maps, strict=False)):
        ax.imshow(channel, cmap="Greys")
        ax.set_title(f"{i}:  {channel.min():.2g} to {channel.max():.2g}", fontsize=6.5, color=QUIET, pad=2)
        frame(ax)
    return figure


def _filter_pictures(weights: np.ndarray) -> np.ndarray:
    """(KH, KW, channels, filters) as (lines, filters, KH, KW), or (1, filters, KH, KW, 3) for three channels."""
    if weights.shape[2] == 3:
        return weights.transpose(3, 0, 1, 2)[np.newaxis]
    drawn = weights[:, :, :MAX_CHANNELS]
    return (drawn if weights.shape[2] == 1 else drawn[..., :MAX_FILTERS]).transpose(2, 3, 0, 1)


def _layer_output(net: Model, image: np.ndarray, layer: str | Layer | None) -> np.ndarray:
    """(rows, columns, channels)"""
    from cnnext.model import Model

    node = node_of("plot.feature_maps", net, layer)
    output = Model(net.graph.inputs, node.outputs[0]).predict(image[np.newaxis])
    if output.ndim != 4:
        raise ValueError(message("plot.feature_maps", "layer", "make images, (N, H, W, C)", node.layer.name,
                                 f"output shape {output.shape}"))
    return output[0].transpose(1, 2, 0) if node.layer.data_format == "channels_first" else output[0]


def node_of(where: str, net: Model, layer: str | Layer | None) -> Node:
    """The node in which a net uses a layer, given by name or itself; by default its first."""
    known = {x.name: x for x in net.layers}
    name = next(iter(known)) if layer is None else layer if isinstance(layer, str) else layer.name
    if name not in known:
        raise ValueError(f"{where}: " + unknown("layer", name, known))
    return next(node for node in net.graph.nodes if node.layer is known[name])
