"""Reductions over any axes, each with the gradient of its source; ``axes`` None stands for all.

A backward function takes the source and ``diff_dst`` with its reduced axes kept.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from cnnext.reference._window import Array

Axes = tuple[int, ...] | None


def reduce_sum(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Sum over ``axes``."""
    return src.sum(axis=axes, keepdims=keepdims)


def reduce_sum_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_sum`."""
    return diff_dst * np.ones_like(src)


def reduce_mean(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Mean over ``axes``."""
    return src.mean(axis=axes, keepdims=keepdims)


def reduce_mean_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_mean`."""
    return diff_dst * np.ones_like(src) * (diff_dst.size / src.size)


def reduce_max(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Largest element over ``axes``; minus infinity where there is none."""
    return src.max(axis=axes, keepdims=keepdims, initial=-np.inf)


def reduce_max_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_max`; equal elements share."""
    wins = (src == reduce_max(src, axes, True)).astype(src.dtype)
    return diff_dst * wins / wins.sum(axis=axes, keepdims=True)


def reduce_min(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Smallest element over ``axes``; infinity where there is none."""
    return src.min(axis=axes, keepdims=keepdims, initial=np.inf)


def reduce_min_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_min`; equal elements share."""
    return reduce_max_backward(-src, diff_dst, axes)


def reduce_prod(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Product over ``axes``."""
    return src.prod(axis=axes, keepdims=keepdims)


def reduce_prod_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_prod`: element by element, the product with that element replaced by ``diff_dst``."""
    diff_src = np.empty_like(src)
    for index in np.ndindex(src.shape):
        others = src.copy()
        others[index] = 1
        kept = tuple(0 if axes is None or axis in axes else i for axis, i in enumerate(index))
        diff_src[index] = diff_dst[kept] * others.prod(axis=axes, keepdims=True)[kept]
    return diff_src


def reduce_l1(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Sum of magnitudes over ``axes``."""
    return np.abs(src).sum(axis=axes, keepdims=keepdims)


def reduce_l1_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_l1`."""
    return diff_dst * np.sign(src)


def reduce_l2(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Root of the sum of squares over ``axes``."""
    return np.sqrt(np.square(src).sum(axis=axes, keepdims=keepdims))


def reduce_l2_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_l2`; 0 where the norm is 0."""
    norm = reduce_l2(src, axes, True)
    return diff_dst * src / np.where(norm == 0, np.ones_like(norm), norm)


def reduce_sum_square(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Sum of squares over ``axes``."""
    return np.square(src).sum(axis=axes, keepdims=keepdims)


def reduce_sum_square_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_sum_square`."""
    return 2 * diff_dst * src


def reduce_log_sum_exp(src: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """``log(sum(exp(src)))`` over ``axes``."""
    return np.asarray(special.logsumexp(src, axis=axes, keepdims=keepdims))


def reduce_log_sum_exp_backward(src: Array, diff_dst: Array, axes: Axes = None) -> Array:
    """Gradient of `reduce_log_sum_exp`."""
    return diff_dst * special.softmax(src, axis=axes)
