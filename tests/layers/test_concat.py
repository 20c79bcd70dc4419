"""Concat against its twin: any number of sources, every axis but the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.graph.graph import Graph, Value
from cnnext.layers.concat import Concat
from cnnext.testing import run_graph
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, check_agreement


def check(shapes, axis, level, n_threads, seed):
    check_agreement(Concat(axis), shapes, lambda *x: reference.concat(x, axis),
                    lambda *x: reference.concat_backward(x[:-1], x[-1], axis), level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(n=BATCH, rest=st.lists(EXTENT, min_size=1, max_size=4), extents=st.lists(EXTENT, min_size=1, max_size=4),
       axis=st.integers(0, 3), negative=st.booleans(), n_threads=st.integers(2, 4), seed=SEED)
def test_concat(level, n, rest, extents, axis, negative, n_threads, seed):
    axis = axis % len(rest) + 1
    shapes = [(n, *rest[: axis - 1], extent, *rest[axis:]) for extent in extents]
    check(shapes, axis - len(rest) - 1 if negative else axis, level, n_threads, seed)


def test_large():
    check([(2, 33, 17, 127), (2, 33, 17, 256), (2, 33, 17, 1)], -1, LEVELS[-1], 3, 0)


def test_unknown_extents():
    assert Concat().infer_shapes((None, 4, 5), (None, 4, 6)) == [(None, 4, 11)]
    assert Concat(1).infer_shapes((None, None, 5), (None, 4, 5)) == [(None, None, 5)]
    assert Concat().infer_shapes((None, None, 5), (None, 4, 5)) == [(None, 4, 10)]


@pytest.mark.parametrize(("axis", "shapes", "message"), [
    (0, [(1, 2), (1, 2)], "`axis` must not be the batch. Received axis=0 .source shape"),
    (-2, [(1, 2), (1, 2)], "`axis` must not be the batch. Received axis=-2"),
    (2, [(1, 2), (1, 2)], "`axis` must be an axis of its sources, from -2 to 1. Received axis=2"),
    (-1, [(1, 2), (1, 2, 3)], "`inputs` must have one rank. Received inputs="),
    (-1, [(1, 2, 3), (1, 3, 3)], "`inputs` must agree in all axes but -1. Received inputs="),
    (-1, [(2, 3), (1, 3)], "`inputs` must agree in all axes but -1. Received inputs="),
])
def test_bad_sources(axis, shapes, message):
    with pytest.raises(ValueError, match=f"^concat 'joined': {message}"):
        Concat(axis, name="joined").infer_shapes(*shapes)


def test_bad_axis():
    with pytest.raises(ValueError, match=r"^concat: `axis` must be a whole number\. Received axis='channels'"):
        Concat("channels")


def test_same_value_twice():
    src = np.ones((1, 2, 3), np.float32)
    value = Value(src.shape)
    graph = Graph([value], [])
    graph.outputs = graph.apply(Concat(), value, value)
    assert run_graph(graph, [src])[0].tolist() == np.ones((1, 2, 6)).tolist()
