"""The gradient pass against central differences in float64 through the twins."""

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Graph, Value
from cnnext.graph.passes import optimize, prepare
from cnnext.layers.layer import Layer
from cnnext.testing import run_graph
from tests.helpers import branched_net, branched_twin, close, exact, images, two_ended_net, two_ended_twin


def gradients(net, feeds, diff_dst, wrt_inputs=True, run=optimize):
    """Gradients of inputs and parameters, by name."""
    graph = prepare(net.graph, [x.shape for x in feeds], training=True)
    seeds = [Value(v.shape, name=f"diff_{i}") for i, v in enumerate(graph.outputs)]
    wrt = [*(graph.inputs if wrt_inputs else []), *dict.fromkeys(v for n in graph.nodes for v in n.weights.values())]
    diffs = add_gradients(graph, graph.outputs, wrt, seeds)
    graph.inputs += seeds
    graph.outputs = list(diffs.values())
    graph.order()
    return dict(zip((v.name for v in diffs), run_graph(run(graph), [*feeds, *diff_dst]), strict=True))


def numerical(function, arrays, diff_dst, step=1e-6):
    """Central differences of sum(diff_dst * function(arrays)) with respect to each array."""
    results = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            above = sum((d * y).sum() for d, y in zip(diff_dst, function(), strict=True))
            array[index] = kept - step
            below = sum((d * y).sum() for d, y in zip(diff_dst, function(), strict=True))
            array[index] = kept
            gradient[index] = (above - below) / (2 * step)
        results.append(gradient)
    return results


def test_a_branched_net():
    net = branched_net()
    net.set_weights([images(*w.shape, seed=i) for i, w in enumerate(net.get_weights())])
    x, diff = images(1, 7, 9, 3), images(1, 4, seed=9)
    arrays = exact([x, *net.get_weights()])
    expected = numerical(lambda: [branched_twin(arrays[1:], arrays[0])], arrays, exact([diff]))
    got = gradients(net, [x], [diff])
    assert list(got) == ["image", *(p.name for p in net.parameters)]
    for actual, wanted in zip(got.values(), expected, strict=True):
        close(actual, wanted, 1e-4)


def test_several_inputs_outputs_and_a_shared_layer():
    net = two_ended_net()
    feeds = [images(2, 5, 6, 2), images(2, 5, 6, 2, seed=2)]
    diffs = [images(2, 3, 4, 3, seed=3), images(2, 3, 4, 3, seed=4)]
    arrays = exact([*feeds, *net.get_weights()])
    expected = numerical(lambda: two_ended_twin(arrays[2:], *arrays[:2]), arrays, exact(diffs))
    got = gradients(net, feeds, diffs)
    assert list(got) == ["left", "right", "shared/weights", "shared/bias"]
    for actual, wanted in zip(got.values(), expected, strict=True):
        close(actual, wanted, 1e-4)


def test_passes_after_the_gradient_change_nothing():
    net = branched_net()
    x, diff = images(3, 7, 9, 3), images(3, 4, seed=9)
    plain, optimized = gradients(net, [x], [diff], run=lambda g: g), gradients(net, [x], [diff])
    for one, other in zip(plain.values(), optimized.values(), strict=True):
        close(one, other, 1e-6)


def test_a_value_that_is_output_and_read_has_both_gradients():
    x = cx.Input((3,), name="x")
    a = cx.Tanh(name="a")(x)
    net = cx.Model(x, [a, cx.Multiply(name="b")([a, a])])
    feed, d_a, d_b = images(4, 3), images(4, 3, seed=2), images(4, 3, seed=3)
    y = np.tanh(feed.astype(np.float64))
    close(gradients(net, [feed], [d_a, d_b])["x"], (d_a + 2 * y * d_b) * (1 - y * y))


def test_what_the_outputs_do_not_depend_on_has_no_gradient():
    x, y = cx.Input((3,), name="x"), cx.Input((3,), name="y")
    net = cx.Model([x, y], cx.ReLU()(x))
    got = gradients(net, [images(2, 3), images(2, 3)], [images(2, 3)])
    assert list(got) == ["x"]


def test_only_what_is_asked_for_is_computed():
    net = branched_net()
    graph = prepare(net.graph, [(1, 7, 9, 3)], training=True)
    head = next(v for n in graph.nodes for v in n.weights.values() if v.name == "head/bias")
    seed = Value(graph.outputs[0].shape, name="seed")
    diffs = add_gradients(graph, graph.outputs, [head], [seed])
    graph.inputs.append(seed)
    graph.outputs = [diffs[head]]
    graph.order()
    assert [n.name for n in graph.nodes] == ["head/diff_bias"]


class Total(Layer):
    """The sum of all elements, shape (1,)."""

    def output_shape(self, *shapes):
        return (1,)

    def forward(self, ctx, x):
        ctx.shape = x.shape
        return x.sum().reshape(1)

    def backward(self, ctx, dy):
        return np.broadcast_to(dy, ctx.shape)


def test_a_scalar_starts_from_one():
    x = Value((5, 3), name="x")
    graph = Graph([x], [])
    loss = graph.apply1(Total(name="loss"), graph.apply1(cx.Sigmoid(), x))
    graph.outputs = [add_gradients(graph, [loss], [x])[x]]
    graph.order()
    feed = images(5, 3)
    y = 1 / (1 + np.exp(-feed.astype(np.float64)))
    close(run_graph(optimize(graph), [feed])[0], y * (1 - y))


def test_a_layer_without_a_gradient_is_named():
    class Forward(Total):
        backward = Layer.backward

    x = Value((5, 3), name="x")
    graph = Graph([x], [])
    loss = graph.apply1(Forward(name="loss"), x)
    with pytest.raises(TypeError, match="forward 'loss': the layer has no gradient"):
        add_gradients(graph, [loss], [x])
