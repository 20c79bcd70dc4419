"""Loss twins: values against loops, gradients against central differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cnnext import reference
from cnnext.reference import numerical_gradient

ONE = np.ones(())


def close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 3, 2, 4)])
@pytest.mark.parametrize("from_logits", [True, False])
def test_sparse_categorical_crossentropy(shape, from_logits):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(shape)
    labels = rng.integers(0, shape[-1], shape[:-1])
    src = logits if from_logits else reference.softmax(logits)

    total = 0.0
    for position in np.ndindex(labels.shape):
        exponentials = [math.exp(value) for value in logits[position]]
        total -= math.log(exponentials[labels[position]] / sum(exponentials))
    loss = reference.sparse_categorical_crossentropy(src, labels, from_logits)
    assert loss == pytest.approx(total / labels.size)

    close(
        reference.sparse_categorical_crossentropy_backward(src, labels, from_logits),
        numerical_gradient(
            lambda x: reference.sparse_categorical_crossentropy(x, labels, from_logits), src, ONE, step=1e-6
        ),
    )


def test_probabilities_are_clipped():
    probabilities, labels = np.array([[0.0, 1.0], [1e-7, 0.5], [0.25, 0.75]]), np.array([0, 0, 0])
    with np.errstate(all="raise"):
        loss = reference.sparse_categorical_crossentropy(probabilities, labels, from_logits=False)
        gradient = reference.sparse_categorical_crossentropy_backward(probabilities, labels, from_logits=False)
    assert loss == pytest.approx(-(2 * math.log(1e-7) + math.log(0.25)) / 3)
    assert gradient == pytest.approx(np.array([[0, 0], [0, 0], [-4 / 3, 0]]))


def test_large_logits():
    logits, labels = np.array([[1e4, 0.0, -1e4]]), np.array([2])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert reference.sparse_categorical_crossentropy(logits, labels) == 2e4
        assert reference.sparse_categorical_crossentropy_backward(logits, labels).tolist() == [[1, 0, -1]]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_mean_squared_error(shape):
    rng = np.random.default_rng(1)
    pred, target = rng.standard_normal(shape), rng.standard_normal(shape)
    expected = sum((pred[i] - target[i]) ** 2 for i in np.ndindex(shape)) / pred.size
    assert reference.mean_squared_error(pred, target) == pytest.approx(expected)
    close(
        reference.mean_squared_error_backward(pred, target),
        numerical_gradient(lambda x: reference.mean_squared_error(x, target), pred, ONE),
    )


def test_float32_stays_float32():
    x, labels = np.full((2, 3), 0.25, np.float32), np.array([0, 2])
    for from_logits in (True, False):
        assert reference.sparse_categorical_crossentropy(x, labels, from_logits).dtype == np.float32
        assert reference.sparse_categorical_crossentropy_backward(x, labels, from_logits).dtype == np.float32
    assert reference.mean_squared_error(x, x).dtype == np.float32
    assert reference.mean_squared_error_backward(x, x).dtype == np.float32


def test_refusals():
    logits = np.zeros((2, 3))
    with pytest.raises(TypeError, match=r"`labels` must be integers. Received labels=float64"):
        reference.sparse_categorical_crossentropy(logits, np.zeros(2))
    with pytest.raises(ValueError, match=r"`labels` must have the shape \(2,\)"):
        reference.sparse_categorical_crossentropy(logits, np.zeros((2, 1), int))
    for label in (-1, 3):
        with pytest.raises(ValueError, match=rf"`labels` must lie in \[0, 3\). Received labels=\[{label}\]"):
            reference.sparse_categorical_crossentropy(logits, np.array([0, label]))
    with pytest.raises(ValueError, match="`target` must have shape"):
        reference.mean_squared_error(logits, np.zeros((2, 1)))
