"""Losses: what training makes small. Each is a small class that checks its targets and appends its node to a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from math import ceil, prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnext.errors import message, unknown
from cnnext.graph.graph import FLOAT32, INT64, Graph, Node, Shape, Value
from cnnext.layers._rows import TILE_ELEMENTS, coalesce
from cnnext.layers.layer import Gradients, Layer
from cnnext.training.data import matches, shown

if TYPE_CHECKING:
    from cnnext.graph.memory import View
    from cnnext.graph.plan import PlanBuilder

# The smallest probability whose logarithm is taken: a probability of 0 must give a large loss, not an infinite one.
SMALLEST_PROBABILITY = 1e-7

# Layers that only move probabilities about.
REARRANGING = ("cnnext/Flatten@1", "cnnext/Reshape@1", "cnnext/Permute@1")


class Loss(ABC):
    """Base class of the losses.

    Attributes
    ----------
    target_dtype : dtype
        Of the targets in the graph.
    """

    target_dtype: ClassVar[np.dtype] = FLOAT32

    @abstractmethod
    def target_shape(self, prediction: Shape) -> Shape:
        """Shape of the targets of predictions of this shape."""

    @abstractmethod
    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        """Append the loss of a batch to a graph: its mean over all positions, shape (1,)."""

    @abstractmethod
    def check_targets(self, where: str, targets: np.ndarray, prediction: Shape, argument: str = "y") -> np.ndarray:
        """Check a whole data set's targets and return them in the shape that the loss takes, the dtype untouched.

        Raises
        ------
        TypeError
            If the dtype cannot be a target's.
        ValueError
            If the shape does not match or a target is out of range; the first bad one is named.
        """


class SparseCategoricalCrossentropy(Loss):
    """Mean of ``-log(probability of the label)`` over all positions; classes lie on the last axis.

    Parameters
    ----------
    from_logits : bool, optional
        True: the net gives logits. False: it gives probabilities, those below 1e-7 are taken as 1e-7. None (default):
        it gives probabilities if it ends in a softmax, else logits.

    Notes
    -----
    Where the net ends in a softmax over the classes and ``from_logits`` is not True, training works on the softmax's
    input: same value, without the rounding and the clipping.
    Targets are whole numbers of shape (N, ...) in [0, K) for predictions (N, ..., K).
    """

    target_dtype = INT64

    def __init__(self, from_logits: bool | None = None):
        if from_logits is not None and not isinstance(from_logits, (bool, np.bool_)):
            raise ValueError(message(type(self).__name__, "from_logits", "be True, False or None", from_logits))
        self.from_logits = None if from_logits is None else bool(from_logits)

    def __repr__(self) -> str:
        return f"SparseCategoricalCrossentropy(from_logits={self.from_logits})"

    def target_shape(self, prediction: Shape) -> Shape:
        return prediction[:-1]

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        softmax = None if self.from_logits else _softmax_of(prediction)
        from_logits = softmax is None if self.from_logits is None else self.from_logits
        if softmax is not None and softmax is prediction.node and _over_last_axis(softmax):
            prediction, from_logits = softmax.inputs[0], True
        return g.apply1(CrossEntropy(from_logits), prediction, target)

    def check_targets(self, where: str, targets: np.ndarray, prediction: Shape, argument: str = "y") -> np.ndarray:
        if targets.dtype.kind not in "iu":
            raise TypeError(f"{where}: `{argument}` must be whole numbers, the labels of the classes. "
                            f"Received dtype={targets.dtype}.")
        classes = prediction[-1]
        if targets.ndim == len(prediction) and targets.shape[-1] == 1:
            targets = targets[..., 0]
        if len(prediction) < 2 or not matches(targets.shape, prediction[:-1]):
            hint = "; for one-hot rows use y.argmax(axis=-1)" if targets.shape[1:] == tuple(prediction[1:]) else ""
            raise ValueError(message(where, argument, f"have shape {shown(prediction[:-1])}", targets,
                                     f"predictions {shown(prediction)}{hint}"))
        bad = (targets < 0) | (targets >= classes)
        if bad.any():
            raise _bad_element(where, argument, f"be a label in [0, {classes})", targets, bad)
        return targets


class MeanSquaredError(Loss):
    """Mean of ``(prediction - target)^2`` over every element; targets have the predictions' shape."""

    def __repr__(self) -> str:
        return "MeanSquaredError()"

    def target_shape(self, prediction: Shape) -> Shape:
        return prediction

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        return g.apply1(SquaredError(name="mean_squared_error"), prediction, target)

    def check_targets(self, where: str, targets: np.ndarray, prediction: Shape, argument: str = "y") -> np.ndarray:
        if targets.dtype.kind not in "fiub":
            raise TypeError(f"{where}: `{argument}` must be numbers. Received dtype={targets.dtype}.")
        if prediction[-1] == 1 and targets.ndim == len(prediction) - 1:
            targets = targets[..., np.newaxis]
        if not matches(targets.shape, prediction):
            raise ValueError(message(where, argument, f"have shape {shown(prediction)}", targets))
        if targets.dtype.kind == "f":
            bad = ~np.isfinite(targets)
            if bad.any():
                raise _bad_element(where, argument, "be a finite number", targets, bad)
        return targets


def _bad_element(where: str, argument: str, rule: str, array: np.ndarray, bad: np.ndarray) -> ValueError:
    index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
    return ValueError(message(where, f"{argument}[{', '.join(map(str, index))}]", rule, array[index].item()))


