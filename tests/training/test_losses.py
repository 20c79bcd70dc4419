"""Loss kernels against their twins, forward and backward, between guard zones; targets that must be refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext._native import executor
from cnnext.errors import KernelError
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Graph, Value
from cnnext.graph.memory import View
from cnnext.graph.passes import optimize
from cnnext.layers.activation import Sigmoid
from cnnext.layers.elementwise import scaled
from cnnext.layers.layer import Layer
from cnnext.layers.softmax import Softmax
from cnnext.testing import guarded_copy, run_graph
from cnnext.training.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Dice,
    Hinge,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
    get_loss,
)

LEVELS = executor.levels()
THREADS = st.integers(2, 4)
POSITIONS = st.sampled_from([(1,), (7,), (64,), (300,), (2, 13), (3, 7, 5), (1, 17, 1)])
CLASSES = st.sampled_from([1, 2, 7, 10, 13, 17, 127, 256, 1000])
SIMPLE = settings(deadline=None, max_examples=150)


class FirstChannels(Layer):
    """The first channels of a wider value, in place: rows with a gap between them."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def output_shape(self, *shapes):
        return (*shapes[0][:-1], self.channels)

    def view(self, node, src: View) -> View:
        return src.sliced(len(src.shape) - 1, 0, self.channels)

    def lower(self, b, node):
        pass

    def gradient(self, g, node, *diff_dst):
        raise AssertionError("nobody asks for it")


def run_loss(loss, prediction, target, level, n_threads=1, gap=0, factor=1.0):
    """Loss and the gradient of factor * loss with respect to the prediction."""
    g = Graph([], [])
    wide = np.concatenate([prediction, np.full((*prediction.shape[:-1], gap), np.nan)], axis=-1)
    source, t = Value(wide.shape, name="prediction"), Value(target.shape, loss.target_dtype, "target")
    g.inputs = [source, t]
    p = source if gap == 0 else g.apply1(FirstChannels(prediction.shape[-1]), scaled(g, source, 1.0))
    value = loss.append(g, p, t)
    diffs = add_gradients(g, [scaled(g, value, factor)], [p])
    g.outputs = [value, diffs[p]]
    g.order()
    results = run_graph(optimize(g), [guarded_copy(wide), guarded_copy(target)], level=level, n_threads=n_threads)
    return results[0][0], results[1]


def check_close(actual, expected, absolute=0.0):
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max() + absolute


@SIMPLE
@given(POSITIONS, CLASSES, st.booleans(), st.sampled_from([0, 3]), THREADS, st.integers(0, 2**31))
def test_cross_entropy(positions, classes, from_logits, gap, n_threads, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 4, (*positions, classes)).astype(np.float32)
    labels = rng.integers(0, classes, positions)
    if not from_logits:
        scores = reference.softmax(scores.astype(np.float64)).astype(np.float32)
        scores.reshape(-1)[::11] = 0  # among them labels whose probability is clipped
    exact = scores.astype(np.float64)
    loss = reference.sparse_categorical_crossentropy(exact, labels, from_logits)
    diff = 0.5 * reference.sparse_categorical_crossentropy_backward(exact, labels, from_logits)
    for level in LEVELS:
        result = run_loss(SparseCategoricalCrossentropy(from_logits), scores, labels, level, 1, gap, 0.5)
        # the logarithm of a sum of exponentials is exact to an ulp of the scores, not of a result near 0
        assert abs(result[0] - loss) <= 1e-5 * abs(loss) + 1e-6 * np.abs(scores).max()
        if classes > 1:
            # softmax - 1, whatever is left of it, has the rounding of exp, sum and quotient near 1: 2.5 ulp of 1.2e-7
            check_close(result[1], diff, 3e-7 * 0.5 / labels.size)
        again = run_loss(SparseCategoricalCrossentropy(from_logits), scores, labels, level, n_threads, gap, 0.5)
        assert np.array_equal(result[0], again[0])
        assert np.array_equal(result[1], again[1])


