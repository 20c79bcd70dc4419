"""What the tests share: a layer against its NumPy twin, forward and backward, over levels and threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cnnext._native import executor
from cnnext.testing import run_layer


def numeric_gradients(function: Callable, arrays: Sequence[np.ndarray], diff_dst: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Central differences of sum(diff_dst * function(arrays)) in float64."""
    step, found = 1e-5, []
    for array in arrays:
        diff = np.zeros_like(array)
        for i in np.ndindex(array.shape):
            kept = array[i]
            sums = []
            for moved in (kept + step, kept - step):
                array[i] = moved
                sums.append(sum((d * y).sum() for d, y in zip(diff_dst, function(*arrays), strict=True)))
            array[i] = kept
            diff[i] = (sums[0] - sums[1]) / (2 * step)
        found.append(diff)
    return found


def close(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4) -> None:
    """Equal but for ``tolerance`` of the largest magnitude."""
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max(initial=0) <= tolerance * max(np.abs(wanted).max(initial=0), 1e-3)


def check_twin(make: Callable, shapes: Sequence[tuple[int, ...]], twin: Callable, seed: int = 0) -> None:
    """Outputs and all gradients of a layer against a float64 twin ``twin(*inputs, **weights)`` that returns a list."""
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal(s).astype(np.float32).astype(np.float64) for s in shapes]
    layer = make()
    layer.build(*shapes)
    for parameter in layer.weights.values():
        parameter.assign(rng.standard_normal(parameter.data.shape))
    keys = list(layer.weights)
    weights = [layer.weights[key].data.astype(np.float64) for key in keys]

    def function(*arrays: np.ndarray) -> list[np.ndarray]:
        return twin(*arrays[: len(shapes)], **dict(zip(keys, arrays[len(shapes) :], strict=True)))

    wanted = function(*inputs, *weights)
    diff_dst = [rng.standard_normal(y.shape).astype(np.float32).astype(np.float64) for y in wanted]
    wanted_diffs = numeric_gradients(function, [*inputs, *weights], diff_dst)
    for level in executor.levels():
        run = run_layer(layer, inputs, diff_dst, level=level)
        for got, expected in zip(run.outputs, wanted, strict=True):
            close(got, expected)
        for got, expected in zip([*run.diff_inputs, *(run.diff_weights[k] for k in keys)], wanted_diffs, strict=True):
            close(got, expected)
        again = run_layer(layer, inputs, diff_dst, level=level, n_threads=3)
        for a, b in zip([*run.outputs, *run.diff_inputs], [*again.outputs, *again.diff_inputs], strict=True):
            assert np.array_equal(a, b)


@pytest.fixture
def against_twin() -> Callable:
    return check_twin
