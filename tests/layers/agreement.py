"""What the tests of layers share: a layer against its twin in float64, on all levels, bit-equal on several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st

from cnnext._native import executor
from cnnext.layers.layer import Layer
from cnnext.testing import run_layer

LEVELS = executor.levels()
EXTENT = st.sampled_from([1, 2, 3, 7, 13, 17])
BATCH = st.integers(1, 3)
SEED = st.integers(0, 2**32)


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5, scale: float | None = None) -> None:
    """Equal up to ``tolerance`` of ``scale``, the largest magnitude by default."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * (scale or largest(expected)))


def largest(array: np.ndarray) -> float:
    """The largest magnitude in an array."""
    return float(np.abs(array).max(initial=1e-30))


def check_agreement(layer: Layer, shapes: Sequence[tuple[int, ...]], forward: Callable[..., np.ndarray],
                    backward: Callable[..., Sequence[np.ndarray]], level: str, n_threads: int, seed: int) -> None:
    """``forward(*src)`` and ``backward(*src, diff_dst)`` in float64 are what the layer computes."""
    rng = np.random.default_rng(seed)
    src = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    exact = [x.astype(np.float64) for x in src]
    expected = forward(*exact)
    diff_dst = rng.standard_normal(expected.shape).astype(np.float32)
    alone, team = (run_layer(layer, src, [diff_dst], level=level, n_threads=n) for n in (1, n_threads))
    close(alone.outputs[0], expected)
    diffs = backward(*exact, diff_dst.astype(np.float64))
    # one scale for all: the gradient of a broadcast scalar is a sum, whose terms may cancel
    scale = max(map(largest, diffs))
    for actual, diff in zip(alone.diff_inputs, diffs, strict=True):
        close(actual, diff, scale=scale)
    for one, other in zip([*alone.outputs, *alone.diff_inputs], [*team.outputs, *team.diff_inputs], strict=True):
        np.testing.assert_array_equal(one, other)
