"""GridJoin: the twin, what costs nothing, unknown extents, bad sources."""

from __future__ import annotations

import numpy as np
import pytest
from cnnext_slice_split import GridJoin, SliceSplit

import cnnext as cx
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level


@pytest.mark.parametrize(("grid", "heights", "widths"), [
    ((2, 2), (2, 3), (4, 1)), ((1, 3), (2,), (1, 2, 3)), ((1, 1), (2,), (2,)),
])
def test_twin(against_twin, grid, heights, widths):
    def twin(*x):
        rows = [np.concatenate(x[i * grid[1] : (i + 1) * grid[1]], 2) for i in range(grid[0])]
        return [np.concatenate(rows, 1)]

    against_twin(lambda: GridJoin(grid), [(2, h, w, 3) for h in heights for w in widths], twin)


def planned(inputs: list[Value], outputs: list[Value]) -> Plan:
    graph = prepare(Graph(inputs, outputs, ancestors(outputs)), [v.shape for v in inputs], training=False)
    return Plan(optimize(graph), default_level())


def test_regions_with_layers_between_copy_nothing():
    x = Value((2, 9, 8, 16), name="x")
    stem = cx.Conv2D(16, 3, padding="same", activation="relu")(x)
    joined = GridJoin((3, 2))([cx.Conv2D(16, 3, padding="same")(part) for part in SliceSplit((3, 2))(stem)])
    plan = planned([x], [cx.Conv2D(4, 1)(joined)])
    assert len(plan.steps) == 8
    assert all(step.kernel != "copy" and step.macs for step in plan.steps), plan.explain()
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    (first,) = plan.run([array])
    assert np.abs(first).max() > 0


def test_elementwise_layers_between_copy_nothing():
    x = Value((1, 6, 6, 8), name="x")
    parts = SliceSplit((2, 2))(x)
    plan = planned([x], [GridJoin((2, 2))([cx.Tanh()(part) for part in parts])])
    assert [step.kernel for step in plan.steps] == ["unary"] * 4
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    np.testing.assert_allclose(plan.run([array])[0], np.tanh(array), atol=1e-6)


def test_nothing_between_is_the_source_itself():
    x = Value((1, 6, 7, 8), name="x")
    y = cx.ReLU()(x)
    joined = GridJoin((2, 3))(SliceSplit((2, 3))(y))
    plan = planned([x], [cx.Tanh()(joined)])
    assert [step.kernel for step in plan.steps] == ["unary", "unary"], plan.explain()
    assert "copy" not in plan.explain()
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    np.testing.assert_allclose(plan.run([array])[0], np.tanh(np.maximum(array, 0)), atol=1e-6)


def test_nothing_between_in_training():
    x = cx.Input((4, 4, 2))
    joined = GridJoin(2)(SliceSplit(2)(cx.Conv2D(3, 3, padding="same")(x)))
    y = cx.Softmax()(cx.Dense(2)(cx.Flatten()(joined)))
    plain = cx.Sequential([cx.Conv2D(3, 3, padding="same"), cx.Flatten(), cx.Dense(2), cx.Softmax()], input_shape=(4, 4, 2))
    net = cx.Model(x, y)
    net.set_weights(plain.get_weights())
    rng = np.random.default_rng(0)
    data, labels = rng.standard_normal((8, 4, 4, 2)).astype(np.float32), rng.integers(0, 2, 8)
    for model in (net, plain):
        model.compile(optimizer=cx.SGD(0.1), loss="sparse_categorical_crossentropy")
        model.fit(data, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for mine, theirs in zip(net.get_weights(), plain.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 0, 2, 3), (3, 2, 1, 0)])
def test_regions_in_other_places_are_moved(order):
    x = Value((1, 4, 4, 3), name="x")
    parts = SliceSplit((2, 2))(x)
    plan = planned([x], [GridJoin((2, 2))([parts[i] for i in order])])
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    cut = [array[:, a : a + 2, b : b + 2] for a in (0, 2) for b in (0, 2)]
    wanted = np.concatenate([np.concatenate([cut[i] for i in pair], 2) for pair in (order[:2], order[2:])], 1)
    assert np.array_equal(plan.run([array])[0], wanted)


def test_parts_that_are_not_the_whole_are_joined():
    x = Value((1, 4, 4, 3), name="x")
    parts = SliceSplit(boxes=[(0, 0, 2, 2), (0, 1, 2, 3)])(x)
    plan = planned([x], [GridJoin((1, 2))(parts)])
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    assert np.array_equal(plan.run([array])[0], np.concatenate([array[:, :2, :2], array[:, :2, 1:3]], 2))


def test_unknown_extents():
    assert GridJoin((1, 2)).infer_shapes((None, 4, 2, 3), (None, 4, 5, 3)) == [(None, 4, 7, 3)]
    assert GridJoin((1, 2)).infer_shapes((None, None, 2, 3), (None, 4, None, 3)) == [(None, 4, None, 3)]


@pytest.mark.parametrize(("shapes", "message"), [
    ([(1, 2, 2, 1)], "`inputs` must be 2 values, one for each region of the grid. Received inputs=1"),
    ([(1, 2, 2), (1, 2, 2)], "`inputs` must have rank 4"),
    ([(1, 2, 2, 1), (1, 3, 2, 1)], "`inputs` must have the same height in each row of the grid"),
    ([(1, 2, 2, 1), (1, 2, 2, 2)], "`inputs` must have the same channels in all regions of the grid"),
    ([(1, 2, 2, 1), (2, 2, 2, 1)], "`inputs` must have the same batch in all regions of the grid"),
])
def test_bad_sources(shapes, message):
    with pytest.raises(ValueError, match=message):
        GridJoin((1, 2)).infer_shapes(*shapes)
    if shapes[-1] == (1, 3, 2, 1):
        with pytest.raises(ValueError, match="the same width in each column"):
            GridJoin((2, 1)).infer_shapes((1, 2, 2, 1), (1, 2, 3, 1))
