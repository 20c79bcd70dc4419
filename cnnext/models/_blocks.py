"""What the networks share: convolution + normalization + activation, squeeze-and-excitation, the inverted residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnnext.errors import PluginError
from cnnext.graph.graph import Value
from cnnext.layers.activation import activation_layer
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.depthwise_conv2d import DepthwiseConv2D
from cnnext.layers.elementwise import Add, Multiply
from cnnext.layers.pooling import GlobalAvgPool2D

BATCH_NORM = "normalization/BatchNorm"
Names = tuple[str, str, str]


@dataclass(frozen=True)
class Norm:
    """Arguments of a batch normalization.

    PyTorch's ``momentum`` is the share of the new batch, here it is that of the old average: ``1 - 0.1``.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9

    def __call__(self, x: Value, name: str) -> Value:
        """Normalize a value."""
        return batch_norm_class()(momentum=self.momentum, epsilon=self.epsilon, name=name)(x)


PYTORCH_NORM = Norm()   # its defaults


def batch_norm_class() -> Any:
    """The plugin's layer.

    Raises
    ------
    PluginError
        If it is not installed; says what to type.
    """
    from cnnext.plugins import layer_class, scan

    if any(plugin.family == BATCH_NORM for plugin in scan().plugins):
        return layer_class(BATCH_NORM)
    raise PluginError(f"cnnext.models: this network needs the layer {BATCH_NORM!r}, and no installed distribution provides "
                      "it. Type: pip install cnnext-normalization")


def in_sequence(name: str, first: int = 0) -> Names:
    """Three consecutive places in a PyTorch ``Sequential``."""
    return f"{name}.{first}", f"{name}.{first + 1}", f"{name}.{first + 2}"


def conv_block(x: Value, names: Names, filters: int, kernel_size: int = 3, strides: int = 1, *,
               norm: Norm | None = PYTORCH_NORM, activation: str | None = "relu", depthwise: bool = False,
               use_bias: bool = False) -> Value:
    """Convolution, batch normalization, activation.

    Parameters
    ----------
    x : Value, (N, H, W, C)
    names : three str
        Of the convolution, the normalization, the activation.
    filters : int
        Output channels; with ``depthwise``, C.
    kernel_size : int
        The padding keeps the size at a stride of 1: ``(kernel_size - 1) // 2`` pixels on each side.
    strides : int
    norm : Norm, optional
        Without it the convolution has a bias instead.
    activation : str, optional
    depthwise : bool
    use_bias : bool
        Beside a normalization, of which beta does the same.
    """
    pad = (kernel_size - 1) // 2
    options: dict[str, Any] = dict(strides=strides, padding=((pad, pad), (pad, pad)), use_bias=use_bias or norm is None,
                                   name=names[0])
    conv = DepthwiseConv2D(kernel_size, **options) if depthwise else Conv2D(filters, kernel_size, **options)
    x = conv(x)
    if norm is not None:
        x = norm(x, names[1])
    return x if activation is None else activation_layer(activation, names[2])(x)


def squeeze_excite(x: Value, name: str, squeezed: int, activation: str, gate: str) -> Value:
    """Channels weighted by what the whole image shows: ``x * gate(fc2(activation(fc1(mean over H, W of x))))``.

    References
    ----------
    J. Hu, L. Shen, S. Albanie, G. Sun, E. Wu, "Squeeze-and-excitation networks", 2018.
    """
    channels = x.shape[-1]
    assert channels is not None
    y = GlobalAvgPool2D(keepdims=True, name=f"{name}.avgpool")(x)
    y = activation_layer(activation, f"{name}.activation")(Conv2D(squeezed, 1, name=f"{name}.fc1")(y))
    y = activation_layer(gate, f"{name}.scale_activation")(Conv2D(channels, 1, name=f"{name}.fc2")(y))
    return Multiply(name=f"{name}.scale")([x, y])


@dataclass(frozen=True)
class InvertedResidual:
    """Pointwise expansion, depthwise convolution, squeeze-and-excitation, pointwise projection; x is added if shapes agree.

    Parameters
    ----------
    kernel_size, strides : int
        Of the depthwise convolution.
    expanded : int
        Channels in between; no expansion where x has as many.
    filters : int
        Output channels.
    activation : str
    squeezed : int
        Hidden channels of the squeeze-and-excitation; 0: there is none.
    gate : str
        Its last function; its first one is ``squeeze_activation``.
    norm : Norm

    References
    ----------
    M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018.
    """

    kernel_size: int
    strides: int
    expanded: int
    filters: int
    activation: str
    squeezed: int = 0
    squeeze_activation: str = "relu"
    gate: str = "sigmoid"
    norm: Norm = PYTORCH_NORM

    def __call__(self, x: Value, name: str, projection: Names | None = None) -> Value:
        """Apply the block; its parts are called ``name.0``, ``name.1``, ..., unless ``projection`` names the last."""
        y, part = x, 0
        if self.expanded != x.shape[-1]:
            y = conv_block(y, in_sequence(f"{name}.{part}"), self.expanded, 1, norm=self.norm, activation=self.activation)
            part += 1
        y = conv_block(y, in_sequence(f"{name}.{part}"), self.expanded, self.kernel_size, self.strides, norm=self.norm,
                       activation=self.activation, depthwise=True)
        part += 1
        if self.squeezed:
            y = squeeze_excite(y, f"{name}.{part}", self.squeezed, self.squeeze_activation, self.gate)
            part += 1
        y = conv_block(y, projection or in_sequence(f"{name}.{part}"), self.filters, 1, norm=self.norm, activation=None)
        if self.strides == 1 and self.filters == x.shape[-1]:
            y = Add(name=f"{name}.add")([y, x])
        return y


def divisible_by_8(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, at least 8, not less than nine tenths of it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
