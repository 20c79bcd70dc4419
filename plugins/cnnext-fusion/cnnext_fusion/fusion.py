"""Branches joined to one value: ``Fusion``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers.attributes import Attribute, boolean, choice, data_format, fail, integer
from cnnext.layers.concat import Concat
from cnnext.layers.crop2d import Crop2D
from cnnext.layers.dense import Dense
from cnnext.layers.elementwise import Add, Average, Maximum, Multiply, multiply
from cnnext.layers.layer import Layer, ParameterSpec
from cnnext.layers.pooling import GlobalAvgPool2D
from cnnext.layers.reshape import Reshape
from cnnext.layers.softmax import Softmax
from cnnext.layers.zero_pad2d import ZeroPad2D
from cnnext_fusion.resize import Resize

# The modes that are a layer of cnnext already.
PLAIN: dict[str, Callable[..., Layer]] = {"sum": Add, "mean": Average, "max": Maximum, "product": Multiply, "concat": Concat}


class Fusion(Layer):
    """Joins B branches (..., C) to one value. The channels of the branches agree but in "concat" and "bilinear".

    Parameters
    ----------
    mode : str
        What becomes of the branches x_1 ... x_B:

        ================== =========================================================================================
        "sum" "mean"       their sum, mean, largest, product, element by element
        "max" "product"
        "concat"           their channels one after the other; the branches are computed in its memory
        "weighted"         sum of w_b x_b with learned w = softmax(logits) over the branches
        "gated"            sum of g_b * x_b with gates g_b = sigmoid(means @ gate_b + gate_bias_b) for each image and
                           channel, where ``means`` are all branches' channels, averaged over the pixels of images
        "bilinear"         (product over b of x_b @ project_b) @ weights + bias at each pixel
        ================== =========================================================================================
    resize : None, "nearest", "bilinear" or "pad"
        What happens to images smaller than the tallest and widest branch: an error; resampling (see `Resize`); zeros around
        them, one more at the bottom and right where they are odd in number.
    per_channel : bool
        For "weighted": weights of their own for each channel.
    rank : int, optional
        For "bilinear": channels of the projections; those of the first branch by default.
    filters : int, optional
        For "bilinear": channels of the result; those of the first branch by default.
    data_format : "channels_last" or "channels_first"

    Weights
    -------
    weighted
        logits (1, B, 1, C), or (1, B, 1, 1)
    gated
        gate_b (B*C, C) and gate_bias_b (C,), b from 0
    bilinear
        project_b (C_b, rank), b from 0; weights (rank, filters), bias (filters,)

    References
    ----------
    Gates: Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion", arXiv 1702.01992 (there with one gate for
    two branches, and tanh before it). Bilinear: Kim et al. 2017, "Hadamard Product for Low-rank Bilinear Pooling",
    arXiv 1610.04325.
    """

    type_name = "fusion/Fusion@1"
    onnx_as_composed = True
    n_inputs = None

    mode: str = choice("sum", "mean", "max", "product", "concat", "weighted", "gated", "bilinear")
    resize: str | None = Attribute(lambda where, name, v: _resize(where, name, v), None)  # type: ignore[assignment]
    per_channel: bool = boolean(False)
    rank: int | None = integer(None, minimum=1, optional=True)
    filters: int | None = integer(None, minimum=1, optional=True)
    data_format: str = data_format()

    def validate(self) -> None:
        if self.per_channel and self.mode != "weighted":
            raise self.error("per_channel", 'be False unless `mode` is "weighted"', True)
        for name in ("rank", "filters"):
            if getattr(self, name) is not None and self.mode != "bilinear":
                raise self.error(name, 'be None unless `mode` is "bilinear"', getattr(self, name))

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        if self.mode not in ("weighted", "gated", "bilinear"):
            return {}
        channels = [s[-1] or 0 for s in shapes]
        if 0 in channels:
            raise self.error("inputs", "have a known number of channels", tuple(shapes))
        if self.mode == "weighted":
            return {"logits": ParameterSpec((1, len(shapes), 1, channels[0] if self.per_channel else 1), "zeros")}
        specs: dict[str, ParameterSpec] = {}
        if self.mode == "gated":
            fan_in, fan_out = sum(channels), channels[0]
            for i in range(len(shapes)):
                specs[f"gate_{i}"] = ParameterSpec((fan_in, fan_out), "glorot_uniform", fan_in, fan_out)
                specs[f"gate_bias_{i}"] = ParameterSpec((fan_out,), "zeros")
            return specs
        rank, filters = self.rank or channels[0], self.filters or channels[0]
        for i, extent in enumerate(channels):
            specs[f"project_{i}"] = ParameterSpec((extent, rank), "glorot_uniform", extent, rank)
        specs["weights"] = ParameterSpec((rank, filters), "glorot_uniform", rank, filters)
        specs["bias"] = ParameterSpec((filters,), "zeros")
        return specs

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) < 2:
            raise self.error("inputs", "be two branches or more", len(shapes))
        if len(shapes[0]) < 2 or any(len(s) != len(shapes[0]) for s in shapes):
            raise self.error("inputs", "have one rank, of 2 or more", tuple(shapes))
        if self.resize is not None and len(shapes[0]) != 4:
            raise self.error("resize", "be None for sources that are no images (N, H, W, C)", self.resize, *shapes)
        batch = _common(self, "batch", [s[0] for s in shapes], shapes)
        inner = self._inner(shapes)
        extents = [s[-1] for s in shapes]
        if self.mode == "concat":
            return (batch, *inner, None if None in extents else sum(n or 0 for n in extents))
        if self.mode == "bilinear":
            return (batch, *inner, self.filters or extents[0])
        return (batch, *inner, _common(self, "channels", extents, shapes))

    def _inner(self, shapes: Sequence[Shape]) -> list[int | None]:
        """Extents between batch and channels: the common ones, or the largest where branches are resized."""
        columns = list(zip(*(s[1:-1] for s in shapes), strict=True))
        if self.resize is not None:
            return [None if None in column else max(n for n in column if n is not None) for column in columns]
        hint = " (or `resize` be given)" if len(shapes[0]) == 4 else ""
        return [_common(self, f"size{hint}", column, shapes) for column in columns]

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        size = [n or 0 for n in self._inner([v.shape for v in x])]
        branches = [self._resized(g, v, size) for v in x]
        if self.mode in PLAIN:
            return g.apply1(PLAIN[self.mode](name=self.name), *branches)
        learned = {"weighted": self._weighted, "gated": self._gated, "bilinear": self._bilinear}
        return learned[self.mode](g, branches, weights)

    def macs(self, node: Node) -> int:
        matrices = sum(prod(n or 1 for n in v.shape) for v in node.weights.values() if len(v.shape) == 2)
        extents = [n or 1 for n in node.output.shape]
        once_an_image = self.mode == "gated" and len(extents) == 4
        return matrices * (extents[0] if once_an_image else prod(extents[:-1]))

    def _resized(self, g: Graph, x: Value, size: Sequence[int]) -> Value:
        if list(x.shape[1:-1]) == list(size):
            return x
        if self.resize == "pad":
            missing = [want - (n or 0) for want, n in zip(size, x.shape[1:3], strict=True)]
            pads = [(n // 2, n - n // 2) for n in missing]
            return g.apply1(ZeroPad2D(pads, name=f"{self.name}/pad"), x)
        return g.apply1(Resize(tuple(size), self.resize, name=f"{self.name}/resize"), x)

    def _weighted(self, g: Graph, x: Sequence[Value], weights: dict[str, Value]) -> Value:
        shares = g.apply1(Softmax(1, name=f"{self.name}/shares"), weights["logits"])
        channels, rank, terms = shares.shape[3], len(x[0].shape), []
        for i, branch in enumerate(x):
            crop = Crop2D(((i, len(x) - 1 - i), (0, 0)), name=f"{self.name}/share_{i}")
            flat = Reshape((1,) * (rank - 2) + (channels,), name=f"{self.name}/share_{i}")
            terms.append(multiply(g, branch, g.apply1(flat, g.apply1(crop, shares))))
        return g.apply1(Add(name=self.name), *terms)

    def _gated(self, g: Graph, x: Sequence[Value], weights: dict[str, Value]) -> Value:
        means = [g.apply1(GlobalAvgPool2D(keepdims=True, name=f"{self.name}/mean_{i}"), v) if len(v.shape) == 4 else v
                 for i, v in enumerate(x)]
        means_of_all = g.apply1(Concat(name=f"{self.name}/means"), *means)
        terms = []
        for i, branch in enumerate(x):
            gate = Dense(weights[f"gate_{i}"].shape[1], activation="sigmoid", name=f"{self.name}/gate_{i}")
            own = {"weights": weights[f"gate_{i}"], "bias": weights[f"gate_bias_{i}"]}
            terms.append(multiply(g, branch, g.apply1(gate, means_of_all, weights=own)))
        return g.apply1(Add(name=self.name), *terms)

    def _bilinear(self, g: Graph, x: Sequence[Value], weights: dict[str, Value]) -> Value:
        rank, filters = weights["weights"].shape
        factors = [
            g.apply1(Dense(rank, use_bias=False, name=f"{self.name}/project_{i}"), v,
                     weights={"weights": weights[f"project_{i}"]})
            for i, v in enumerate(x)
        ]
        own = {"weights": weights["weights"], "bias": weights["bias"]}
        return g.apply1(Dense(filters, name=self.name), multiply(g, *factors), weights=own)


def _resize(where: str, name: str, value: Any) -> str | None:
    if value is not None and value not in ("nearest", "bilinear", "pad"):
        raise fail(where, name, "be None, 'nearest', 'bilinear' or 'pad'", value)
    return value


def _common(layer: Layer, what: str, extents: Sequence[int | None], shapes: Sequence[Shape]) -> int | None:
    """The one extent that all branches have; None where none is known."""
    known = {n for n in extents if n is not None}
    if len(known) > 1:
        raise layer.error("inputs", f"have the same {what}", tuple(shapes))
    return known.pop() if known else None
