"""The confusion matrix, and what is a function of it: precision, recall, F1, mean IoU.

Matrices of parts of the data add up to that of the whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnnext.errors import message

AVERAGES = ("macro", "micro", "weighted", "per_class")


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


def averaged(score: Callable[[np.ndarray], np.ndarray], matrix: np.ndarray, average: str) -> float:
    """One number for `precision`, `recall` or `f1_score` of all classes.

    Parameters
    ----------
    score : precision, recall or f1_score
    matrix : (K, K)
    average : "macro", "weighted" or "micro"
        The mean over the classes that are wanted or given, each counting as one or as its examples; or the score of all
        examples taken together, which is the accuracy where each has one class.
    """
    if average == "micro":
        return float(np.trace(matrix) / max(matrix.sum(), 1))
    wanted, given = matrix.sum(axis=1), matrix.sum(axis=0)
    weights = wanted if average == "weighted" else (wanted + given > 0).astype(np.int64)
    return float((score(matrix) * weights).sum() / max(weights.sum(), 1))


def mean_iou(matrix: np.ndarray) -> float:
    """Mean over classes of intersection over union, right / (right + missed + mistaken); see `precision`.

    Classes that are neither wanted nor given are left out; of no class, NaN.
    """
    right, union = np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    seen = union > 0
    return float((right[seen] / union[seen]).mean()) if seen.any() else float("nan")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
