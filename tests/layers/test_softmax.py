"""Softmax and log-softmax against their twins in float64, forward and backward, all levels, threads bit-equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.graph.graph import INT64, Value
from cnnext.layers.softmax import LogSoftmax, Softmax
from cnnext.testing import run_layer
from tests.layers.agreement import EXTENT, LEVELS, SEED, close
from tests.layers.padded import check_padded

TWINS = {
    Softmax: (reference.softmax, reference.softmax_backward),
    LogSoftmax: (reference.log_softmax, reference.log_softmax_backward),
}


def check(layer, shape, level, threads, seed):
    rng = np.random.default_rng(seed)
    src = (rng.standard_normal(shape) * 3).astype(np.float32)
    diff_dst = rng.standard_normal(shape).astype(np.float32)
    one, many = (run_layer(layer, [src], [diff_dst], level=level, n_threads=n) for n in (1, threads))
    forward, backward = TWINS[type(layer)]
    exact, diff = (np.moveaxis(a.astype(np.float64), layer.axis, -1) for a in (src, diff_dst))
    dst = forward(exact)
    close(one.outputs[0], np.moveaxis(dst, -1, layer.axis))
    # Where one class has all the probability, the gradient is a difference of products of the size of diff_dst.
    expected = np.moveaxis(backward(dst, diff), -1, layer.axis)
    np.testing.assert_allclose(one.diff_inputs[0], expected, rtol=0, atol=1e-5 * np.abs(diff_dst).max())
    np.testing.assert_array_equal(one.outputs[0], many.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], many.diff_inputs[0])


@st.composite
def cases(draw):
    shape = (*draw(st.lists(EXTENT, max_size=3)), draw(st.sampled_from([1, 2, 3, 7, 10, 13, 16, 17, 33, 127])))
    return draw(st.sampled_from([*TWINS]))(draw(st.integers(-len(shape), len(shape) - 1))), shape


@given(case=cases(), level=st.sampled_from(LEVELS), threads=st.integers(2, 4), seed=SEED)
@settings(max_examples=300)
def test_twins(case, level, threads, seed):
    check(*case, level, threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize(("shape", "axis"), [((5000, 10), -1), ((3, 40000), -1), ((2, 1000, 7, 5), 1)])
def test_many_tiles(kind, shape, axis, level):
    check(kind(axis), shape, level, 3, seed=3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layer", [Softmax(), LogSoftmax(), Softmax(1), LogSoftmax(2)], ids=repr)
def test_padded(layer, level):
    check_padded(layer, level)


@pytest.mark.parametrize("level", LEVELS)
def test_huge_logits_do_not_overflow(level):
    src = np.array([[3e38, -3e38, 3e38], [-1e4, -1e4 - 1, -2e4]], np.float32)
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(run_layer(Softmax(), [src], level=level).outputs[0],
                               [[0.5, 0, 0.5], [share, 1 - share, 0]], rtol=1e-6)
    logs = run_layer(LogSoftmax(), [src[1:]], level=level).outputs[0]
    np.testing.assert_allclose(logs, [[np.log(share), np.log(1 - share), -1e4 + np.log(share)]], rtol=1e-6)


def test_an_empty_batch():
    nothing = np.empty((0, 3), np.float32)
    run = run_layer(Softmax(), [nothing], [nothing])
    assert run.outputs[0].shape == run.diff_inputs[0].shape == (0, 3)


def test_shapes():
    assert Softmax()(Value((None, 8, None, 3))).shape == (None, 8, None, 3)


@pytest.mark.parametrize(("kind", "name"), [(Softmax, "softmax"), (LogSoftmax, "logsoftmax")])
@pytest.mark.parametrize("axis", [2, -3])
def test_bad_axis(kind, name, axis):
    error = rf"{name} 's': `axis` must be an axis of the source\. Received axis={axis} \(source shape \(None, 10\)\)"
    with pytest.raises(ValueError, match=error):
        kind(axis, name="s")(Value((None, 10)))


@pytest.mark.parametrize("axis", [1.5, "last", True, None])
def test_axis_must_be_whole(axis):
    with pytest.raises(ValueError, match=r"`axis` must be a whole number\. Received axis="):
        Softmax(axis)


def test_bad_dtype():
    with pytest.raises(TypeError, match=r"softmax 's': `src` must be float32\. Received src='int64'"):
        Softmax(name="s")(Value((1, 2), INT64))
