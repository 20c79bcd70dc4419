"""Crop2D against its twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.layers.crop2d import Crop2D
from cnnext.testing import run_layer
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, check_agreement

MARGIN = st.tuples(st.integers(0, 4), st.integers(0, 4))


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(n=BATCH, h=EXTENT, w=EXTENT, c=EXTENT, cropping=st.tuples(MARGIN, MARGIN), n_threads=st.integers(2, 4),
       seed=SEED)
def test_crop2d(level, n, h, w, c, cropping, n_threads, seed):
    shape = (n, h + sum(cropping[0]), w + sum(cropping[1]), c)
    check_agreement(Crop2D(cropping), [shape], lambda x: reference.crop2d(x, cropping),
                    lambda x, dy: [reference.crop2d_backward(dy, cropping)], level, n_threads, seed)


def test_channels_first():
    src = np.arange(48, dtype=np.float32).reshape(1, 2, 4, 6)
    dst = run_layer(Crop2D(((1, 0), (2, 1)), data_format="channels_first"), [src]).outputs[0]
    np.testing.assert_array_equal(dst, src[:, :, 1:, 2:5])


def test_unknown_extents():
    assert Crop2D(1).infer_shapes((None, None, 4, 5)) == [(None, None, 2, 5)]


def test_identity():
    assert Crop2D(0).is_identity(False) and not Crop2D((0, 1)).is_identity(False)


@pytest.mark.parametrize(("cropping", "message"), [
    (-1, "`cropping` must be at least 0. Received cropping=-1"),
    ("same", r"`cropping` must be \(\(top, bottom\), \(left, right\)\). Received cropping='same'"),
    (((1, 2), 0.5), "`cropping` must be a whole number"),
])
def test_bad_arguments(cropping, message):
    with pytest.raises(ValueError, match=f"^crop2d: {message}"):
        Crop2D(cropping)


def test_bad_sources():
    with pytest.raises(TypeError, match=r"^crop2d: `cropping` must be given"):
        Crop2D()
    with pytest.raises(ValueError, match=r"`src` must have rank 4, \(N, H, W, C\). Received src=\(1, 2, 3\)"):
        Crop2D(1).infer_shapes((1, 2, 3))
    with pytest.raises(ValueError, match=r"`cropping` must leave some of the source. Received cropping=.* "
                                         r"\(source shape \(1, 5, 2, 3\)\)"):
        Crop2D(1).infer_shapes((1, 5, 2, 3))
