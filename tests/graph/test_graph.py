"""The graph itself: order, copies, dead nodes, sources, shapes that are filled in."""

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.graph import Graph, Value, ancestors, constant
from cnnext.layers.layer import Layer
from tests.helpers import branched_net, two_ended_net


def copy_all(graph, node, inputs):
    return None


def test_ancestors_stand_after_what_they_read():
    x = cx.Input((4,))
    a = cx.Dense(4, name="a")(x)
    b = cx.Dense(4, name="b")(a)
    c = cx.Add(name="c")([b, a])
    d = cx.Add(name="d")([a, c])
    names = [node.name for node in ancestors([d, b])]
    assert sorted(names) == ["a", "b", "c", "d"]
    for before, after in (("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")):
        assert names.index(before) < names.index(after)


def test_deep_chains_need_no_recursion():
    y = cx.Input((2,))
    layer = cx.ReLU()
    for _ in range(5000):
        y = layer(y)
    assert len(list(ancestors([y]))) == 5000


def test_rebuild_fills_shapes_in_and_leaves_the_original():
    graph = branched_net().graph
    copy = graph.rebuild(copy_all, [(3, 7, 9, 3)])
    assert [v.shape[0] for node in copy.nodes for v in node.outputs] == [3] * len(copy.nodes)
    assert [v.shape[0] for node in graph.nodes for v in node.outputs] == [None] * len(graph.nodes)
    assert [node.name for node in copy.nodes] == [node.name for node in graph.nodes]
    assert copy.parameters() == graph.parameters()
    assert not set(copy.nodes) & set(graph.nodes)


def test_rebuild_replaces_nodes_and_drops_what_nobody_needs_then():
    graph = branched_net().graph

    def without_sum(new, node, inputs):
        return inputs[:1] if node.name == "sum" else None

    assert [n.name for n in graph.rebuild(without_sum).nodes] == ["wide", "relu", "flat", "head"]


def test_rebuild_may_change_the_mode_of_the_copy_alone():
    graph = branched_net().graph
    assert graph.rebuild(copy_all, training=True).training
    assert not graph.training and not graph.rebuild(copy_all).training


def test_effects_are_kept_and_run_last():
    class Effect(Layer):
        def output_shapes(self, *shapes):
            return []

        def output_dtypes(self, *dtypes):
            return []

    x = Value((2, 4), name="x")
    graph = Graph([x], [])
    graph.apply(Effect(name="effect"), graph.apply1(cx.ReLU(name="read"), x))
    graph.effects = [graph.nodes[-1]]
    graph.outputs = [graph.apply1(cx.Tanh(name="output"), x)]
    graph.apply1(cx.Sigmoid(name="dead"), x)
    graph.order()
    assert [n.name for n in graph.nodes][-1] == "effect"
    assert {n.name for n in graph.nodes} == {"read", "output", "effect"}
    copy = graph.rebuild(copy_all)
    assert [n.name for n in copy.effects] == ["effect"] and copy.effects[0] in copy.nodes


def test_consumers_list_a_reader_for_each_use():
    graph = two_ended_net().graph
    readers = graph.consumers()
    shared = graph.nodes[0].output
    assert [n.name for n in readers[shared]] == ["difference", "product"]
    x = cx.Input((3,))
    doubled = cx.Model(x, cx.Add(name="twice")([x, x])).graph
    assert [n.name for n in doubled.consumers()[x]] == ["twice", "twice"]


def test_the_seed_is_one_input_and_streams_are_numbered():
    graph = branched_net().graph.rebuild(copy_all)
    seed = graph.seed_value()
    assert graph.seed_value() is seed and graph.inputs.count(seed) == 1
    assert seed.shape == (1,) and seed.dtype == np.int64
    assert [graph.new_random_stream() for _ in range(3)] == [1, 2, 3]
    copy = graph.rebuild(copy_all)
    assert copy.seed in copy.inputs and copy.new_random_stream() == 4


def test_sources():
    x = constant(np.ones((2, 3), np.float32))
    assert x.is_source and x.is_persistent and x.shape == (2, 3)
    y = cx.Input((3,))
    assert y.is_source and not y.is_persistent
    assert not cx.ReLU()(y).is_source


def test_a_value_of_a_parameter_is_one_for_all_uses():
    layer = cx.Dense(3)
    layer.build((None, 4))
    assert layer.weight_values()["weights"] is layer.weight_values()["weights"]
    assert layer.weight_values()["weights"].parameter is layer.weights["weights"]


def test_parameters_grow_a_version_with_each_change():
    layer = cx.Dense(3)
    layer.build((None, 4))
    parameter = layer.weights["bias"]
    memory, version = parameter.data, parameter.version
    parameter.assign(np.arange(3))
    assert parameter.data is memory and parameter.version == version + 1
    with pytest.raises(ValueError):
        parameter.assign(np.arange(4))
