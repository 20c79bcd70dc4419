"""Optimizer twins against the published update rules, one number at a time, over several steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cnnext import reference


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.01)])
def test_sgd(momentum, decay, nesterov):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 4))
    velocity = np.zeros_like(w)
    gradients = rng.standard_normal((5, 3, 4))

    expected = w.copy()
    for index in np.ndindex(w.shape):
        speed = 0.0
        for gradient in gradients[(slice(None), *index)]:
            slope = gradient + decay * expected[index]
            speed = momentum * speed + slope
            expected[index] -= 0.1 * (slope + momentum * speed if nesterov else speed)

    for gradient in gradients:
        w, velocity = reference.sgd(w, velocity, gradient, 0.1, momentum, decay, nesterov)
    np.testing.assert_allclose(w, expected, rtol=1e-12)


def test_nesterov_takes_the_gradient_at_the_point_ahead():
    """The published form moves to w + momentum * velocity, takes the gradient there, and steps.

    `sgd` stores that point. On f(w) = w^2 / 2 both forms must visit the same points.
    """
    rate, momentum = 0.1, 0.9
    published, speed = 1.0, 0.0
    w, velocity = np.array([1.0]), np.array([0.0])
    for _ in range(10):
        speed = momentum * speed - rate * (published + momentum * speed)
        published += speed
        w, velocity = reference.sgd(w, velocity, w, rate, momentum, nesterov=True)
        assert w[0] == pytest.approx(published + momentum * speed)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_adam(decay):
    rng = np.random.default_rng(1)
    w = rng.standard_normal((3, 4))
    m, v = np.zeros_like(w), np.zeros_like(w)
    gradients = rng.standard_normal((6, 3, 4)) * 1e-3
    rate, beta1, beta2, epsilon = 0.01, 0.8, 0.95, 1e-4

    expected = w.copy()
    for index in np.ndindex(w.shape):
        first = second = 0.0
        for t, gradient in enumerate(gradients[(slice(None), *index)], start=1):
            first = beta1 * first + (1 - beta1) * gradient
            second = beta2 * second + (1 - beta2) * gradient**2
            corrected_first, corrected_second = first / (1 - beta1**t), second / (1 - beta2**t)
            expected[index] *= 1 - rate * decay
            expected[index] -= rate * corrected_first / (math.sqrt(corrected_second) + epsilon)

    for t, gradient in enumerate(gradients, start=1):
        w, m, v = reference.adam(w, m, v, gradient, t, rate, beta1, beta2, epsilon, decay)
    np.testing.assert_allclose(w, expected, rtol=1e-12)


def test_the_arguments_are_left_alone_and_float32_stays_float32():
    arrays = [np.full(3, value, np.float32) for value in (1.0, 0.5, 0.25, 2.0)]
    w, m, v, dw = arrays
    results = [*reference.sgd(w, m, dw, 0.1, 0.9, 0.01, nesterov=True), *reference.adam(w, m, v, dw, 3, decay=0.1)]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
    for array, value in zip(arrays, (1.0, 0.5, 0.25, 2.0)):
        assert (array == value).all()


def test_mean_gradient():
    gradients = list(np.random.default_rng(0).standard_normal((5, 3, 4)))
    np.testing.assert_allclose(reference.mean_gradient(gradients), np.mean(gradients, 0), rtol=1e-14)


def test_moving_average():
    mean = 1.0
    for w in (2.0, 3.0, 4.0):
        mean = reference.moving_average(mean, w, 0.75)
    assert mean == 0.75**3 + 0.25 * (2 * 0.75**2 + 3 * 0.75 + 4)


def test_adam_refuses_step_0():
    zero = np.zeros(1)
    with pytest.raises(ValueError, match=r"adam: `step` must be at least 1. Received step=0"):
        reference.adam(zero, zero, zero, zero, 0)
