"""Graphs in stages: what waits for data, what is computed between, and what each plan depends on."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.graph import FLOAT32, INT64, Graph, Value, constant
from cnnext.graph.passes import prepare
from cnnext.graph.runner import Runner
from cnnext.graph.stages import ContentsNeeded, DataDependent
from cnnext.layers.layer import Layer
from cnnext.layers.reshape import ReshapeTo
from tests.helpers import images


class ReshapeLike(Layer):
    """Its first source under the shape that the second one holds."""

    n_inputs = 2

    def infer_shapes(self, *shapes):
        return [()]

    def output_dtypes(self, *dtypes):
        return dtypes[:1]

    def compose(self, g, x, target, weights):
        if target.data is None:
            raise ContentsNeeded([1])
        return g.apply1(ReshapeTo(tuple(int(n) for n in target.data), self.name), x)


class Positive(Layer):
    """The positive elements, however many there are, and their number."""

    n_outputs = 2
    calls = 0

    def infer_shapes(self, *shapes):
        return [(None,), (1,)]

    def output_dtypes(self, *dtypes):
        return [FLOAT32, INT64]

    def compose(self, g, x, weights):
        raise DataDependent(self.evaluate)

    def evaluate(self, arrays):
        Positive.calls += 1
        found = arrays[0][arrays[0] > 0]
        return [found, np.array([found.size])]


def graph_of(*inputs):
    g = Graph(inputs, [])
    g.shares_batch = False
    return g


X = images(4, 6)


def test_a_graph_without_such_layers_has_one_stage():
    x = Value((None, 6), name="x")
    g = graph_of(x)
    g.outputs = [g.apply1(cx.ReLU(), x)]
    assert prepare(g, [(4, 6)], training=False, staged=True).rest is None


def test_contents_of_an_input_become_a_constant():
    x, target = Value((None, 6), name="x"), Value((2,), INT64, "target")
    g = graph_of(x, target)
    a = g.apply1(cx.ReLU(name="a"), x)
    g.outputs = [g.apply1(cx.Negate(name="c"), g.apply(ReshapeLike(name="b"), a, target)[0]), a]
    first = prepare(g, [(4, 6), (2,)], training=False, staged=True)
    assert [node.name for node in first.nodes] == ["a"]
    assert [node.name for node in first.rest.graph.nodes] == ["b", "c"]
    assert [v.name for v in first.rest.made] == ["a", "target"] and first.rest.eager == []
    assert {first.rest.graph.inputs[i] for i in first.rest.contents} == {target}
    runner = Runner(g, 1)
    for shape in ((8, 3), (3, 8), (8, 3)):
        c, relu = runner.run([X, np.array(shape)])
        np.testing.assert_array_equal(relu, np.maximum(X, 0))
        np.testing.assert_array_equal(c, -np.maximum(X, 0).reshape(shape))


def test_what_the_data_decides_is_computed_between_the_plans():
    x = Value((None, 6), name="x")
    g = graph_of(x)
    found, count = g.apply(Positive(name="p"), g.apply1(cx.Tanh(name="t"), x))
    g.outputs = [g.apply1(cx.Negate(name="n"), found), count]
    first = prepare(g, [(4, 6)], training=False, staged=True)
    assert [late.node.name for late in first.rest.eager] == ["p"]
    assert first.rest.graph.inputs[-2:] == [found, count]
    Positive.calls = 0
    for seed in range(3):
        x = images(4, 6, seed=seed)
        negative, n = Runner(g, 1).run([x])
        np.testing.assert_allclose(negative, -np.tanh(x[x > 0]), rtol=1e-5)
        assert n == (x > 0).sum()
    assert Positive.calls == 3


def test_stages_follow_each_other():
    x = Value((None, 6), name="x")
    g = graph_of(x)
    found, count = g.apply(Positive(name="p"), x)
    shape = constant(np.array([1]))
    (again,) = g.apply(ReshapeLike(name="r"), g.apply1(cx.Tanh(name="t"), found), count)
    more, total = g.apply(Positive(name="q"), g.apply1(cx.Negate(name="m"), again))
    g.outputs = [more, total, count, again]
    more, total, count, again = Runner(g, 2).run([X])
    assert shape.data is not None and more.shape == (0,) and total == 0
    assert count == (X > 0).sum()
    np.testing.assert_allclose(again, np.tanh(X[X > 0]), rtol=1e-5)


def test_an_input_may_pass_through_and_be_an_output():
    x = Value((None, 6), name="x")
    g = graph_of(x)
    found, count = g.apply(Positive(name="p"), x)
    g.outputs = [x, found, g.apply1(cx.ReLU(name="r"), x), count]
    same, found, relu, count = Runner(g, 1).run([X])
    np.testing.assert_array_equal(same, X)
    np.testing.assert_array_equal(relu, np.maximum(X, 0))
    np.testing.assert_array_equal(found, X[X > 0])
    assert not np.shares_memory(same, X)


def test_a_constant_target_needs_no_stage():
    x = Value((None, 6), name="x")
    g = graph_of(x)
    g.outputs = g.apply(ReshapeLike(name="r"), x, constant(np.array([3, 8])))
    runner = Runner(g, 1)
    np.testing.assert_array_equal(runner.run([X])[0], X.reshape(3, 8))
    assert prepare(g, [(4, 6)], training=False, staged=True).rest is None


def test_without_stages_the_layer_is_named():
    x = Value((None, 6), name="x")
    g = graph_of(x)
    g.outputs = g.apply(Positive(name="p"), x)
    with pytest.raises(ValueError, match="p: the shape of the result depends on the data"):
        prepare(g, [(4, 6)], training=False)


def test_outputs_of_the_caller_are_checked_and_written_in_the_last_stage():
    x, target = Value((None, 6), name="x"), Value((2,), INT64, "target")
    g = graph_of(x, target)
    g.outputs = [g.apply1(cx.Negate(name="n"), g.apply(ReshapeLike(name="b"), x, target)[0])]
    runner, out = Runner(g, 1), np.empty((8, 3), np.float32)
    (result,) = runner.run([X, np.array([8, 3])], [out])
    assert result is out
    np.testing.assert_array_equal(out, -X.reshape(8, 3))
    with pytest.raises(ValueError, match=r"`shape` must be \(3, 8\)"):
        runner.run([X, np.array([3, 8])], [out])
