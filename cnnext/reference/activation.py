"""Activations: `UNARY` holds the functions of one number, functions below it need a whole row or a parameter.

Derivatives are written in terms of x so that neither overflow nor cancellation spoils them for large ``|x|``; both
tails of a sigmoid come from `expit`, since ``1 - expit(x) = expit(-x)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from cnnext.reference._window import Array, require

# G. Klambauer et al., "Self-normalizing neural networks", 2017: the fixed point of zero mean and unit variance.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


@dataclass(frozen=True)
class Unary:
    """A function of one number and its derivative, both called with x and the function's own constants.

    Attributes
    ----------
    forward, derivative : ``f(x, *p)`` and ``f'(x, *p)``, arrays of the shape and dtype of x
    parameters : the names of ``p``
    """

    forward: Callable[..., Array]
    derivative: Callable[..., Array]
    parameters: tuple[str, ...] = ()


def _clip(x: Array, low: float, high: float) -> Array:
    return np.clip(x, low, high)


def _clip_derivative(x: Array, low: float, high: float) -> Array:
    return ((x > low) & (x < high)).astype(x.dtype)


def _leaky_relu(x: Array, slope: float) -> Array:
    return np.where(x > 0, x, slope * x)


def _leaky_relu_derivative(x: Array, slope: float) -> Array:
    return np.where(x > 0, 1, slope).astype(x.dtype)


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_derivative(x: Array, alpha: float) -> Array:
    return np.where(x > 0, np.ones_like(x), alpha * np.exp(np.minimum(x, 0)))


def _selu(x: Array) -> Array:
    return SELU_SCALE * _elu(x, SELU_ALPHA)


def _selu_derivative(x: Array) -> Array:
    return SELU_SCALE * _elu_derivative(x, SELU_ALPHA)


def _gelu(x: Array) -> Array:
    return x * special.ndtr(x)


def _gelu_derivative(x: Array) -> Array:
    # Beyond 50 the density is 0 in any precision; the bound keeps x * x finite.
    near = np.clip(x, -50, 50)
    return special.ndtr(x) + near * np.exp(-0.5 * near * near) / math.sqrt(2 * math.pi)


def _gelu_tanh_argument(x: Array) -> Array:
    """z of ``gelu_tanh(x) = x expit(z)``, for (1 + tanh(u)) / 2 = expit(2 u).

    Bounded, since expit(z) is 0 or 1 in any precision for |x| > 50 and x^3 would overflow.
    """
    near = np.clip(x, -50, 50)
    return 2 * math.sqrt(2 / math.pi) * near * (1 + 0.044715 * near * near)


def _gelu_tanh(x: Array) -> Array:
    return x * special.expit(_gelu_tanh_argument(x))


def _gelu_tanh_derivative(x: Array) -> Array:
    z, near = _gelu_tanh_argument(x), np.clip(x, -50, 50)
    dz = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * near * near)
    return special.expit(z) * (1 + near * dz * special.expit(-z))


def _sigmoid_derivative(x: Array) -> Array:
    return special.expit(x) * special.expit(-x)


def _hard_sigmoid(x: Array, slope: float, offset: float) -> Array:
    return np.clip(slope * x + offset, 0, 1)


def _hard_sigmoid_derivative(x: Array, slope: float, offset: float) -> Array:
    return slope * _clip_derivative(slope * x + offset, 0, 1)


def _tanh_derivative(x: Array) -> Array:
    return 4 * _sigmoid_derivative(2 * np.clip(x, -500, 500))  # 1 - tanh(x)^2; the bound keeps 2 x finite


def _silu(x: Array) -> Array:
    return x * special.expit(x)


def _silu_derivative(x: Array) -> Array:
    return special.expit(x) * (1 + x * special.expit(-x))


def _hard_swish(x: Array) -> Array:
    return x * np.clip(x / 6 + 0.5, 0, 1)


def _hard_swish_derivative(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1) + x / 6 * _clip_derivative(x, -3, 3)


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, np.zeros_like(x))


def _mish(x: Array) -> Array:
    return x * np.tanh(_softplus(x))


def _mish_derivative(x: Array) -> Array:
    y = _softplus(x)
    return np.tanh(y) + x * special.expit(x) * _tanh_derivative(y)


def _softsign(x: Array) -> Array:
    return x / (1 + np.abs(x))


def _softsign_derivative(x: Array) -> Array:
    return (1 / (1 + np.abs(x))) ** 2


def _affine(x: Array, scale: float, shift: float) -> Array:
    return scale * x + shift


def _affine_derivative(x: Array, scale: float, shift: float) -> Array:
    return np.full_like(x, scale)


def _step_derivative(x: Array) -> Array:
    return np.zeros_like(x)


def _erf_derivative(x: Array) -> Array:
    near = np.clip(x, -50, 50)
    return 2 / math.sqrt(math.pi) * np.exp(-near * near)


def _power(x: Array, exponent: float) -> Array:
    return np.power(x, exponent, dtype=x.dtype)


def _power_derivative(x: Array, exponent: float) -> Array:
    return exponent * np.power(x, exponent - 1, dtype=x.dtype)


def _celu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _celu_derivative(x: Array, alpha: float) -> Array:
    return np.where(x > 0, np.ones_like(x), np.exp(np.minimum(x, 0) / alpha))


def _thresholded_relu(x: Array, threshold: float) -> Array:
    return np.where(x <= threshold, np.zeros_like(x), x)


def _swish(x: Array, beta: float) -> Array:
    return x * special.expit(beta * x)


def _swish_derivative(x: Array, beta: float) -> Array:
    return special.expit(beta * x) * (1 + beta * x * special.expit(-beta * x))


def _shrink(x: Array, limit: float, bias: float) -> Array:
    between = np.where(np.isnan(x), x, np.zeros_like(x))
    return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, between))


def _shrink_derivative(x: Array, limit: float, bias: float) -> Array:
    return ((x < -limit) | (x > limit)).astype(x.dtype)


# The names, their order and their constants are those of CNX_UNARY_OPS in cnnext_plugin.h.
UNARY: dict[str, Unary] = {
    "identity": Unary(np.copy, np.ones_like),
    "clip": Unary(_clip, _clip_derivative, ("low", "high")),
    "leaky_relu": Unary(_leaky_relu, _leaky_relu_derivative, ("slope",)),
    "elu": Unary(_elu, _elu_derivative, ("alpha",)),
    "selu": Unary(_selu, _selu_derivative),
    "gelu": Unary(_gelu, _gelu_derivative),
    "gelu_tanh": Unary(_gelu_tanh, _gelu_tanh_derivative),
    "sigmoid": Unary(special.expit, _sigmoid_derivative),
    "hard_sigmoid": Unary(_hard_sigmoid, _hard_sigmoid_derivative, ("slope", "offset")),
    "tanh": Unary(np.tanh, _tanh_derivative),
    "silu": Unary(_silu, _silu_derivative),
    "hard_swish": Unary(_hard_swish, _hard_swish_derivative),
    "mish": Unary(_mish, _mish_derivative),
    "softplus": Unary(_softplus, special.expit),
    "softsign": Unary(_softsign, _softsign_derivative),
    "affine": Unary(_affine, _affine_derivative, ("scale", "shift")),
    "exp": Unary(np.exp, np.exp),
    "log": Unary(np.log, np.reciprocal),
    "sqrt": Unary(np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "rsqrt": Unary(lambda x: 1 / np.sqrt(x), lambda x: -0.5 / (x * np.sqrt(x))),
    "abs": Unary(np.abs, np.sign),
    "reciprocal": Unary(np.reciprocal, lambda x: -1 / (x * x)),
    "square": Unary(np.square, lambda x: 2 * x),
    "cube": Unary(lambda x: x * x * x, lambda x: 3 * x * x),
    "power": Unary(_power, _power_derivative, ("exponent",)),
    "floor": Unary(np.floor, _step_derivative),
    "ceil": Unary(np.ceil, _step_derivative),
    "round": Unary(np.rint, _step_derivative),
    "sign": Unary(np.sign, _step_derivative),
    "erf": Unary(special.erf, _erf_derivative),
    "leaky_relu_any": Unary(_leaky_relu, _leaky_relu_derivative, ("slope",)),
    "elu_any": Unary(_elu, _elu_derivative, ("alpha",)),
    "celu": Unary(_celu, _celu_derivative, ("alpha",)),
    "thresholded_relu": Unary(_thresholded_relu, lambda x, threshold: (x > threshold).astype(x.dtype), ("threshold",)),
    "swish": Unary(_swish, _swish_derivative, ("beta",)),
    "shrink": Unary(_shrink, _shrink_derivative, ("limit", "bias")),
    "scaled_hard_swish": Unary(lambda x, scale, shift: scale * _hard_swish(x) + shift,
                               lambda x, scale, shift: scale * _hard_swish_derivative(x), ("scale", "shift")),
}


def prelu(src: Array, slope: Array) -> Array:
    """``src`` (..., C) where it is positive, else ``slope`` (C,) times ``src``."""
    return np.where(src > 0, src, slope * src)


def prelu_backward(src: Array, slope: Array, diff_dst: Array) -> tuple[Array, Array]:
    """Gradients of `prelu` with respect to its source (..., C) and its slope (C,)."""
    diff_src = np.where(src > 0, diff_dst, slope * diff_dst)
    diff_slope = (diff_dst * np.minimum(src, 0)).reshape(-1, src.shape[-1]).sum(axis=0)
    return diff_src, diff_slope


def softmax(src: Array) -> Array:
    """``exp(x) / sum(exp(x))`` over the last axis."""
    return special.softmax(src, axis=-1)


def softmax_backward(dst: Array, diff_dst: Array) -> Array:
    """Gradient of `softmax` from its result ``dst``."""
    return dst * (diff_dst - (diff_dst * dst).sum(axis=-1, keepdims=True))


def log_softmax(src: Array) -> Array:
    """``x - log(sum(exp(x)))`` over the last axis."""
    return special.log_softmax(src, axis=-1)


def log_softmax_backward(dst: Array, diff_dst: Array) -> Array:
    """Gradient of `log_softmax` from its result ``dst``."""
    return diff_dst - np.exp(dst) * diff_dst.sum(axis=-1, keepdims=True)


def dropout(src: Array, mask: Array, rate: float) -> Array:
    """``src / (1 - rate)`` where ``mask``, of the same shape, is true (or 1), else 0.

    Raises
    ------
    ValueError
        If ``rate`` is not in [0, 1).
    """
    require(0 <= rate < 1, "dropout", "rate", "lie in [0, 1)", rate, src.shape)
    return src * mask.astype(src.dtype) / (1 - rate)


def dropout_backward(diff_dst: Array, mask: Array, rate: float) -> Array:
    """Gradient of `dropout`: the same function of ``diff_dst``."""
    return dropout(diff_dst, mask, rate)