@SIMPLE
@given(st.sampled_from([(1, 1), (7, 1), (64, 10), (13, 17, 127), (1, 40_000), (3, 7, 7, 13), (2, 3, 5, 256)]),
       st.sampled_from([0, 1, 5]), THREADS, st.integers(0, 2**31))
def test_mean_squared_error(shape, gap, n_threads, seed):
    rng = np.random.default_rng(seed)
    pred, target = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    loss = reference.mean_squared_error(pred.astype(np.float64), target.astype(np.float64))
    diff = -3 * reference.mean_squared_error_backward(pred.astype(np.float64), target.astype(np.float64))
    for level in LEVELS:
        result = run_loss(MeanSquaredError(), pred, target, level, 1, gap, -3.0)
        check_close(result[0], loss)
        check_close(result[1], diff)
        again = run_loss(MeanSquaredError(), pred, target, level, n_threads, gap, -3.0)
        assert np.array_equal(result[0], again[0])
        assert np.array_equal(result[1], again[1])


def check_loss(loss, pred, target, expected, diff, n_threads, gap=0, absolute=0.0):
    """Value and gradient at every level, and the same bits on several threads."""
    for level in LEVELS:
        result = run_loss(loss, pred, target, level, 1, gap, -3.0)
        check_close(result[0], expected, absolute)
        check_close(result[1], -3 * diff, 3 * absolute / pred.size)
        again = run_loss(loss, pred, target, level, n_threads, gap, -3.0)
        assert np.array_equal(result[0], again[0])
        assert np.array_equal(result[1], again[1])


@SIMPLE
@given(POSITIONS, st.sampled_from([2, 7, 13, 127, 1000]), st.booleans(), st.sampled_from([0.0, 0.1, 1.0]), st.booleans(),
       st.booleans(), st.sampled_from([0, 3]), THREADS, st.integers(0, 2**31))
def test_smoothing_and_class_weights(positions, classes, from_logits, smoothing, weighted, sparse, gap, n_threads, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 4, (*positions, classes)).astype(np.float32)
    weights = rng.uniform(0.5, 3, classes).astype(np.float32) if weighted else None
    labels = rng.integers(0, classes, positions)
    if not from_logits:
        scores = reference.softmax(scores.astype(np.float64)).astype(np.float32)
        scores.reshape(-1)[::11] = 0
    rows, target = reference.one_hot(labels, classes), labels
    if not sparse:
        rows = target = rng.dirichlet(np.ones(classes), positions).astype(np.float32)
    kind = SparseCategoricalCrossentropy if sparse else CategoricalCrossentropy
    options = {"from_logits": from_logits, "label_smoothing": smoothing, "class_weight": weights}
    exact = scores.astype(np.float64), rows.astype(np.float64)
    check_loss(kind(**options), scores, target, reference.categorical_crossentropy(*exact, **options),
               reference.categorical_crossentropy_backward(*exact, **options), n_threads, gap,
               4e-6 * (1 if weights is None else 3) * max(1, np.abs(scores).max()))


def test_one_hot_rows_and_labels_give_one_loss():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    rows = np.eye(7, dtype=np.float32)[labels]
    for options in ({}, {"label_smoothing": 0.2}, {"class_weight": {0: 3.0, 5: 0.0}}):
        one = run_loss(CategoricalCrossentropy(**options), scores, rows, LEVELS[-1])
        other = run_loss(SparseCategoricalCrossentropy(**options), scores, labels, LEVELS[-1])
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


@SIMPLE
@given(st.sampled_from([(1, 1), (64, 10), (3, 7, 7, 13)]), st.booleans(), st.sampled_from([0.0, 0.1]), THREADS,
       st.integers(0, 2**31))
