"""Add, Subtract, Multiply, Divide, Maximum, Minimum, Average against their twins, with broadcasting; sums over pixels."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.graph.graph import Graph, Value, constant
from cnnext.graph.plan import Plan
from cnnext.layers.concat import Concat, Narrow
from cnnext.layers.elementwise import (
    Add,
    Average,
    Copy,
    Divide,
    Join,
    Maximum,
    Minimum,
    Multiply,
    ScaleChannels,
    Subtract,
    SumPixels,
)
from cnnext.reference.elementwise import reduce_to_shape
from cnnext.testing import run_graph, run_layer
from tests.layers.agreement import LEVELS, SEED, check_agreement, close

EXTENT = st.sampled_from([1, 2, 3, 7, 17])


@st.composite
def broadcast_shapes(draw, count):
    """Shapes that broadcast: axes of extent 1, leading axes missing."""
    full = draw(st.lists(EXTENT, min_size=1, max_size=4))
    shapes = [tuple(1 if draw(st.booleans()) else n for n in full[draw(st.integers(0, len(full) - 1)):])
              for _ in range(draw(count) - 1)]
    shapes.insert(draw(st.integers(0, len(shapes))), tuple(full))
    return shapes


def add_backward(*args):
    *src, dy = args
    return [reduce_to_shape(dy, x.shape) for x in src]


def multiply_backward(*args):
    *src, dy = args
    return [reduce_to_shape(reduce(np.multiply, src[:i] + src[i + 1 :], dy), x.shape) for i, x in enumerate(src)]


def extremum_backward(forward, backward, *args):
    *src, dy = args
    so_far = [src[0]]
    for x in src[1:]:
        so_far.append(forward(so_far[-1], x))
    diffs = []
    for before, x in zip(so_far[-2::-1], src[:0:-1], strict=True):
        dy, diff = backward(before, x, dy)
        diffs.insert(0, diff)
    return [dy, *diffs]


TWINS = {
    Add: (lambda *x: reduce(reference.add, x), add_backward),
    Subtract: (reference.subtract, reference.subtract_backward),
    Multiply: (lambda *x: reduce(reference.multiply, x), multiply_backward),
    Divide: (reference.divide, reference.divide_backward),
    Maximum: (lambda *x: reduce(reference.maximum, x),
              partial(extremum_backward, reference.maximum, reference.maximum_backward)),
    Minimum: (lambda *x: reduce(reference.minimum, x),
              partial(extremum_backward, reference.minimum, reference.minimum_backward)),
    Average: (reference.average, lambda *x: reference.average_backward(*x[:-1], diff_dst=x[-1])),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("join", TWINS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), n_threads=st.integers(2, 4), seed=SEED)
def test_joins(join, level, data, n_threads, seed):
    shapes = data.draw(broadcast_shapes(st.just(2) if join.n_inputs == 2 else st.integers(2, 4)))
    check_agreement(join(), shapes, *TWINS[join], level, n_threads, seed)


@pytest.mark.parametrize("join", TWINS)
@pytest.mark.parametrize("shapes", [
    [(2, 33, 17, 127), (2, 33, 17, 127)],
    [(2, 33, 17, 127), (127,)],
    [(2, 33, 17, 127), (2, 1, 1, 127)],
    [(2, 33, 17, 127), (2, 33, 17, 1)],
    [(1, 1, 1, 1), (1, 40000, 1, 3)],
    [(70000,), (70000,)],
    [(2, 3, 2, 3, 2, 3, 2, 3), (2, 1, 2, 1, 2, 1, 2, 1)],
    [(1, 3, 1, 3, 1, 3, 1, 3), (2, 1, 2, 1, 2, 1, 2, 1)],
])
def test_large_joins(join, shapes):
    check_agreement(join(), shapes, *TWINS[join], LEVELS[-1], 3, 0)


@pytest.mark.parametrize("join", [Maximum(), Minimum()], ids=repr)
def test_ties_are_shared(join):
    src = [np.ones((1, 3), np.float32)] * 2
    run = run_layer(join, src, [np.full((1, 3), 4, np.float32)])
    assert [d.tolist() for d in run.diff_inputs] == [[[2, 2, 2]]] * 2


def test_one_value_on_both_sides():
    src = Value((2, 3))
    graph = Graph([src], [])
    graph.outputs = graph.apply(Add(), src, src)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(run_graph(graph, [x])[0], 2 * x)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_inside_wider_values(level, channels):
    # a value that is read from one channel range of another and computed into one of a third
    graph = Graph([Value((2, 5, 7, 6))], [])
    (src,) = graph.inputs
    first = graph.apply1(Narrow(3, 1, channels, "first"), src)
    second = graph.apply1(Narrow(3, 3, channels, "second"), src)
    total = graph.apply1(Subtract(), first, second)
    graph.outputs = graph.apply(Concat(), total, src)
    x = np.random.default_rng(0).standard_normal(src.shape).astype(np.float32)
    expected = np.concatenate([x[..., 1 : 1 + channels] - x[..., 3 : 3 + channels], x], axis=-1)
    np.testing.assert_array_equal(run_graph(graph, [x], level=level, n_threads=2)[0], expected)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(shape=st.lists(EXTENT, min_size=1, max_size=4), axis=st.integers(0, 3), n_threads=st.integers(2, 4), seed=SEED)
def test_sum_pixels_of_a_slice(level, shape, axis, n_threads, seed):
    axis %= len(shape)
    wide = [n + 5 * (i == axis) for i, n in enumerate(shape)]
    graph = Graph([Value(tuple(wide))], [])
    graph.outputs = graph.apply(SumPixels(), graph.apply1(Narrow(axis, 2, shape[axis], "slice"), graph.inputs[0]))
    x = np.random.default_rng(seed).standard_normal(wide).astype(np.float32)
    taken = x.astype(np.float64).take(range(2, 2 + shape[axis]), axis)
    expected = taken.reshape(-1, shape[-1]).sum(0)
    tolerance = 1e-5 * np.abs(taken).sum(axis=tuple(range(len(shape) - 1))).max()
    one, other = (run_graph(graph, [x], level=level, n_threads=n)[0] for n in (1, n_threads))
    np.testing.assert_allclose(one, expected, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(3, 65, 33, 127), (1, 40000, 1, 3), (50000, 1), (20, 4097)])
def test_sum_pixels_of_many(shape):
    x = np.random.default_rng(0).random(shape, np.float32)
    one, other = (run_layer(SumPixels(), [x], n_threads=n).outputs[0] for n in (1, 3))
    close(one, x.reshape(-1, shape[-1]).sum(0, dtype=np.float64))
    np.testing.assert_array_equal(one, other)


def test_scale_channels_and_copy():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    scale = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(run_layer(ScaleChannels(), [x, scale]).outputs[0], x * scale)
    np.testing.assert_array_equal(run_layer(Copy(), [x]).outputs[0], x)


@pytest.mark.parametrize("join", TWINS)
def test_results_take_the_memory_of_sources_that_die(join):
    # a chain of joins of temporary values, without guard zones, where memory is shared
    src = Value((2, 3, 4, 5))
    graph = Graph([src], [])
    left = graph.apply1(Add(), src, constant(np.ones(1, np.float32)))
    right = graph.apply1(Multiply(), left, constant(np.full((3, 1, 1), 2, np.float32)))
    graph.outputs = [graph.apply1(Multiply(), graph.apply1(join(), right, left), right)]
    x = np.random.default_rng(0).standard_normal(src.shape).astype(np.float32)
    a, b = x + 1, (x + 1) * 2
    np.testing.assert_allclose(Plan(graph, LEVELS[-1]).run([x])[0], TWINS[join][0](b, a) * b, rtol=1e-6)


@pytest.mark.parametrize("join", TWINS)
def test_bad_sources(join):
    layer = join(name="joined")
    where = f"^{join.__name__.lower()} 'joined': `inputs` must"
    with pytest.raises(ValueError, match=rf"{where} have shapes that broadcast to one. Received inputs=\(\("):
        layer.infer_shapes((1, 2), (1, 3))
    with pytest.raises(ValueError, match=f"{where} be "):
        layer.infer_shapes((1, 2))
    with pytest.raises(ValueError, match=f"{where} be "):
        layer.infer_shapes()


def test_subtract_takes_two():
    with pytest.raises(ValueError, match="`inputs` must be 2 value"):
        Subtract().infer_shapes((1, 2), (1, 2), (1, 2))


def test_unknown_extents():
    join: Join = Add()
    assert join.infer_shapes((None, 4, 4, 3), (None, 1, 1, 3)) == [(None, 4, 4, 3)]
    assert join.infer_shapes((None, 4, 4, 3), (3,)) == [(None, 4, 4, 3)]
