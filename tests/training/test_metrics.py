"""Metrics on small cases worked out by hand, and names."""

from __future__ import annotations

import numpy as np
import pytest

from cnnext.training.metrics import (
    BinaryAccuracy,
    Metric,
    TopKAccuracy,
    binary_accuracy,
    confusion_matrix,
    f1_score,
    get_metric,
    get_metrics,
    mean_iou,
    precision,
    recall,
    top_k_accuracy,
    top_k_error_rate,
)

SCORES = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], np.float32)
LABELS = np.array([2, 1, 0, 0])  # ranks 1, 2, 3, 1


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (2, 0.75), (3, 1.0), (9, 1.0)])
def test_top_k(k, share):
    assert top_k_accuracy(LABELS, SCORES, k) == share
    assert top_k_error_rate(LABELS, SCORES, k) == 1 - share
    assert TopKAccuracy(k)(np.eye(3)[LABELS], SCORES) == share
    images = SCORES.reshape(2, 2, 3)
    assert top_k_accuracy(LABELS.reshape(2, 2), images, k) == share


def test_agrees_with_sorting():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (500, 7)).astype(np.float32)  # many ties
    labels = rng.integers(0, 7, 500)
    best = np.argsort(-scores, axis=1, kind="stable")
    for k in range(1, 8):
        assert top_k_accuracy(labels, scores, k) == (best[:, :k] == labels[:, np.newaxis]).any(1).mean()


def test_a_constant_or_broken_net_is_not_accurate():
    labels = np.arange(10)
    assert top_k_accuracy(labels, np.zeros((10, 10), np.float32)) == 0.1
    assert top_k_accuracy(labels, np.zeros((10, 10), np.float32), 3) == pytest.approx(0.3)
    assert top_k_accuracy(labels, np.full((10, 10), np.nan, np.float32), 3) == 0


def test_binary_accuracy():
    targets, scores = np.array([[0.0], [1], [1], [0]]), np.array([[0.2], [0.6], [0.4], [0.5]], np.float32)
    assert binary_accuracy(targets, scores) == 0.75
    assert binary_accuracy(2 * targets - 1, scores - 0.5, threshold=0) == 0.75
    assert BinaryAccuracy(0.1)(targets, scores) == 0.5
    assert get_metric("binary_accuracy")(targets, scores) == 0.75
    assert binary_accuracy(targets, np.full((4, 1), np.nan)) == 0.5     # NaN is not above a threshold


MATRIX = np.array([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 2, 0, 0]])


def test_confusion_matrix():
    assert confusion_matrix(LABELS, SCORES).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert confusion_matrix(np.eye(3)[LABELS].reshape(2, 2, 3), SCORES.reshape(2, 2, 3)).tolist() == [
        [1, 1, 0], [1, 0, 0], [0, 0, 1]]
    wanted, given = np.repeat(np.indices((4, 4)).reshape(2, -1), MATRIX.reshape(-1), axis=1).astype(np.uint8)
    assert np.array_equal(confusion_matrix(wanted, given, 4), MATRIX)
    assert confusion_matrix(wanted, given).shape == (4, 4)      # the greatest label is 3


def test_scores_of_a_confusion_matrix():
    np.testing.assert_allclose(precision(MATRIX), [3 / 5, 4 / 7, 0, 0])
    np.testing.assert_allclose(recall(MATRIX), [3 / 4, 4 / 6, 0, 0])
    harmonic = [2 / (5 / 3 + 4 / 3), 2 / (7 / 4 + 6 / 4), 0, 0]
    np.testing.assert_allclose(f1_score(MATRIX), harmonic)
    assert mean_iou(MATRIX) == pytest.approx((3 / 6 + 4 / 9 + 0) / 3)      # class 2 is not there
    assert np.isnan(mean_iou(np.zeros((3, 3), np.int64)))


def test_names():
    found = get_metrics(["accuracy", "error_rate", "top_3_accuracy", "top_2_error_rate", TopKAccuracy(5)])
    names = ["accuracy", "error_rate", "top_3_accuracy", "top_2_error_rate", "top_5_accuracy"]
    assert [m.name for m in found] == names
    assert [m(LABELS, SCORES) for m in found] == [0.5, 0.5, 1.0, 0.25, 1.0]
    assert get_metrics(None) == []
    assert [m.name for m in get_metrics("accuracy")] == ["accuracy"]


def test_functions_are_metrics():
    def bias(targets, predictions):
        return (predictions - targets).mean()

    metric = get_metric(bias)
    assert isinstance(metric, Metric)
    assert metric.name == "bias"
    assert metric(np.array([1.0, 2.0]), np.array([2.0, 5.0])) == 2.0


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda: get_metric("acuracy"), ValueError, "unknown metric 'acuracy'. Did you mean 'accuracy'"),
    (lambda: get_metric("top_0_accuracy"), ValueError, "unknown metric"),
    (lambda: get_metric(3), TypeError, "`metrics` must hold names, metric objects or functions. Received int"),
    (lambda: get_metrics(["accuracy", "accuracy"]), ValueError, "names of their own"),
    (lambda: get_metrics([Metric("loss", top_k_accuracy)]), ValueError, "names of their own"),
    (lambda: TopKAccuracy(0), ValueError, "TopKAccuracy: `k` must be at least 1"),
    (lambda: BinaryAccuracy("half"), ValueError, "BinaryAccuracy: `threshold` must be a number"),
    (lambda: binary_accuracy(LABELS, SCORES), ValueError, "binary_accuracy: `targets` must have shape (4, 3)"),
    (lambda: confusion_matrix(LABELS + 1, SCORES), ValueError, "`targets` must be labels in [0, 3). Received targets=3."),
    (lambda: confusion_matrix(LABELS, LABELS + 1, 3), ValueError, "`predictions` must be labels in [0, 3)"),
    (lambda: confusion_matrix(LABELS[:2], SCORES), ValueError, "`targets` must have shape (4,)"),
    (lambda: confusion_matrix(LABELS / 2, SCORES), TypeError, "`targets` must be whole numbers"),
    (lambda: top_k_accuracy(LABELS[:2], SCORES), ValueError, "`targets` must have shape"),
])
def test_what_is_refused(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)
