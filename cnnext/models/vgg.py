"""VGG: chains of 3 x 3 convolutions, with and without batch normalization."""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.layers.activation import ReLU
from cnnext.layers.dense import Dense
from cnnext.layers.dropout import Dropout
from cnnext.layers.flatten import Flatten
from cnnext.layers.input import Input
from cnnext.layers.pooling import MaxPool2D
from cnnext.model import Model
from cnnext.models._blocks import PYTORCH_NORM, conv_block, in_sequence

Shape = Sequence[int | None]
WIDTHS = (64, 128, 256, 512, 512)


def vgg11(classes: int = 1000, input_shape: Shape = (224, 224, 3), batch_norm: bool = False,
          small_images: bool = False) -> Model:
    """VGG-11 (configuration A): 132,863,336 parameters, with batch normalization 132,868,840; else as ``vgg16``."""
    return _vgg("vgg11", (1, 1, 2, 2, 2), classes, input_shape, batch_norm, small_images)


def vgg13(classes: int = 1000, input_shape: Shape = (224, 224, 3), batch_norm: bool = False,
          small_images: bool = False) -> Model:
    """VGG-13 (configuration B): 133,047,848 parameters, with batch normalization 133,053,736; else as ``vgg16``."""
    return _vgg("vgg13", (2, 2, 2, 2, 2), classes, input_shape, batch_norm, small_images)


def vgg16(classes: int = 1000, input_shape: Shape = (224, 224, 3), batch_norm: bool = False,
          small_images: bool = False) -> Model:
    """VGG-16 (configuration D).

    Parameters
    ----------
    classes : int
    input_shape : (rows, columns, channels)
        At least 32 rows and columns. The first dense layer has as many inputs as the last pool has outputs, 7 x 7 x 512 for
        224 x 224 pixels.
    batch_norm : bool
        Normalize after each convolution; needs the plugin cnnext-normalization.
    small_images : bool
        For images of some 32 x 32 pixels: the last pool feeds the classes directly, without the two dense layers of 4096
        between, which hold nine tenths of the parameters.

    Returns
    -------
    Model
        Input (N, rows, columns, channels), output (N, classes), logits; for the default arguments 138,357,544 parameters,
        with batch normalization 138,365,992 and the running statistics.

    References
    ----------
    K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014, table 1.
    """
    return _vgg("vgg16", (2, 2, 3, 3, 3), classes, input_shape, batch_norm, small_images)


def vgg19(classes: int = 1000, input_shape: Shape = (224, 224, 3), batch_norm: bool = False,
          small_images: bool = False) -> Model:
    """VGG-19 (configuration E): 143,667,240 parameters, with batch normalization 143,678,248; else as ``vgg16``."""
    return _vgg("vgg19", (2, 2, 4, 4, 4), classes, input_shape, batch_norm, small_images)


def _vgg(name: str, depths: Sequence[int], classes: int, input_shape: Shape, batch_norm: bool,
         small_images: bool) -> Model:
    x = y = Input(input_shape)
    norm, place = PYTORCH_NORM if batch_norm else None, 0
    for depth, width in zip(depths, WIDTHS, strict=True):
        for _ in range(depth):
            conv, normalization, after = in_sequence("features", place)
            y = conv_block(y, (conv, normalization, after if batch_norm else normalization), width, norm=norm, use_bias=True)
            place += 3 if batch_norm else 2
        y = MaxPool2D(2, name=f"features.{place}")(y)
        place += 1
    y = Flatten(name="flatten")(y)
    if small_images:
        return Model(x, Dense(classes, name="classifier")(y), name=name)
    for place in (0, 3):
        dense, activation, dropout = in_sequence("classifier", place)
        y = Dropout(0.5, name=dropout)(ReLU(name=activation)(Dense(4096, name=dense)(y)))
    return Model(x, Dense(classes, name="classifier.6")(y), name=name)
