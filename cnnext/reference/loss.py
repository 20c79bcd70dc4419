"""Losses: one number of the dtype of the prediction, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnext.reference._window import Array, require
from cnnext.reference.activation import log_softmax, softmax

# The smallest probability whose logarithm is taken.
SMALLEST_PROBABILITY = 1e-7


def sparse_categorical_crossentropy(logits: Array, labels: Array, from_logits: bool = True) -> np.floating[Any]:
    """Mean of ``-log(probability of the label)`` over all labels.

    Parameters
    ----------
    logits : (N, ..., K) floating; probabilities when ``from_logits`` is false, those below 1e-7 are taken as 1e-7
    labels : (N, ...) integers in [0, K)

    Raises
    ------
    TypeError
        If the labels are not integers.
    ValueError
        If their shape does not match or one lies outside [0, K).
    """
    index = _label_index(logits, labels)
    log_probabilities = log_softmax(logits) if from_logits else np.log(np.maximum(logits, SMALLEST_PROBABILITY))
    return -np.take_along_axis(log_probabilities, index, axis=-1).mean()


def sparse_categorical_crossentropy_backward(logits: Array, labels: Array, from_logits: bool = True) -> Array:
    """Gradient of `sparse_categorical_crossentropy` with respect to ``logits``; 0 at and below the clipping bound."""
    index = _label_index(logits, labels)
    one_hot = np.zeros_like(logits)
    np.put_along_axis(one_hot, index, 1, axis=-1)
    if from_logits:
        return (softmax(logits) - one_hot) / labels.size
    kept = logits > SMALLEST_PROBABILITY
    return -one_hot * kept / np.where(kept, logits, np.ones_like(logits)) / labels.size


def mean_squared_error(pred: Array, target: Array) -> np.floating[Any]:
    """Mean of ``(pred - target)^2`` over every element.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    require(pred.shape == target.shape, "mean_squared_error", "target", f"have shape {pred.shape}", target.shape)
    return np.square(pred - target).mean()


def mean_squared_error_backward(pred: Array, target: Array) -> Array:
    """Gradient of `mean_squared_error` with respect to ``pred``."""
    return 2 * (pred - target) / pred.size


def one_hot(labels: Array, classes: int) -> Array:
    """Rows (..., classes) that are 1 at the label, else 0."""
    return (labels[..., np.newaxis] == np.arange(classes)).astype(np.float64)


def categorical_crossentropy(scores: Array, target: Array, from_logits: bool = True, label_smoothing: float = 0.0,
                             class_weight: Array | None = None) -> np.floating[Any]:
    """Mean over positions of ``-weight * sum(target * log(probability))``.

    Parameters
    ----------
    scores : (N, ..., K) logits, or probabilities, those below 1e-7 taken as 1e-7
    target : (N, ..., K) probabilities, of which the share ``label_smoothing`` is spread over the classes
    class_weight : (K,), optional
        The weight of a position is the sum of ``target * class_weight``, before smoothing.
    """
    log_p = log_softmax(scores) if from_logits else np.log(np.maximum(scores, SMALLEST_PROBABILITY))
    wanted = _weighted_target(target, label_smoothing, class_weight)
    return -(wanted * log_p).sum(axis=-1).mean()


def categorical_crossentropy_backward(scores: Array, target: Array, from_logits: bool = True,
                                      label_smoothing: float = 0.0, class_weight: Array | None = None) -> Array:
    """Gradient of `categorical_crossentropy` with respect to ``scores``; 0 at and below the clipping bound."""
    wanted, positions = _weighted_target(target, label_smoothing, class_weight), target[..., 0].size
    if from_logits:
        return (softmax(scores) * wanted.sum(axis=-1, keepdims=True) - wanted) / positions
    kept = scores > SMALLEST_PROBABILITY
    return -wanted * kept / np.where(kept, scores, np.ones_like(scores)) / positions


def _weighted_target(target: Array, label_smoothing: float, class_weight: Array | None) -> Array:
    smoothed = (1 - label_smoothing) * target + label_smoothing / target.shape[-1]
    return smoothed if class_weight is None else smoothed * (target * class_weight).sum(axis=-1, keepdims=True)


