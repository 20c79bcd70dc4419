"""Metrics on small cases worked out by hand, and names."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext.training.confusion import confusion_matrix
from cnnext.training.metrics import (
    BinaryAccuracy,
    ConfusionMatrix,
    ConfusionMetric,
    F1Score,
    MeanIoU,
    Metric,
    Precision,
    Recall,
    TopKAccuracy,
    binary_accuracy,
    get_metric,
    get_metrics,
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
    assert binary_accuracy(np.array([[0.4], [0.6]]), np.array([[0.1], [0.9]])) == 1


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
    (lambda: get_metric("f1_mean"), ValueError, "unknown metric 'f1_mean'"),
    (lambda: Precision("mean"), ValueError, "Precision: unknown average 'mean'. Known: macro, micro, per_class, weighted"),
    (lambda: MeanIoU(threshold="half"), ValueError, "MeanIoU: `threshold` must be a number"),
    (lambda: F1Score().count(np.ones((2, 3)), SCORES[:2]), ValueError, "f1: `targets` must have one class each: rows that"),
    (lambda: TopKAccuracy(0), ValueError, "TopKAccuracy: `k` must be at least 1"),
    (lambda: BinaryAccuracy("half"), ValueError, "BinaryAccuracy: `threshold` must be a number"),
    (lambda: binary_accuracy(LABELS, SCORES), ValueError, "binary_accuracy: `targets` must have shape (4, 3)"),
    (lambda: top_k_accuracy(LABELS[:2], SCORES), ValueError, "`targets` must have shape"),
])
def test_what_is_refused(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)


def numbers(names, targets, predictions):
    """By name, of metrics that are functions of a confusion matrix."""
    found = {}
    for metric in get_metrics(names):
        found |= metric.values(metric.count(targets, predictions))
    return found


def test_scores_of_classes():
    matrix = confusion_matrix(LABELS, SCORES)       # [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert matrix.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    found = numbers(["precision", "recall_weighted", "f1_micro", "recall_per_class", "mean_iou", "confusion_matrix"],
                    LABELS, SCORES)
    assert found == {"precision": pytest.approx((1 / 2 + 0 + 1) / 3), "recall_weighted": pytest.approx((2 / 2 + 0 + 1) / 4),
                     "f1_micro": 0.5, "recall_0": 0.5, "recall_1": 0, "recall_2": 1,
                     "mean_iou": pytest.approx((1 / 3 + 0 + 1) / 3)}
    assert numbers(["precision"], np.eye(3)[LABELS], SCORES) == {"precision": pytest.approx(0.5)}
    assert numbers(["f1"], LABELS.reshape(2, 2), SCORES.reshape(2, 2, 3)) == numbers(["f1"], LABELS, SCORES)


def test_own_functions_of_the_matrix():
    metric = ConfusionMetric(lambda matrix: {"right": np.trace(matrix), "all": matrix.sum()}, "counts")
    assert numbers([metric], LABELS, SCORES) == {"right": 2, "all": 4}
    assert numbers([ConfusionMetric(cx.mean_iou)], LABELS, SCORES) == numbers(["mean_iou"], LABELS, SCORES)
    assert repr(metric) == "ConfusionMetric('counts')"


def one_column(*layers, loss="binary_crossentropy", metrics=("accuracy",), output=1):
    net = cx.Sequential([*layers, cx.Dense(output, use_bias=False), *([cx.Sigmoid()] if loss == "sigmoid" else [])],
                        input_shape=(1,))
    net.compile("sgd", "binary_crossentropy" if loss == "sigmoid" else loss, metrics=metrics)
    net.set_weights([np.ones((1, output))])
    return net


X = np.array([[-3], [-1], [0.2], [0.3], [2], [4]], np.float32)
Y = np.array([0, 1, 0, 1, 1, 1])


@pytest.mark.parametrize(("loss", "targets", "above"), [
    ("binary_crossentropy", Y, 0),                          # logits
    ("sigmoid", Y, 0),                                      # where the sigmoid is 1/2
    (cx.BinaryCrossentropy(from_logits=False), Y, 0.5),     # the columns are said to be probabilities
    ("hinge", 2 * Y - 1, 0),
    ("dice", Y, 0.5),
])
def test_accuracy_of_one_column_is_binary(loss, targets, above):
    names = ["accuracy", "error_rate", "binary_accuracy", "precision", "recall", "f1", "mean_iou"]
    net = one_column(loss=loss, metrics=names)
    found = net.evaluate(X, targets)
    given = X[:, 0] > above
    assert found["accuracy"] == pytest.approx((given == Y).mean()) and found["accuracy"] != 1
    assert found["error_rate"] == pytest.approx(1 - found["accuracy"])
    assert found["binary_accuracy"] == found["accuracy"]
    assert found["precision"] == pytest.approx((given & (Y == 1)).sum() / given.sum())
    assert found["recall"] == pytest.approx((given & (Y == 1)).sum() / Y.sum())
    assert found["f1"] == pytest.approx(2 / (1 / found["precision"] + 1 / found["recall"]))
    matrix = cx.confusion_matrix(Y, given.astype(int), 2)
    assert found["mean_iou"] == pytest.approx(cx.mean_iou(matrix))
    np.testing.assert_array_equal(net.metrics[-1].matrix, matrix)


def test_a_threshold_that_is_given():
    net = one_column(metrics=[BinaryAccuracy(3.0), Precision(threshold=3.0), Recall(threshold=-2.0, average="macro"),
                              ConfusionMatrix()])
    found = net.evaluate(X, Y)
    assert found["binary_accuracy"] == 0.5 and found["precision"] == 1
    assert found["recall"] == pytest.approx((0.5 + 1) / 2)
    assert set(found) == {"loss", "binary_accuracy", "precision", "recall"}
    np.testing.assert_array_equal(net.metrics[3].matrix, [[1, 1], [1, 3]])


@pytest.mark.parametrize("metric", ["accuracy", "error_rate", "precision", "mean_iou"])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_no_classes_in_one_column(metric, loss):
    with pytest.raises(ValueError, match=f"compile: `metrics` must have a threshold between .*Received metrics='{metric}'"):
        one_column(loss=loss, metrics=[metric])


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_one_column_is_one_class_for_cross_entropies_of_classes(loss):
    net = one_column(loss=loss, metrics=["accuracy", "f1", "precision_per_class", "mean_iou", "top_3_error_rate"])
    y = np.zeros(6, int) if loss.startswith("sparse") else np.ones((6, 1))
    found = net.evaluate(X, y)
    assert found["accuracy"] == found["f1"] == found["precision_0"] == found["mean_iou"] == 1
    assert found["top_3_error_rate"] == 0
    np.testing.assert_array_equal(net.metrics[1].matrix, [[6]])
    if loss.startswith("sparse"):
        with pytest.raises(ValueError, match=r"`y\[1\]` must be a label in \[0, 1\)"):
            net.evaluate(X, Y)


def test_no_top_k_of_one_column():
    with pytest.raises(ValueError, match="`metrics` must hold no top-k metric for a model of one column"):
        one_column(metrics=["top_3_accuracy"])


def test_scores_of_an_epoch_are_of_all_its_data_and_no_means_of_batches():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(90, 3)).astype(np.float32), rng.integers(0, 5, 90)
    seen = []

    class Batches(cx.Callback):
        def on_batch_end(self, batch, logs):
            seen.append(logs["f1"])

    class Predictions(Metric):
        def __init__(self):
            super().__init__("seen", self.keep)
            self.pairs = []

        def keep(self, targets, predictions):
            self.pairs.append((targets.copy(), predictions.copy()))
            return 0.0

    kept = Predictions()
    net = cx.Sequential([cx.Dense(5)], input_shape=(3,))
    net.compile(cx.SGD(0.1), metrics=["f1", kept, "precision_weighted", "recall_per_class", "mean_iou"])
    history = net.fit(x, y, batch_size=13, epochs=1, verbose=0, callbacks=[Batches()]).history
    matrix = cx.confusion_matrix(np.concatenate([t for t, _ in kept.pairs]), np.concatenate([p for _, p in kept.pairs]))
    present = (matrix.sum(0) + matrix.sum(1)) > 0
    assert history["f1"] == [pytest.approx(cx.f1_score(matrix)[present].mean(), rel=1e-12)]
    assert history["precision_weighted"] == [pytest.approx((cx.precision(matrix) * matrix.sum(1)).sum() / 90)]
    assert [history[f"recall_{i}"] for i in range(5)] == [[pytest.approx(r)] for r in cx.recall(matrix)]
    assert history["mean_iou"] == [pytest.approx(cx.mean_iou(matrix))]
    assert list(history) == ["loss", "f1", "seen", "precision_weighted", *(f"recall_{i}" for i in range(5)), "mean_iou"]
    weights = np.array([13] * 6 + [12])
    assert history["f1"][0] != pytest.approx((np.array(seen) * weights).sum() / 90, abs=1e-3)
    evaluated = net.evaluate(x, y, batch_size=7)
    matrix = cx.confusion_matrix(y, net.predict(x))
    np.testing.assert_array_equal(net.metrics[0].matrix, matrix)
    assert evaluated == net.evaluate(x, y, batch_size=90) | {"loss": evaluated["loss"], "seen": 0.0}


def test_masks_of_pixels():
    net = cx.Sequential([cx.Conv2D(3, 1), cx.Softmax()], input_shape=(4, 5, 2))
    net.compile("sgd", metrics=["mean_iou"])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4, 5, 2)).astype(np.float32), rng.integers(0, 3, (6, 4, 5))
    assert net.evaluate(x, y, batch_size=4)["mean_iou"] == pytest.approx(cx.mean_iou(cx.confusion_matrix(y, net.predict(x))))
