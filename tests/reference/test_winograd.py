"""Twins of Winograd's transforms: the convolution that they make is the one of the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference

PADS = st.tuples(st.integers(0, 2), st.integers(0, 2))


@pytest.mark.parametrize("m", [2, 4])
@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(3, 11), st.integers(3, 11)), padding=st.tuples(PADS, PADS), channels=st.integers(1, 3),
       filters=st.integers(1, 3), batch=st.integers(1, 2), seed=st.integers(0, 2**32))
def test_is_the_convolution(m, size, padding, channels, filters, batch, seed):
    rng = np.random.default_rng(seed)
    src, bias = rng.standard_normal((batch, *size, channels)), rng.standard_normal(filters)
    weights = rng.standard_normal((3, 3, channels, filters))
    got = reference.winograd_conv2d(src, weights, bias, padding=padding, m=m)
    np.testing.assert_allclose(got, reference.conv2d(src, weights, bias, padding=padding), rtol=0, atol=1e-12)
    diff_dst = rng.standard_normal(got.shape)
    np.testing.assert_allclose(
        reference.winograd_conv2d_backward_weights(src, diff_dst, padding=padding, m=m),
        reference.conv2d_backward_weights(src, diff_dst, weights.shape, padding=padding), rtol=0, atol=1e-11)


@pytest.mark.parametrize("m", [2, 4])
def test_one_row(m):
    rng = np.random.default_rng(0)
    b_t, g, a_t = reference.winograd_matrices(m)
    d, taps = rng.standard_normal(m + 2), rng.standard_normal(3)
    np.testing.assert_allclose(a_t @ ((g @ taps) * (b_t @ d)), np.correlate(d, taps), rtol=0, atol=1e-13)


def test_f2_is_the_one_of_the_paper():
    b_t, g, a_t = reference.winograd_matrices(2)
    # up to the signs of a row of B^T and of G, or of A^T, which cancel
    np.testing.assert_array_equal(np.abs(b_t), [[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(np.abs(g), [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]])
    np.testing.assert_array_equal(np.abs(a_t), [[1, 1, 1, 0], [0, 1, 1, 1]])
