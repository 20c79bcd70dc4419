"""Fusion: every mode against its twin, resizing, no copies, shape rules, bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from cnnext_fusion import Fusion

import cnnext as cx
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.testing import run_layer

SHAPES = [[(2, 3, 2, 3)] * 2, [(1, 2, 3, 2)] * 3, [(3, 4)] * 2, [(2, 3, 2)] * 4]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(("mode", "twin"), [
    ("sum", lambda *x: sum(x)),
    ("mean", lambda *x: sum(x) / len(x)),
    ("max", lambda *x: np.max(x, 0)),
    ("product", lambda *x: np.prod(x, 0)),
    ("concat", lambda *x: np.concatenate(x, -1)),
])
def test_plain_modes(against_twin, mode, twin, shapes):
    against_twin(lambda: Fusion(mode), shapes, lambda *x: [twin(*x)])


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_weighted(against_twin, shapes, per_channel):
    def twin(*x, logits):
        shares = np.exp(logits[0, :, 0])
        shares /= shares.sum(0)
        return [sum(share * branch for share, branch in zip(shares, x, strict=True))]

    against_twin(lambda: Fusion("weighted", per_channel=per_channel), shapes, twin)


def test_weights_begin_equal():
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(run_layer(Fusion("weighted"), list(x)).outputs[0], x.mean(0), atol=1e-6)


@pytest.mark.parametrize("shapes", SHAPES)
def test_gated(against_twin, shapes):
    def twin(*x, **weights):
        means = np.concatenate([v.mean((1, 2), keepdims=True) if v.ndim == 4 else v for v in x], -1)
        gates = [1 / (1 + np.exp(-means @ weights[f"gate_{i}"] - weights[f"gate_bias_{i}"])) for i in range(len(x))]
        return [sum(gate * branch for gate, branch in zip(gates, x, strict=True))]

    against_twin(lambda: Fusion("gated"), shapes, twin)


@pytest.mark.parametrize(("shapes", "rank", "filters"), [
    ([(2, 3, 2, 3), (2, 3, 2, 4)], None, None), ([(1, 2, 2, 2), (1, 2, 2, 1), (1, 2, 2, 3)], 4, 2), ([(3, 5), (3, 2)], 2, 7),
])
def test_bilinear(against_twin, shapes, rank, filters):
    def twin(*x, weights, bias, **projections):
        factors = [branch @ projections[f"project_{i}"] for i, branch in enumerate(x)]
        return [np.prod(factors, 0) @ weights + bias]

    against_twin(lambda: Fusion("bilinear", rank=rank, filters=filters), shapes, twin)


@pytest.mark.parametrize("mode", ["sum", "concat"])
def test_pad(against_twin, mode):
    def twin(x, y):
        x = np.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)))
        y = np.pad(y, ((0, 0), (0, 0), (0, 1), (0, 0)))
        return [x + y if mode == "sum" else np.concatenate([x, y], -1)]

    against_twin(lambda: Fusion(mode, "pad"), [(2, 2, 4, 3), (2, 5, 3, 3)], twin)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("sizes", [((2, 3), (4, 6)), ((2, 5), (3, 5)), ((1, 7), (4, 3)), ((3, 2), (7, 5))])
def test_resize(against_twin, mode, sizes):
    size = tuple(map(max, zip(*sizes, strict=True)))

    def axis(n, out):
        if mode == "nearest":
            return np.eye(n)[[int((i + 0.5) * n / out) for i in range(out)]]
        points = np.clip((np.arange(out) + 0.5) * n / out - 0.5, 0, n - 1)
        return np.stack([np.interp(points, np.arange(n), unit) if n > 1 else np.ones(out) for unit in np.eye(n)], 1)

    def twin(*x):
        return [sum(np.einsum("oh,nhwc,pw->nopc", axis(v.shape[1], size[0]), v, axis(v.shape[2], size[1])) for v in x)]

    against_twin(lambda: Fusion("sum", mode), [(2, *s, 2) for s in sizes], twin)


def test_concatenation_copies_nothing():
    x = Value((1, 6, 6, 8), name="x")
    branches = [cx.Conv2D(channels, 3, padding="same")(x) for channels in (8, 5, 3)]
    y = cx.Conv2D(4, 1)(Fusion("concat")(branches))
    graph = prepare(Graph([x], [y], ancestors([y])), [x.shape], training=False)
    plan = Plan(optimize(graph), default_level())
    assert len(plan.steps) == 4
    assert all(step.macs and step.kernel != "copy" for step in plan.steps), plan.explain()


def test_channels_first():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 4, 4)).astype(np.float32), rng.standard_normal((2, 3, 2, 2)).astype(np.float32)
    (out,) = run_layer(Fusion("sum", "nearest", data_format="channels_first"), [x, y]).outputs
    np.testing.assert_allclose(out, x + y.repeat(2, 2).repeat(2, 3), atol=1e-6)


def test_unknown_extents():
    assert Fusion().infer_shapes((None, 4, 4, 3), (None, 4, None, 3)) == [(None, 4, 4, 3)]
    assert Fusion("concat").infer_shapes((None, 4, 4, 3), (None, 4, 4, 2)) == [(None, 4, 4, 5)]
    assert Fusion("sum", "pad").infer_shapes((None, 4, 2, 3), (None, None, 3, 3)) == [(None, None, 3, 3)]
    assert Fusion("bilinear", filters=9).infer_shapes((None, 4), (None, 7)) == [(None, 9)]


@pytest.mark.parametrize(("layer", "macs"), [
    (Fusion("sum"), 0), (Fusion("weighted"), 0), (Fusion("gated"), 2 * 2 * 6 * 3),
    (Fusion("bilinear", rank=5, filters=7), 2 * 4 * 4 * (3 * 5 + 3 * 5 + 5 * 7)),
])
def test_macs(layer, macs):
    values = [Value((2, 4, 4, 3), name=name) for name in "ab"]
    assert layer.macs(layer(values).node) == macs


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Fusion("average"), "`mode` must be one of 'sum', 'mean'"),
    (lambda: Fusion(resize="cubic"), "`resize` must be None, 'nearest', 'bilinear' or 'pad'. Received resize='cubic'"),
    (lambda: Fusion("sum", rank=3), '`rank` must be None unless `mode` is "bilinear"'),
    (lambda: Fusion("gated", filters=3), '`filters` must be None unless `mode` is "bilinear"'),
    (lambda: Fusion("gated", per_channel=True), '`per_channel` must be False unless `mode` is "weighted"'),
])
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("layer", "shapes", "message"), [
    (Fusion(), [(1, 2)], "`inputs` must be two branches or more. Received inputs=1"),
    (Fusion(), [(1, 2), (1, 2, 3)], "`inputs` must have one rank, of 2 or more"),
    (Fusion(), [(1, 4, 4, 3), (1, 2, 4, 3)], r"`inputs` must have the same size \(or `resize` be given\)"),
    (Fusion(), [(1, 4, 3), (1, 2, 3)], "`inputs` must have the same size. Received"),
    (Fusion(), [(1, 4, 4, 3), (1, 4, 4, 2)], "`inputs` must have the same channels"),
    (Fusion("concat"), [(1, 4, 4, 3), (2, 4, 4, 2)], "`inputs` must have the same batch"),
    (Fusion("sum", "pad"), [(1, 4), (1, 4)], "`resize` must be None for sources that are no images"),
])
def test_bad_sources(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        layer.infer_shapes(*shapes)
