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
from cnnext.layers.elementwise import scaled
from cnnext.layers.layer import Layer
from cnnext.testing import guarded_copy, run_graph
from cnnext.training.losses import MeanSquaredError, SparseCategoricalCrossentropy, get_loss

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
