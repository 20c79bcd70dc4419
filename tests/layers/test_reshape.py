"""Reshape: elements in order, forward and backward."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.layers.reshape import Reshape
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, check_agreement


def check(shape, target, level, n_threads, seed):
    check_agreement(Reshape(target), [shape], lambda x: x.reshape(shape[0], *target),
                    lambda x, dy: [dy.reshape(shape)], level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(n=BATCH, factors=st.lists(EXTENT, min_size=1, max_size=4), cut=st.integers(0, 4), joker=st.integers(-1, 3),
       n_threads=st.integers(2, 4), seed=SEED)
def test_reshape(level, n, factors, cut, joker, n_threads, seed):
    target = [prod(factors[:cut]), *factors[cut:]]
    if 0 <= joker < len(target):
        target[joker] = -1
    check((n, *factors), tuple(target), level, n_threads, seed)


def test_unknown_extents():
    assert Reshape((4, -1)).infer_shapes((None, 2, 6)) == [(None, 4, 3)]
    assert Reshape((4, -1)).infer_shapes((None, None, 6)) == [(None, 4, None)]
    assert Reshape((4, 3)).infer_shapes((None, None, 6)) == [(None, 4, 3)]


@pytest.mark.parametrize(("target", "rule"), [
    ((-1, -1), "have at most one -1"),
    ((-2, 3), "be at least -1"),
    ((0, 3), "have extents of at least 1, or one of -1"),
    ((2.5,), "be a whole number"),
])
def test_bad_target(target, rule):
    with pytest.raises(ValueError, match=f"^reshape.*: `target_shape` must {rule}. Received target_shape="):
        Reshape(target)


@pytest.mark.parametrize("target", [(5, 2), (-1, 5), ()])
def test_target_of_another_size(target):
    with pytest.raises(ValueError, match=r"`target_shape` must hold the 12 elements of each image. "
                                         r"Received target_shape=.* \(source shape \(2, 3, 4\)\)"):
        Reshape(target).infer_shapes((2, 3, 4))
