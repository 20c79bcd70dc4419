"""How far the networks' results lie from those of float64, in units of the largest magnitude: with Winograd, and exact."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx

pytest.importorskip("onnx")
pytest.importorskip("cnnext_normalization")

# What the README promises, and exact=True. Where statistics are those of data, differences between images are small beside
# what they share, and ResNet-50 amplifies any rounding: there ONNX Runtime lies 1.1e-5 away, which adds in blocks.
CHOSEN, EXACT, EXACT_NORMALIZED = 1e-4, 1e-5, 3e-5
NETWORKS = ("lenet5", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "resnet18", "resnet50",
            "densenet121", "unet", "vgg16")


def as_built(net):
    """Weights of a new network."""
    return net


def normalized(net):
    """Weights that keep the size of values from layer to layer, and statistics that are those of data, as after training."""
    rng = np.random.default_rng(0)
    for p in net.parameters:
        kind, shape = p.name.rpartition("/")[2], p.data.shape
        if kind == "weights":
            fan_in = np.prod(shape[:2] if shape[-1] == 1 else shape[:-1])      # depthwise: (KH, KW, C, 1)
            p.assign(rng.standard_normal(shape) * np.sqrt(2 / fan_in))
        elif kind in ("gamma", "moving_variance"):
            p.assign(rng.uniform(0.5, 1.5, shape))
        else:
            p.assign(0.1 * rng.standard_normal(shape))
    layers = [layer for layer in net.layers if "moving_mean" in layer.weights]
    if layers:
        for layer in layers:
            layer.momentum = 0.0        # the statistics of one batch take the place of those before
        net.compile(cx.SGD(1e-30), "mean_squared_error")     # moves no weight
        x = rng.standard_normal((2, *net.input_shape[1:]), np.float32)
        net.fit(x, np.zeros((2, *net.output_shape[1:]), np.float32), batch_size=2, epochs=1, verbose=0)
    return net


def errors(name, weights, shape=None):
    """Of the chosen algorithms and of exact sums; and the kernels that were chosen."""
    from cnnext.onnx.exporter import export
    from tests.models import float64

    cx.set_random_seed(0)
    net = weights(getattr(cx.models, name)(**({"input_shape": shape} if shape else {})))
    x = np.random.default_rng(1).standard_normal((1, *net.input_shape[1:]), np.float32)
    [expected] = float64.run(export(net), {net.graph.inputs[0].name: x})
    assert expected.dtype == np.float64
    scale = np.abs(expected).max()
    found = []
    for exact in (False, True):
        net.exact = exact
        found.append(float(np.abs(net.predict(x) - expected).max() / scale))
    net.exact = False
    return (*found, {step.kernel for step in net.plan(1).steps})


@pytest.mark.parametrize("weights", [as_built, normalized])
@pytest.mark.parametrize("name, shape", [
    ("lenet5", None), ("squeezenet1_1", (96, 96, 3)), ("mobilenet_v3_large", (96, 96, 3)), ("resnet18", (64, 64, 3)),
])
def test_small_images(name, shape, weights):
    chosen, exact, kernels = errors(name, weights, shape)
    assert chosen <= CHOSEN and exact <= EXACT
    assert ("conv_winograd" in kernels) == (name in ("squeezenet1_1", "resnet18"))


@pytest.mark.slow
@pytest.mark.parametrize("weights, bound", [(as_built, EXACT), (normalized, EXACT_NORMALIZED)])
@pytest.mark.parametrize("name", NETWORKS)
def test_whole_images(name, weights, bound):
    chosen, exact, _ = errors(name, weights)
    assert chosen <= CHOSEN and exact <= bound
