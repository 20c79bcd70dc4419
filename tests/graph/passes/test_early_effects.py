"""Effects run as early as they can, and no earlier."""

from __future__ import annotations

import numpy as np

import cnnext as cx
from cnnext.graph.graph import Graph, Parameter, Value
from cnnext.graph.passes.early_effects import early_effects
from cnnext.layers.layer import Layer
from cnnext.layers.reshape import ReshapeTo
from cnnext.testing import run_graph


class Doubles(Layer):
    """Doubles a parameter in place: inputs a value that is not used, and the parameter."""

    n_inputs = 2
    n_outputs = 0

    def output_shapes(self, *shapes):
        return []

    def lower(self, b, node):
        parameter = b.view(node.inputs[1])

        def call(src, dst):
            dst[0] *= 2

        b.step("double", [b.view(node.inputs[0])], [parameter], entry=call)


def graph():
    p = Parameter("p", np.ones((2, 3), np.float32))
    x = Value((2, 3), name="x")
    return Graph([x], [], training=True), x, p, Value((2, 3), name="p", parameter=p)


def effect(g, *reads, name="double"):
    g.apply(Doubles(name=name), *reads)
    g.effects.append(g.nodes[-1])


def names(g):
    return [node.name for node in g.nodes]


def test_behind_the_last_reader():
    g, x, p, w = graph()
    a = g.apply1(cx.Add(name="a"), x, w)
    b = g.apply1(cx.Add(name="b"), a, w)
    c = g.apply1(cx.Add(name="c"), b, x)
    effect(g, a, w)
    g.outputs = [c]
    g.order()
    assert names(g) == ["a", "b", "c", "double"]
    assert names(early_effects(g)) == ["a", "b", "double", "c"]
    (result,) = run_graph(g, [np.ones((2, 3), np.float32)])
    assert (result == 4).all() and (p.data == 2).all()


def test_a_view_of_a_parameter_is_read_too():
    g, x, p, w = graph()
    flat = g.apply1(ReshapeTo((6,), "flat"), w)
    a = g.apply1(cx.Add(name="a"), x, w)
    b = g.apply1(cx.Add(name="b"), g.apply1(ReshapeTo((6,), "ax"), a), flat)
    effect(g, a, w)
    g.outputs = [b]
    g.order()
    assert names(early_effects(g))[-2:] == ["b", "double"]
    (result,) = run_graph(g, [np.ones((2, 3), np.float32)])
    assert (result == 3).all() and (p.data == 2).all()


def test_effects_on_one_parameter_keep_their_order():
    g, x, _, w = graph()
    a = g.apply1(cx.Add(name="a"), x, w)
    b = g.apply1(cx.ReLU(name="b"), a)
    effect(g, b, w, name="late")
    effect(g, x, w, name="early")
    g.outputs = [a]
    g.order()
    assert names(early_effects(g)) == ["a", "b", "late", "early"]


def test_updates_of_a_network_follow_the_gradients():
    net = cx.Sequential([cx.Conv2D(4, 3), cx.ReLU(), cx.Conv2D(4, 3), cx.Flatten(), cx.Dense(3)], input_shape=(8, 8, 1))
    net.compile("sgd", cx.SparseCategoricalCrossentropy(from_logits=True))
    nodes = names(net._trainer.build([(2, 8, 8, 1)], True).plan.graph)
    first, second = net.layers[0].name, net.layers[2].name
    assert nodes.index(f"{second}/weights/update") < nodes.index(f"{first}/diff_weights")
    assert nodes.index(f"{second}/diff_src") < nodes.index(f"{second}/weights/update")
