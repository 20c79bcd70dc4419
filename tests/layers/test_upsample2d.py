"""UpSample2D against its twin: both modes, unequal factors, odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.layers.upsample2d import UpSample2D
from cnnext.testing import run_layer
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, check_agreement

MODES = ["nearest", "bilinear"]


def check(shape, size, mode, level, n_threads, seed):
    check_agreement(UpSample2D(size, mode), [shape], lambda x: reference.upsample2d(x, size, mode),
                    lambda x, dy: [reference.upsample2d_backward(dy, size, mode)], level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(n=BATCH, h=EXTENT, w=EXTENT, c=EXTENT, size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
       n_threads=st.integers(2, 4), seed=SEED)
def test_small(level, mode, n, h, w, c, size, n_threads, seed):
    check((n, h, w, c), size, mode, level, n_threads, seed)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 127, 13, 3), (1, 17, 127, 7), (1, 9, 7, 256)])
def test_large(mode, shape):
    check(shape, (2, 3), mode, LEVELS[-1], 3, 0)


def test_bilinear_keeps_infinity_in_its_place():
    # a pixel on a source centre has one term: no 0 * infinity
    src = np.array([0, np.inf, 0], np.float32).reshape(1, 1, 3, 1)
    dst = run_layer(UpSample2D((1, 3), "bilinear"), [src]).outputs[0].ravel()
    assert dst.tolist() == [0, 0, np.inf, np.inf, np.inf, np.inf, np.inf, 0, 0]


def test_channels_first():
    src = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    dst = run_layer(UpSample2D((2, 3), data_format="channels_first"), [src]).outputs[0]
    np.testing.assert_array_equal(dst, src.repeat(2, axis=2).repeat(3, axis=3))


def test_unknown_extents():
    assert UpSample2D((2, 3)).infer_shapes((None, None, 4, 5)) == [(None, None, 12, 5)]


def test_identity():
    assert UpSample2D(1).is_identity(False) and not UpSample2D((1, 2)).is_identity(False)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"size": 0}, "`size` must be at least 1. Received size=0"),
    ({"size": (2, -1)}, "`size` must be at least 1. Received size=-1"),
    ({"size": 1.5}, "`size` must be a whole number"),
    ({"size": (1, 2, 3)}, r"`size` must be one whole number or a pair \(rows, columns\)"),
    ({"mode": "cubic"}, "`mode` must be one of 'nearest', 'bilinear'. Received mode='cubic'"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^upsample2d: {message}"):
        UpSample2D(**arguments)


def test_wrong_rank():
    with pytest.raises(ValueError, match=r"`src` must have rank 4, \(N, H, W, C\). Received src=\(1, 2, 3\)"):
        UpSample2D().infer_shapes((1, 2, 3))
