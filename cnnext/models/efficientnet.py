"""EfficientNet: inverted residuals with squeeze-and-excitation, depth and width scaled together."""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.layers.dense import Dense
from cnnext.layers.dropout import Dropout
from cnnext.layers.input import Input
from cnnext.layers.pooling import GlobalAvgPool2D
from cnnext.model import Model
from cnnext.models._blocks import InvertedResidual, conv_block, in_sequence

# Table 1 of the paper: expansion, kernel, stride of the first block, output channels, blocks.
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
          (6, 3, 1, 320, 1))


def efficientnet_b0(classes: int = 1000, input_shape: Sequence[int | None] = (224, 224, 3)) -> Model:
    """EfficientNet-B0; needs the plugin cnnext-normalization.

    Parameters
    ----------
    classes : int
    input_shape : (rows, columns, channels)

    Returns
    -------
    Model
        Input (N, rows, columns, channels), output (N, classes), logits; 5,288,548 parameters for the default arguments, and
        the running statistics.

    Notes
    -----
    Training does not leave out blocks at random (stochastic depth), as torchvision's does; inference is the same.

    References
    ----------
    M. Tan, Q. Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019.
    """
    x = Input(input_shape)
    y = conv_block(x, in_sequence("features.0"), 32, 3, 2, activation="silu")
    for stage, (expansion, kernel_size, first_strides, filters, blocks) in enumerate(STAGES, 1):
        for i in range(blocks):
            channels = y.shape[-1] or 0
            block = InvertedResidual(kernel_size, first_strides if i == 0 else 1, expansion * channels, filters, "silu",
                                     max(1, channels // 4), squeeze_activation="silu")
            y = block(y, f"features.{stage}.{i}.block")
    y = conv_block(y, in_sequence(f"features.{len(STAGES) + 1}"), 1280, 1, activation="silu")
    y = Dropout(0.2, name="classifier.0")(GlobalAvgPool2D(name="avgpool")(y))
    return Model(x, Dense(classes, name="classifier.1")(y), name="efficientnet_b0")
