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
