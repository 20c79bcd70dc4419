"""Normalization by statistics per channel: the operators that batch, group and instance normalization are made of.

The statistics of a value are a table (S, 4, C), S samples that are normalized separately (1: all together): the nearest
float to the mean, what that leaves of the mean, ``1 / sqrt(variance + epsilon)``, and the variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from cnnext.graph.graph import FLOAT32, Graph, Node, Shape, Value, constant
from cnnext.graph.kernels import epilogue_params
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder, no_epilogue
from cnnext.layers.activation import UnaryBackward
from cnnext.layers.layer import Gradients, Images, Layer
from cnnext_normalization._lowering import (
    Shards,
    like_src,
    native_step,
    sample_rows,
    tile_rows,
)

CLOSED = (-math.inf, math.inf)


def channel_statistics(g: Graph, x: Value, epsilon: float, per_sample: bool, group: int, name: str) -> Value:
    """Append the nodes for the statistics of a value, per sample or of all together, per group of channels."""
    moments = g.apply1(ChannelMoments(x.shape, per_sample, name), x)
    return g.apply1(ChannelStatistics(x.shape, epsilon, per_sample, group, name), moments)


class ShardSums(Layer):
    """Two sums of each shard of a value, as doubles (shards of all samples, 2, C)."""

    dense_outputs = True    # the kernels know of no gaps

    def __init__(self, src_shape: Shape, per_sample: bool, name: str):
        super().__init__(name=name)
        self.per_sample = per_sample
        self.shards = Shards.of(src_shape, per_sample)

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shards.table

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return [np.dtype(np.float64)]


class ChannelMoments(ShardSums):
    """Mean and squared deviations of each shard."""

    def __init__(self, src_shape: Shape, per_sample: bool, name: str):
        super().__init__(src_shape, per_sample, f"{name}/moments")

    def lower(self, b: PlanBuilder, node: Node) -> None:
        (src,) = sample_rows([b.view(node.inputs[0])], self.per_sample)
        shards = self.shards.at_hand(src)
        native_step(b, "moments", [src], [b.view(node.output)], shards.params, tiles=shards.table[0],
                    scratch_bytes=12 * src.shape[-1], macs=2 * src.size, why=shards.why)

    def images(self, node: Node) -> Images | None:
        return self.shards.images(True)


class ChannelStatistics(Layer):
    """The statistics of a value of shape ``src_shape`` from its moments."""

    def __init__(self, src_shape: Shape, epsilon: float, per_sample: bool, group: int, name: str):
        super().__init__(name=f"{name}/statistics")
        self.epsilon = epsilon
        self.group = group
        self.shards = Shards.of(src_shape, per_sample)

    def output_shape(self, *shapes: Shape) -> Shape:
        return (self.shards.samples, 4, shapes[0][-1])

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return [FLOAT32]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        stats = b.view(node.output)
        params = {**self.shards.params, "rows": self.shards.rows, "group": self.group, "epsilon": self.epsilon}
        native_step(b, "statistics", [b.view(node.inputs[0])], [stats], params, tiles=stats.shape[0],
                    scratch_bytes=16 * stats.shape[-1])


class MovingStatistics(Layer):
    """The table of statistics from a moving mean and variance."""

    n_inputs = 2

    def __init__(self, epsilon: float, name: str):
        super().__init__(name=f"{name}/statistics")
        self.epsilon = epsilon

    def output_shape(self, *shapes: Shape) -> Shape:
        return (1, 4, *shapes[0])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_moving_statistics(b, [b.view(v) for v in node.inputs], b.view(node.output), self.epsilon)


def lower_moving_statistics(b: PlanBuilder, moving: Sequence[View], stats: View, epsilon: float) -> None:
    """Append the table of statistics made of a moving mean and variance."""
    native_step(b, "moving_statistics", moving, [stats], {"epsilon": epsilon})


class ChannelNormalize(Layer):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta``: inputs x and its statistics."""

    n_inputs = 2
    accepts_epilogue = True

    def __init__(self, per_sample: bool, group: int, name: str):
        super().__init__(name=name)
        self.per_sample = per_sample
        self.group = group

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        diffs = normalize_gradient(g, node, node.inputs[1], node.weights["gamma"], node.weights["beta"], dy,
                                   self.per_sample, self.group)
        return Gradients([diffs.inputs[0], None], diffs.weights)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        gamma, beta = (b.view(node.weights[key]) for key in ("gamma", "beta"))
        lower_normalize(b, node, b.view(node.inputs[1]), gamma, beta, self.per_sample)

    def images(self, node: Node) -> Images | None:
        return None if self.per_sample else Images((True, False))


