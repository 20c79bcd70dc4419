"""Concat, Flatten, Reshape, Crop2D and gradients of a concat cost no copy, wherever memory allows it."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext._native import executor
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Graph, Value, ancestors, constant
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.layers.concat import Concat
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.crop2d import Crop2D
from cnnext.layers.dense import Dense
from cnnext.layers.elementwise import Add
from cnnext.layers.flatten import Flatten
from cnnext.layers.reshape import Reshape
from cnnext.testing import run_graph

LEVEL = executor.levels()[-1]


def graph_of(inputs, *outputs):
    return prepare(Graph(inputs, list(outputs), ancestors(outputs)), [v.shape for v in inputs], False)


def copies(graph):
    """Who copies, in order."""
    return [step.name for step in Plan(graph, LEVEL).steps if step.kernel == "copy"]


def pointwise(filters, name=None):
    return Conv2D(filters, 1, use_bias=False, name=name)


def agrees(graph, feeds, expected):
    # with guard zones, and in an arena where values share memory
    for results in (run_graph(graph, feeds, level=LEVEL), Plan(graph, LEVEL).run(feeds)):
        for result, value in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, value, rtol=0, atol=1e-5 * np.abs(value).max())


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def relu(x):
    return np.maximum(x, 0)


def matrix(layer):
    return layer.weights["weights"].data[0, 0]


@pytest.mark.parametrize("filters", [5, 256])
def test_nested_concats(filters):
    # a dense block (Huang et al. 2017): each layer reads all that stands and appends its own channels
    src = Value((2, 7, 5, 3))
    layers = [pointwise(filters) for _ in range(4)]
    features = layers[0](src)
    for layer in layers[1:]:
        features = Concat()([features, layer(features)])
    last = pointwise(2)
    graph = graph_of([src], last(features))
    assert copies(graph) == []

    x = random(*src.shape)
    expected = x @ matrix(layers[0])
    for layer in layers[1:]:
        expected = np.concatenate([expected, expected @ matrix(layer)], axis=-1)
    agrees(graph, [x], [expected @ matrix(last)])


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_branches_on_any_axis(axis):
    src = Value((2, 4, 5, 3))
    left, right, last = pointwise(6), pointwise(6), pointwise(2)
    graph = graph_of([src], last(Concat(axis)([left(src), right(src)])))
    assert copies(graph) == []
    x = random(*src.shape)
    agrees(graph, [x], [np.concatenate([x @ matrix(left), x @ matrix(right)], axis) @ matrix(last)])


def test_output_is_computed_in_place():
    src = Value((1, 4, 5, 3))
    graph = graph_of([src], Concat()([pointwise(2)(src), pointwise(3)(src)]))
    assert copies(graph) == []


def test_what_no_node_makes_is_copied():
    src = Value((2, 4, 5, 3))
    fixed = constant(random(2, 4, 5, 2))
    graph = Graph([src], [])
    graph.outputs = graph.apply(Concat(name="joined"), src, fixed)
    assert copies(graph) == ["joined", "joined"]
    x = random(*src.shape)
    for _ in range(2):
        agrees(graph, [x], [np.concatenate([x, fixed.data], -1)])


def test_value_in_two_concats_is_copied_into_one():
    src = Value((2, 4, 5, 3))
    left, right, last = pointwise(4, "left"), pointwise(5, "right"), pointwise(2)
    a, b = left(src), right(src)
    first = Concat(name="first")([a, b])
    second = Concat(name="second")([last(first), a])
    graph = graph_of([src], second)
    assert copies(graph) == ["first"]
    x = random(*src.shape)
    ya, yb = x @ matrix(left), x @ matrix(right)
    agrees(graph, [x], [np.concatenate([np.concatenate([ya, yb], -1) @ matrix(last), ya], -1)])


def test_flatten_and_reshape():
    src = Value((2, 4, 5, 3))
    conv, dense = pointwise(256), Dense(3, use_bias=False)
    graph = graph_of([src], dense(Flatten()(Reshape((5, 4, -1))(conv(src)))))
    assert copies(graph) == []
    x = random(*src.shape)
    agrees(graph, [x], [(x @ matrix(conv)).reshape(2, -1) @ dense.weights["weights"].data])


def test_value_both_placed_and_flattened():
    src = Value((2, 4, 5, 3))
    left, right, dense = pointwise(4), pointwise(5), Dense(3, use_bias=False)
    a = left(src)
    joined = Concat(name="joined")([a, right(src)])
    graph = graph_of([src], joined, dense(Flatten(name="flat")(a)))
    assert copies(graph) == ["flat"]
    x = random(*src.shape)
    ya = x @ matrix(left)
    agrees(graph, [x], [np.concatenate([ya, x @ matrix(right)], -1),
                        ya.reshape(2, -1) @ dense.weights["weights"].data])


def test_reshape_between_two_padded_values():
    # neither side has a view of the other: 256 channels lie 272 apart, and so do the pixels of the concat
    src = Value((2, 4, 6, 3))
    left, right, last = pointwise(256), pointwise(256), pointwise(2)
    a = left(src)
    joined = Concat()([a, right(src)])
    halves = Add()([Reshape((4, 3, 512), name="pairs")(a), constant(np.ones(1, np.float32))])
    graph = graph_of([src], last(joined), halves)
    assert copies(graph) == ["pairs", "pairs"]
    x = random(*src.shape)
    ya = x @ matrix(left)
    agrees(graph, [x], [np.concatenate([ya, x @ matrix(right)], -1) @ matrix(last), ya.reshape(2, 4, 3, 512) + 1])


def test_flattened_input():
    src = Value((2, 4, 5))
    once = Flatten(name="once")(src)
    graph = graph_of([src], once)
    assert copies(graph) == ["once"]
    x = random(*src.shape)
    agrees(graph, [x], [x.reshape(2, 20)])


def test_two_outputs_in_one_memory():
    src = Value((2, 4, 5, 3))
    conv = pointwise(4)
    a = conv(src)
    graph = graph_of([src], a, Flatten(name="flat")(a))
    assert copies(graph) == ["flat"]
    x = random(*src.shape)
    agrees(graph, [x], [x @ matrix(conv), (x @ matrix(conv)).reshape(2, -1)])


def test_crop():
    src = Value((2, 6, 7, 3))
    first, last = pointwise(4), pointwise(2)
    graph = graph_of([src], last(Crop2D(((1, 2), (0, 3)))(first(src))))
    assert copies(graph) == []
    x = random(*src.shape)
    agrees(graph, [x], [(x @ matrix(first))[:, 1:4, :4] @ matrix(last)])


@pytest.mark.parametrize("axis", [1, 3])
def test_gradient_of_a_concat(axis):
    src = Value((2, 4, 5, 3), name="src")
    left, right, last = pointwise(6), pointwise(6), pointwise(2)
    graph = graph_of([src], last(Concat(axis)([left(src), right(src)])))
    diff_dst = Value(graph.outputs[0].shape, name="diff_dst")
    diffs = add_gradients(graph, graph.outputs, graph.inputs, [diff_dst])
    graph.outputs = [diffs[graph.inputs[0]]]
    graph.inputs.append(diff_dst)
    graph.order()
    graph = optimize(graph)
    assert copies(graph) == []
    dy = random(*diff_dst.shape)
    parts = np.split(dy @ matrix(last).T, 2, axis)
    agrees(graph, [random(*src.shape), dy], [parts[0] @ matrix(left).T + parts[1] @ matrix(right).T])


@pytest.mark.parametrize("reshaping", [cx.Flatten(), cx.Reshape((-1, 3))])
def test_what_is_only_reshaped_for_the_caller_is_computed_in_his_memory(reshaping):
    x = cx.Input((4, 4, 2))
    net = cx.Model(x, reshaping(cx.Conv2D(3, 1)(x)))
    assert [step.kernel for step in net.plan(2).steps] in (["conv_direct"], ["conv_pixels"])   # the level decides
    both = cx.Model(x, [y := cx.Conv2D(3, 1)(x), reshaping(y)])     # both are the caller's: one is a copy
    first, second = both.predict(np.ones((2, 4, 4, 2), np.float32))
    np.testing.assert_array_equal(first.reshape(second.shape), second)
