"""``receptive_field``: which pixels of the input a unit sees, and which of them move it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import message
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Graph, Shape, ancestors, constant
from cnnext.graph.passes import prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.plot.layers import node_of
from cnnext.plot.style import FRAME, QUIET, WRONG, figure_for, frame
from cnnext.summary import ReceptiveField, image_size
from cnnext.summary import receptive_field as receptive_fields
from cnnext.threads import limited

if TYPE_CHECKING:
    from cnnext.graph.graph import Node
    from cnnext.layers.layer import Layer
    from cnnext.model import Model

MOST_FRAMES = 8                     # fields that are drawn and named: the unit's own, and of those before it evenly many
SIDE, LIST, BAR = 3.6, 2.3, 0.65    # inches of a picture, of the list beside, of the scale below
EFFECTIVE = 0.05                    # share of the largest gradient from which a pixel counts


def receptive_field(net: Model, layer: str | Layer, at: tuple[int, int] | None = None, image: np.ndarray | None = None, *,
                    title: str = "", figure: Any = None) -> Any:
    """What one unit of a layer sees of the input.

    On the left the theoretical receptive fields, from the geometry of the windows (``cnnext.receptive_field``): that of the
    unit, and inside it those of the layers that lead to it. On the right, for a given image, the effective one: the
    magnitude of the gradient of the unit, summed over its channels, with respect to each pixel, as a share of the largest.

    Parameters
    ----------
    net : Model
        With one input, of images.
    layer : str or Layer
        Whose output has rows and columns.
    at : (row, column), optional
        Of the unit in the layer's output; the middle by default.
    image : ndarray, optional
        One example, of the input's shape without the batch axis. Without it the fields are drawn on an empty input.
    title : str
    figure : matplotlib Figure or SubFigure, optional
        Drawn into; a new one by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the net has no such layer, its output or the input is no image, the input's extents are open and no image is
        given, or the unit lies outside.

    References
    ----------
    W. Luo, Y. Li, R. Urtasun, R. Zemel, "Understanding the effective receptive field", 2016.
    """
    unit = _unit(net, layer, at, image)
    pictures, above = 1 if image is None else 2, 0.35 + 0.3 * bool(title)
    figure = figure_for(figure, pictures * (SIDE + 0.3) + LIST, SIDE + above + BAR)
    width, height = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
    share = (width - LIST) / pictures
    axes = [figure.add_axes(((i * share + 0.15) / width, BAR / height, (share - 0.3) / width, 1 - (above + BAR) / height),
                            anchor="NW") for i in range(pictures)]
    fields = _frames(net, unit)
    axes[0].set_title(f"unit {unit.at} of {unit.node.name!r}: theoretical", fontsize=9, loc="left")
    _draw_input(axes[0], unit)
    _draw_frames(axes[0], fields)
    if image is not None:
        _draw_effective(axes[1], net, unit, fields[-1])
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="upper left", bbox_to_anchor=(1 - LIST / width, 1 - above / height),
                  fontsize=8, frameon=False, borderaxespad=0, title="field, rows x columns", title_fontsize=8.5,
                  alignment="left")
    if title:
        figure.suptitle(title, fontsize=11, x=0.15 / width, y=1 - 0.06 / height, ha="left", va="top")
    return figure


@dataclass(frozen=True)
class _Unit:
    """A pixel of a node's output.

    Attributes
    ----------
    node : Node
    at : (row, column)
    size : (rows, columns)
        Of the input.
    image : ndarray or None
        Of the input's shape without the batch axis.
    channels_first : bool
        Of the input.
    """

    node: Node
    at: tuple[int, int]
    size: tuple[int, int]
    image: np.ndarray | None
    channels_first: bool


def _unit(net: Model, layer: str | Layer, at: tuple[int, int] | None, image: np.ndarray | None) -> _Unit:
    where = "plot.receptive_field"
    node = node_of(where, net, layer)
    if len(net.graph.inputs) != 1 or len(net.graph.inputs[0].shape) != 4:
        raise ValueError(message(where, "net", "have one input, of images", [v.shape for v in net.graph.inputs]))
    source = net.graph.inputs[0]
    reader = next(n.layer for n in net.graph.nodes if source in n.inputs)
    shape = (1, *source.shape[1:])
    if image is not None:
        image = np.asarray(image, np.float32)
        shape = (1, *image.shape)
        if len(shape) != 4 or any(m not in (None, n) for n, m in zip(shape, source.shape, strict=True)):
            raise ValueError(message(where, "image", f"have shape {source.shape[1:]}", image))
    rows, columns = image_size(shape, reader)
    if rows is None or columns is None:
        raise ValueError(message(where, "image", "be given where the input's extents are open", image,
                                 f"input {source.shape}"))
    output = image_size(_output_shape(net, node, shape), node.layer)
    if len(node.output.shape) != 4 or output[0] is None or output[1] is None:
        raise ValueError(message(where, "layer", "make images, (N, H, W, C)", node.name, f"output {node.output.shape}"))
    at = (output[0] // 2, output[1] // 2) if at is None else (int(at[0]), int(at[1]))
    if not (0 <= at[0] < output[0] and 0 <= at[1] < output[1]):
        raise ValueError(message(where, "at", f"lie in the {output[0]} x {output[1]} pixels of {node.name!r}", at))
    return _Unit(node, at, (rows, columns), image, reader.data_format == "channels_first")


def _output_shape(net: Model, node: Node, shape: Shape) -> Shape:
    return _prepared(net, node, shape).outputs[0].shape


def _prepared(net: Model, node: Node, shape: Shape) -> Graph:
    return prepare(Graph(net.graph.inputs, [node.output], ancestors([node.output])), [shape], training=False)


@dataclass(frozen=True)
class _Frame:
    """The field of one pixel of a layer, in pixels of the input."""

    name: str
    top: float
    left: float
    rows: float
    columns: float


def _frames(net: Model, unit: _Unit) -> list[_Frame]:
    """The field of the unit, last, and of what leads to it those that differ, about the same place."""
    of = dict(zip(net.graph.nodes, receptive_fields(net), strict=True))
    own = _frame_at(unit, of[unit.node], unit.at)
    middle = own.top + (own.rows - 1) / 2, own.left + (own.columns - 1) / 2
    others: dict[tuple[int | None, ...], _Frame] = {}
    for node in ancestors([unit.node.output]):
        field = of[node]
        if field.size not in ((1, 1), of[unit.node].size):
            others.setdefault(field.size, _frame_at(unit, field, _nearest(field, middle)))
    chosen = list(others.values())
    if len(chosen) > MOST_FRAMES - 1:
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, MOST_FRAMES - 1).round().astype(int)]
    return [*chosen, own]


def _nearest(field: ReceptiveField, middle: tuple[float, float]) -> tuple[int, int]:
    """The pixel of a layer whose field lies nearest about a place of the input."""
    row, column = (round((m - float(offset) - ((size or 1) - 1) / 2) / float(stride)) if stride else 0
                   for m, offset, size, stride in zip(middle, field.offset, field.size, field.stride, strict=True))
    return max(row, 0), max(column, 0)


def _frame_at(unit: _Unit, field: ReceptiveField, at: tuple[int, int]) -> _Frame:
    rows, columns = (n if n is not None else whole for n, whole in zip(field.size, unit.size, strict=True))
    top, left = (float(offset) + i * float(stride) for offset, i, stride in zip(field.offset, at, field.stride, strict=True))
    return _Frame(field.name, top, left, rows, columns)


def _draw_input(ax: Any, unit: _Unit, strength: float = 1.0) -> None:
    """The image, paler where the strength is below 1; a grey area without one."""
    if unit.image is None:
        ax.imshow(np.full((*unit.size, 3), 0.95), interpolation="nearest")
        frame(ax)
        return
    picture = unit.image.transpose(1, 2, 0) if unit.channels_first else unit.image
    low, high = min(float(picture.min()), 0.0), max(float(picture.max()), 1.0)     # values in [0, 1] as they are
    picture = (picture - low) / (high - low)
    if picture.shape[-1] != 3:
        picture = np.repeat(1 - picture.mean(axis=-1, keepdims=True), 3, axis=-1)
    ax.imshow(1 - strength * (1 - picture), interpolation="nearest")
    frame(ax)


def _draw_frames(ax: Any, frames: Sequence[_Frame]) -> None:
    from matplotlib import colormaps

    *inner, own = frames
    for i, field in enumerate(inner):
        _draw_frame(ax, field, colormaps["viridis"](0.1 + 0.8 * i / max(len(inner) - 1, 1)), 1.4)
    _draw_frame(ax, own, WRONG, 2.2)
    (right, bottom), rows, columns = (ax.get_xlim()[1], ax.get_ylim()[0]), own.top + own.rows, own.left + own.columns
    ax.set_xlim(min(-0.5, own.left - 1), max(right, columns))
    ax.set_ylim(max(bottom, rows), min(-0.5, own.top - 1))


def _draw_frame(ax: Any, field: _Frame, colour: Any, width: float) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    box = Rectangle((field.left - 0.5, field.top - 0.5), field.columns, field.rows, fill=False, edgecolor=colour,
                    linewidth=width, label=f"{field.name}: {field.rows:g} x {field.columns:g}")
    box.set_path_effects([withStroke(linewidth=width + 1.6, foreground="white")])
    ax.add_patch(box)


def _draw_effective(ax: Any, net: Model, unit: _Unit, own: _Frame) -> None:
    reach = _gradient(net, unit)
    reach /= max(float(reach.max()), 1e-30)
    _draw_input(ax, unit, strength=0.35)
    picture = ax.imshow(reach, cmap="YlOrRd", vmin=0, vmax=1, alpha=np.clip(4 * reach, 0, 1), interpolation="nearest")
    _draw_frames(ax, [own])
    seen = int((reach > EFFECTIVE).sum())
    ax.set_title(f"effective: {seen} pixels above {EFFECTIVE:.0%} of the largest gradient", fontsize=9, loc="left")
    from matplotlib.cm import ScalarMappable

    bar = ax.inset_axes((0, -0.06, 1, 0.03))
    ax.figure.colorbar(ScalarMappable(picture.norm, picture.cmap), cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7.5, color=FRAME)
    bar.set_xlabel("magnitude of the gradient, of the largest", fontsize=8, color=QUIET, labelpad=1)


def _gradient(net: Model, unit: _Unit) -> np.ndarray:
    """Magnitude of the gradient of the unit's sum over channels, the root of its squares over the input's channels."""
    assert unit.image is not None
    g = _prepared(net, unit.node, (1, *unit.image.shape))
    (output,), (source,) = g.outputs, g.inputs
    seed = np.zeros([int(n or 1) for n in output.shape], np.float32)
    where = (0, slice(None), *unit.at) if unit.node.layer.data_format == "channels_first" else (0, *unit.at)
    seed[where] = 1
    diffs = add_gradients(g, [output], [source], [constant(seed, "unit")])
    if source not in diffs:
        return np.zeros(unit.size, np.float32)
    g.outputs = [diffs[source]]
    g.order()
    (diff,) = Plan(g, default_level()).run([unit.image[np.newaxis]], limited(net.num_threads))
    channel = 0 if unit.channels_first else -1
    return np.sqrt(np.square(diff[0]).sum(axis=channel))
