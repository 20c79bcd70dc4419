"""MobileNetV2: a training step."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx

pytest.importorskip("cnnext_normalization")


def test_a_training_step():
    cx.set_random_seed(0)
    net = cx.models.mobilenet_v2(4, (32, 32, 3))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 32, 32, 3), np.float32), rng.integers(0, 4, 8)
    net.compile(cx.SGD(0.1))
    trained = [p for p in net.parameters if p.trainable]
    before = [p.data.copy() for p in trained]
    loss, _ = net._trainer.step([x], y)
    assert np.isfinite(loss)
    for p, w in zip(trained, before, strict=True):
        assert np.isfinite(p.data).all() and not np.array_equal(p.data, w), p.name
    assert all(np.isfinite(p.data).all() for p in net.parameters)
