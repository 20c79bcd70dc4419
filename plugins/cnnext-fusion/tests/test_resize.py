"""Resize: agrees with UpSample2D for whole factors, makes smaller, bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from cnnext_fusion import Resize
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.testing import run_layer


@settings(max_examples=20, deadline=None)
@given(size=st.tuples(st.integers(1, 13), st.integers(1, 13)), factor=st.tuples(st.integers(1, 4), st.integers(1, 4)),
       channels=st.sampled_from([1, 7, 17]), mode=st.sampled_from(["nearest", "bilinear"]))
def test_whole_factors(size, factor, channels, mode):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, channels)).astype(np.float32)
    target = (size[0] * factor[0], size[1] * factor[1])
    diff = rng.standard_normal((2, *target, channels)).astype(np.float32)
    mine = run_layer(Resize(target, mode), [x], [diff], n_threads=2)
    theirs = run_layer(cx.UpSample2D(factor, mode), [x], [diff])
    np.testing.assert_allclose(mine.outputs[0], theirs.outputs[0], atol=1e-6)
    np.testing.assert_allclose(mine.diff_inputs[0], theirs.diff_inputs[0], atol=1e-5)


@pytest.mark.parametrize(("mode", "wanted"), [("nearest", [0, 2, 4]), ("bilinear", [1 / 3, 2, 11 / 3])])
def test_smaller(mode, wanted):
    ramp = np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(run_layer(Resize((3, 1), mode), [ramp]).outputs[0].ravel(), wanted, atol=1e-6)


def test_shapes_and_bad_arguments():
    assert Resize((3, 5)).infer_shapes((None, None, 7, 2)) == [(None, 3, 5, 2)]
    with pytest.raises(ValueError, match="`src` must have rank 4"):
        Resize(3).infer_shapes((1, 2, 3))
    with pytest.raises(ValueError, match="`size` must"):
        Resize(0)
    with pytest.raises(ValueError, match="`mode` must be one of 'nearest', 'bilinear'"):
        Resize(3, "cubic")
