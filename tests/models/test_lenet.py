"""LeNet-5: its shapes and parameters, and its results against the reference twins."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext import reference


def test_shapes_and_parameters():
    net = cx.models.lenet5()
    assert net.input_shape == (None, 28, 28, 1) and net.output_shape == (None, 10)
    assert net.count_params() == 156 + 2416 + 48120 + 10164 + 850
    assert cx.models.lenet5(3, (32, 20, 3)).output_shape == (None, 3)


def test_against_the_twins():
    cx.set_random_seed(1)
    net = cx.models.lenet5(classes=7)
    rng = np.random.default_rng(0)
    net.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in net.get_weights()])
    x = rng.random((5, 28, 28, 1), np.float32)
    w = [a.astype(np.float64) for a in net.get_weights()]
    y = x.astype(np.float64)
    for i, padding in ((0, ((2, 2), (2, 2))), (2, ((0, 0), (0, 0)))):
        y = np.maximum(reference.conv2d(y, w[i], w[i + 1], padding=padding), 0)
        y = reference.max_pool2d(y, kernel=(2, 2), strides=(2, 2))
    y = y.reshape(5, -1)
    for i in (4, 6):
        y = np.maximum(y @ w[i] + w[i + 1], 0)
    np.testing.assert_allclose(net.predict(x), reference.softmax(y @ w[8] + w[9]), rtol=2e-4, atol=1e-6)


def test_an_image_that_is_too_small():
    with pytest.raises(ValueError, match="conv2"):
        cx.models.lenet5(input_shape=(8, 8, 1))
