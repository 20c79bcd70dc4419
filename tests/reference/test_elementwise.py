"""Elementwise twins and concat: backward against central differences, with broadcasting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from cnnext import reference
from cnnext.reference import numerical_gradient

SETTINGS = settings(max_examples=50, deadline=None)
FORMULAS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": max,
    "minimum": min,
    "average": lambda a, b: (a + b) / 2,
}
SHAPES = mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=4, max_side=3).map(lambda s: s.input_shapes)


def close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", FORMULAS)
@SETTINGS
@given(shapes=SHAPES, seed=st.integers(0, 2**32))
def test_binary(name, shapes, seed):
    rng = np.random.default_rng(seed)
    # Multiples of 1/4 in a, those plus 1/8 in b: no ties, and no division by less than 3/8.
    a = rng.integers(-8, 8, shapes[0]) / 4
    b = (rng.integers(2, 8, shapes[1]) / 4 - 1 / 8) * rng.choice([-1, 1], shapes[1])
    function, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    dst = function(a, b)
    wide_a, wide_b = np.broadcast_arrays(a, b)
    assert dst.shape == wide_a.shape
    for index in np.ndindex(dst.shape):
        assert dst[index] == pytest.approx(FORMULAS[name](wide_a[index], wide_b[index]))

    diff_dst = rng.standard_normal(dst.shape)
    diff_a, diff_b = backward(a, b, diff_dst=diff_dst)
    close(diff_a, numerical_gradient(lambda x: function(x, b), a, diff_dst))
    close(diff_b, numerical_gradient(lambda x: function(a, x), b, diff_dst))


def test_average_of_three():
    rng = np.random.default_rng(0)
    src = [rng.standard_normal(shape) for shape in [(2, 3, 4), (4,), (2, 1, 4)]]
    diff_dst = rng.standard_normal((2, 3, 4))
    close(reference.average(*src), (src[0] + src[1] + src[2]) / 3)
    for i, gradient in enumerate(reference.average_backward(*src, diff_dst=diff_dst)):
        close(
            gradient,
            numerical_gradient(lambda x, i=i: reference.average(*src[:i], x, *src[i + 1 :]), src[i], diff_dst),
        )


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_equal_values_share_the_gradient(name):
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    diff_a, diff_b = getattr(reference, f"{name}_backward")(a, b, np.full(3, 8.0))
    expected = [0.0, 4.0, 8.0] if name == "maximum" else [8.0, 4.0, 0.0]
    assert diff_a.tolist() == expected
    assert diff_b.tolist() == [8 - share for share in expected]


def test_greater():
    assert reference.greater(np.array([1.0, 2.0, 3.0]), np.array(2.0)).tolist() == [0.0, 0.5, 1.0]


@SETTINGS
@given(shapes=SHAPES, seed=st.integers(0, 2**32))
def test_reduce_to_shape_is_the_adjoint_of_broadcasting(shapes, seed):
    rng = np.random.default_rng(seed)
    wide = np.broadcast_shapes(*shapes)
    x, y = rng.standard_normal(shapes[0]), rng.standard_normal(wide)
    reduced = reference.reduce_to_shape(y, shapes[0])
    assert reduced.shape == x.shape
    assert (x * reduced).sum() == pytest.approx((np.broadcast_to(x, wide) * y).sum())


def test_reduce_to_shape_refuses_a_longer_shape():
    with pytest.raises(ValueError, match=r"`shape` must broadcast to \(3,\). Received shape=\(1, 3\)"):
        reference.reduce_to_shape(np.zeros(3), (1, 3))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_concat(axis):
    rng = np.random.default_rng(1)
    extents = [2, 1, 3]
    src = []
    for extent in extents:
        shape = [2, 3, 2, 2]
        shape[axis] = extent
        src.append(rng.standard_normal(shape))
    dst = reference.concat(src, axis)
    assert dst.shape[axis] == sum(extents)
    for array, start in zip(src, [0, 2, 3]):
        close(np.take(dst, range(start, start + array.shape[axis]), axis), array)

    diff_dst = rng.standard_normal(dst.shape)
    gradients = reference.concat_backward(src, diff_dst, axis)
    assert len(gradients) == len(src)
    for i, gradient in enumerate(gradients):
        close(
            gradient,
            numerical_gradient(lambda x, i=i: reference.concat([*src[:i], x, *src[i + 1 :]], axis), src[i], diff_dst),
        )


def test_float32_stays_float32():
    a, b = np.ones((2, 3), np.float32), np.full(3, 2, np.float32)
    for name in FORMULAS:
        dst = getattr(reference, name)(a, b)
        gradients = getattr(reference, f"{name}_backward")(a, b, diff_dst=dst)
        assert {dst.dtype, *(gradient.dtype for gradient in gradients)} == {np.dtype(np.float32)}
    assert reference.greater(a, b).dtype == np.float32
    assert reference.concat([a, a]).dtype == np.float32
