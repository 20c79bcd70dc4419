"""EfficientNet-Lite0, trained on ImageNet by others, learns to tell photographs apart that are none of its classes."""

from __future__ import annotations

import numpy as np
from PIL import Image

import cnnext as cx
from cnnext.data.packaged import photo
from tests.onnx.real.efficientnet import lite0

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SIZE = 224


def crops(rng, n):
    """Square pieces of the photographs, of half to all of their height, mirrored or not: (4 n, 3, 224, 224), labels."""
    pictures, labels = [], []
    for label, name in enumerate(PHOTOS):
        with Image.open(photo(name)) as file:
            picture = file.convert("RGB")
        for _ in range(n):
            side = int(rng.uniform(0.5, 1) * min(picture.size))
            left, top = (int(rng.integers(0, extent - side + 1)) for extent in picture.size)
            piece = np.asarray(picture.resize((SIZE, SIZE), box=(left, top, left + side, top + side)), np.float32)
            pictures.append((piece[:, :: rng.choice([-1, 1])] - 127) / 128)
            labels.append(label)
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2)), np.array(labels)


def test_a_new_head_on_a_frozen_body():
    rng = np.random.default_rng(0)
    cx.set_random_seed(0)
    net = cx.load(lite0())
    net.trainable = False
    body = net.get_weights()[:-2]           # all but the classifier's
    net = net.replace_head(cx.Dense(len(PHOTOS)))
    assert [p.shape for p in net.trainable_parameters] == [(1280, 4), (4,)]
    net.compile(cx.Adam(0.003), metrics=["accuracy"])
    test = crops(rng, 3)
    untrained = net.evaluate(*test, batch_size=8)["accuracy"]
    history = net.fit(*crops(rng, 4), batch_size=8, epochs=4, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert net.evaluate(*test, batch_size=8)["accuracy"] > max(0.9, untrained)
    assert all(np.array_equal(a, b) for a, b in zip(net.get_weights(), body, strict=False))
    [built] = [b.plan for b in net._trainer._plans.values() if b.plan.graph.training]
    # of the body only the forward pass: the two steps backward are those of the head
    assert sum("backward" in step.kernel for step in built.steps) <= 3
