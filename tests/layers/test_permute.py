"""Permute against its twin: every order of axes of small sources, blocked transposes of large ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.graph.graph import Graph, Value
from cnnext.graph.plan import Plan
from cnnext.layers.permute import Permute
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, check_agreement


def check(axes, shape, level, n_threads, seed):
    check_agreement(Permute(axes), [shape], lambda x: reference.permute(x, axes),
                    lambda x, dy: [reference.permute_backward(dy, axes)], level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(rest=st.lists(EXTENT, max_size=4), batch=BATCH, order=st.randoms(use_true_random=False),
       n_threads=st.integers(2, 4), seed=SEED)
def test_any_order(level, rest, batch, order, n_threads, seed):
    axes = list(range(1, len(rest) + 1))
    order.shuffle(axes)
    check((0, *axes), (batch, *rest), level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(2, 127, 16, 33), (1, 3, 224, 127), (2, 3, 5, 11), (1, 64, 64, 256), (3, 17, 1, 2100)])
@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1)])
def test_large(level, shape, axes):
    check(axes, shape, level, 3, 0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", range(1, 10))
def test_few_channels(level, channels):
    """Pixels of few channels are split into planes a vector at a time, the last of which may overlap the one before."""
    for pixels in (4, 7, 8, 9, 15, 16, 17, 28, 32, 45):
        check((0, 2, 1), (2, pixels, channels), level, 2, pixels)


@pytest.mark.parametrize("axes", list(itertools.permutations((1, 2, 3))))
def test_kernel(axes):
    # a source whose last axis moves is transposed in blocks, others are copied in rows
    src = Value((2, 20, 30, 40))
    graph = Graph([src], [])
    graph.outputs = graph.apply(Permute((0, *axes)), src)
    assert [s.kernel for s in Plan(graph, LEVELS[0]).steps] == ["copy" if axes[-1] == 3 else "transpose"]


def test_unknown_extents():
    assert Permute((0, 3, 1, 2)).infer_shapes((None, None, 7, 3)) == [(None, 3, None, 7)]


@pytest.mark.parametrize(("axes", "rule"), [
    ((0, 1, 1), "be a permutation of 0 to 2"),
    ((0, 1, 3), "be a permutation of 0 to 2"),
    ((1, 0), "begin with 0, the batch, which stays first"),
    ((), "begin with 0, the batch, which stays first"),
    (("a",), "be a whole number"),
])
def test_bad_axes(axes, rule):
    with pytest.raises(ValueError, match=f"^permute.*: `axes` must {rule}. Received axes="):
        Permute(axes)


def test_wrong_rank():
    with pytest.raises(ValueError, match=r"`axes` must name all 4 axes of the source\. Received axes=\(0, 2, 1\)"):
        Permute((0, 2, 1)).infer_shapes((1, 2, 3, 4))


def test_identity():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    assert Permute((0, 1, 2)).is_identity(False)
    check((0, 1, 2), x.shape, LEVELS[0], 2, 0)
