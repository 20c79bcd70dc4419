"""U-Net: an image down to few pixels and up again, joined level by level."""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.errors import message
from cnnext.graph.graph import Value
from cnnext.layers.concat import Concat
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.conv2d_transpose import Conv2DTranspose
from cnnext.layers.input import Input
from cnnext.layers.pooling import MaxPool2D
from cnnext.model import Model
from cnnext.models._blocks import conv_block, in_sequence

LEVELS = 4


def unet(classes: int = 2, input_shape: Sequence[int | None] = (256, 256, 3), base: int = 32) -> Model:
    """U-Net of four levels with batch normalization; needs the plugin cnnext-normalization.

    Parameters
    ----------
    classes : int
        Of each pixel.
    input_shape : (rows, columns, channels)
        Rows and columns are multiples of 16.
    base : int
        Channels of the first level; each level has twice as many as the one above.

    Returns
    -------
    Model
        Input (N, rows, columns, channels), output (N, rows, columns, classes), logits; 7,763,074 parameters for the default
        arguments, and the running statistics.

    Raises
    ------
    ValueError
        If rows or columns are no multiples of 16.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015, figure 1.
    There the convolutions are not padded, and the first level has 64 channels.
    """
    x = Input(input_shape)
    if any(n is not None and n % 2**LEVELS for n in x.shape[1:3]):
        raise ValueError(message("unet", "input_shape", f"have multiples of {2**LEVELS} rows and columns", input_shape))
    widths = [base * 2**level for level in range(LEVELS + 1)]
    y = _double_conv(x, "down.0", widths[0])
    skips = []
    for level in range(LEVELS):
        skips.append(y)
        y = MaxPool2D(2, name=f"pool.{level}")(y)
        y = _double_conv(y, f"down.{level + 1}", widths[level + 1])
    for level in reversed(range(LEVELS)):
        y = Conv2DTranspose(widths[level], 2, 2, name=f"up.{level}")(y)
        y = Concat(name=f"concat.{level}")([y, skips[level]])
        y = _double_conv(y, f"merge.{level}", widths[level])
    return Model(x, Conv2D(classes, 1, name="head")(y), name="unet")


def _double_conv(x: Value, name: str, width: int) -> Value:
    return conv_block(conv_block(x, in_sequence(name), width), in_sequence(name, 3), width)
