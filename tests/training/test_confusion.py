"""The confusion matrix and its functions on small cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cnnext.training.confusion import averaged, confusion_matrix, f1_score, mean_iou, precision, recall

SCORES = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], np.float32)
LABELS = np.array([2, 1, 0, 0])
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



def test_averages():
    assert averaged(precision, MATRIX, "macro") == pytest.approx((3 / 5 + 4 / 7 + 0) / 3)      # class 2 is not there
    assert averaged(recall, MATRIX, "weighted") == pytest.approx((4 * 3 / 4 + 6 * 4 / 6 + 2 * 0) / 12)
    for score in (precision, recall, f1_score):
        assert averaged(score, MATRIX, "micro") == 7 / 12
        assert averaged(score, np.zeros((3, 3), np.int64), "macro") == averaged(score, np.zeros((3, 3)), "micro") == 0


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda: confusion_matrix(LABELS + 1, SCORES), ValueError, "`targets` must be labels in [0, 3). Received targets=3."),
    (lambda: confusion_matrix(LABELS, LABELS + 1, 3), ValueError, "`predictions` must be labels in [0, 3)"),
    (lambda: confusion_matrix(LABELS[:2], SCORES), ValueError, "`targets` must have shape (4,)"),
    (lambda: confusion_matrix(LABELS / 2, SCORES), TypeError, "`targets` must be whole numbers"),
])
def test_what_is_refused(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)
