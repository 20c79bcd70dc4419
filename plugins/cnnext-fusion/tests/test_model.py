"""All layers of the package in a model: found by name, trained, saved, loaded."""

from __future__ import annotations

import cnnext_fusion as package
import numpy as np
import pytest

import cnnext as cx
from cnnext.testing import check_layer


def network(mode: str):
    x = cx.Input((8, 8, 3))
    wide = package.SqueezeExcite(2)(cx.Conv2D(6, 3, padding="same", activation="relu")(x))
    small = cx.Conv2D(6, 3, strides=2, padding="same", activation="relu")(x)
    y = package.Fusion(mode, "bilinear")([wide, small])
    return cx.Model(x, cx.Softmax()(cx.Dense(3)(cx.Flatten()(package.Resize((4, 4))(y)))))


@pytest.mark.parametrize("mode", ["sum", "mean", "max", "product", "concat", "weighted", "gated", "bilinear"])
def test_train_save_load(mode, tmp_path):
    cx.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 8, 8, 3)).astype(np.float32)
    y = (x[:, :4].mean((1, 2, 3)) > x[:, 4:].mean((1, 2, 3))).astype(np.int64)
    net = network(mode)
    net.compile(optimizer=cx.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(x, y, batch_size=20, epochs=20, verbose=0)
    before = net.predict(x)
    assert (before.argmax(1) == y).mean() > 0.95
    net.save(tmp_path / "net.safetensors")
    assert np.array_equal(cx.load(tmp_path / "net.safetensors").predict(x), before)


@pytest.mark.parametrize(("layer", "shapes"), [
    (package.Fusion("weighted", per_channel=True), [(2, 3, 2, 2)] * 3),
    (package.Fusion("max", "pad"), [(2, 3, 2, 2), (2, 1, 4, 2)]),
    (package.Fusion("gated", "nearest"), [(2, 3, 2, 2), (2, 1, 4, 2)]),
    (package.Fusion("bilinear", "bilinear", rank=3), [(2, 3, 2, 2), (2, 2, 4, 1)]),
    (package.Fusion("concat"), [(3, 4), (3, 2)]),
    (package.Resize((4, 3), "bilinear"), [(2, 3, 5, 2)]),
    (package.SqueezeExcite(2), [(2, 3, 2, 4)]),
])
def test_contract(layer, shapes):
    report = check_layer(layer, shapes)
    assert report.ok, report


@pytest.mark.parametrize("name", package.__all__)
def test_found_by_name(name):
    assert cx.layer(f"fusion/{name}") is getattr(package, name)
    assert getattr(package, name).type_name == f"fusion/{name}@1"
