"""ZeroPad2D against its twin: three modes, asymmetric paddings, odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.layers.zero_pad2d import ZeroPad2D
from cnnext.testing import run_layer
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, check_agreement

MODES = ["constant", "reflect", "edge"]
MARGIN = st.tuples(st.integers(0, 4), st.integers(0, 4))


def check(shape, padding, mode, value, level, n_threads, seed):
    check_agreement(ZeroPad2D(padding, mode, value), [shape], lambda x: reference.pad2d(x, padding, mode, value),
                    lambda x, dy: [reference.pad2d_backward(dy, padding, mode)], level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(n=BATCH, h=EXTENT, w=EXTENT, c=EXTENT, padding=st.tuples(MARGIN, MARGIN), n_threads=st.integers(2, 4), seed=SEED)
def test_small(level, mode, n, h, w, c, padding, n_threads, seed):
    if mode == "reflect":
        padding = tuple(tuple(min(p, size - 1) for p in pads) for pads, size in zip(padding, (h, w), strict=True))
    check((n, h, w, c), padding, mode, 1.5, level, n_threads, seed)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3, 256])
def test_large(mode, channels):
    check((2, 127, 33, channels), ((31, 2), (0, 17)), mode, 0.0, LEVELS[-1], 3, 0)


def test_forms_of_padding():
    assert ZeroPad2D().padding == ((1, 1), (1, 1))
    assert ZeroPad2D(2).padding == ((2, 2), (2, 2))
    assert ZeroPad2D((1, 2)).padding == ((1, 1), (2, 2))
    assert ZeroPad2D(((1, 2), (3, 4))).padding == ((1, 2), (3, 4))


def test_infinity():
    dst = run_layer(ZeroPad2D(1, value=float("-inf")), [np.zeros((1, 1, 1, 2))]).outputs[0]
    assert np.isneginf(dst).sum() == 16 and dst[0, 1, 1].tolist() == [0, 0]


def test_channels_first():
    src = np.arange(24).reshape(1, 2, 3, 4)
    dst = run_layer(ZeroPad2D(((1, 0), (0, 2)), data_format="channels_first"), [src.astype(np.float32)]).outputs[0]
    np.testing.assert_array_equal(dst, np.pad(src, ((0, 0), (0, 0), (1, 0), (0, 2))))


def test_unknown_extents():
    assert ZeroPad2D(1, "reflect").infer_shapes((None, None, 3, 4)) == [(None, None, 5, 4)]


def test_identity():
    assert ZeroPad2D(0).is_identity(True) and not ZeroPad2D(((0, 0), (0, 1))).is_identity(True)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"padding": -1}, "`padding` must be at least 0. Received padding=-1"),
    ({"padding": "same"}, r"`padding` must be \(\(top, bottom\), \(left, right\)\). Received padding='same'"),
    ({"padding": (1, 2, 3)}, r"`padding` must be \(\(top, bottom\), \(left, right\)\)"),
    ({"padding": 1.5}, "`padding` must be a whole number"),
    ({"mode": "wrap"}, "`mode` must be one of 'constant', 'reflect', 'edge'. Received mode='wrap'"),
    ({"value": float("nan")}, "`value` must be a number, not NaN"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^zeropad2d: {message}"):
        ZeroPad2D(**arguments)


def test_bad_sources():
    with pytest.raises(ValueError, match=r"`src` must have rank 4, \(N, H, W, C\). Received src=\(1, 2, 3\)"):
        ZeroPad2D().infer_shapes((1, 2, 3))
    with pytest.raises(ValueError, match=r"`padding` must be less than the rows and columns that it reflects. "
                                         r"Received padding=.* \(source shape \(1, 5, 2, 3\)\)"):
        ZeroPad2D(2, "reflect").infer_shapes((1, 5, 2, 3))
