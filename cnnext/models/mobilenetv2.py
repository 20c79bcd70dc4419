"""MobileNetV2: depthwise convolutions between pointwise ones, residuals between the narrow ends."""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.layers.dense import Dense
from cnnext.layers.dropout import Dropout
from cnnext.layers.input import Input
from cnnext.layers.pooling import GlobalAvgPool2D
from cnnext.model import Model
from cnnext.models._blocks import InvertedResidual, conv_block, in_sequence

# Table 2 of the paper: expansion, output channels, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(classes: int = 1000, input_shape: Sequence[int | None] = (224, 224, 3),
                 small_images: bool = False) -> Model:
    """MobileNetV2 of width 1; needs the plugin cnnext-normalization.

    Parameters
    ----------
    classes : int
    input_shape : (rows, columns, channels)
    small_images : bool
        For images of some 32 x 32 pixels: the first convolution and the second stage keep the size.

    Returns
    -------
    Model
        Input (N, rows, columns, channels), output (N, classes), logits; 3,504,872 parameters for the default arguments, and
        the running statistics.

    References
    ----------
    M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018.
    """
    x = Input(input_shape)
    y = conv_block(x, in_sequence("features.0"), 32, 3, 1 if small_images else 2, activation="relu6")
    place = 1
    for stage, (expansion, filters, blocks, strides) in enumerate(STAGES):
        first_strides = 1 if small_images and stage == 1 else strides
        for i in range(blocks):
            block = InvertedResidual(3, first_strides if i == 0 else 1, expansion * (y.shape[-1] or 0), filters, "relu6")
            name = f"features.{place}.conv"
            y = block(y, name, projection=in_sequence(name, 1 if expansion == 1 else 2))
            place += 1
    y = conv_block(y, in_sequence(f"features.{place}"), 1280, 1, activation="relu6")
    y = Dropout(0.2, name="classifier.0")(GlobalAvgPool2D(name="avgpool")(y))
    return Model(x, Dense(classes, name="classifier.1")(y), name="mobilenet_v2")