def test_binary_crossentropy(shape, from_logits, smoothing, n_threads, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 6, shape).astype(np.float32)
    target = rng.integers(0, 2, shape).astype(np.float32)
    target.reshape(-1)[::5] = 0.25
    if not from_logits:
        scores = rng.uniform(0.01, 0.99, shape).astype(np.float32)
        scores.reshape(-1)[1::11], scores.reshape(-1)[2::11] = 0, 1
    options = {"from_logits": from_logits, "label_smoothing": smoothing}
    exact = scores.astype(np.float64), target.astype(np.float64)
    check_loss(BinaryCrossentropy(**options), scores, target, reference.binary_crossentropy(*exact, **options),
               reference.binary_crossentropy_backward(*exact, **options), n_threads, absolute=2e-6)


def test_binary_crossentropy_of_certain_logits():
    scores = np.array([[200.0, -200.0, 20.0, -20.0]], np.float32)
    loss, diff = run_loss(BinaryCrossentropy(True), scores, np.array([[0, 1, 1, 0]], np.float32), LEVELS[-1])
    assert loss == pytest.approx(100)
    # the gradient of a certain, right answer is small, not 0
    np.testing.assert_allclose(diff, [[0.25, -0.25, -np.exp(-20) / 4, np.exp(-20) / 4]], rtol=1e-5)


@SIMPLE
@given(st.sampled_from(["mae", "huber", "hinge"]), st.sampled_from([(1, 1), (7, 1), (64, 10), (1, 40_000), (3, 7, 7, 13)]),
       st.sampled_from([0, 1, 5]), THREADS, st.integers(0, 2**31))
def test_losses_of_elements(name, shape, gap, n_threads, seed):
    rng = np.random.default_rng(seed)
    # eighths: errors at, and exactly between, the branches
    pred, target = ((rng.integers(-24, 25, shape) / 8).astype(np.float32) for _ in range(2))
    loss, twin, twin_backward, options = {
        "mae": (MeanAbsoluteError(), reference.mean_absolute_error, reference.mean_absolute_error_backward, ()),
        "huber": (Huber(0.75), reference.huber, reference.huber_backward, (0.75,)),
        "hinge": (Hinge(), reference.hinge, reference.hinge_backward, ()),
    }[name]
    if name == "hinge":
        target = np.where(target > 0, np.float32(1), np.float32(-1))
    exact = pred.astype(np.float64), target.astype(np.float64)
    check_loss(loss, pred, target, twin(*exact, *options), twin_backward(*exact, *options), n_threads, gap)


@SIMPLE
@given(st.sampled_from([(1, 8, 8, 1), (3, 7, 7, 13), (2, 40, 30, 4)]), st.sampled_from([None, (1, 2), (0, 1, 2)]), THREADS,
       st.integers(0, 2**31))
def test_dice(shape, axes, n_threads, seed):
    rng = np.random.default_rng(seed)
    pred = rng.uniform(0, 1, shape).astype(np.float32)
    target = (rng.uniform(0, 1, shape) < 0.3).astype(np.float32)
    exact = pred.astype(np.float64), target.astype(np.float64)
    check_loss(Dice(axes, smooth=0.5), pred, target, reference.dice(*exact, axes, 0.5),
               reference.dice_backward(*exact, axes, 0.5), n_threads, absolute=1e-6)


