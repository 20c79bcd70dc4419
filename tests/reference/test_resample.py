"""Padding, cropping, upsampling and permuting: forward against loops, backward against central differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.reference import numerical_gradient

SETTINGS = settings(max_examples=50, deadline=None)
MARGIN = st.tuples(st.integers(0, 3), st.integers(0, 3))
SIZE = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 2))
SEED = st.integers(0, 2**32)


def close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-8)


def source_index(index, extent, mode):
    """Where a row outside the source takes its values from."""
    if mode == "edge":
        return min(max(index, 0), extent - 1)
    if index < 0:
        return -index
    return index if index < extent else 2 * (extent - 1) - index


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@SETTINGS
@given(shape=SIZE, padding=st.tuples(MARGIN, MARGIN), seed=SEED)
def test_pad2d(mode, shape, padding, seed):
    rng = np.random.default_rng(seed)
    if mode == "reflect":
        padding = tuple(tuple(min(n, shape[1 + axis] - 1) for n in padding[axis]) for axis in range(2))
    src = rng.standard_normal(shape)
    dst = reference.pad2d(src, padding, mode, value=1.5)
    assert dst.shape == (shape[0], shape[1] + sum(padding[0]), shape[2] + sum(padding[1]), shape[3])
    for oh, ow in np.ndindex(dst.shape[1:3]):
        ih, iw = oh - padding[0][0], ow - padding[1][0]
        if 0 <= ih < shape[1] and 0 <= iw < shape[2]:
            close(dst[:, oh, ow], src[:, ih, iw])
        elif mode == "constant":
            assert (dst[:, oh, ow] == 1.5).all()
        else:
            close(dst[:, oh, ow], src[:, source_index(ih, shape[1], mode), source_index(iw, shape[2], mode)])

    diff_dst = rng.standard_normal(dst.shape)
    close(
        reference.pad2d_backward(diff_dst, padding, mode),
        numerical_gradient(lambda x: reference.pad2d(x, padding, mode, value=1.5), src, diff_dst),
    )


@SETTINGS
@given(shape=SIZE, cropping=st.tuples(MARGIN, MARGIN), seed=SEED)
def test_crop2d(shape, cropping, seed):
    rng = np.random.default_rng(seed)
    src = rng.standard_normal((shape[0], shape[1] + sum(cropping[0]), shape[2] + sum(cropping[1]), shape[3]))
    dst = reference.crop2d(src, cropping)
    assert dst.shape == shape
    for oh, ow in np.ndindex(shape[1:3]):
        close(dst[:, oh, ow], src[:, oh + cropping[0][0], ow + cropping[1][0]])
    diff_dst = rng.standard_normal(shape)
    close(
        reference.crop2d_backward(diff_dst, cropping),
        numerical_gradient(lambda x: reference.crop2d(x, cropping), src, diff_dst),
    )


def bilinear(src, factors, oh, ow):
    """Half-pixel centres: the weight of a source pixel falls linearly with its distance from the point."""
    value = np.zeros((src.shape[0], src.shape[3]))
    h, w = (oh + 0.5) / factors[0] - 0.5, (ow + 0.5) / factors[1] - 0.5
    for ih, iw in itertools.product((math.floor(h), math.floor(h) + 1), (math.floor(w), math.floor(w) + 1)):
        pixel = src[:, source_index(ih, src.shape[1], "edge"), source_index(iw, src.shape[2], "edge")]
        value += (1 - abs(h - ih)) * (1 - abs(w - iw)) * pixel
    return value


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@SETTINGS
@given(shape=SIZE, factors=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=SEED)
def test_upsample2d(mode, shape, factors, seed):
    rng = np.random.default_rng(seed)
    src = rng.standard_normal(shape)
    dst = reference.upsample2d(src, factors, mode)
    assert dst.shape == (shape[0], shape[1] * factors[0], shape[2] * factors[1], shape[3])
    for oh, ow in np.ndindex(dst.shape[1:3]):
        nearest = src[:, oh // factors[0], ow // factors[1]]
        close(dst[:, oh, ow], nearest if mode == "nearest" else bilinear(src, factors, oh, ow))
    diff_dst = rng.standard_normal(dst.shape)
    close(
        reference.upsample2d_backward(diff_dst, factors, mode),
        numerical_gradient(lambda x: reference.upsample2d(x, factors, mode), src, diff_dst),
    )


def test_bilinear_of_a_ramp():
    """The values that PyTorch's ``align_corners=False`` gives."""
    ramp = np.array([1.0, 2.0]).reshape(1, 1, 2, 1)
    assert reference.upsample2d(ramp, (1, 2), "bilinear").ravel().tolist() == [1.0, 1.25, 1.75, 2.0]


@pytest.mark.parametrize("axes", list(itertools.permutations(range(4))))
def test_permute(axes):
    rng = np.random.default_rng(0)
    src = rng.standard_normal((1, 2, 3, 4))
    dst = reference.permute(src, axes)
    for index in np.ndindex(dst.shape):
        assert dst[index] == src[tuple(index[axes.index(axis)] for axis in range(4))]
    diff_dst = rng.standard_normal(dst.shape)
    close(
        reference.permute_backward(diff_dst, axes),
        numerical_gradient(lambda x: reference.permute(x, axes), src, diff_dst),
    )


def test_float32_stays_float32():
    src, padding = np.ones((1, 4, 4, 2), np.float32), ((1, 1), (1, 1))
    results = [reference.crop2d(src, padding), reference.crop2d_backward(src, padding)]
    for mode in ("constant", "reflect", "edge"):
        results += [reference.pad2d(src, padding, mode), reference.pad2d_backward(src, padding, mode)]
    for mode in ("nearest", "bilinear"):
        results += [reference.upsample2d(src, (2, 2), mode), reference.upsample2d_backward(src, (2, 2), mode)]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


def test_refusals():
    src = np.zeros((1, 3, 3, 1))
    with pytest.raises(ValueError, match=r"pad2d: `mode` must be constant, reflect or edge. Received mode=wrap"):
        reference.pad2d(src, ((1, 1), (1, 1)), "wrap")
    with pytest.raises(ValueError, match="pad2d: `padding` must be less than what it reflects"):
        reference.pad2d(src, ((3, 0), (0, 0)), "reflect")
    with pytest.raises(ValueError, match="pad2d: `padding` must not be negative"):
        reference.pad2d(src, ((-1, 0), (0, 0)))
    with pytest.raises(ValueError, match="crop2d: `cropping` must leave some of the source"):
        reference.crop2d(src, ((1, 2), (0, 0)))
    with pytest.raises(ValueError, match="crop2d: `cropping` must not be negative"):
        reference.crop2d(src, ((0, 0), (0, -1)))
    with pytest.raises(ValueError, match="upsample2d: `factors` must be at least 1"):
        reference.upsample2d(src, (0, 1))
    with pytest.raises(ValueError, match=r"upsample2d: `mode` must be nearest or bilinear. Received mode=cubic"):
        reference.upsample2d(src, (2, 2), "cubic")
