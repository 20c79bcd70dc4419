"""Functions of two arrays with NumPy broadcasting, and concat.

A backward function takes what the forward function took, then ``diff_dst``, and returns one gradient for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnext.reference._window import Array, Shape, require


def reduce_to_shape(diff: Array, shape: Shape) -> Array:
    """Adjoint of broadcasting ``shape`` to that of ``diff``: the sum over each axis that was repeated."""
    new_axes = diff.ndim - len(shape)
    require(new_axes >= 0, "reduce_to_shape", "shape", f"broadcast to {diff.shape}", shape)
    summed = diff.sum(axis=tuple(range(new_axes)))
    stretched = tuple(axis for axis, extent in enumerate(shape) if extent == 1)
    return summed.sum(axis=stretched, keepdims=True)


def add(a: Array, b: Array) -> Array:
    """``a + b``."""
    return np.add(a, b)


def add_backward(a: Array, b: Array, diff_dst: Array) -> tuple[Array, Array]:
    """Gradients of `add` with respect to ``a`` and ``b``."""
    return reduce_to_shape(diff_dst, a.shape), reduce_to_shape(diff_dst, b.shape)


def subtract(a: Array, b: Array) -> Array:
    """``a - b``."""
    return np.subtract(a, b)


def subtract_backward(a: Array, b: Array, diff_dst: Array) -> tuple[Array, Array]:
    """Gradients of `subtract` with respect to ``a`` and ``b``."""
    return reduce_to_shape(diff_dst, a.shape), reduce_to_shape(-diff_dst, b.shape)


def multiply(a: Array, b: Array) -> Array:
    """``a * b``."""
    return np.multiply(a, b)


def multiply_backward(a: Array, b: Array, diff_dst: Array) -> tuple[Array, Array]:
    """Gradients of `multiply` with respect to ``a`` and ``b``."""
    return reduce_to_shape(diff_dst * b, a.shape), reduce_to_shape(diff_dst * a, b.shape)


def divide(a: Array, b: Array) -> Array:
    """``a / b``."""
    return np.divide(a, b)


def divide_backward(a: Array, b: Array, diff_dst: Array) -> tuple[Array, Array]:
    """Gradients of `divide` with respect to ``a`` and ``b``."""
    return reduce_to_shape(diff_dst / b, a.shape), reduce_to_shape(-diff_dst * (a / b) / b, b.shape)


def greater(a: Array, b: Array) -> Array:
    """1 where ``a > b``, 1/2 where they are equal, else 0: the share of ``a`` in the gradient of a maximum."""
    share = np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))
    return share.astype(np.result_type(a, b))


def equal(a: Array, b: Array) -> Array:
    """1 where ``a == b``, else 0."""
    return (a == b).astype(np.result_type(a, b))


def maximum(a: Array, b: Array) -> Array:
    """The larger of ``a`` and ``b``."""
    return np.maximum(a, b)


def maximum_backward(a: Array, b: Array, diff_dst: Array) -> tuple[Array, Array]:
    """Gradients of `maximum` with respect to ``a`` and ``b``; equal values get half each."""
    return reduce_to_shape(diff_dst * greater(a, b), a.shape), reduce_to_shape(diff_dst * greater(b, a), b.shape)


def minimum(a: Array, b: Array) -> Array:
    """The smaller of ``a`` and ``b``."""
    return np.minimum(a, b)


def minimum_backward(a: Array, b: Array, diff_dst: Array) -> tuple[Array, Array]:
    """Gradients of `minimum` with respect to ``a`` and ``b``; equal values get half each."""
    return reduce_to_shape(diff_dst * greater(b, a), a.shape), reduce_to_shape(diff_dst * greater(a, b), b.shape)


def average(*src: Array) -> Array:
    """Mean of one or more arrays."""
    return sum(src[1:], start=src[0]) / len(src)


def average_backward(*src: Array, diff_dst: Array) -> tuple[Array, ...]:
    """Gradients of `average` with respect to each array."""
    return tuple(reduce_to_shape(diff_dst / len(src), array.shape) for array in src)


def concat(src: Sequence[Array], axis: int = -1) -> Array:
    """The arrays one after the other along ``axis``."""
    return np.concatenate(src, axis=axis)


def concat_backward(src: Sequence[Array], diff_dst: Array, axis: int = -1) -> tuple[Array, ...]:
    """Gradients of `concat`: ``diff_dst`` cut into the pieces that ``src`` was; only their shapes are used."""
    cuts = np.cumsum([array.shape[axis] for array in src])[:-1]
    return tuple(np.split(diff_dst, cuts, axis=axis))
