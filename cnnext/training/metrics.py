"""Metrics: what is watched during training, computed in NumPy on the predictions of each step.

A `Metric` is a mean over examples, and so the mean of its batches. A `ConfusionMetric` (precision, recall, F1, mean IoU) is
none: the confusion matrices of the batches are added up, and it is a function of their sum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnnext.errors import message, unknown
from cnnext.graph.graph import Value
from cnnext.layers.attributes import as_int, as_number
from cnnext.training.confusion import (
    AVERAGES,
    averaged,
    confusion_matrix,
    f1_score,
    mean_iou,
    precision,
    recall,
)

if TYPE_CHECKING:
    from cnnext.training.losses import Loss

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


def binary_accuracy(targets: np.ndarray, predictions: np.ndarray, threshold: float = 0.5) -> float:
    """Share of the elements on their target's side of the threshold: 1/2 for probabilities, 0 for logits.

    Parameters
    ----------
    targets : array of 0 (or -1) and 1, of the predictions' shape; what lies above 1/2 counts as 1
    predictions : array
    threshold : float

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    wanted = np.asarray(targets)
    if wanted.shape != predictions.shape:
        raise ValueError(message("binary_accuracy", "targets", f"have shape {predictions.shape}", wanted))
    return float(((wanted > 0.5) == (predictions > threshold)).mean())


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

    def for_output(self, loss: Loss, prediction: Value) -> Metric:
        """The metric for a model of this output and loss; called once, by ``compile``.

        Raises
        ------
        ValueError
            If it means nothing there.
        """
        return self

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

    def for_output(self, loss: Loss, prediction: Value) -> Metric:
        """Itself; of a model of one column, where k is 1, the binary accuracy or error rate."""
        if prediction.shape[-1] != 1 or loss.columns_are_classes:
            return self
        if self.k > 1:
            raise ValueError(message("compile", "metrics", "hold no top-k metric for a model of one column", self.name))
        binary = BinaryAccuracy(_threshold(self.name, loss, prediction), self.name)
        if isinstance(self, TopKErrorRate):
            return Metric(self.name, lambda targets, predictions: 1.0 - binary(targets, predictions))
        return binary


