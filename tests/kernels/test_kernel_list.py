"""One list of kernels: each has a twin, and a layer, loss or optimizer whose plan calls it."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext import reference
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.kernel_list import KERNELS

# Kernel -> its twin in cnnext.reference. A sum over shards or axes is NumPy's own.
TWINS = {
    "unary": "UNARY", "unary_backward": "UNARY", "prelu": "prelu", "prelu_backward": "prelu_backward",
    "softmax": "softmax", "softmax_backward": "softmax_backward", "log_softmax": "log_softmax",
    "log_softmax_backward": "log_softmax_backward", "dropout": "dropout",
    "binary": "add", "copy": "concat", "sum_pixels": "conv2d_backward_bias", "sum_axes": "reduce_to_shape",
    "fold_axes": "reduce_max", "matmul": "matmul",
    "matmul_pack": "matmul",
    "conv_direct": "conv2d", "conv_pack_weights": "conv2d", "conv_backward_weights": "conv2d_backward_weights",
    "conv_pixels": "conv2d", "conv_pixels_backward_weights": "conv2d_backward_weights",
    "conv_winograd": "winograd_conv2d", "conv_winograd_src": "winograd_source",
    "conv_winograd_weights": "winograd_weights", "conv_winograd_backward_weights": "winograd_conv2d_backward_weights",
    "sum_shards": "conv2d_backward_weights", "conv_depthwise": "depthwise_conv2d",
    "depthwise_backward_weights": "depthwise_conv2d_backward_weights",
    "locally_connected": "locally_connected2d", "locally_connected_backward_data": "locally_connected2d_backward_data",
    "locally_connected_backward_weights": "locally_connected2d_backward_weights",
    "pool": "max_pool2d", "pool_backward": "max_pool2d_backward", "global_avg": "global_avg_pool2d",
    "resample": "upsample2d", "transpose": "permute",
    "cross_entropy": "sparse_categorical_crossentropy",
    "cross_entropy_backward": "sparse_categorical_crossentropy_backward",
    "one_hot": "one_hot", "squared_error": "mean_squared_error", "squared_error_backward": "mean_squared_error_backward",
    "sum_losses": "sparse_categorical_crossentropy", "sgd": "sgd", "adam": "adam",
    "accumulate": "mean_gradient",
    "rmsprop": "rmsprop", "lamb_direction": "lamb", "lamb": "lamb", "sum_squares": "clip_by_norm",
}

IMAGE = (2, 24, 24, 8)
LAYERS = [
    cx.Conv2D(8, 3, padding="same"), cx.Conv2D(1, 3), cx.DepthwiseConv2D(3), cx.LocallyConnected2D(4, 3), cx.MaxPool2D(2),
    cx.GlobalAvgPool2D(), cx.GELU(), cx.PReLU(), cx.Softmax(), cx.LogSoftmax(), cx.UpSample2D(2), cx.Permute((0, 3, 1, 2)),
    cx.Dropout(0.5), cx.ZeroPad2D(1), cx.ReduceMax((1, 2)),
]


def kernels_of(plan):
    return {step.kernel for step in (*plan.steps, *plan._prologue)}


def used_by_layer(layer, shape=IMAGE):
    x = Value(shape, name="x")
    y = layer(x)
    g = prepare(Graph([x], [y], ancestors([y])), [shape], training=True)
    values = [v for node in g.nodes for v in node.weights.values()]
    diff = Value(g.outputs[0].shape, name="diff")
    diffs = add_gradients(g, g.outputs, [g.inputs[0], *values], [diff])
    g.inputs.append(diff)
    g.outputs += diffs.values()
    g.order()
    return kernels_of(Plan(optimize(g), default_level()))


def used_by_training(loss, optimizer, y):
    net = cx.Sequential([cx.Dense(4), cx.Dense(3)], input_shape=(5,))
    net.compile(optimizer, loss)
    net.fit(np.ones((4, 5), np.float32), y, batch_size=4, verbose=0)
    return set().union(*(kernels_of(built.plan) for built in net._trainer._plans.values()))


def test_every_kernel_is_reached():
    used = set().union(*map(used_by_layer, LAYERS)) | used_by_layer(cx.Conv2D(64, 3), (2, 24, 24, 64))
    a, b = Value((3, 5), name="a"), Value((5, 7), name="b")
    product = cx.MatMul()([a, b])
    used |= kernels_of(Plan(Graph([a, b], [product], ancestors([product])), default_level()))
    small = cx.Input((14, 14, 256))     # few tiles, many channels
    used |= kernels_of(cx.Model(small, cx.Conv2D(256, 3, padding="same")(small)).plan(1))
    used |= used_by_training("sparse_categorical_crossentropy", "adam", np.array([0, 1, 2, 0]))
    used |= used_by_training(cx.SparseCategoricalCrossentropy(label_smoothing=0.1), "sgd", np.array([0, 1, 2, 0]))
    used |= used_by_training("huber", "rmsprop", np.ones((4, 3))) | used_by_training("mae", "lamb", np.ones((4, 3)))
    used |= used_by_training("mse", cx.SGD(gradient_accumulation_steps=2), np.ones((4, 3)))
    used |= used_by_training("mse", "sgd", np.ones((4, 3), np.float32))
    a, b = Value(IMAGE, name="a"), Value((2, 1, 1, 8), name="b")
    g = Graph([a, b], [cx.Add()([a, b])])
    diff = Value(IMAGE, name="diff")
    g.nodes = list(ancestors(g.outputs))
    diffs = add_gradients(g, g.outputs, [a, b], [diff])
    g.inputs.append(diff)
    g.outputs += diffs.values()
    g.order()
    used |= kernels_of(Plan(optimize(g), default_level()))
    listed = {name for names in KERNELS.values() for name in names}
    assert listed - used == set()


def test_every_kernel_has_a_twin():
    listed = {name for names in KERNELS.values() for name in names}
    assert set(TWINS) == listed


@pytest.mark.parametrize("twin", sorted(set(TWINS.values())))
def test_twin_exists(twin):
    assert hasattr(reference, twin)
