"""Metrics: what is watched during training, computed in NumPy on the predictions of each step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from cnnext.errors import unknown
from cnnext.layers.attributes import as_int

# (targets, predictions) of a batch to the mean over it
MetricFunction = Callable[[np.ndarray, np.ndarray], float]


def top_k_accuracy(targets: np.ndarray, predictions: np.ndarray, k: int = 1) -> float:
    """Share of the labels that are among the k highest scores.

    Parameters
    ----------
    targets : (N, ...) integer labels, or one-hot rows of the predictions' shape
    predictions : (N, ..., K) scores, logits or probabilities
    k : int
        Of equal scores the one of the lower class counts as higher; for k = 1 that is ``argmax``.

    Raises
    ------
    ValueError
        If the shapes do not match or ``k`` is below 1.
    """
    labels = np.asarray(targets)
    if labels.shape == predictions.shape:
        labels = labels.argmax(-1)
    if labels.shape != predictions.shape[:-1]:
        raise ValueError(f"top_k_accuracy: `targets` must have shape {predictions.shape[:-1]} (labels) or "
                         f"{predictions.shape} (one-hot). Received shape={labels.shape}.")
    k = as_int("top_k_accuracy", "k", k, minimum=1)
    index = labels[..., np.newaxis].astype(np.int64)
    score = np.take_along_axis(predictions, index, -1)
    # written so that a label whose score is NaN is never among the best
    behind = (predictions < score) | ((predictions == score) & (np.arange(predictions.shape[-1]) > index))
    better = predictions.shape[-1] - 1 - behind.sum(-1)
    return float((better < k).mean())


def top_k_error_rate(targets: np.ndarray, predictions: np.ndarray, k: int = 1) -> float:
    """Share of the labels that are not among the k highest scores: 1 - ``top_k_accuracy``."""
    return 1.0 - top_k_accuracy(targets, predictions, k)


class Metric:
    """A named number per batch, averaged over batches by their sizes.

    Parameters
    ----------
    name : str
        Its key in a history.
    function : callable
        ``function(targets, predictions)`` gives the batch's mean.
    """

    def __init__(self, name: str, function: MetricFunction):
        self.name = name
        self.function = function

    def __call__(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        return float(self.function(targets, predictions))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class TopKAccuracy(Metric):
    """Share of the labels among the k highest scores.

    Parameters
    ----------
    k : int
        At least 1; 1 is plain accuracy.
    name : str, optional
        ``"accuracy"`` for k = 1, else ``"top_<k>_accuracy"``.
    """

    def __init__(self, k: int = 5, name: str | None = None):
        self.k = as_int("TopKAccuracy", "k", k, minimum=1)
        default = "accuracy" if self.k == 1 else f"top_{self.k}_accuracy"
        super().__init__(name or default, self.top_k_accuracy)

    def top_k_accuracy(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """Accuracy of a batch."""
        return top_k_accuracy(targets, predictions, self.k)


class TopKErrorRate(TopKAccuracy):
    """Share of the labels not among the k highest scores; named ``"error_rate"`` or ``"top_<k>_error_rate"``."""

    def __init__(self, k: int = 1, name: str | None = None):
        super().__init__(k, name or ("error_rate" if k == 1 else f"top_{k}_error_rate"))

    def __call__(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        return 1.0 - super().__call__(targets, predictions)


def get_metric(metric: str | Metric | MetricFunction) -> Metric:
    """A metric by name (``"accuracy"``, ``"error_rate"``, ``"top_3_accuracy"``, ``"top_5_error_rate"``), the metric
    itself, or one made of a function ``f(targets, predictions)``.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is none of these.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        name = re.fullmatch(r"(?:top_([1-9]\d{0,5})_)?(accuracy|error_rate)", metric)
        if name is None:
            raise ValueError("compile: " + unknown("metric", metric, ("accuracy", "error_rate", "top_3_accuracy",
                                                                      "top_3_error_rate")))
        kind = TopKAccuracy if name[2] == "accuracy" else TopKErrorRate
        return kind(int(name[1] or 1), metric)
    if callable(metric):
        return Metric(getattr(metric, "__name__", type(metric).__name__), metric)
    raise TypeError(f"compile: `metrics` must hold names, metric objects or functions. "
                    f"Received {type(metric).__name__}.")


def get_metrics(metrics: Sequence[str | Metric | MetricFunction] | str | None) -> list[Metric]:
    """``get_metric`` for each of a list; None is none.

    Raises
    ------
    ValueError
        If two share a name.
    """
    if metrics is None:
        return []
    found = [get_metric(m) for m in ([metrics] if isinstance(metrics, (str, Metric)) else metrics)]
    names = [m.name for m in found]
    for name in names:
        if names.count(name) > 1 or name == "loss":
            raise ValueError(f"compile: `metrics` must have names of their own. Received {names}.")
    return found