def test_dice_of_empty_and_of_equal_masks():
    empty, full = np.zeros((2, 4, 4, 1), np.float32), np.ones((2, 4, 4, 1), np.float32)
    assert run_loss(Dice((1, 2)), empty, empty, LEVELS[-1])[0] == 0
    assert run_loss(Dice(), full, full, LEVELS[-1])[0] == 0
    assert run_loss(Dice(), full, empty, LEVELS[-1])[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("loss", [BinaryCrossentropy(), CategoricalCrossentropy(label_smoothing=0.1)])
def test_a_last_sigmoid_or_softmax_is_left_out(loss):
    """Probabilities that round to 0 or 1 have a loss and a gradient, for the loss works on what came before."""
    scores = np.array([[-120.0, 120.0]], np.float32)
    layer = Sigmoid() if isinstance(loss, BinaryCrossentropy) else Softmax()
    x, target = Value((1, 2), name="x"), Value((1, 2), name="target")
    g = Graph([x, target], [])
    value = loss.append(g, g.apply1(layer, x), target)
    g.outputs = [value, add_gradients(g, [value], [x])[x]]
    g.order()
    result, diff = run_graph(optimize(g), [scores, np.array([[1.0, 0.0]], np.float32)], level=LEVELS[-1])
    assert result[0] > 100
    assert np.abs(diff).min() > 0.4


def test_large_logits_neither_overflow_nor_lose_the_gradient():
    scores = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], np.float32)
    loss, diff = run_loss(SparseCategoricalCrossentropy(True), scores, np.array([1, 2]), LEVELS[-1])
    assert loss == pytest.approx((2e4 + np.log(2)) / 2)
    np.testing.assert_allclose(diff, [[0.5, -0.5, 0], [0, 0.25, -0.25]], atol=1e-7)


@pytest.mark.parametrize("from_logits", [True, False])
def test_nan_scores_give_a_nan_loss(from_logits):
    scores = np.array([[0.5, 0.5], [np.nan, np.nan]], np.float32)
    loss, _ = run_loss(SparseCategoricalCrossentropy(from_logits), scores, np.array([1, 0]), LEVELS[-1])
    assert np.isnan(loss)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_kernel_reports_labels_outside_the_classes(label, from_logits):
    scores = np.full((5, 3), 1 / 3, np.float32)
    with pytest.raises(KernelError, match=r"cross_entropy.*label lies outside"):
        run_loss(SparseCategoricalCrossentropy(from_logits), scores, np.array([0, 1, label, 2, 0]), LEVELS[-1])


@pytest.mark.parametrize(("y", "prediction", "error", "text"), [
    (np.array([0, 1, 10]), (None, 10), ValueError, r"`y\[2\]` must be a label in \[0, 10\). Received y\[2\]=10"),
    (np.array([[0, -1], [0, 0]]), (None, 2, 10), ValueError, r"`y\[0, 1\]` must be a label"),
    (np.array([0.0, 1.0]), (None, 10), TypeError, "whole numbers.*dtype=float64"),
    (np.array([True, False]), (None, 10), TypeError, "whole numbers.*dtype=bool"),
    (np.zeros((4, 10), np.int64), (None, 10), ValueError, r"shape \(N,\).*argmax"),
    (np.zeros((4, 3), np.int64), (None, 10), ValueError, r"shape \(N,\).*shape \(4, 3\)"),
    (np.zeros((4, 3, 3), np.int64), (None, 3, 4, 10), ValueError, r"shape \(N, 3, 4\)"),
])
def test_labels_that_are_refused(y, prediction, error, text):
    with pytest.raises(error, match=f"^fit: .*{text}"):
        SparseCategoricalCrossentropy().check_targets("fit", y, prediction)


def test_labels_may_have_a_last_axis_of_one_and_any_integer_type():
    y = np.array([[3], [9]], np.uint8)
    assert SparseCategoricalCrossentropy().check_targets("fit", y, (None, 10)).tolist() == [3, 9]


@pytest.mark.parametrize(("y", "prediction", "error", "text"), [
    (np.array([[0.0, np.nan]]), (None, 2), ValueError, r"`y\[0, 1\]` must be a finite number.*=nan"),
    (np.array([[np.inf, 1.0]]), (None, 2), ValueError, r"`y\[0, 0\]` must be a finite number"),
    (np.zeros((4, 3)), (None, 2), ValueError, r"shape \(N, 2\)"),
    (np.zeros(4), (None, 2), ValueError, r"shape \(N, 2\)"),
    (np.zeros((4, 1)), (None, 8, 8, 1), ValueError, r"shape \(N, 8, 8, 1\)"),
    (np.array(["a", "b"]), (None, 1), TypeError, "numbers"),
])
def test_values_that_are_refused(y, prediction, error, text):
    with pytest.raises(error, match=f"^fit: .*{text}"):
        MeanSquaredError().check_targets("fit", y, prediction)