def lower_normalize(b: PlanBuilder, node: Node, stats: View, gamma: View, beta: View, per_sample: bool) -> None:
    """Append the step that makes the node's output of its first input, with its epilogue."""
    src, dst, *add = sample_rows(like_src(b, node), per_sample)
    rows, channels = tile_rows(dst.shape[-1]), dst.shape[-1]
    tiles = -(-math.prod(dst.shape[1:-1]) // rows)
    epilogue = no_epilogue(node)
    params = {"rows": rows, "tiles": tiles, **epilogue_params(epilogue)}
    native_step(b, "normalize", [src, stats, gamma, beta, *add], [dst], params, tiles=dst.shape[0] * tiles,
                scratch_bytes=8 * channels, macs=dst.size, why=" + ".join(["affine", *epilogue.names]), elementwise=True)


def normalize_gradient(g: Graph, node: Node, stats: Value, gamma: Value, beta: Value, dy: Value, per_sample: bool,
                       group: int, frozen: bool = False) -> Gradients:
    """Gradients of the source (through its statistics too, unless they are frozen), of gamma and of beta."""
    dy, bounds = before_clip(node, dy)
    x, name = node.inputs[0], node.name
    sums = g.apply1(NormalizeBackwardSums(x.shape, per_sample, bounds, name), x, stats, gamma, beta, dy)
    terms, diff_gamma, diff_beta = g.apply(NormalizeBackwardTerms(x.shape, per_sample, group, frozen, name), sums, stats,
                                           gamma)
    diff = g.apply1(NormalizeBackwardData(per_sample, bounds, name), dy, x, stats, gamma, beta, terms)
    return Gradients([diff], {"gamma": diff_gamma, "beta": diff_beta})


def before_clip(node: Node, dy: Value) -> tuple[Value, tuple[float, float]]:
    """Where a clip (ReLU) follows: the gradient behind it, with its bounds, which the kernels then apply themselves."""
    maker = dy.node
    if maker is None or type(maker.layer) is not UnaryBackward or maker.layer.function[0] != "clip":
        return dy, CLOSED
    clip, diff_dst = maker.inputs[0].node, maker.inputs[1]
    if clip is None or len(clip.inputs) != 1 or clip.inputs[0] is not node.output:
        return dy, CLOSED
    low, high = maker.layer.function[1]
    return diff_dst, (low, high)


class NormalizeBackwardSums(ShardSums):
    """What the gradient of a normalization sums over: diff_dst and ``diff_dst * (x - center)``.

    Inputs: x, statistics, gamma, beta, diff_dst.
    """

    n_inputs = 5

    def __init__(self, src_shape: Shape, per_sample: bool, bounds: tuple[float, float], name: str):
        super().__init__(src_shape, per_sample, f"{name}/backward_sums")
        self.bounds = bounds

    def lower(self, b: PlanBuilder, node: Node) -> None:
        x, stats, gamma, beta, dy = (b.view(v) for v in node.inputs)
        x, dy = sample_rows([x, dy], self.per_sample)
        shards, (low, high) = self.shards.at_hand(x), self.bounds
        native_step(b, "diff_sums", [x, stats, gamma, beta, dy], [b.view(node.output)],
                    {**shards.params, "low": low, "high": high}, tiles=shards.table[0], scratch_bytes=16 * x.shape[-1],
                    macs=2 * x.size, why=shards.why)

    def images(self, node: Node) -> Images | None:
        return self.shards.images(True, False, False, False, True)


class NormalizeBackwardTerms(Layer):
    """What follows from these sums, of a value of shape ``src_shape``: inputs sums, statistics, gamma.

    Outputs: slope and level (S, 2, C) of ``diff_src = scale * diff_dst - slope * (x - center) - level``, the gradients of
    gamma and beta.
    """

    n_inputs = 3
    n_outputs: ClassVar[int] = 3

    def __init__(self, src_shape: Shape, per_sample: bool, group: int, frozen: bool, name: str):
        super().__init__(name=f"{name}/backward_terms")
        self.group = group
        self.frozen = frozen
        self.shards = Shards.of(src_shape, per_sample)

    def output_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        samples, _, channels = shapes[1]
        return [(samples, 2, channels), (channels,), (channels,)]

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return [FLOAT32] * 3

    def lower(self, b: PlanBuilder, node: Node) -> None:
        params = {"shards": self.shards.params["shards"], "rows": self.shards.rows, "group": self.group,
                  "frozen": self.frozen}
        native_step(b, "diff_terms", [b.view(v) for v in node.inputs], [b.view(v) for v in node.outputs], params,
                    scratch_bytes=32 * node.inputs[1].shape[-1])


class NormalizeBackwardData(Layer):
    """Gradient of the source: inputs diff_dst, x, statistics, gamma, beta, slope and level."""

    n_inputs = 6

    def __init__(self, per_sample: bool, bounds: tuple[float, float], name: str):
        super().__init__(name=f"{name}/diff_src")
        self.per_sample = per_sample
        self.bounds = bounds

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        dy, x, *tables = (b.view(v) for v in node.inputs)
        dy, x, dst = sample_rows([dy, x, b.view(node.output)], self.per_sample)
        rows, (low, high) = tile_rows(dst.shape[-1]), self.bounds
        tiles = -(-math.prod(dst.shape[1:-1]) // rows)
        native_step(b, "normalize_backward", [dy, x, *tables], [dst],
                    {"rows": rows, "tiles": tiles, "low": low, "high": high}, tiles=dst.shape[0] * tiles,
                    scratch_bytes=8 * dst.shape[-1], macs=2 * dst.size, elementwise=True)

    def images(self, node: Node) -> Images | None:
        return None if self.per_sample else Images((True, True, False, False, False, False))


def gamma_and_beta(weights: dict[str, Value], channels: int) -> dict[str, Value]:
    """Both, ones and zeros where the layer learns none."""
    absent = {"gamma": np.ones, "beta": np.zeros}
    return {key: weights.get(key) or constant(fill(channels, np.float32), key) for key, fill in absent.items()}
