"""SqueezeNet: pointwise convolutions squeeze the channels before 3 x 3 ones see them."""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.graph.graph import Value
from cnnext.layers.activation import ReLU
from cnnext.layers.concat import Concat
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.dropout import Dropout
from cnnext.layers.input import Input
from cnnext.layers.pooling import GlobalAvgPool2D, MaxPool2D
from cnnext.model import Model
from cnnext.models._blocks import conv_block

# Squeezed and expanded channels of each fire module; pools between them.
FIRES = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))


def squeezenet1_1(classes: int = 1000, input_shape: Sequence[int | None] = (224, 224, 3)) -> Model:
    """SqueezeNet 1.1, the release with 2.4 times less computation than 1.0 at the same accuracy.

    Parameters
    ----------
    classes : int
    input_shape : (rows, columns, channels)
        At least 25 rows and columns.

    Returns
    -------
    Model
        Input (N, rows, columns, channels), output (N, classes), logits; 1,235,496 parameters for the default arguments.

    References
    ----------
    F. Iandola, S. Han, M. Moskewicz, K. Ashraf, W. Dally, K. Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer
    parameters and < 0.5 MB model size", 2016.
    """
    x = Input(input_shape)
    y = ReLU(name="features.1")(Conv2D(64, 3, strides=2, name="features.0")(x))
    place = 2
    for stage in FIRES:
        y = MaxPool2D(3, 2, ceil_mode=True, name=f"features.{place}")(y)
        for squeezed, expanded in stage:
            place += 1
            y = _fire(y, f"features.{place}", squeezed, expanded)
        place += 1
    y = Dropout(0.5, name="classifier.0")(y)
    y = ReLU(name="classifier.2")(Conv2D(classes, 1, name="classifier.1")(y))
    return Model(x, GlobalAvgPool2D(name="classifier.3")(y), name="squeezenet1_1")


def _fire(x: Value, name: str, squeezed: int, expanded: int) -> Value:
    def conv(x: Value, part: str, filters: int, kernel_size: int) -> Value:
        names = (f"{name}.{part}", "", f"{name}.{part}_activation")
        return conv_block(x, names, filters, kernel_size, norm=None)

    y = conv(x, "squeeze", squeezed, 1)
    return Concat(name=f"{name}.concat")([conv(y, "expand1x1", expanded, 1), conv(y, "expand3x3", expanded, 3)])
