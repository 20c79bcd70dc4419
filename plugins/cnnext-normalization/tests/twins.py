"""Plain NumPy twins of the normalizations, forward and backward, in the precision of their arguments."""

from __future__ import annotations

import numpy as np


def normalize(src, gamma, beta, axes, epsilon, centered=True):
    """Normalized over ``axes``, scaled and shifted along the last axis."""
    mean = src.mean(axes, keepdims=True) if centered else 0.0
    inverse = 1 / np.sqrt(((src - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    return (src - mean) * inverse * gamma + beta


def normalize_backward(src, gamma, diff_dst, axes, epsilon, centered=True):
    """Gradients of source, gamma and beta."""
    mean = src.mean(axes, keepdims=True) if centered else 0.0
    inverse = 1 / np.sqrt(((src - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    z, g = (src - mean) * inverse, diff_dst * gamma
    level = g.mean(axes, keepdims=True) if centered else 0.0
    diff_src = inverse * (g - level - z * (g * z).mean(axes, keepdims=True))
    pixels = tuple(range(src.ndim - 1))
    return diff_src, (diff_dst * z).sum(pixels), diff_dst.sum(pixels)


def largest_term(src, gamma, diff_dst, axes, epsilon, centered=True):
    """Of what the gradient of the source is a sum of, and cancels where a set has few elements: the largest magnitude."""
    mean = src.mean(axes, keepdims=True) if centered else 0.0
    inverse = 1 / np.sqrt(((src - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    return np.abs(inverse * gamma * diff_dst).max()


def grouped(array, groups):
    """(N, ..., C) as (N, pixels, groups, C / groups)."""
    return array.reshape(array.shape[0], -1, groups, array.shape[-1] // groups)


def window_sum(values, before, after):
    """Sums over the channels from ``before`` before to ``after`` behind."""
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(before, after)])
    return np.stack([padded[..., c : c + before + after + 1].sum(-1) for c in range(values.shape[-1])], -1)


def response(src, size, alpha, beta, bias):
    """Local response normalization."""
    return src / (bias + alpha / size * window_sum(src**2, (size - 1) // 2, size // 2)) ** beta


def response_backward(src, diff_dst, size, alpha, beta, bias):
    """Gradient of its source."""
    before, after = (size - 1) // 2, size // 2
    base = bias + alpha / size * window_sum(src**2, before, after)
    seen = window_sum(diff_dst * src * base ** (-beta - 1), after, before)
    return diff_dst * base**-beta - 2 * alpha * beta / size * src * seen
