"""MobileNetV3: inverted residuals with squeeze-and-excitation and hard-swish, found by search."""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.layers.activation import HardSwish
from cnnext.layers.dense import Dense
from cnnext.layers.dropout import Dropout
from cnnext.layers.input import Input
from cnnext.layers.pooling import GlobalAvgPool2D
from cnnext.model import Model
from cnnext.models._blocks import InvertedResidual, Norm, conv_block, divisible_by_8, in_sequence

Shape = Sequence[int | None]
Row = tuple[int, int, int, bool, str, int]
NORM = Norm(epsilon=1e-3, momentum=0.99)
RE, HS = "relu", "hard_swish"

# Tables 1 and 2 of the paper: kernel, expanded channels, output channels, squeeze-and-excitation, activation, stride.
LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, RE, 1), (3, 64, 24, False, RE, 2), (3, 72, 24, False, RE, 1), (5, 72, 40, True, RE, 2),
    (5, 120, 40, True, RE, 1), (5, 120, 40, True, RE, 1), (3, 240, 80, False, HS, 2), (3, 200, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1), (3, 184, 80, False, HS, 1), (3, 480, 112, True, HS, 1), (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2), (5, 960, 160, True, HS, 1), (5, 960, 160, True, HS, 1),
)
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, RE, 2), (3, 72, 24, False, RE, 2), (3, 88, 24, False, RE, 1), (5, 96, 40, True, HS, 2),
    (5, 240, 40, True, HS, 1), (5, 240, 40, True, HS, 1), (5, 120, 48, True, HS, 1), (5, 144, 48, True, HS, 1),
    (5, 288, 96, True, HS, 2), (5, 576, 96, True, HS, 1), (5, 576, 96, True, HS, 1),
)


def mobilenet_v3_large(classes: int = 1000, input_shape: Shape = (224, 224, 3)) -> Model:
    """MobileNetV3-Large; needs the plugin cnnext-normalization.

    Parameters
    ----------
    classes : int
    input_shape : (rows, columns, channels)

    Returns
    -------
    Model
        Input (N, rows, columns, channels), output (N, classes), logits; 5,483,032 parameters for the default arguments, and
        the running statistics.

    References
    ----------
    A. Howard et al., "Searching for MobileNetV3", 2019, table 1.
    """
    return _mobilenet_v3("mobilenet_v3_large", LARGE, 1280, classes, input_shape)


def mobilenet_v3_small(classes: int = 1000, input_shape: Shape = (224, 224, 3)) -> Model:
    """MobileNetV3-Small: 2,542,856 parameters; else as ``mobilenet_v3_large``."""
    return _mobilenet_v3("mobilenet_v3_small", SMALL, 1024, classes, input_shape)


def _mobilenet_v3(name: str, rows: Sequence[Row], hidden: int, classes: int, input_shape: Shape) -> Model:
    x = Input(input_shape)
    y = conv_block(x, in_sequence("features.0"), 16, 3, 2, norm=NORM, activation=HS)
    for place, (kernel_size, expanded, filters, squeeze, activation, strides) in enumerate(rows, 1):
        squeezed = divisible_by_8(expanded // 4) if squeeze else 0
        block = InvertedResidual(kernel_size, strides, expanded, filters, activation, squeezed, gate="hard_sigmoid",
                                 norm=NORM)
        y = block(y, f"features.{place}.block")
    last = 6 * rows[-1][2]
    y = conv_block(y, in_sequence(f"features.{len(rows) + 1}"), last, 1, norm=NORM, activation=HS)
    y = Dense(hidden, name="classifier.0")(GlobalAvgPool2D(name="avgpool")(y))
    y = Dropout(0.2, name="classifier.2")(HardSwish(name="classifier.1")(y))
    return Model(x, Dense(classes, name="classifier.3")(y), name=name)
