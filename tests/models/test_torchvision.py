"""Every network, with weights carried over from torchvision, gives its results.

Needs ``pip install torch``, ``pip install --no-deps torchvision`` and pillow, which cnnext does not depend on.
"""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np
import pytest

import cnnext as cx

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

NETS = {
    **{name: {} for name in (
        "resnet18", "resnet34", "resnet50", "vgg11", "vgg13", "vgg16", "vgg19", "squeezenet1_1", "mobilenet_v2",
        "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "unet")},
    **{f"{name}_bn": {"batch_norm": True} for name in ("vgg11", "vgg13", "vgg16", "vgg19")},
}
KEYS = {"weights": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
        "moving_variance": "running_var"}


@functools.lru_cache(1)
def torchvision_models():
    """Its definitions, with the names of the compiled operators that they import but do not need."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
        except RuntimeError:    # the compiled operators are there
            pass
    return library, pytest.importorskip("torchvision.models")


def double_conv(i, o):
    nn = torch.nn
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
                         nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def torch_unet():
    """U-Net, which torchvision does not have."""
    nn = torch.nn

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [32, 64, 128, 256, 512]
            pairs = list(pairwise(widths))
            self.down = nn.ModuleList([double_conv(3, 32), *(double_conv(a, b) for a, b in pairs)])
            self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairs])
            self.merge = nn.ModuleList([double_conv(2 * a, a) for a, _ in pairs])
            self.head = nn.Conv2d(32, 2, 1)

        def forward(self, x):
            x = self.down[0](x)
            skips = []
            for block in self.down[1:]:
                skips.append(x)
                x = block(nn.functional.max_pool2d(x, 2))
            for k in (3, 2, 1, 0):
                x = self.merge[k](torch.cat([self.up[k](x), skips[k]], 1))
            return self.head(x)

    return UNet()


def torch_model(name):
    """With random weights, biases and statistics that are all away from their initial values."""
    torch.manual_seed(0)
    model = (torch_unet() if name == "unet" else getattr(torchvision_models()[1], name)()).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
            elif getattr(module, "bias", None) is not None:
                module.bias.normal_(0, 0.1)
    return model


def carry_over(model, net):
    """Every weight of ``model`` into the layer of the same name, each once."""
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    for layer in net.layers:
        for key, parameter in layer.weights.items():
            array = state.pop(f"{layer.name}.{KEYS[key]}")
            if array.ndim == 4:
                # (OC, IC/G, KH, KW); depthwise (C, 1, KH, KW) to (KH, KW, C, 1); transposed (IC, OC, KH, KW)
                array = array.transpose(2, 3, 0, 1) if isinstance(layer, cx.DepthwiseConv2D) else array.transpose(2, 3, 1, 0)
            elif array.ndim == 2:
                # The first dense layer of VGG reads 512 channels of pixels, flattened there with the channels in front.
                if layer.name == "classifier.0" and array.shape[1] == 512 * 7 * 7:
                    array = array.reshape(-1, 512, 49).transpose(0, 2, 1).reshape(array.shape)
                array = array.T
            assert array.shape == parameter.data.shape, parameter.name
            parameter.assign(array)
    assert not state, f"weights without a layer: {list(state)}"


@pytest.mark.parametrize("name", NETS)
def test_results(name):
    model = torch_model(name)
    net = getattr(cx.models, name.removesuffix("_bn"))(**NETS[name])
    trained = sum(p.data.size for p in net.parameters if p.trainable)
    assert trained == sum(p.numel() for p in model.parameters())
    carry_over(model, net)
    for layer in net.layers:
        if layer.type_name == "normalization/BatchNorm@1":
            module = model.get_submodule(layer.name)
            assert (layer.epsilon, layer.momentum) == (module.eps, 1 - module.momentum)
    x = np.random.default_rng(1).standard_normal((1, *net.input_shape[1:]), np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    if expected.ndim == 4:
        expected = expected.transpose(0, 2, 3, 1)
    result = net.predict(x)
    largest = np.abs(expected).max()
    error = np.abs(result - expected).max() / largest
    print(f"{name}: largest difference {error:.1e} of the largest magnitude, {largest:.3g}")
    assert np.isfinite(largest) and np.ptp(expected) > 1e-3 * largest
    assert error < 1e-4
