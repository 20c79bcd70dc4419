"""A network of cnnext as a module of PyTorch: the same layers, weights and names, (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnext as cx
from cnnext.graph.graph import Node, Value


class TorchTwin(nn.Module):
    """The modules that PyTorch has for a model's layers, applied in the model's order.

    A dense layer that follows ``Flatten`` gets its weights in the order of flattened (C, H, W). A softmax at the end is left
    out: PyTorch's cross-entropy takes logits.
    """

    def __init__(self, model: cx.Model):
        super().__init__()
        nodes = list(model.graph.nodes)
        if type(nodes[-1].layer).__name__ == "Softmax":
            nodes.pop()
        self.steps: list[tuple[str, list[str], str]] = []
        self.source, self.result = _key(model.graph.inputs[0]), _key(nodes[-1].output)
        for node in nodes:
            name = node.name.replace(".", "_")
            self.add_module(name, _MODULES[type(node.layer).__name__](node))
            self.steps.append((name, [_key(v) for v in node.inputs], _key(node.output)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        values = {self.source: x}
        for name, sources, result in self.steps:
            values[result] = getattr(self, name)(*(values[key] for key in sources))
        return values[self.result]


def gradients(model: cx.Model, twin: TorchTwin) -> dict[str, np.ndarray]:
    """The gradients that the twin's last backward pass left, under cnnext's names and in its shapes."""
    found = {}
    for node in model.graph.nodes:
        module = getattr(twin, node.name.replace(".", "_"), None)
        for key, value in node.weights.items():
            parameter = getattr(module, _KEYS.get(key, key), None)
            if isinstance(parameter, nn.Parameter) and parameter.grad is not None:
                assert value.parameter is not None
                found[value.parameter.name] = _from_torch(node, key, parameter.grad.numpy())
    return found


def without_dropout(model: cx.Model) -> cx.Model:
    """The model with all dropout rates 0: two programs would draw other numbers."""
    for layer in model.layers:
        if isinstance(layer, cx.Dropout):
            layer.rate = 0.0
    return model


def smooth(model: cx.Model) -> cx.Model:
    """The model with SiLU for ReLU and, in VGG, means for maxima, so that two programs can be compared to the last digits.

    A value that rounding moves across 0 would change its gradient from 0 to 1, in PyTorch as well, whose own float32
    gradients of a layer lie up to 6e-2 from float64 with ReLU and 1.4e-5 with SiLU. VGG has a million of maxima: where two
    pixels nearly agree, the gradient goes to the one or the other. One such pair puts PyTorch's own float32 in channels-last
    memory 8e-2 from float64, and cnnext's by the same amount in the same layer.
    """
    for node in model.graph.nodes:
        layer = node.layer
        if isinstance(layer, (cx.ReLU, cx.ReLU6)):
            node.layer = cx.SiLU(name=layer.name)
        elif isinstance(layer, cx.MaxPool2D) and "vgg" in model.name:
            node.layer = cx.AvgPool2D(layer.pool_size, layer.strides, name=layer.name)
    return model


_KEYS = {"weights": "weight", "gamma": "weight", "beta": "bias"}


class _Sum(nn.Module):
    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        """Of two values."""
        return x[0] + x[1]


def _key(value: Value) -> str:
    return f"{value.node.name if value.node is not None else 'source'}"


def _load(module: nn.Module, node: Node) -> nn.Module:
    """Copy the node's weights."""
    names = _KEYS | {"moving_mean": "running_mean", "moving_variance": "running_var"}
    with torch.no_grad():
        for key, value in node.weights.items():
            assert value.parameter is not None
            array = _to_torch(node, key, value.parameter.data)
            getattr(module, names.get(key, key)).copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return module


def _to_torch(node: Node, key: str, array: np.ndarray) -> np.ndarray:
    if key != "weights":
        return array
    if array.ndim == 4:
        axes = (2, 3, 0, 1) if _is(node, "DepthwiseConv2D") else (3, 2, 0, 1)
        return array.transpose(axes)
    image = _flattened(node)
    if image is not None:
        array = array.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    return array.T


def _from_torch(node: Node, key: str, array: np.ndarray) -> np.ndarray:
    if key != "weights":
        return array
    if array.ndim == 4:
        axes = (2, 3, 0, 1) if _is(node, "DepthwiseConv2D") else (2, 3, 1, 0)
        return array.transpose(axes)
    image, array = _flattened(node), array.T
    if image is not None:
        rows, cols, channels = image
        array = array.reshape(channels, rows, cols, -1).transpose(1, 2, 0, 3).reshape(array.shape)
    return array


def _is(node: Node, name: str) -> bool:
    return type(node.layer).__name__ == name


def _flattened(node: Node) -> tuple[int, ...] | None:
    """The image (H, W, C) that a dense layer reads through ``Flatten``."""
    before = node.inputs[0].node
    if before is None or not _is(before, "Flatten"):
        return None
    image = tuple(n or 0 for n in before.inputs[0].shape[1:])
    return image if prod(image[:2]) > 1 else None


def _conv(node: Node) -> nn.Module:
    layer: Any = node.layer
    (top, bottom), (left, right) = layer.geometry(node.inputs[0].shape).padding
    assert top == bottom and left == right, "PyTorch pads both sides alike"
    channels, filters = node.inputs[0].shape[-1], node.output.shape[-1]
    groups = channels if _is(node, "DepthwiseConv2D") else layer.groups
    return _load(nn.Conv2d(channels, filters, layer.kernel_size, layer.strides, (top, left), layer.dilation, groups,
                           bias=layer.use_bias), node)


def _norm(node: Node) -> nn.Module:
    layer: Any = node.layer
    return _load(nn.BatchNorm2d(node.output.shape[-1], layer.epsilon, 1 - layer.momentum), node)


def _dense(node: Node) -> nn.Module:
    layer: Any = node.layer
    return _load(nn.Linear(node.inputs[0].shape[-1], layer.units, layer.use_bias), node)


def _pool(node: Node) -> nn.Module:
    layer: Any = node.layer
    (top, _), (left, _) = layer.geometry(node.inputs[0].shape).padding
    kind = nn.MaxPool2d if _is(node, "MaxPool2D") else nn.AvgPool2d
    return kind(layer.pool_size, layer.strides, (top, left))


_MODULES: dict[str, Callable[[Node], nn.Module]] = {
    "Conv2D": _conv, "DepthwiseConv2D": _conv, "BatchNorm": _norm, "Dense": _dense, "MaxPool2D": _pool, "AvgPool2D": _pool,
    "ReLU": lambda node: nn.ReLU(inplace=True), "ReLU6": lambda node: nn.ReLU6(inplace=True),
    "SiLU": lambda node: nn.SiLU(), "Add": lambda node: _Sum(),
    "GlobalAvgPool2D": lambda node: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "Flatten": lambda node: nn.Flatten(), "Dropout": lambda node: nn.Dropout(node.layer.rate),
}
