"""PReLU against its twin in float64, forward and backward, all levels, threads bit-equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.graph.graph import INT64, Value
from cnnext.layers.prelu import PReLU
from cnnext.testing import run_layer
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, close
from tests.layers.padded import check_padded


def check(shape, level, threads, seed, channels_first=False):
    rng = np.random.default_rng(seed)
    src, diff_dst = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    layer = PReLU(data_format="channels_first" if channels_first else "channels_last")
    feeds = [np.moveaxis(a, -1, 1) if channels_first else a for a in (src, diff_dst)]
    layer.build(feeds[0].shape)
    slope = rng.uniform(-1, 2, shape[-1]).astype(np.float32)
    layer.weights["slope"].assign(slope)
    one, many = (run_layer(layer, feeds[:1], feeds[1:], level=level, n_threads=n) for n in (1, threads))
    exact = [a.astype(np.float64) for a in (src, slope, diff_dst)]
    diff_src, diff_slope = reference.prelu_backward(*exact)
    back = (lambda a: np.moveaxis(a, 1, -1)) if channels_first else (lambda a: a)
    close(back(one.outputs[0]), reference.prelu(*exact[:2]))
    close(back(one.diff_inputs[0]), diff_src)
    close(one.diff_weights["slope"], diff_slope)
    np.testing.assert_array_equal(one.outputs[0], many.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], many.diff_inputs[0])
    np.testing.assert_array_equal(one.diff_weights["slope"], many.diff_weights["slope"])


@given(batch=BATCH, spatial=st.lists(EXTENT, max_size=2), channels=st.sampled_from([1, 2, 3, 7, 13, 16, 17, 33, 127]),
       channels_first=st.booleans(), level=st.sampled_from(LEVELS), threads=st.integers(2, 4), seed=SEED)
@settings(max_examples=200)
def test_twin(batch, spatial, channels, channels_first, level, threads, seed):
    check((batch, *spatial, channels), level, threads, seed, channels_first)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(2, 61, 127, 7), (3, 20000), (40000, 1)])
def test_many_tiles_and_shards(shape, level):
    check(shape, level, 3, seed=1)


@pytest.mark.parametrize("level", LEVELS)
def test_padded(level):
    check_padded(PReLU(), level)


def test_slopes_begin_at_a_quarter():
    src = np.array([[-4.0, 4.0, -1.0]], np.float32)
    assert run_layer(PReLU(), [src]).outputs[0].tolist() == [[-1.0, 4.0, -0.25]]


def test_an_empty_batch_has_zero_gradients():
    run = run_layer(PReLU(), [np.empty((0, 5, 3), np.float32)], [np.empty((0, 5, 3), np.float32)])
    assert run.outputs[0].shape == (0, 5, 3)
    assert run.diff_weights["slope"].tolist() == [0.0, 0.0, 0.0]


def test_shapes():
    assert PReLU()(Value((None, 8, None, 3))).shape == (None, 8, None, 3)
    layer = PReLU(data_format="channels_first")
    layer(Value((None, 3, 8, 9)))
    assert layer.weights["slope"].data.shape == (3,)


@pytest.mark.parametrize(("shape", "error"), [
    ((4,), r"prelu 'p': `src` must have rank 2 at least, \(N, \.\.\., C\)\. Received src=\(4,\)"),
    ((4, 5, None), r"prelu 'p': `src` must have a known number of channels\. Received src=\(4, 5, None\)"),
    ((4, 5, 0), r"prelu 'p': `src` must have a known number of channels\. Received src=\(4, 5, 0\)"),
])
def test_bad_shapes(shape, error):
    with pytest.raises(ValueError, match=error):
        PReLU(name="p")(Value(shape))


def test_other_channels_than_it_was_built_for():
    layer = PReLU(name="p")
    layer(Value((None, 3)))
    with pytest.raises(ValueError, match=r"prelu 'p': `slope` must have shape \(4,\) for this source"):
        layer(Value((None, 4)))


def test_bad_dtype():
    with pytest.raises(TypeError, match=r"prelu 'p': `src` must be float32\. Received src='int64'"):
        PReLU(name="p")(Value((1, 2), INT64))
