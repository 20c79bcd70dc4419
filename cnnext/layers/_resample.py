"""Lowering of resampling: linear, separable maps of an image and their gradients (``src/kernels/resample.pyx``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, prod
from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.graph import Node, Shape
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import TILE_ELEMENTS
from cnnext.layers.layer import Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder

Term = tuple[int, float]


@dataclass(frozen=True)
class AxisMap:
    """How one axis of the result is made: result i is the sum of weight * source[index] over ``terms[i]``.

    Attributes
    ----------
    source : int
        Extent of the source.
    terms : list of list of (index, weight)
        One list per element of the result; an empty one stands for a constant.
    """

    source: int
    terms: list[list[Term]]

    def transposed(self) -> AxisMap:
        """The map of the gradients, from result to source."""
        back: list[list[Term]] = [[] for _ in range(self.source)]
        for i, terms in enumerate(self.terms):
            for index, weight in terms:
                back[index].append((i, weight))
        return AxisMap(len(self.terms), back)

    def matrix(self) -> np.ndarray:
        """The map as a matrix of a row for each element of the result."""
        full = np.zeros((len(self.terms), self.source), np.float32)
        for row, terms in zip(full, self.terms, strict=True):
            for index, weight in terms:
                row[index] += weight
        return full

    def tables(self, b: PlanBuilder) -> list[View]:
        """The start of each list, all indices, all weights."""
        flat = [term for terms in self.terms for term in terms]
        return [
            b.constant(np.cumsum([0, *map(len, self.terms)], dtype=np.int64)),
            b.constant(np.array([index for index, _ in flat], np.int64)),
            b.constant(np.array([weight for _, weight in flat], np.float32)),
        ]


class Resample(Layer):
    """Rows and columns of (N, H, W, C) through a linear map each: the gradient of a padding or an upsampling."""

    def __init__(self, rows: AxisMap, cols: AxisMap, name: str):
        super().__init__(name=name)
        self.rows = rows
        self.cols = cols

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], len(self.rows.terms), len(self.cols.terms), shapes[0][3])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_resample(b, b.view(node.inputs[0]), b.view(node.output), self.rows, self.cols)


def lower_resample(b: PlanBuilder, src: View, dst: View, rows: AxisMap, cols: AxisMap, value: float = 0.0) -> None:
    """dst = the two maps of src, both (N, H, W, C); ``value`` where a map has no term."""
    row_size = prod(dst.shape[2:])
    rows_per_tile = max(1, TILE_ELEMENTS // max(row_size, 1))
    sums_rows = any(len(terms) > 1 or terms and terms[0][1] != 1 for terms in rows.terms)
    b.step("resample", [src, *rows.tables(b), *cols.tables(b)], [dst], {"rows": rows_per_tile, "value": value},
           tiles=ceil(dst.shape[0] * dst.shape[1] / rows_per_tile),
           scratch_bytes=4 * prod(src.shape[2:]) if sums_rows else 0,
           why=f"{src.shape[1]}x{src.shape[2]} to {dst.shape[1]}x{dst.shape[2]} pixels")


@dataclass(frozen=True)
class Interpolation:
    """How a resized axis is read, in the words of ONNX's operator Resize, whose text is the definition."""

    mode: str = "nearest"                       # nearest, linear, cubic
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"        # of nearest
    cubic_coeff: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def resized_axis(size: int, target: int, how: Interpolation, scale: float | None = None,
                 region: tuple[float, float] = (0.0, 1.0)) -> AxisMap:
    """The map of an axis of ``size`` elements to ``target``, whose ratio is ``scale`` unless one is given."""
    points = _source_points(size, target, how.coordinates, target / size if scale is None else scale, region)
    inside = np.ones(target, bool)
    if how.coordinates == "tf_crop_and_resize":
        inside = (points >= 0) & (points <= size - 1)
    if how.mode == "nearest":
        at = np.clip(ROUNDINGS[how.rounding](points), 0, size - 1)[:, np.newaxis]
        weights = np.ones_like(at)
    else:
        at, weights = _taps(points, size, target / size if scale is None else scale, how)
    return AxisMap(size, [_merged(i, w) if ok else [] for i, w, ok in zip(at.astype(int), weights, inside, strict=True)])


