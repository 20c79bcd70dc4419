"""Small networks with their float64 twins, shared by the tests of graph, model and session."""

from __future__ import annotations

import numpy as np

import cnnext as cx
from cnnext import reference

SAME3 = ((1, 1), (1, 1))


def branched_net(**arguments) -> cx.Model:
    """Two branches that join, an activation, a residual: everything that the passes fuse."""
    x = cx.Input((7, 9, 3), name="image")
    wide = cx.Conv2D(5, 3, padding="same", activation="relu", name="wide")(x)
    narrow = cx.Conv2D(5, 1, name="narrow")(x)
    joined = cx.ReLU(name="relu")(cx.Add(name="sum")([wide, narrow]))
    y = cx.Dense(4, name="head")(cx.Flatten(name="flat")(joined))
    return cx.Model(x, y, name="branched", **arguments)


def branched_twin(weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """``branched_net`` in the dtype of its arguments."""
    wide, wide_bias, narrow, narrow_bias, head, head_bias = weights
    a = np.maximum(reference.conv2d(x, wide, wide_bias, padding=SAME3), 0)
    b = reference.conv2d(x, narrow, narrow_bias)
    return reference.dense(np.maximum(a + b, 0).reshape(len(x), -1), head, head_bias)


def two_ended_net() -> cx.Model:
    """Two inputs, two outputs, and one layer used on both."""
    left, right = cx.Input((5, 6, 2), name="left"), cx.Input((5, 6, 2), name="right")
    shared = cx.Conv2D(3, 3, name="shared")
    a, b = shared(left), shared(right)
    return cx.Model([left, right], [cx.Subtract(name="difference")([a, b]), cx.Multiply(name="product")([a, b])],
                    name="two_ended")


def two_ended_twin(weights: list[np.ndarray], left: np.ndarray, right: np.ndarray) -> list[np.ndarray]:
    """``two_ended_net`` in the dtype of its arguments."""
    a, b = (reference.conv2d(x, *weights) for x in (left, right))
    return [a - b, a * b]


def images(*shape: int, seed: int = 1) -> np.ndarray:
    """Normally distributed float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def exact(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays in float64."""
    return [a.astype(np.float64) for a in arrays]


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Equal up to ``tolerance`` of the largest magnitude."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(initial=0), 1e-30))
