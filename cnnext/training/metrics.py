"""Metrics: what is watched during training, computed in NumPy on the predictions of each step.

Precision, recall, F1 and mean IoU are no means over batches: they are functions of a confusion matrix, computed on the
predictions for a whole data set, ``confusion_matrix(y, net.predict(x))``, and so are no metrics to be watched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from cnnext.errors import message, unknown
from cnnext.layers.attributes import as_int, as_number

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
    targets : array of 0 (or -1) and 1, of the predictions' shape
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
    return float(((wanted > 0) == (predictions > threshold)).mean())


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, classes: int | None = None) -> np.ndarray:
    """How often each class was taken for each.

    Parameters
    ----------
    targets : (N, ...) integer labels, or one-hot rows of the predictions' shape
    predictions : (N, ..., K) scores, or (N, ...) integer labels
    classes : int, optional
        Where the predictions are labels; without it, one more than the greatest label.

    Returns
    -------
    ndarray of int64, shape (K, K)
        Rows: the class of the target; columns: that of the prediction.

    Raises
    ------
    ValueError
        If shapes do not match or a label lies outside the classes.
    """
    wanted, given = np.asarray(targets), np.asarray(predictions)
    if given.dtype.kind not in "iu":
        classes = given.shape[-1]
        if wanted.shape == given.shape:
            wanted = wanted.argmax(-1)
        given = given.argmax(-1)
    if wanted.dtype.kind not in "iu":
        raise TypeError(message("confusion_matrix", "targets", "be whole numbers, the labels of the classes", wanted))
    if wanted.shape != given.shape:
        raise ValueError(message("confusion_matrix", "targets", f"have shape {given.shape}", wanted))
    if classes is None:
        classes = int(max(wanted.max(initial=0), given.max(initial=0))) + 1
    for name, labels in (("targets", wanted), ("predictions", given)):
        bad = (labels < 0) | (labels >= classes)
        if bad.any():
            raise ValueError(message("confusion_matrix", name, f"be labels in [0, {classes})", int(labels[bad][0])))
    cells = wanted.astype(np.int64).reshape(-1) * classes + given.astype(np.int64).reshape(-1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def precision(matrix: np.ndarray) -> np.ndarray:
    """Of what was taken for a class, the share that is of it: (K,), 0 for a class that nothing was taken for.

    Parameters
    ----------
    matrix : (K, K)
        A confusion matrix; matrices of parts of the data may be added up.
    """
    return _share(np.diag(matrix), matrix.sum(axis=0))


def recall(matrix: np.ndarray) -> np.ndarray:
    """Of what is of a class, the share that was taken for it: (K,), 0 for a class without examples; see `precision`."""
    return _share(np.diag(matrix), matrix.sum(axis=1))


def f1_score(matrix: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall: (K,), 0 for a class that is never right; see `precision`."""
    return _share(2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def mean_iou(matrix: np.ndarray) -> float:
    """Mean over classes of intersection over union, right / (right + missed + mistaken); see `precision`.

    Classes that are neither wanted nor given are left out; of no class, NaN.
    """
    right, union = np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    seen = union > 0
    return float((right[seen] / union[seen]).mean()) if seen.any() else float("nan")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


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


class BinaryAccuracy(Metric):
    """Share of the elements on their target's side of a threshold.

    Parameters
    ----------
    threshold : float
        1/2 for probabilities, 0 for logits.
    name : str
    """

    def __init__(self, threshold: float = 0.5, name: str = "binary_accuracy"):
        self.threshold = as_number("BinaryAccuracy", "threshold", threshold)
        super().__init__(name, self.binary_accuracy)

    def binary_accuracy(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """Accuracy of a batch."""
        return binary_accuracy(targets, predictions, self.threshold)


class TopKErrorRate(TopKAccuracy):
    """Share of the labels not among the k highest scores; named ``"error_rate"`` or ``"top_<k>_error_rate"``."""

    def __init__(self, k: int = 1, name: str | None = None):
        super().__init__(k, name or ("error_rate" if k == 1 else f"top_{k}_error_rate"))

    def __call__(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        return 1.0 - super().__call__(targets, predictions)


def get_metric(metric: str | Metric | MetricFunction) -> Metric:
    """A metric by name (``"accuracy"``, ``"error_rate"``, ``"top_3_accuracy"``, ``"top_5_error_rate"``,
    ``"binary_accuracy"``), the metric itself, or one made of a function ``f(targets, predictions)``.

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
        if metric == "binary_accuracy":
            return BinaryAccuracy()
        name = re.fullmatch(r"(?:top_([1-9]\d{0,5})_)?(accuracy|error_rate)", metric)
        if name is None:
            raise ValueError("compile: " + unknown("metric", metric, ("accuracy", "error_rate", "top_3_accuracy",
                                                                      "top_3_error_rate", "binary_accuracy")))
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