def _softmax_of(value: Value) -> Node | None:
    """The softmax whose probabilities a value holds, seen through layers that only rearrange them."""
    node = value.node
    while node is not None and node.layer.type_name in REARRANGING:
        node = node.inputs[0].node
    return node if node is not None and node.layer.type_name == "cnnext/Softmax@1" else None


def _over_last_axis(softmax: Node) -> bool:
    axis = getattr(softmax.layer, "axis", -1)
    return axis in (-1, len(softmax.output.shape) - 1)


class _LossNode(Layer):
    """What the operators of losses share: (prediction, target) to a number of shape (1,)."""

    n_inputs = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        return (1,)

    def output_dtypes(self, *dtypes: np.dtype) -> list[np.dtype]:
        return [FLOAT32]


class _LossBackward(Layer):
    """(prediction, target, gradient of the loss) to the gradient of the prediction."""

    n_inputs = 3

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def output_dtypes(self, *dtypes: np.dtype) -> list[np.dtype]:
        return [FLOAT32]


class CrossEntropy(_LossNode):
    """-log(probability of the label), mean over all labels: inputs scores (N, ..., K) and labels (N, ...)."""

    def __init__(self, from_logits: bool):
        super().__init__(name="cross_entropy")
        self.from_logits = from_logits

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(CrossEntropyBackward(self.from_logits), *node.inputs, dy), None])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        scores, labels = _rows_and_labels(b, node)
        rows, tiles = _row_tiles(scores.shape)
        _sum_of_tiles(b, "cross_entropy", [scores, labels], b.view(node.output), tiles, 1.0 / labels.size,
                      {"rows": rows, "from_logits": self.from_logits, "smallest": SMALLEST_PROBABILITY},
                      scratch_bytes=4 * scores.shape[-1])


class CrossEntropyBackward(_LossBackward):
    """Gradient of ``CrossEntropy`` with respect to its scores."""

    def __init__(self, from_logits: bool):
        super().__init__(name="cross_entropy/diff_src")
        self.from_logits = from_logits

    def lower(self, b: PlanBuilder, node: Node) -> None:
        scores, labels = _rows_and_labels(b, node)
        rows, tiles = _row_tiles(scores.shape)
        b.step("cross_entropy_backward", [scores, labels, b.view(node.inputs[2])], [b.view(node.output)],
               {"rows": rows, "from_logits": self.from_logits, "smallest": SMALLEST_PROBABILITY}, tiles=tiles,
               why="softmax - one-hot" if self.from_logits else "-1 / probability of the label")


class SquaredError(_LossNode):
    """(prediction - target)^2, mean over all elements."""

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(SquaredErrorBackward(name=f"{self.name}/diff_src"), *node.inputs, dy), None])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        views = _unit_rows([b.view(v) for v in node.inputs])
        rows, chunk, tiles = _chunk_tiles(views[0].shape)
        _sum_of_tiles(b, "squared_error", views, b.view(node.output), tiles, 1.0 / views[0].size,
                      {"rows": rows, "chunk": chunk}, scratch_bytes=4 * chunk)


class SquaredErrorBackward(_LossBackward):
    """Gradient of ``SquaredError`` with respect to the prediction."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        pred, target, diff_dst = (b.view(v) for v in node.inputs)
        pred, target, dst = _unit_rows([pred, target, b.view(node.output)])
        rows, chunk, tiles = _chunk_tiles(pred.shape)
        b.step("squared_error_backward", [pred, target, diff_dst], [dst], {"rows": rows, "chunk": chunk}, tiles=tiles)


def _rows_and_labels(b: PlanBuilder, node: Node) -> tuple[View, View]:
    labels = b.view(node.inputs[1])
    assert labels.is_dense, "labels are an input of the graph"
    return b.view(node.inputs[0]), labels


def _row_tiles(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows of a tile, tiles: whole rows."""
    rows = max(1, TILE_ELEMENTS // max(shape[-1], 1))
    return rows, ceil(prod(shape[:-1]) / rows)


def _unit_rows(views: list[View]) -> list[View]:
    """The views with merged axes and rows whose elements are neighbours."""
    merged = coalesce(views)
    if all(v.strides[-1] == 1 for v in merged):
        return merged
    return [replace(v, shape=(*v.shape, 1), strides=(*v.strides, 1)) for v in merged]


def _chunk_tiles(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows of a tile, elements of a row in a tile, tiles."""
    chunk = min(max(shape[-1], 1), TILE_ELEMENTS)
    rows = max(1, TILE_ELEMENTS // chunk)
    return rows, chunk, ceil(prod(shape[:-1]) / rows) * ceil(shape[-1] / chunk)


def _sum_of_tiles(b: PlanBuilder, kernel: str, src: list[View], dst: View, tiles: int, scale: float,
                  params: dict[str, float], scratch_bytes: int) -> None:
    partial = b.temp((tiles,))
    b.step(kernel, src, [partial], params, tiles=tiles, scratch_bytes=scratch_bytes, why=f"{tiles} partial sums")
    b.step("sum_losses", [partial], [dst], {"scale": scale}, why="in order of the tiles")


LOSSES: dict[str, Callable[[], Loss]] = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
}


def get_loss(loss: str | Loss) -> Loss:
    """A loss by name, or the loss itself.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is neither a name nor a loss.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"compile: `loss` must be a name or a loss object. Received {type(loss).__name__}.")
    if loss not in LOSSES:
        raise ValueError("compile: " + unknown("loss", loss, LOSSES))
    return LOSSES[loss]()
