"""Training runs of whole networks: LeNet-5, VGG-11 with batch normalization, ResNet-18, MobileNetV2."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx

NETWORKS = {
    "LeNet-5": lambda: cx.models.lenet5(),
    "VGG-11-BN": lambda: cx.models.vgg11(10, (32, 32, 3), batch_norm=True, small_images=True),
    "ResNet-18": lambda: cx.models.resnet18(10, (32, 32, 3), small_images=True),
    "MobileNetV2": lambda: cx.models.mobilenet_v2(10, (32, 32, 3), small_images=True),
}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "ResNet-18" else name for name in NETWORKS]
STEPS, BATCH = 5, 8


def trained(name, n_threads, optimizer, **options):
    """Losses of a few steps on random images; then weights, running statistics and the optimizer's state."""
    cx.set_random_seed(3)
    net = NETWORKS[name]()
    net.num_threads = n_threads
    rng = np.random.default_rng(4)
    x = rng.standard_normal((STEPS, BATCH, *net.input_shape[1:]), np.float32)
    y = rng.integers(0, 10, (STEPS, BATCH))
    softmax = type(net.layers[-1]).__name__ == "Softmax"
    net.compile(optimizer(), cx.SparseCategoricalCrossentropy(from_logits=not softmax), **options)
    losses = [net.train_on_batch(images, labels)["loss"] for images, labels in zip(x, y, strict=True)]
    assert all(built.plan.parallel for built in net._trainer._plans.values())
    state = [s.data for p in net.parameters if p.trainable for s in net.optimizer.states(p)]
    assert state and np.isfinite(losses).all()
    return [np.array(losses), *net.get_weights(), *state]


def momentum():
    return cx.SGD(0.01, momentum=0.9)


def same(arrays, others):
    return all(np.array_equal(a, b) for a, b in zip(arrays, others, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_for_any_number_of_threads(name):
    first = trained(name, 1, momentum)
    assert all(same(trained(name, n_threads, momentum), first) for n_threads in (2, 3, 4))


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_with_checkpoint_activations(name):
    optimizer = cx.Adam if name == "LeNet-5" else momentum
    assert same(trained(name, 2, optimizer, checkpoint_activations=True), trained(name, 2, optimizer))
