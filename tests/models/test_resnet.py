"""ResNet: its plan, a training step, model files."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx

SMALL = (32, 32, 3)


def images(n, shape=SMALL, classes=4):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, *shape), np.float32), rng.integers(0, classes, n)


def net_of(name="resnet18", **options):
    if options.get("batch_norm", True):
        pytest.importorskip("cnnext_normalization")
    cx.set_random_seed(0)
    return getattr(cx.models, name)(4, SMALL, **options)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_normalization_leaves_no_step_in_inference(name):
    plan, plain = net_of(name).plan(1), net_of(name, batch_norm=False).plan(1)
    assert [(s.name, s.kernel, s.macs) for s in plan.steps] == [(s.name, s.kernel, s.macs) for s in plain.steps]
    convolutions = {"resnet18": 20, "resnet50": 53}[name]
    assert [s.kernel in ("conv_direct", "conv_winograd") for s in plan.steps].count(True) == convolutions + 1
    assert len(plan.steps) == convolutions + 3  # the two pools and the dense layer


def test_a_training_step_follows_the_gradient():
    net = net_of()
    x, y = images(8)
    rate = 1e-3
    net.compile(cx.SGD(rate))
    trained = [p for p in net.parameters if p.trainable]
    before = [p.data.copy() for p in trained]
    first, _ = net._trainer.step([x], y)
    diffs = [(w - p.data) / rate for w, p in zip(before, trained, strict=True)]
    assert np.isfinite(first) and all(np.isfinite(d).all() and d.any() for d in diffs)
    moving = [p.data for p in net.parameters if p.name.endswith("moving_mean")]
    assert len(moving) == 20 and all(m.any() for m in moving)
    # A step small enough for the tangent: the loss falls by its length times the square of the gradient.
    square = sum(float((d.astype(np.float64) ** 2).sum()) for d in diffs)
    for p, w, d in zip(trained, before, diffs, strict=True):
        p.assign(w - d * (1e-2 / square))
    second, _ = net._trainer.step([x], y)
    assert first - second == pytest.approx(1e-2, rel=0.1)


def test_model_file(tmp_path):
    net = net_of()
    x, y = images(8)
    net.compile(cx.SGD(1e-3))
    net.fit(x, y, batch_size=8, epochs=1, verbose=0)    # moves the statistics too
    net.save(tmp_path / "net.safetensors")
    loaded = cx.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(loaded.predict(x), net.predict(x))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in net.layers]
