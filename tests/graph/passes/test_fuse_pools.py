"""Which convolutions absorb the pool after them."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.passes import optimize, prepare
from tests.helpers import close, images


def optimized(inputs, outputs):
    net = cx.Model(inputs, outputs)
    return net, optimize(prepare(net.graph, [(1, *v.shape[1:]) for v in net.graph.inputs], training=False))


def kinds(graph):
    return [type(node.layer).__name__ for node in graph.nodes]


def test_a_plain_maximum_is_absorbed():
    x = cx.Input((12, 13, 2))
    y = cx.MaxPool2D(2)(cx.ReLU()(cx.Conv2D(6, 3, padding="same", name="first")(x)))
    net, graph = optimized(x, y)
    assert kinds(graph) == ["PooledConvolution"]
    assert graph.nodes[0].layer.name == "first" and graph.outputs[0].shape == (1, 6, 6, 6)
    assert graph.nodes[0].layer.output_shape((1, 12, 13, 2)) == (1, 6, 6, 6)
    assert [type(node.layer).__name__ for node in net.graph.nodes] == ["Conv2D", "ReLU", "MaxPool2D"]


@pytest.mark.parametrize("convolution, pool", [
    (dict(filters=33), dict()),
    (dict(activation="tanh"), dict()),
    (dict(), dict(pool_size=3)),
    (dict(), dict(pool_size=2, strides=1)),
    (dict(), dict(padding=((1, 0), (0, 0)))),
    (dict(), dict(padding="same")),
    (dict(), dict(ceil_mode=True)),
    (dict(), dict(dilation=2)),
])
def test_others_are_not(convolution, pool):
    x = cx.Input((13, 13, 2))
    y = cx.Conv2D(**{"filters": 6, "kernel_size": 3, "padding": "same", **convolution})(x)
    y = cx.MaxPool2D(**{"pool_size": 2, **pool})(y)
    assert kinds(optimized(x, y)[1]) == ["Conv2D", "MaxPool2D"]


def test_nor_what_others_read():
    x = cx.Input((12, 12, 2))
    middle = cx.Conv2D(6, 3)(x)
    pooled = cx.MaxPool2D(2)(middle)
    added = cx.Add()([cx.Conv2D(6, 3)(x), middle])
    assert "PooledConvolution" not in kinds(optimized(x, [pooled, middle])[1])
    assert "PooledConvolution" not in kinds(optimized(x, [pooled, cx.ReLU()(middle)])[1])
    assert "PooledConvolution" not in kinds(optimized(x, cx.MaxPool2D(2)(added))[1])
    assert "PooledConvolution" not in kinds(optimized(x, cx.AvgPool2D(2)(cx.Conv2D(6, 3)(x)))[1])


def test_training_keeps_the_two():
    """A pool looks for its maxima in the convolution's result when it sends the gradient back."""
    x = cx.Input((12, 12, 2))
    net = cx.Model(x, cx.MaxPool2D(2)(cx.Conv2D(6, 3)(x)))
    assert kinds(optimize(prepare(net.graph, [(1, 12, 12, 2)], training=True))) == ["Conv2D", "MaxPool2D"]


def test_results_stay():
    net = cx.models.lenet5()
    src = images(3, 28, 28, 1)
    (fast,) = net.plan(3).run([src])
    x = src
    for node in net.graph.nodes:   # layer by layer: nothing to fuse
        y = cx.Input(x.shape[1:])
        single = cx.Model(y, node.layer(y))
        single.set_weights([p.data for p in node.layer.weights.values()])
        x = single.predict(x)
    close(fast, np.asarray(x), 1e-6)
