"""Normalization, softmax and its relatives, the losses."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from onnx import helper

from cnnext.onnx.numpy_ops.common import (
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    axes_of,
    axis_of,
    integers,
    refuse,
    same,
    typed,
    widened,
)
from cnnext.onnx.numpy_ops.pooling import slide
from cnnext.onnx.numpy_ops.window import Window
from cnnext.onnx.operator import Operator

Axes = tuple[int, ...]


def _per_channel(parameter: Array, rank: int) -> Array:
    """Lay a parameter on axis 1, or, if it has more axes, on axis 1 and those behind."""
    return widened(parameter).reshape(parameter.shape + (1,) * (rank - 1 - parameter.ndim))


def _standardize(x: Array, axes: Axes, epsilon: float) -> tuple[Array, Array, Array]:
    """Shift and scale to mean 0 and variance 1; also that mean and the factor."""
    mean = np.mean(x, axes, keepdims=True)
    centered = x - mean
    factor = 1 / np.sqrt(np.mean(np.square(centered), axes, keepdims=True) + x.dtype.type(epsilon))
    return centered * factor, mean, factor


def _trains(op: Operator) -> bool:
    """Whether BatchNormalization takes the statistics of the batch: older versions say so by their number of outputs."""
    return bool(op.attributes.get("training_mode", 0)) if op.version >= 14 else any(op.wanted[1:])


def _batch_norm(op: Operator, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> tuple[Array, ...]:
    wide, epsilon = widened(x), op.attributes.get("epsilon", 1e-5)
    statistics: tuple[Array, ...] = ()
    if _trains(op):
        axes = tuple(axis for axis in range(x.ndim) if axis != 1 and (axis == 0 or mean.ndim == 1))
        batch_mean, batch_var = np.mean(wide, axes), np.var(wide, axes)
        momentum = op.attributes.get("momentum", 0.9)
        running = [(old * momentum + new * (1 - momentum)).astype(old.dtype)
                   for old, new in ((mean, batch_mean), (var, batch_var))]
        statistics = (*running, *(() if op.version >= 14 else (batch_mean.astype(mean.dtype), batch_var.astype(var.dtype))))
        mean, var = batch_mean, batch_var
    scale, bias, mean, var = (_per_channel(parameter, x.ndim) for parameter in (scale, bias, mean, var))
    y = scale * (wide - mean) / np.sqrt(var + epsilon) + bias
    return (y.astype(x.dtype, copy=False), *statistics)


def _batch_norm_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    x, mean, var = typed(types, 0), typed(types, 3), typed(types, 4)
    if len(x[1]) < 2 or mean[1] not in (x[1][1:2], x[1][1:]):
        raise refuse(op, "mean", "have one element for each channel", mean[1], f"source shape {x[1]}")
    return [x, mean, var, mean, var][:len(op.wanted)]


def _instance_norm(op: Operator, x: Array, scale: Array, bias: Array) -> Array:
    y = _standardize(widened(x), tuple(range(2, x.ndim)), op.attributes.get("epsilon", 1e-5))[0]
    return (y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)).astype(x.dtype, copy=False)


def _group_norm(op: Operator, x: Array, scale: Array, bias: Array) -> Array:
    groups = op.attributes.get("num_groups")
    if not isinstance(groups, int) or groups < 1 or x.ndim < 2 or x.shape[1] % groups:
        raise refuse(op, "num_groups", "divide the channels", groups, f"source shape {x.shape}")
    grouped = widened(x).reshape(x.shape[0], groups, -1)
    y = _standardize(grouped, (2,), op.attributes.get("epsilon", 1e-5))[0].reshape(x.shape)
    if op.version < 21:  # one for each group
        scale, bias = np.repeat(scale, x.shape[1] // groups), np.repeat(bias, x.shape[1] // groups)
    return (y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)).astype(x.dtype, copy=False)


def _stash(op: Operator) -> np.dtype:
    return np.dtype(helper.tensor_dtype_to_np_dtype(op.attributes.get("stash_type", 1)))


def _last_axes(op: Operator, rank: int) -> Axes:
    return tuple(range(axis_of(op, op.attributes.get("axis", -1), rank), rank))


def _layer_norm(op: Operator, x: Array, scale: Array, bias: Array | None = None) -> tuple[Array, Array, Array]:
    y, mean, factor = _standardize(widened(x), _last_axes(op, x.ndim), op.attributes.get("epsilon", 1e-5))
    y = y.astype(x.dtype, copy=False) * scale
    return y if bias is None else y + bias, mean.astype(_stash(op)), factor.astype(_stash(op))


def _layer_norm_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    x = typed(types, 0)
    axes = _last_axes(op, len(x[1]))
    statistic = _stash(op), tuple(1 if axis in axes else n for axis, n in enumerate(x[1]))
    return [x, statistic, statistic][:len(op.wanted)]


def _rms_norm(op: Operator, x: Array, scale: Array) -> Array:
    wide = widened(x)
    square = np.mean(np.square(wide), _last_axes(op, x.ndim), keepdims=True)
    y = wide / np.sqrt(square + wide.dtype.type(op.attributes.get("epsilon", 1e-5)))
    return (y.astype(x.dtype, copy=False) * scale).astype(scale.dtype, copy=False)


def _rms_norm_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(typed(types, 1)[0], typed(types, 0)[1])]


def _lp_norm(op: Operator, x: Array) -> Array:
    axis, p = axis_of(op, op.attributes.get("axis", -1), x.ndim), op.attributes.get("p", 2)
    if p not in (1, 2):
        raise refuse(op, "p", "be 1 or 2", p)
    wide = widened(x)
    size = np.sum(np.abs(wide) ** p, axis, keepdims=True) ** (1 / p)
    return np.where(size == 0, 0, wide / size).astype(x.dtype, copy=False)


def _mean_variance(op: Operator, x: Array) -> Array:
    axes, wide = axes_of(op, integers(op, "axes", (0, 2, 3)), x.ndim), widened(x)
    centered = wide - np.mean(wide, axes, keepdims=True)
    deviation = np.sqrt(np.mean(np.square(centered), axes, keepdims=True))
    return (centered / (deviation + wide.dtype.type(1e-9))).astype(x.dtype, copy=False)


def _lrn(op: Operator, x: Array) -> Array:
    size = op.attributes.get("size")
    if not isinstance(size, int) or size < 1 or x.ndim < 2:
        raise refuse(op, "size", "be positive", size, f"source shape {x.shape}")
    wide = widened(x)
    reach = min(size, 2 * x.shape[1] + 1)  # a longer one sees no more channels
    before = min((size - 1) // 2, x.shape[1])
    total = slide(np.square(wide), 1, Window(x.shape[1], reach, 1, 1, before, 0, x.shape[1]), np.add, 0)
    scale = op.attributes.get("bias", 1.0) + op.attributes.get("alpha", 1e-4) / size * total
    return (wide / scale ** op.attributes.get("beta", 0.75)).astype(x.dtype, copy=False)


# Softmax and its relatives ------------------------------------------------------------------------------------------

def log_softmax(x: Array, axis: int) -> Array:
    """Logarithm of softmax, without overflow."""
    shifted = x - np.max(x, axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.sum(np.exp(shifted), axis, keepdims=True))


def softmax(x: Array, axis: int) -> Array:
    """Softmax, without overflow."""
    e = np.exp(x - np.max(x, axis, keepdims=True, initial=-np.inf))
    return e / np.sum(e, axis, keepdims=True)


def _hardmax(x: Array, axis: int) -> Array:
    y = np.zeros_like(x)
    if x.size:
        np.put_along_axis(y, np.expand_dims(np.argmax(x, axis), axis), 1, axis)
    return y


def _along_axis(function: Any) -> Function:
    """One axis from opset 13 on; before, all from `axis` on as if they were one."""
    def compute(op: Operator, x: Array) -> Array:
        wide = widened(x)
        if op.version >= 13:
            y = function(wide, axis_of(op, op.attributes.get("axis", -1), x.ndim))
        else:
            axis = axis_of(op, op.attributes.get("axis", 1), x.ndim + 1 if op.attributes.get("axis", 1) >= 0 else x.ndim)
            y = function(wide.reshape(prod(x.shape[:axis]), prod(x.shape[axis:])), 1).reshape(x.shape)
        return y.astype(x.dtype, copy=False)
    return compute


# Losses -------------------------------------------------------------------------------------------------------------

def _likelihood_loss(op: Operator, log_prob: Array, labels: Array, weights: Array | None) -> Array:
    ignored = labels == op.attributes["ignore_index"] if op.attributes.get("ignore_index") is not None else \
        np.zeros(labels.shape, bool)
    classes = np.where(ignored, 0, labels)
    if classes.size and (classes.min() < 0 or classes.max() >= log_prob.shape[1]):
        raise refuse(op, "target", f"hold classes in [0, {log_prob.shape[1] - 1}]", labels)
    weight = np.ones(labels.shape, log_prob.dtype) if weights is None else weights[classes].astype(log_prob.dtype)
    weight = np.where(ignored, 0, weight)
    loss = -np.take_along_axis(log_prob, classes[:, None].astype(np.int64), 1)[:, 0] * weight
    reduction = op.attributes.get("reduction", "mean")
    if reduction == "none":
        return loss
    return np.sum(loss) if reduction == "sum" else np.sum(loss) / np.sum(weight)


def _nll_loss(op: Operator, x: Array, target: Array, weight: Array | None = None) -> Array:
    return np.asarray(_likelihood_loss(op, widened(x), target, weight)).astype(x.dtype, copy=False)


def _cross_entropy(op: Operator, scores: Array, labels: Array, weights: Array | None = None) -> tuple[Array, Array]:
    log_prob = log_softmax(widened(scores), 1)
    loss = np.asarray(_likelihood_loss(op, log_prob, labels, weights))
    return loss.astype(scores.dtype, copy=False), log_prob.astype(scores.dtype, copy=False)


def _loss_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, shape), (_, labels) = typed(types, 0), typed(types, 1)
    if len(shape) < 2 or labels != shape[:1] + shape[2:]:
        raise refuse(op, "target", "have the shape of the scores without the classes", labels, f"scores shape {shape}")
    reduction = op.attributes.get("reduction", "mean")
    if reduction not in ("none", "sum", "mean"):
        raise refuse(op, "reduction", "be 'none', 'sum' or 'mean'", reduction)
    return [(dtype, labels if reduction == "none" else ()), (dtype, shape)][:len(op.wanted)]


OPERATORS: dict[str, Function] = {
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm, "RMSNormalization": _rms_norm, "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance, "LRN": _lrn, "Softmax": _along_axis(softmax),
    "LogSoftmax": _along_axis(log_softmax), "Hardmax": _along_axis(_hardmax), "NegativeLogLikelihoodLoss": _nll_loss,
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_norm_rule, "LayerNormalization": _layer_norm_rule, "RMSNormalization": _rms_norm_rule,
    "NegativeLogLikelihoodLoss": _loss_rule, "SoftmaxCrossEntropyLoss": _loss_rule,
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "LpNormalization", "MeanVarianceNormalization", "LRN",
                     "Softmax", "LogSoftmax", "Hardmax"), same),
}
