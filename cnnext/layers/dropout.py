"""Dropout of elements and of whole channels, and the operator that it is while training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnext.errors import message
from cnnext.graph.graph import FLOAT32, INT64, Graph, Node, Shape, Value, constant
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import row_step
from cnnext.layers.attributes import data_format, number
from cnnext.layers.elementwise import multiply
from cnnext.layers.layer import Gradients, Layer


class Dropout(Layer):
    """In training, each element becomes 0 with probability ``rate``, else ``x / (1 - rate)``; in inference, ``x``.

    Parameters
    ----------
    rate : float
        In [0, 1).

    Notes
    -----
    Which elements a run drops follows from its seed and the element's place alone: the same seed gives the same bits,
    for any number of threads.

    References
    ----------
    Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting.
    """

    type_name = "cnnext/Dropout@1"

    rate: float = number(minimum=0, below=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def is_identity(self, training: bool) -> bool:
        return not training or self.rate == 0

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value | Sequence[Value] | None:
        return g.apply1(DropoutMask(self.rate, g.new_random_stream(), self.name), x[0], g.seed_value())


class SpatialDropout2D(Dropout):
    """In training, each channel of each image becomes 0 as a whole with probability ``rate``, else ``x / (1 - rate)``; in
    inference, ``x``. Neighbouring pixels are so alike that dropping some of them hides little.

    Parameters
    ----------
    rate : float
        In [0, 1).
    data_format : "channels_last" or "channels_first"

    References
    ----------
    J. Tompson et al., "Efficient object localization using convolutional networks", 2015, section 3.2.
    """

    type_name = "cnnext/SpatialDropout2D@1"

    data_format: str = data_format()

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", shapes[0])
        return shapes[0]

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value | Sequence[Value] | None:
        samples, _, _, channels = x[0].shape
        assert samples is not None and channels is not None, "shapes are known where a plan is made"
        ones = constant(np.ones((samples, 1, 1, channels), np.float32), "ones")
        mask = g.apply1(DropoutMask(self.rate, g.new_random_stream(), f"{self.name}/mask"), ones, g.seed_value())
        return multiply(g, x[0], mask)


class DropoutMask(Layer):
    """Dropout by a mask that a seed determines: inputs the source and the seed, int64 of shape (1,).

    Its gradient is itself, applied to diff_dst.

    Parameters
    ----------
    rate : float
    stream : int
        Layers of one graph with different streams have independent masks.
    name : str
    """

    n_inputs = 2

    def __init__(self, rate: float, stream: int, name: str):
        super().__init__(name=name)
        self.rate = rate
        self.stream = stream

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        src, seed = dtypes
        if seed != INT64:
            raise TypeError(message(self.where, "seed", "be int64", str(seed)))
        if src != FLOAT32:
            raise TypeError(message(self.where, "src", "be float32", str(src)))
        return [FLOAT32]

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        again = DropoutMask(self.rate, self.stream, f"{self.name}/diff_src")
        return Gradients([g.apply1(again, dy, node.inputs[1]), None])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, seed = (b.view(v) for v in node.inputs)
        dst = b.view(node.output)
        row_step(b, "dropout", [src, seed.expanded(dst.shape)], [dst], {"rate": self.rate, "stream": self.stream})