def _source_points(size: int, target: int, coordinates: str, scale: float, region: tuple[float, float]) -> np.ndarray:
    """Where the elements of the result lie in the source, whose elements lie at whole numbers."""
    x, width = np.arange(target, dtype=np.float64), scale * size
    if coordinates == "asymmetric":
        points = x / scale
    elif coordinates == "align_corners":
        points = x * ((size - 1) / (width - 1)) if width != 1 else np.zeros(target)
    elif coordinates == "tf_crop_and_resize":
        first, last = region[0] * (size - 1), region[1] * (size - 1)
        points = first + x * ((last - first) / (width - 1)) if width != 1 else np.full(target, (first + last) / 2)
    else:
        points = (x + 0.5) / scale - 0.5
        if coordinates == "half_pixel_symmetric":
            points += size / 2 * (1 - target / width)
        elif coordinates == "pytorch_half_pixel" and target == 1:
            points = np.zeros(1)
    return np.round(points, 9)  # a point that is meant to lie on an element, or half-way, does


def _taps(points: np.ndarray, size: int, scale: float, how: Interpolation) -> tuple[np.ndarray, np.ndarray]:
    """Elements that each point reads, and their weights: an interpolation kernel, widened where ``antialias`` shrinks."""
    half = 1 if how.mode == "linear" else 2
    shrink = min(scale, 1.0) if how.antialias else 1.0
    reach = ceil(half / shrink)
    at = np.floor(points)[:, np.newaxis] + np.arange(1 - reach, reach + 1)
    distance = np.abs(at - points[:, np.newaxis]) * shrink
    weights = np.maximum(0, 1 - distance) if how.mode == "linear" else _keys(distance, how.cubic_coeff)
    if shrink < 1:
        weights /= weights.sum(1, keepdims=True)
    if how.exclude_outside:
        weights = np.where((at < 0) | (at > size - 1), 0, weights)
        weights /= weights.sum(1, keepdims=True)
    return np.clip(at, 0, size - 1), weights


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """R. Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 4."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _merged(at: np.ndarray, weights: np.ndarray) -> list[Term]:
    """The terms of one element: those of one index joined, those without weight left out."""
    terms: dict[int, float] = {}
    for index, weight in zip(at.tolist(), weights.tolist(), strict=True):
        terms[index] = terms.get(index, 0.0) + weight
    return [(index, 1.0 if abs(weight - 1) < 1e-9 else weight) for index, weight in terms.items() if abs(weight) > 1e-9]


def resized_extent(size: int, scale: float) -> int:
    """The extent that a scale gives, in single precision as everyone computes it: 10 * 1.9 is 19."""
    return floor(float(np.float32(size) * np.float32(scale)))


def export_resample(b: OnnxBuilder, node: Node, rows: AxisMap, cols: AxisMap, value: float = 0.0) -> None:
    """Append the ONNX nodes of ``lower_resample``: the elements themselves, or products with the maps as matrices."""
    (src,) = node.inputs
    if all(len(terms) == 1 and terms[0][1] == 1 for terms in (*rows.terms, *cols.terms)):
        order = b.layout(src)
        taller, wider = (b.constant(np.array([terms[0][0] for terms in axis.terms], np.int64), "pixels")
                         for axis in (rows, cols))
        taller = b.op("Gather", b.get(src, order), taller, axis=order.index(1))
        b.result(node.output, "Gather", [taller, wider], order, axis=order.index(2))
        return
    left, right = rows.matrix(), cols.matrix().T
    taller = b.op("MatMul", b.constant(left, "rows"), b.get_first(src))
    empty = np.logical_or.outer(*([not terms for terms in axis.terms] for axis in (rows, cols)))
    if value and empty.any():
        filled = b.constant(np.where(empty, np.float32(value), np.float32(0)), "filled")
        b.result_first(node.output, "Add", [b.op("MatMul", taller, b.constant(right, "columns")), filled])
    else:
        b.result_first(node.output, "MatMul", [taller, b.constant(right, "columns")])


def check_image(layer: Layer, shape: Shape) -> None:
    """Refuse a source that is no batch of images."""
    if len(shape) != 4:
        raise layer.error("src", "have rank 4, (N, H, W, C)", shape)
