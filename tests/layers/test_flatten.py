"""Flatten: elements in order, forward and backward."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.layers.flatten import Flatten
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, check_agreement


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(n=BATCH, rest=st.lists(EXTENT, max_size=4), n_threads=st.integers(2, 4), seed=SEED)
def test_flatten(level, n, rest, n_threads, seed):
    check_agreement(Flatten(), [(n, *rest)], lambda x: x.reshape(n, -1), lambda x, dy: [dy.reshape(n, *rest)], level,
                    n_threads, seed)


def test_unknown_extents():
    assert Flatten().infer_shapes((None, 2, 3, 4)) == [(None, 24)]
    assert Flatten().infer_shapes((None, None, 3, 4)) == [(None, None)]


def test_takes_one_input():
    with pytest.raises(ValueError, match=r"^flatten.*: `inputs` must be 1 value"):
        Flatten().infer_shapes((1, 2), (1, 2))
