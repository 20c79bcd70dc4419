"""The central differences that judge all backward twins, against gradients known by hand; and the list of names."""

from __future__ import annotations

import numpy as np
import pytest

from cnnext import reference


def test_gradient_of_a_linear_map_is_its_transpose():
    rng = np.random.default_rng(0)
    matrix, x, diff_dst = rng.standard_normal((3, 4)), rng.standard_normal(4), rng.standard_normal(3)
    actual = reference.numerical_gradient(lambda value: matrix @ value, x, diff_dst)
    np.testing.assert_allclose(actual, matrix.T @ diff_dst, rtol=1e-8)


def test_gradient_of_a_product_at_every_position():
    x = np.arange(1.0, 7.0).reshape(2, 3)
    actual = reference.numerical_gradient(lambda value: value**3, x, np.full((2, 3), 2.0))
    np.testing.assert_allclose(actual, 6 * x**2, rtol=1e-8)


def test_float32_is_refused():
    with pytest.raises(TypeError, match=r"numerical_gradient: `x` must be float64. Received x=float32"):
        reference.numerical_gradient(np.sin, np.zeros(2, np.float32), np.zeros(2))


def test_every_public_name_exists_once():
    assert len(reference.__all__) == len(set(reference.__all__))
    for name in reference.__all__:
        assert getattr(reference, name).__doc__ or name == "UNARY"
