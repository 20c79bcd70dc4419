"""Products of matrices on the last two axes."""

from __future__ import annotations

import numpy as np

from cnnext.reference._window import Array
from cnnext.reference.elementwise import reduce_to_shape


def matmul(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    """``a @ b``, each transposed first where asked."""
    return np.matmul(a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b)


def matmul_backward(a: Array, b: Array, diff_dst: Array, transpose_a: bool = False,
                    transpose_b: bool = False) -> tuple[Array, Array]:
    """Gradients of `matmul` with respect to ``a`` and ``b``."""
    left = a[np.newaxis] if a.ndim == 1 else a.swapaxes(-1, -2) if transpose_a else a
    right = b[:, np.newaxis] if b.ndim == 1 else b.swapaxes(-1, -2) if transpose_b else b
    diff = diff_dst
    if a.ndim == 1:
        diff = np.expand_dims(diff, -1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        diff = diff[..., np.newaxis]
    diff_a = reduce_to_shape(diff @ right.swapaxes(-1, -2), left.shape)
    diff_b = reduce_to_shape(left.swapaxes(-1, -2) @ diff, right.shape)
    diff_a = diff_a.swapaxes(-1, -2) if transpose_a else diff_a
    diff_b = diff_b.swapaxes(-1, -2) if transpose_b else diff_b
    return diff_a.reshape(a.shape), diff_b.reshape(b.shape)
