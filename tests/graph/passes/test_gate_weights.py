"""Gates in the weights of pointwise convolutions: what is computed stays, on all levels and numbers of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers.conv2d import GatedConv2D
from cnnext.testing import guarded_copy, run_graph
from tests.graph.test_chains import banded
from tests.layers.agreement import LEVELS, close


def block(shape, filters, swapped=False, kernel=1, strides=1, residual=False, activation=None, use_bias=True,
          gate_shape=None, data_format="channels_last"):
    """A map and the logits of its gate; sigmoid, product, convolution. Returns the inputs, the output, the layer."""
    x = Value(shape, name="x")
    logits = Value(gate_shape or (shape[0], 1, 1, shape[3]), name="logits")
    gate = cx.Sigmoid()(logits)
    y = cx.Multiply(name="scale")([gate, x] if swapped else [x, gate])
    conv = cx.Conv2D(filters, kernel, strides, use_bias=use_bias, name="project")
    y = conv(y)
    inputs = [x, logits]
    if residual:
        inputs.append(Value(y.shape, name="residual"))
        y = cx.Add()([y, inputs[-1]])
    return inputs, cx.ReLU()(y) if activation else y, conv


def optimized(inputs, outputs, training=False):
    return optimize(prepare(Graph(inputs, outputs, ancestors(outputs)), [v.shape for v in inputs], training))


def gated(graph):
    return [type(node.layer) for node in graph.nodes].count(GatedConv2D)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(7, 12), channels=st.sampled_from([1, 5, 16, 33]),
       filters=st.integers(1, 3), swapped=st.booleans(), residual=st.booleans(), activation=st.booleans(),
       use_bias=st.booleans(), rows=st.integers(0, 4), n_threads=st.integers(2, 4), seed=st.integers(0, 2**31))
def test_against_twin(level, batch, height, width, channels, filters, swapped, residual, activation, use_bias, rows,
                      n_threads, seed):
    inputs, y, conv = block((batch, height, width, channels), filters, swapped, residual=residual, activation=activation,
                            use_bias=use_bias)
    graph = optimized(inputs, [y])
    assert gated(graph) == 1
    rng = np.random.default_rng(seed)
    x, logits, *added = feeds = [rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs]
    exact = x.astype(np.float64) / (1 + np.exp(-logits.astype(np.float64)))
    expected = exact @ conv.weights["weights"].data[0, 0] + (conv.weights["bias"].data if use_bias else 0) + sum(added)
    expected = np.maximum(expected, 0) if activation else expected
    alone, team = (run_graph(graph, [guarded_copy(f) for f in feeds], level=level, n_threads=n)[0] for n in (1, n_threads))
    close(alone, expected)
    np.testing.assert_array_equal(alone, team)
    if rows:
        plan = Plan(graph, level, guard=True, chooser=banded(rows))
        np.testing.assert_array_equal(plan.run(feeds)[0], alone)


def test_wide_result():
    # more than one panel of output channels, and pixels 256 channels apart
    inputs, y, conv = block((2, 20, 21, 256), 130)
    graph = optimized(inputs, [y])
    assert gated(graph) == 1
    x, logits = (np.random.default_rng(3).standard_normal(v.shape).astype(np.float32) for v in inputs)
    exact = x.astype(np.float64) / (1 + np.exp(-logits.astype(np.float64))) @ conv.weights["weights"].data[0, 0]
    close(run_graph(graph, [x, logits])[0], exact + conv.weights["bias"].data)


def test_step():
    inputs, y, _ = block((2, 8, 8, 5), 3)
    plan = Plan(optimized(inputs, [y]), default_level())
    assert [s.kernel for s in plan.steps] == ["unary", "binary", "conv_direct"]
    assert plan.steps[1].name == "project" and "gate of 5 channels into weights" in plan.explain()
    assert [s.kernel for s in plan._prologue] == ["conv_pack_weights"]


def test_what_stays():
    shape = (2, 8, 8, 5)
    for options in (dict(kernel=2), dict(strides=2), dict(gate_shape=(1, 1, 1, 5)), dict(gate_shape=(2, 8, 1, 5))):
        inputs, y, _ = block(shape, 3, **options)
        assert gated(optimized(inputs, [y])) == 0, options
    inputs, y, _ = block(shape, 40)     # weights of each image would cost more than the map
    assert gated(optimized(inputs, [y])) == 0
    inputs, y, _ = block(shape, 3)
    product = y.node.inputs[0]
    assert gated(optimized(inputs, [y, product])) == 0      # others read the product
    assert gated(optimized(inputs, [y, cx.ReLU()(product)])) == 0
    assert gated(optimized(inputs, [y], training=True)) == 0
    inputs[1] = Value((2, 1, 1, 5), name="given")
    scaled = cx.Conv2D(3, 1)(cx.Multiply()([inputs[0], inputs[1]]))
    assert gated(optimized(inputs, [scaled])) == 1


def test_networks():
    for name, count in (("mobilenet_v3_large", 3), ("efficientnet_b0", 8)):
        graph = getattr(cx.models, name)().plan(1).graph
        assert gated(graph) == count, name
        assert not [n.name for n in graph.nodes if type(n.layer) is cx.Multiply and n.output.shape[1] > 14]
