"""ResNet: blocks of convolutions whose result is added to their input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cnnext.graph.graph import Value
from cnnext.layers.activation import ReLU
from cnnext.layers.dense import Dense
from cnnext.layers.elementwise import Add
from cnnext.layers.input import Input
from cnnext.layers.pooling import GlobalAvgPool2D, MaxPool2D
from cnnext.model import Model
from cnnext.models._blocks import PYTORCH_NORM, Names, Norm, conv_block, in_sequence

Shape = Sequence[int | None]
Block = Callable[[Value, str, int, int, Norm | None], Value]


def resnet18(classes: int = 1000, input_shape: Shape = (224, 224, 3), batch_norm: bool = True,
             small_images: bool = False) -> Model:
    """ResNet-18: 11,689,512 parameters; else as ``resnet50``."""
    return _resnet("resnet18", _basic, (2, 2, 2, 2), classes, input_shape, batch_norm, small_images)


def resnet34(classes: int = 1000, input_shape: Shape = (224, 224, 3), batch_norm: bool = True,
             small_images: bool = False) -> Model:
    """ResNet-34: 21,797,672 parameters; else as ``resnet50``."""
    return _resnet("resnet34", _basic, (3, 4, 6, 3), classes, input_shape, batch_norm, small_images)


def resnet50(classes: int = 1000, input_shape: Shape = (224, 224, 3), batch_norm: bool = True,
             small_images: bool = False) -> Model:
    """ResNet-50, in the form whose 3 x 3 convolutions have the strides ("v1.5").

    Parameters
    ----------
    classes : int
    input_shape : (rows, columns, channels)
    batch_norm : bool
        Normalize after each convolution, which needs the plugin cnnext-normalization; without, the convolutions have biases.
    small_images : bool
        For images of some 32 x 32 pixels: the first convolution is 3 x 3 at stride 1, and no pool follows it (section 4.2 of
        the paper).

    Returns
    -------
    Model
        Input (N, rows, columns, channels), output (N, classes), logits; 25,557,032 parameters for the default arguments,
        and the running statistics.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2015, table 1.
    """
    return _resnet("resnet50", _bottleneck, (3, 4, 6, 3), classes, input_shape, batch_norm, small_images)


def _resnet(name: str, block: Block, depths: Sequence[int], classes: int, input_shape: Shape, batch_norm: bool,
            small_images: bool) -> Model:
    norm = PYTORCH_NORM if batch_norm else None
    x, first = Input(input_shape), ("conv1", "bn1", "relu")
    if small_images:
        y = conv_block(x, first, 64, 3, norm=norm)
    else:
        y = conv_block(x, first, 64, 7, 2, norm=norm)
        y = MaxPool2D(3, 2, padding=((1, 1), (1, 1)), name="maxpool")(y)
    for stage, depth in enumerate(depths):
        for i in range(depth):
            strides = 2 if stage > 0 and i == 0 else 1
            y = block(y, f"layer{stage + 1}.{i}", 64 * 2**stage, strides, norm)
    y = GlobalAvgPool2D(name="avgpool")(y)
    return Model(x, Dense(classes, name="fc")(y), name=name)


def _basic(x: Value, name: str, width: int, strides: int, norm: Norm | None) -> Value:
    """Two 3 x 3 convolutions."""
    y = conv_block(x, _names(name, 1), width, 3, strides, norm=norm)
    y = conv_block(y, _names(name, 2), width, 3, norm=norm, activation=None)
    return _join(x, y, name, strides, norm)


def _bottleneck(x: Value, name: str, width: int, strides: int, norm: Norm | None) -> Value:
    """A 3 x 3 convolution of few channels between pointwise ones."""
    y = conv_block(x, _names(name, 1), width, 1, norm=norm)
    y = conv_block(y, _names(name, 2), width, 3, strides, norm=norm)
    y = conv_block(y, _names(name, 3), 4 * width, 1, norm=norm, activation=None)
    return _join(x, y, name, strides, norm)


def _join(x: Value, y: Value, name: str, strides: int, norm: Norm | None) -> Value:
    """The sum, x projected where its shape differs."""
    width = y.shape[-1]
    if strides != 1 or x.shape[-1] != width:
        assert width is not None
        x = conv_block(x, in_sequence(f"{name}.downsample"), width, 1, strides, norm=norm, activation=None)
    return ReLU(name=f"{name}.relu")(Add(name=f"{name}.add")([y, x]))


def _names(block: str, i: int) -> Names:
    return f"{block}.conv{i}", f"{block}.bn{i}", f"{block}.relu{i}"
