"""RegionwiseConv2D: the twin, its two extremes, shapes, bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from cnnext_slice_split import RegionwiseConv2D

import cnnext as cx
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.testing import run_layer


def convolved(x, weights, bias, strides, pads, dilation):
    kh, kw = weights.shape[:2]
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    oh, ow = ((n - (k - 1) * dilation - 1) // strides + 1 for n, k in zip(x.shape[1:3], (kh, kw), strict=True))
    out = np.zeros((len(x), oh, ow, weights.shape[3])) + bias
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dilation, i * dilation + (oh - 1) * strides + 1, strides)
            cols = slice(j * dilation, j * dilation + (ow - 1) * strides + 1, strides)
            out += x[:, rows, cols] @ weights[i, j]
    return out


@pytest.mark.parametrize(("shape", "kernel", "grid", "strides", "pads", "dilation"), [
    ((2, 5, 6, 2), (3, 3), (2, 2), 1, ((1, 1), (1, 1)), 1),
    ((1, 5, 4, 2), (3, 2), (3, 1), 1, ((0, 0), (0, 0)), 1),
    ((1, 7, 5, 1), (3, 3), (2, 2), 2, ((2, 1), (0, 2)), 1),
    ((1, 5, 6, 1), (2, 3), (2, 3), 1, ((1, 1), (2, 2)), 2),
    ((1, 3, 3, 2), (1, 1), (3, 3), 1, ((0, 0), (0, 0)), 1),
])
def test_twin(against_twin, shape, kernel, grid, strides, pads, dilation):
    def twin(x, **weights):
        whole = {f"{i}_{j}": convolved(x, weights[f"weights_{i}_{j}"], weights[f"bias_{i}_{j}"], strides, pads, dilation)
                 for i in range(grid[0]) for j in range(grid[1])}
        out = np.empty_like(whole["0_0"])
        for i in range(grid[0]):
            for j in range(grid[1]):
                rows = slice(i * out.shape[1] // grid[0], (i + 1) * out.shape[1] // grid[0])
                cols = slice(j * out.shape[2] // grid[1], (j + 1) * out.shape[2] // grid[1])
                out[:, rows, cols] = whole[f"{i}_{j}"][:, rows, cols]
        return [out]

    against_twin(lambda: RegionwiseConv2D(3, kernel, grid, strides, pads, dilation), [shape], twin)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_one_region_is_a_convolution(padding):
    x = np.random.default_rng(0).standard_normal((2, 13, 7, 5)).astype(np.float32)
    one = RegionwiseConv2D(4, 3, 1, 2, padding, activation="relu")
    conv = cx.Conv2D(4, 3, 2, padding, activation="relu")
    one.build(x.shape)
    conv.build(x.shape)
    conv.weights["weights"].assign(one.weights["weights_0_0"].data)
    np.testing.assert_allclose(run_layer(one, [x]).outputs[0], run_layer(conv, [x]).outputs[0], atol=1e-6)


def test_equal_kernels_are_a_convolution():
    x = np.random.default_rng(0).standard_normal((2, 13, 17, 7)).astype(np.float32)
    many, conv = RegionwiseConv2D(5, 3, (3, 4), use_bias=False), cx.Conv2D(5, 3, padding="same", use_bias=False)
    many.build(x.shape)
    conv.build(x.shape)
    for parameter in many.weights.values():
        parameter.assign(conv.weights["weights"].data)
    np.testing.assert_allclose(run_layer(many, [x], n_threads=2).outputs[0], run_layer(conv, [x]).outputs[0], atol=2e-6)


def test_copies_nothing():
    x = Value((1, 14, 15, 8), name="x")
    y = RegionwiseConv2D(8, 3, (2, 3), activation="relu")(cx.Conv2D(8, 1)(x))
    graph = prepare(Graph([x], [y], ancestors([y])), [x.shape], training=False)
    plan = Plan(optimize(graph), default_level())
    assert len(plan.steps) == 7
    assert all(step.macs and step.kernel != "copy" for step in plan.steps), plan.explain()


def test_unknown_batch():
    layer = RegionwiseConv2D(5, 3, 2)
    assert layer.infer_shapes((None, 8, 8, 3)) == [(None, 8, 8, 5)]
    assert {key: spec.shape for key, spec in layer.parameters((None, 8, 8, 3)).items()} == {
        f"{kind}_{i}_{j}": shape for i in range(2) for j in range(2)
        for kind, shape in (("weights", (3, 3, 3, 5)), ("bias", (5,)))}


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`padding` must be smaller than the window, which spans \(3, 3\)"):
        RegionwiseConv2D(1, 3, padding=3)
    with pytest.raises(ValueError, match=r"`grid` must leave every region a pixel of the result"):
        RegionwiseConv2D(1, 3, (4, 1), padding="valid").infer_shapes((1, 5, 5, 1))
    with pytest.raises(ValueError, match="`src` must have rank 4"):
        RegionwiseConv2D(1, 3).infer_shapes((1, 5, 5))
    with pytest.raises(ValueError, match="`filters` must be at least 1"):
        RegionwiseConv2D(0, 3)
