"""DenseNet: every layer of a block reads the results of all layers before it."""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.graph.graph import Value
from cnnext.layers.activation import ReLU
from cnnext.layers.concat import Concat
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.dense import Dense
from cnnext.layers.input import Input
from cnnext.layers.pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from cnnext.model import Model
from cnnext.models._blocks import PYTORCH_NORM, conv_block

GROWTH = 32         # channels that each layer adds
BOTTLENECK = 4      # its 3 x 3 convolution reads as many times that


def densenet121(classes: int = 1000, input_shape: Sequence[int | None] = (224, 224, 3)) -> Model:
    """DenseNet-121; needs the plugin cnnext-normalization.

    Parameters
    ----------
    classes : int
    input_shape : (rows, columns, channels)
        At least 29 rows and columns.

    Returns
    -------
    Model
        Input (N, rows, columns, channels), output (N, classes), logits; 7,978,856 parameters for the default arguments, and
        the running statistics.

    References
    ----------
    G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, "Densely connected convolutional networks", 2016, table 1.
    """
    x = Input(input_shape)
    y = conv_block(x, ("features.conv0", "features.norm0", "features.relu0"), 2 * GROWTH, 7, 2)
    y = MaxPool2D(3, 2, padding=((1, 1), (1, 1)), name="features.pool0")(y)
    for block, depth in enumerate((6, 12, 24, 16), 1):
        if block > 1:
            y = _transition(y, f"features.transition{block - 1}")
        for i in range(depth):
            # One concatenation around the other: each value is read by one of them alone, so that all lie in the memory of
            # the last, and nothing is copied.
            name = f"features.denseblock{block}.denselayer{i + 1}"
            y = Concat(name=f"{name}.concat")([y, _layer(y, name)])
    y = ReLU(name="features.relu5")(PYTORCH_NORM(y, "features.norm5"))
    return Model(x, Dense(classes, name="classifier")(GlobalAvgPool2D(name="avgpool")(y)), name="densenet121")


def _layer(x: Value, name: str) -> Value:
    """Here normalization and activation come before the convolution."""
    x = ReLU(name=f"{name}.relu1")(PYTORCH_NORM(x, f"{name}.norm1"))
    x = conv_block(x, (f"{name}.conv1", f"{name}.norm2", f"{name}.relu2"), BOTTLENECK * GROWTH, 1)
    return Conv2D(GROWTH, 3, padding=((1, 1), (1, 1)), use_bias=False, name=f"{name}.conv2")(x)


def _transition(x: Value, name: str) -> Value:
    """Half the channels, half the rows and columns."""
    x = ReLU(name=f"{name}.relu")(PYTORCH_NORM(x, f"{name}.norm"))
    x = Conv2D((x.shape[-1] or 0) // 2, 1, use_bias=False, name=f"{name}.conv")(x)
    return AvgPool2D(2, name=f"{name}.pool")(x)