def binary_crossentropy(scores: Array, target: Array, from_logits: bool = True,
                        label_smoothing: float = 0.0) -> np.floating[Any]:
    """Mean of ``-target * log(p) - (1 - target) * log(1 - p)``, p = sigmoid(scores) or ``scores`` clipped at 1e-7.

    The targets move by the share ``label_smoothing`` towards 1/2.
    """
    target = (1 - label_smoothing) * target + label_smoothing / 2
    if from_logits:
        return (target * np.logaddexp(0, -scores) + (1 - target) * np.logaddexp(0, scores)).mean()
    log_p, log_q = (np.log(np.maximum(p, SMALLEST_PROBABILITY)) for p in (scores, 1 - scores))
    return -(target * log_p + (1 - target) * log_q).mean()


def binary_crossentropy_backward(scores: Array, target: Array, from_logits: bool = True,
                                 label_smoothing: float = 0.0) -> Array:
    """Gradient of `binary_crossentropy` with respect to ``scores``."""
    target = (1 - label_smoothing) * target + label_smoothing / 2
    if from_logits:
        return (np.exp(-np.logaddexp(0, -scores)) - target) / scores.size
    kept_p, kept_q = (p > SMALLEST_PROBABILITY for p in (scores, 1 - scores))
    for_one = target * kept_p / np.where(kept_p, scores, 1)
    return ((1 - target) * kept_q / np.where(kept_q, 1 - scores, 1) - for_one) / scores.size


def mean_absolute_error(pred: Array, target: Array) -> np.floating[Any]:
    """Mean of ``|pred - target|`` over every element."""
    return np.abs(pred - target).mean()


def mean_absolute_error_backward(pred: Array, target: Array) -> Array:
    """Gradient of `mean_absolute_error` with respect to ``pred``; 0 where there is no error."""
    return np.sign(pred - target) / pred.size


def huber(pred: Array, target: Array, delta: float = 1.0) -> np.floating[Any]:
    """Mean of ``e^2 / 2`` where ``|e| <= delta``, else ``delta * |e| - delta^2 / 2``; e = pred - target."""
    size = np.abs(pred - target)
    return np.where(size <= delta, size**2 / 2, delta * size - delta**2 / 2).mean()


def huber_backward(pred: Array, target: Array, delta: float = 1.0) -> Array:
    """Gradient of `huber` with respect to ``pred``."""
    return np.clip(pred - target, -delta, delta) / pred.size


def hinge(pred: Array, target: Array) -> np.floating[Any]:
    """Mean of ``max(1 - target * pred, 0)``; targets are -1 or 1."""
    return np.maximum(1 - target * pred, 0).mean()


def hinge_backward(pred: Array, target: Array) -> Array:
    """Gradient of `hinge` with respect to ``pred``; 0 at the margin and beyond."""
    return -target * (target * pred < 1) / pred.size


def dice(pred: Array, target: Array, axes: tuple[int, ...] | None = None, smooth: float = 1e-6) -> np.floating[Any]:
    """Mean of ``1 - (2 sum(pred * target) + smooth) / (sum(pred) + sum(target) + smooth)``, sums over ``axes``."""
    above, below = _dice_parts(pred, target, axes, smooth)
    return (1 - above / below).mean()


def dice_backward(pred: Array, target: Array, axes: tuple[int, ...] | None = None, smooth: float = 1e-6) -> Array:
    """Gradient of `dice` with respect to ``pred``: the quotient rule."""
    above, below = _dice_parts(pred, target, axes, smooth)
    return (above - 2 * target * below) / below**2 / above.size


def _dice_parts(pred: Array, target: Array, axes: tuple[int, ...] | None, smooth: float) -> tuple[Array, Array]:
    both = (pred * target).sum(axis=axes, keepdims=True)
    sizes = pred.sum(axis=axes, keepdims=True) + target.sum(axis=axes, keepdims=True)
    return 2 * both + smooth, sizes + smooth


def _label_index(logits: Array, labels: Array) -> Array:
    """``labels`` with a last axis of extent 1, to index the last axis of ``logits``."""
    where, classes = "sparse_categorical_crossentropy", logits.shape[-1]
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{where}: `labels` must be integers. Received labels={labels.dtype}.")
    matches = labels.shape == logits.shape[:-1]
    require(matches, where, "labels", f"have the shape {logits.shape[:-1]}", labels.shape, logits.shape)
    inside = (labels >= 0) & (labels < classes)
    require(bool(inside.all()), where, "labels", f"lie in [0, {classes})", labels[~inside], logits.shape)
    return labels[..., np.newaxis]