@pytest.mark.parametrize(("loss", "y", "prediction", "text"), [
    (BinaryCrossentropy(), [[0, 2]], (None, 2), r"`y\[0, 1\]` must lie in \[0, 1\]. Received y\[0, 1\]=2"),
    (Dice(), [[0, -0.5]], (None, 2), r"`y\[0, 1\]` must lie in \[0, 1\]"),
    (Hinge(), [[-1, 1], [0, 1]], (None, 2), r"`y\[1, 0\]` must be -1 or 1"),
    (CategoricalCrossentropy(), [[0, 1], [1, 1]], (None, 2), r"`y\[1\]` must sum to 1 over the classes. .*=2"),
    (CategoricalCrossentropy(), [0, 1], (None, 2), r"shape \(N, 2\)"),
    (CategoricalCrossentropy(), [0, 1], (None, 2), "labels are for SparseCategoricalCrossentropy"),
    (CategoricalCrossentropy(class_weight=[1, 2, 3]), [[0, 1]], (None, 2), r"`class_weight` must hold .* the 2 classes"),
    (SparseCategoricalCrossentropy(class_weight={2: 3}), [0, 1], (None, 2), r"`class_weight` must name classes in \[0, 2\)"),
])
def test_targets_and_weights_that_are_refused(loss, y, prediction, text):
    with pytest.raises(ValueError, match=f"^fit: .*{text}"):
        loss.check_targets("fit", np.array(y), prediction)


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda: CategoricalCrossentropy(label_smoothing=1.5), ValueError, "`label_smoothing` must be at most 1"),
    (lambda: CategoricalCrossentropy(class_weight=[1, -1]), ValueError, r"`class_weight\[1\]` must be at least 0"),
    (lambda: CategoricalCrossentropy(class_weight={1: np.nan}), ValueError, r"`class_weight\[1\]` must be a finite"),
    (lambda: CategoricalCrossentropy(class_weight="balanced"), TypeError, "`class_weight` must be a list of weights"),
    (lambda: BinaryCrossentropy("no"), ValueError, "BinaryCrossentropy: `from_logits` must be True, False or None"),
    (lambda: Huber(0), ValueError, "Huber: `delta` must be greater than 0"),
    (lambda: Dice(smooth=0), ValueError, "Dice: `smooth` must be greater than 0"),
])
def test_arguments_that_are_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_labels_of_a_hinge_may_be_zeros_and_ones():
    assert Hinge().check_targets("fit", np.array([[0], [1]], np.uint8), (None, 1)).tolist() == [[-1], [1]]


def test_values_of_a_single_output_may_lack_its_axis():
    assert MeanSquaredError().check_targets("fit", np.zeros(4), (None, 1)).shape == (4, 1)


def test_losses_by_name():
    assert isinstance(get_loss("mse"), MeanSquaredError)
    assert isinstance(get_loss("mean_squared_error"), MeanSquaredError)
    assert get_loss("sparse_categorical_crossentropy").from_logits is None
    mine = MeanSquaredError()
    assert get_loss(mine) is mine
    with pytest.raises(ValueError, match=r"unknown loss 'mean_square_error'. Did you mean 'mean_squared_error'"):
        get_loss("mean_square_error")
    with pytest.raises(TypeError, match=r"`loss` must be a name or a loss object. Received int"):
        get_loss(3)
    with pytest.raises(ValueError, match="`from_logits` must be True, False or None"):
        SparseCategoricalCrossentropy(from_logits="yes")
