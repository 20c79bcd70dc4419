"""Transposes that sink: the results stay, and of channels-first networks only the interface remains."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.graph.graph import Graph, Value, constant
from cnnext.graph.passes import optimize, prepare, sink_transposes
from cnnext.graph.passes.sink_transposes import matching_blocks
from cnnext.layers.concat import Join, Narrow
from cnnext.layers.matmul import MatMul
from cnnext.layers.permute import Transpose
from cnnext.layers.reduce import ReduceL2, ReduceMax, ReduceMean, Repeat
from cnnext.layers.reshape import ReshapeTo
from cnnext.testing import run_graph
from tests.helpers import close, images

FIRST = (0, 3, 1, 2)    # channels last to channels first
LAST = (0, 2, 3, 1)


class Network:
    """A graph under construction; names count up."""

    def __init__(self, *shapes):
        self.g = Graph([Value(shape, name=f"x{i}") for i, shape in enumerate(shapes)], [])
        self.g.shares_batch = False
        self.seed = 10

    def add(self, kind, *x, args=(), weights=None, **options):
        return self.g.apply1(kind(*args, **options, name=f"n{len(self.g.nodes)}"), *x, weights=weights)

    def number(self, *shape):
        self.seed += 1
        return constant(images(*shape, seed=self.seed) * np.float32(0.5), f"c{self.seed}")

    def transposed(self, x, axes):
        return self.add(Transpose, x, args=(tuple(axes),))

    def reshaped(self, x, *shape):
        return self.g.apply1(ReshapeTo(shape, f"n{len(self.g.nodes)}"), x)

    def conv(self, x, filters, size=3, data_format="channels_first", **options):
        channels = x.shape[1 if data_format == "channels_first" else 3]
        weights = {"weights": self.number(size, size, channels // options.get("groups", 1), filters),
                   "bias": self.number(filters)}
        return self.add(cx.Conv2D, x, args=(filters, size), weights=weights, padding="same", data_format=data_format,
                        **options)

    def dense(self, x, units):
        return self.add(cx.Dense, x, args=(units,), weights={"weights": self.number(x.shape[-1], units),
                                                            "bias": self.number(units)})

    def check(self, *outputs, tolerance=1e-5):
        """The optimized graph, after comparing what it computes with what the graph computes as it stands."""
        self.g.outputs = list(outputs)
        shapes = [v.shape for v in self.g.inputs]
        feeds = [images(*shape, seed=i) for i, shape in enumerate(shapes)]
        wanted = run_graph(prepare(self.g, shapes, training=False), feeds)
        for run in (sink_transposes, optimize):
            graph = run(prepare(self.g, shapes, training=False))
            assert [v.shape for v in graph.outputs] == [v.shape for v in outputs]
            for got, array in zip(run_graph(graph, feeds), wanted, strict=True):
                close(got, array, tolerance)
        return graph


def kinds(graph):
    return [type(node.layer).__name__ for node in graph.nodes]


def axes_of(graph):
    return [node.layer.axes for node in graph.nodes if isinstance(node.layer, Transpose)]


# Random graphs


def _unary(net, x, i):
    return net.add([cx.ReLU, cx.Tanh, cx.LeakyReLU, cx.Sigmoid, cx.HardSwish][i % 5], x)


def _join(net, x, i, alike):
    return net.add([cx.Add, cx.Multiply, cx.Maximum, cx.Subtract][i % 4], x, alike)


def _broadcast(net, x, i):
    shape = [n if (i >> axis) & 1 else 1 for axis, n in enumerate(x.shape)][i % 3 % max(len(x.shape), 1):]
    return net.add([cx.Add, cx.Multiply][i % 2], *((x, net.number(*shape)) if i % 5 else (net.number(*shape), x)))


def _concat(net, x, i, alike):
    return net.add(Join, *([x, alike] if i % 2 else [alike, x, x]), args=(i % len(x.shape),))


def _reduce(net, x, i):
    axes = tuple(a for a in range(len(x.shape)) if (i >> a) & 1) or (len(x.shape) - 1,)
    return net.add([ReduceMean, ReduceMax, ReduceL2][i % 3], x, args=(axes, i % 4 != 0))


def _gate(net, x, i):
    """x times a function of its mean over some axes: squeeze and excite."""
    mean = net.add(ReduceMean, x, args=((len(x.shape) - 1 - i % 2,), True)) if len(x.shape) > 1 else x
    return net.add(cx.Multiply, x, net.add(cx.Sigmoid, mean))


def _reshape(net, x, i):
    shape = list(x.shape)
    axis = i % len(shape)
    if i % 3 == 0 and shape[axis] % 2 == 0:
        shape[axis : axis + 1] = [2, shape[axis] // 2] if i % 2 else [shape[axis] // 2, 2]
    elif i % 3 == 1 and len(shape) > 1:
        axis = i % (len(shape) - 1)
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    else:
        shape.insert(i % (len(shape) + 1), 1)
    return net.reshaped(x, *shape)


def _conv(net, x, i):
    if len(x.shape) != 4 or prod(x.shape) > 2000:
        return _unary(net, x, i)
    return net.conv(x, 4, 1 + 2 * (i % 2), data_format="channels_first" if i % 3 else "channels_last",
                    activation=[None, "relu"][i % 2])


def grown(net, values, choice, i, order):
    """One more value, out of those there are."""
    x = values[i % len(values)]
    alike = next(v for v in values if v.shape == x.shape)
    rank = len(x.shape)
    if rank == 0:
        return _unary(net, x, i)
    makers = [
        lambda: net.transposed(x, sorted(range(rank), key=order.__getitem__)), lambda: _unary(net, x, i),
        lambda: _join(net, x, i, alike), lambda: _broadcast(net, x, i), lambda: _concat(net, x, i, alike),
        lambda: net.add(cx.Softmax, x, args=(i % rank,)), lambda: _reduce(net, x, i), lambda: _gate(net, x, i),
        lambda: _reshape(net, x, i), lambda: _conv(net, x, i), lambda: net.dense(x, 4),
        lambda: net.transposed(x, FIRST if i % 2 else LAST) if rank == 4 else _unary(net, x, i),
    ]
    made = makers[choice % len(makers)]()
    return made if prod(made.shape) < 5000 and len(made.shape) <= 6 else x


@settings(max_examples=300)
@given(steps=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 63), st.permutations(range(6))), min_size=2, max_size=12),
       ends=st.integers(0, 100), batch=st.integers(1, 2))
def test_random_graphs_compute_the_same(steps, ends, batch):
    net = Network((batch, 4, 3, 5))
    values = [net.g.inputs[0]]
    for choice, i, order in steps:
        values.append(grown(net, values, choice, i, order))
    net.check(*dict.fromkeys([values[-1], values[ends % len(values)]]), tolerance=2e-5)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.lists(st.integers(0, 3), max_size=4), st.integers(0, 5))
def test_blocks_hold_the_same_elements(shape, cuts, at):
    target = list(shape)
    for cut in cuts:    # merge two neighbours, or put a 1 somewhere
        i = cut % len(target)
        target[i : i + 2] = [prod(target[i : i + 2])]
    target.insert(at % (len(target) + 1), 1)
    blocks = matching_blocks(shape, target)
    assert [a for source, _ in blocks for a in source] == list(range(len(shape)))
    assert [a for _, made in blocks for a in made] == list(range(len(target)))
    assert all(prod(shape[a] for a in source) == prod(target[a] for a in made) for source, made in blocks)


def test_shapes_without_elements_have_no_blocks():
    assert matching_blocks([0, 3], [3, 0]) is None and matching_blocks([2, 3], [5]) is None


# Networks that people have


def test_a_channels_first_residual_net_is_transposed_once():
    net = Network((2, 3, 8, 8))
    x = net.conv(net.g.inputs[0], 4)
    for _ in range(3):
        inner = net.conv(net.conv(x, 4, activation="relu"), 4)
        x = net.add(cx.ReLU, net.add(cx.Add, inner, x))
    mean = net.add(ReduceMean, x, args=((2, 3), True))
    graph = net.check(net.dense(net.reshaped(mean, 2, 4), 5))
    assert axes_of(graph) == [LAST]


def test_squeeze_and_excite():
    net = Network((2, 3, 8, 8))
    x = net.conv(net.g.inputs[0], 8)
    squeezed = net.add(ReduceMean, x, args=((2, 3), True))
    gate = net.add(cx.Sigmoid, net.conv(net.conv(squeezed, 2, 1, activation="relu"), 8, 1))
    graph = net.check(net.conv(net.add(cx.Multiply, x, gate), 4))
    assert axes_of(graph) == [LAST, FIRST]


@pytest.mark.parametrize("turned", [True, False])
def test_a_gate_of_channels_behind_a_dense_layer(turned):
    net = Network((2, 3, 8, 8))
    x = net.conv(net.g.inputs[0], 8)
    flat = net.reshaped(net.add(ReduceMean, x, args=((2, 3), True)), 2, 8)
    gate = net.reshaped(net.add(cx.Sigmoid, net.dense(flat, 8)), 2, 8, 1, 1)
    graph = net.check(net.conv(net.add(cx.Multiply, *((gate, x) if turned else (x, gate))), 4))
    assert axes_of(graph) == [LAST, FIRST]


def test_the_channel_shuffle_of_shufflenet():
    net = Network((2, 6, 4, 5))
    x = net.conv(net.g.inputs[0], 6, 1, groups=3)
    split = net.transposed(net.reshaped(x, 2, 3, 2, 4, 5), (0, 2, 1, 3, 4))
    graph = net.check(net.conv(net.reshaped(split, 2, 6, 4, 5), 6, 1, groups=3))
    assert axes_of(graph) == [LAST, (0, 1, 2, 4, 3), FIRST]     # channels are exchanged where they lie, pixels stay


@pytest.mark.parametrize("flatten", ["reshape", "layer"])
def test_flatten_before_dense_moves_the_weights(flatten):
    net = Network((2, 3, 6, 5))
    x = net.conv(net.g.inputs[0], 4, activation="relu")
    flat = net.reshaped(x, 2, 4 * 6 * 5) if flatten == "reshape" else net.add(cx.Flatten, x)
    graph = net.check(net.dense(flat, 7))
    on_the_way = [node for node in graph.nodes if isinstance(node.layer, Transpose) and not node.inputs[0].is_persistent]
    assert [node.layer.axes for node in on_the_way] == [LAST]


def test_flatten_that_the_batch_is_part_of_stays():
    net = Network((2, 3, 4, 5))
    x = net.transposed(net.add(cx.ReLU, net.g.inputs[0]), (1, 0, 2, 3))
    net.check(net.dense(net.reshaped(x, 3, 40), 4))


def test_attention():
    net = Network((2, 5, 8))
    x = net.g.inputs[0]

    def heads(value):
        return net.transposed(net.reshaped(value, 2, 5, 2, 4), (0, 2, 1, 3))

    q, k, v = (heads(net.dense(x, 8)) for _ in range(3))
    scores = net.add(cx.Softmax, net.add(MatMul, q, net.transposed(k, (0, 1, 3, 2))), args=(-1,))
    mixed = net.transposed(net.add(MatMul, scores, v), (0, 2, 1, 3))
    graph = net.check(net.add(cx.Add, net.dense(net.reshaped(mixed, 2, 5, 8), 8), x))
    assert kinds(graph).count("MatMul") == 2


def test_explicit_transposes_of_channels_last_models_cancel():
    net = Network((2, 8, 8, 3))
    x = net.g.inputs[0]
    for _ in range(3):     # as converters from channels-last frameworks write each convolution
        x = net.transposed(net.conv(net.transposed(x, FIRST), 4), LAST)
        x = net.add(cx.Add, net.add(cx.ReLU, x), net.number(4))
    graph = net.check(x)
    assert axes_of(graph) == []


def test_values_that_are_both_output_and_inner():
    net = Network((2, 3, 6, 6))
    a = net.conv(net.g.inputs[0], 4, activation="relu")
    b = net.conv(a, 4)
    graph = net.check(a, net.add(cx.Add, a, b), b)
    assert kinds(graph).count("Conv2D") == 2
    assert all(axes in (LAST, FIRST) for axes in axes_of(graph))


def test_an_input_that_is_transposed_and_an_output():
    net = Network((2, 3, 6, 6))
    x = net.g.inputs[0]
    net.check(net.transposed(x, LAST), x, net.transposed(net.transposed(x, LAST), FIRST))


def test_transposes_of_extents_of_one_are_reshapes():
    net = Network((2, 5, 1, 1))
    graph = net.check(net.add(cx.ReLU, net.transposed(net.g.inputs[0], LAST)))
    assert "Transpose" not in kinds(graph)


def test_repeats_and_narrow_parts_keep_their_order():
    net = Network((2, 4, 3, 5))
    x = net.transposed(net.add(cx.ReLU, net.g.inputs[0]), LAST)
    part = net.g.apply1(Narrow(1, 1, 2, "part"), x)
    wide = net.g.apply1(Repeat((2, 3, 5, 4), "wide"), net.add(ReduceMean, x, args=((1,), True)))
    net.check(part, net.add(cx.Add, wide, x))


def test_training_graphs_do_not_move_weights():
    net = Network((2, 3, 6, 5))
    net.g.training = True
    flat = net.reshaped(net.conv(net.g.inputs[0], 4), 2, 120)
    net.g.outputs = [net.dense(flat, 7)]
    graph = sink_transposes(prepare(net.g, [(2, 3, 6, 5)], training=True))
    assert not any(node.inputs[0].is_persistent for node in graph.nodes if isinstance(node.layer, Transpose))