class BinaryAccuracy(Metric):
    """Share of the elements on their target's side of a threshold.

    Parameters
    ----------
    threshold : float, optional
        By default 0 where the loss takes the model's output for logits, else 1/2.
    name : str
    """

    def __init__(self, threshold: float | None = None, name: str = "binary_accuracy"):
        self.threshold = None if threshold is None else as_number("BinaryAccuracy", "threshold", threshold)
        super().__init__(name, self.binary_accuracy)

    def binary_accuracy(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """Accuracy of a batch."""
        return binary_accuracy(targets, predictions, 0.5 if self.threshold is None else self.threshold)

    def for_output(self, loss: Loss, prediction: Value) -> Metric:
        """Itself, or with the loss's threshold."""
        return self if self.threshold is not None else BinaryAccuracy(loss.threshold(prediction), self.name)


class TopKErrorRate(TopKAccuracy):
    """Share of the labels not among the k highest scores; named ``"error_rate"`` or ``"top_<k>_error_rate"``."""

    def __init__(self, k: int = 1, name: str | None = None):
        super().__init__(k, name or ("error_rate" if k == 1 else f"top_{k}_error_rate"))

    def __call__(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        return 1.0 - super().__call__(targets, predictions)


class ConfusionMetric:
    """What is computed from the confusion matrix of all the data that a pass has seen.

    Of a model with one column the classes are 0 and 1, below and above the loss's threshold. Of one with K columns they are
    0 to K - 1: an example's is the highest, also in targets that are rows.

    Parameters
    ----------
    function : callable
        ``function(matrix)``, of the matrix (K, K) as of `confusion_matrix`, gives a number, or a dict of numbers by names.
    name : str, optional
        Its key in a history; by default the function's name.
    threshold : float, optional
        For a model of one column; by default 1/2 where it gives probabilities, 0 where it gives logits. Cross-entropies of
        classes take one column for one class.

    Attributes
    ----------
    matrix : int64 ndarray, shape (K, K), or None
        Of the pass that ended last: an epoch's training, its validation, or ``evaluate``.
    classes : int
        K, once it is compiled.
    """

    def __init__(self, function: Callable[[np.ndarray], float | Mapping[str, float]], name: str | None = None,
                 threshold: float | None = None):
        self.function = function
        self.name = str(name or getattr(function, "__name__", type(function).__name__))
        self.threshold = None if threshold is None else as_number(type(self).__name__, "threshold", threshold)
        self.matrix: np.ndarray | None = None
        self.classes = 0
        self._used_threshold = self.threshold

    def for_output(self, loss: Loss, prediction: Value) -> ConfusionMetric:
        """Itself, with the threshold for this output and loss; called once, by ``compile``.

        Raises
        ------
        ValueError
            If the model has one column and the loss does not say what lies above and below.
        """
        self.classes, self._used_threshold = int(prediction.shape[-1] or 0), None
        if self.classes == 1 and not loss.columns_are_classes:
            self.classes, self._used_threshold = 2, self.threshold
            if self.threshold is None:
                self._used_threshold = _threshold(self.name, loss, prediction)
        return self

    @property
    def counted(self) -> str:
        """A name for what `count` gives: the same for metrics that share it."""
        return "confusion" if self._used_threshold is None else f"confusion above {self._used_threshold!r}"

    def count(self, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """The confusion matrix of a batch, int64.

        Raises
        ------
        ValueError
            If targets are rows that do not sum to 1: the examples then have no or several classes.
        """
        if self._used_threshold is not None:
            wanted = np.asarray(targets).reshape(predictions.shape) > 0.5
            return confusion_matrix(wanted.astype(np.int64), (predictions > self._used_threshold).astype(np.int64), 2)
        if targets.shape == predictions.shape and (np.abs(targets.sum(axis=-1) - 1) > 1e-2).any():
            raise ValueError(message(self.name, "targets", "have one class each: rows that sum to 1", targets))
        return confusion_matrix(targets, predictions)

    def values(self, matrix: np.ndarray) -> dict[str, float]:
        """The numbers for a matrix, by their names in a history."""
        found = self.function(matrix)
        if isinstance(found, Mapping):
            return {str(name): float(value) for name, value in found.items()}
        return {self.name: float(found)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class _ClassScore(ConfusionMetric):
    """Base of those that have a value for each class."""

    score: Callable[[np.ndarray], np.ndarray]
    default_name: str

    def __init__(self, average: str | None = None, name: str | None = None, threshold: float | None = None):
        if average is not None and average not in AVERAGES:
            raise ValueError(f"{type(self).__name__}: " + unknown("average", average, AVERAGES))
        self.average = average
        super().__init__(self._values, name or self.default_name, threshold)

    def _values(self, matrix: np.ndarray) -> float | dict[str, float]:
        score = type(self).score
        if self.average == "per_class":
            return {f"{self.name}_{i}": float(value) for i, value in enumerate(score(matrix))}
        if self.average is None and self._used_threshold is not None:
            return float(score(matrix)[1])
        return averaged(score, matrix, self.average or "macro")


class Precision(_ClassScore):
    """Of what was taken for a class, the share that is of it.

    Parameters
    ----------
    average : "macro", "micro", "weighted", "per_class", optional
        The mean over the classes that occur, each counting as one, or as its examples; all examples together; or a value for
        each class, ``<name>_0``, ``<name>_1``, ... By default that of class 1 for a model of one column, else "macro".
    name : str, optional
    threshold : float, optional
        As of `ConfusionMetric`.
    """

    score, default_name = staticmethod(precision), "precision"


class Recall(_ClassScore):
    """Of what is of a class, the share that was taken for it; parameters as of `Precision`."""

    score, default_name = staticmethod(recall), "recall"


class F1Score(_ClassScore):
    """Harmonic mean of precision and recall; parameters as of `Precision`."""

    score, default_name = staticmethod(f1_score), "f1"


class MeanIoU(ConfusionMetric):
    """Mean over the classes that occur of intersection over union, of a model that gives each pixel a class.

    Parameters
    ----------
    name : str
    threshold : float, optional
        As of `ConfusionMetric`.
    """

    def __init__(self, name: str = "mean_iou", threshold: float | None = None):
        super().__init__(mean_iou, name, threshold)


class ConfusionMatrix(ConfusionMetric):
    """No number, but the matrix itself: after a pass it is in the attribute ``matrix``.

    Parameters
    ----------
    name : str
    threshold : float, optional
        As of `ConfusionMetric`.

    Examples
    --------
    >>> errors = ConfusionMatrix()
    >>> net.compile(metrics=["accuracy", errors])  # doctest: +SKIP
    >>> net.evaluate(x, y)  # doctest: +SKIP
    >>> cx.plot.confusion(errors.matrix)  # doctest: +SKIP
    """

    def __init__(self, name: str = "confusion_matrix", threshold: float | None = None):
        super().__init__(lambda matrix: {}, name, threshold)


def _threshold(name: str, loss: Loss, prediction: Value) -> float:
    """Between the two classes of a model of one column."""
    threshold = loss.threshold(prediction)
    if threshold is None:
        rule = (f"have a threshold between two classes for a model of one column with {loss}: give it, as in "
                "cnnext.BinaryAccuracy(threshold=0.5), or take binary_crossentropy")
        raise ValueError(message("compile", "metrics", rule, name))
    return threshold


AnyMetric = Metric | ConfusionMetric

_SCORES = {"precision": Precision, "recall": Recall, "f1": F1Score}
_NAMED: dict[str, Callable[[], AnyMetric]] = {"binary_accuracy": BinaryAccuracy, "mean_iou": MeanIoU,
                                             "confusion_matrix": ConfusionMatrix}


def get_metric(metric: str | AnyMetric | MetricFunction) -> AnyMetric:
    """A metric by name, the metric itself, or one made of a function ``f(targets, predictions)``.

    Names are ``"accuracy"``, ``"error_rate"``, ``"top_3_accuracy"``, ``"top_5_error_rate"``, ``"binary_accuracy"``,
    ``"mean_iou"``, ``"confusion_matrix"``, ``"precision"``, ``"recall"``, ``"f1"``, these three also with ``_macro``,
    ``_micro``, ``_weighted`` or ``_per_class`` at the end.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is none of these.
    """
    if isinstance(metric, (Metric, ConfusionMetric)):
        return metric
    if isinstance(metric, str):
        return _by_name(metric)
    if callable(metric):
        return Metric(getattr(metric, "__name__", type(metric).__name__), metric)
    raise TypeError(f"compile: `metrics` must hold names, metric objects or functions. "
                    f"Received {type(metric).__name__}.")


def _by_name(name: str) -> AnyMetric:
    if name in _NAMED:
        return _NAMED[name]()
    if top := re.fullmatch(r"(?:top_([1-9]\d{0,5})_)?(accuracy|error_rate)", name):
        return (TopKAccuracy if top[2] == "accuracy" else TopKErrorRate)(int(top[1] or 1), name)
    if score := re.fullmatch(f"({'|'.join(_SCORES)})(?:_({'|'.join(AVERAGES)}))?", name):
        return _SCORES[score[1]](score[2], score[1] if score[2] == "per_class" else name)
    known = ("accuracy", "error_rate", "top_3_accuracy", "top_3_error_rate", *_SCORES, "f1_macro", "f1_per_class", *_NAMED)
    raise ValueError("compile: " + unknown("metric", name, known))


def get_metrics(metrics: Sequence[str | AnyMetric | MetricFunction] | str | None) -> list[AnyMetric]:
    """``get_metric`` for each of a list; None is none.

    Raises
    ------
    ValueError
        If two share a name.
    """
    if metrics is None:
        return []
    found = [get_metric(m) for m in ([metrics] if isinstance(metrics, (str, Metric, ConfusionMetric)) else metrics)]
    names = [m.name for m in found]
    for name in names:
        if names.count(name) > 1 or name == "loss":
            raise ValueError(f"compile: `metrics` must have names of their own. Received {names}.")
    return found


def measured(metrics: Sequence[AnyMetric], targets: np.ndarray,
             predictions: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Of a batch: the values of the metrics that are means, and what is to be added up for the others."""
    means: dict[str, float] = {}
    counts: dict[str, np.ndarray] = {}
    for metric in metrics:
        if isinstance(metric, Metric):
            means[metric.name] = metric(targets, predictions)
        elif metric.counted not in counts:
            counts[metric.counted] = metric.count(targets, predictions)
    return means, counts


def in_order(metrics: Sequence[AnyMetric], means: Mapping[str, float], counts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The values of all metrics, in their order, from their means and sums."""
    values: dict[str, float] = {}
    for metric in metrics:
        values |= {metric.name: means[metric.name]} if isinstance(metric, Metric) else metric.values(counts[metric.counted])
    return values
