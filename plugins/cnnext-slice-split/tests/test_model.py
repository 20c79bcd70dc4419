"""All layers of the package in a model: found by name, trained, saved, loaded."""

from __future__ import annotations

import cnnext_slice_split as package
import numpy as np
import pytest

import cnnext as cx
from cnnext.testing import check_layer


def network():
    x = cx.Input((8, 8, 4))
    y = package.RegionwiseConv2D(8, 3, 2, activation="relu")(x)
    y = package.GridJoin((2, 2))([cx.Conv2D(8, 3, padding="same")(part) for part in package.SliceSplit(2)(y)])
    y = package.DepthToSpace(2)(package.SpaceToDepth(2)(package.ChannelShuffle(4)(y)))
    boxes = package.SliceSplit(boxes=[(0, 0, 5, 5), (3, 3, 8, 8)])(y)
    left, right = package.Split((3, 5))(cx.Add()(boxes))
    y = cx.Concat()([cx.Tanh()(left), package.Slice((0, 0, 1), (-1, -1, 3))(right)])
    return cx.Model(x, cx.Softmax()(cx.Dense(3)(cx.Flatten()(y))))


def test_train_save_load(tmp_path):
    cx.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 8, 8, 4)).astype(np.float32)
    y = (x[:, :4].mean((1, 2, 3)) > x[:, 4:].mean((1, 2, 3))).astype(np.int64)
    net = network()
    net.compile(optimizer=cx.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(x, y, batch_size=20, epochs=15, verbose=0)
    before = net.predict(x)
    assert (before.argmax(1) == y).mean() > 0.95
    net.save(tmp_path / "net.safetensors")
    after = cx.load(tmp_path / "net.safetensors")
    assert np.array_equal(after.predict(x), before)


@pytest.mark.parametrize(("layer", "shapes"), [
    (package.ChannelShuffle(2), [(2, 3, 2, 6)]),
    (package.DepthToSpace(2), [(2, 1, 2, 8)]),
    (package.GridJoin((1, 2)), [(2, 3, 2, 2), (2, 3, 1, 2)]),
    (package.RegionwiseConv2D(2, 3, 2), [(2, 5, 4, 2)]),
    (package.Slice((1, 0, 0), (2, -1, 1)), [(2, 4, 3, 2)]),
    (package.SliceSplit((2, 1)), [(2, 3, 2, 2)]),
    (package.SliceSplit(boxes=[(0, 0, 2, 2), (1, 0, 3, 2)]), [(2, 3, 3, 2)]),
    (package.SpaceToDepth(2), [(2, 2, 4, 1)]),
    (package.Split(3), [(2, 2, 6)]),
])
def test_contract(layer, shapes):
    report = check_layer(layer, shapes)
    assert report.ok, report


@pytest.mark.parametrize("name", package.__all__)
def test_found_by_name(name):
    assert cx.layer(f"slice-split/{name}") is getattr(package, name)
    assert getattr(package, name).type_name == f"slice-split/{name}@1"
