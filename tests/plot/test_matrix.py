"""Confusion: counts, shares and names stand where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from cnnext import plot
from tests.plot.shown import overflow, texts

pytest.importorskip("matplotlib")

MATRIX = np.array([[3, 1, 0], [0, 4, 0], [2, 0, 6]])


def cells(figure):
    """The counts that are written, as a matrix."""
    written = np.zeros((3, 3), int)
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        if x in (0, 1, 2) and y in (0, 1, 2) and not hasattr(text, "xy"):
            written[int(y), int(x)] = int(text.get_text())
    return written


def test_counts_shares_and_names():
    figure = plot.confusion(MATRIX, labels=["ant", "bee", "cicada"], title="insects")
    ax = figure.axes[0]
    np.testing.assert_array_equal(cells(figure), MATRIX)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["ant", "bee", "cicada"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ant", "bee", "cicada"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    right = [t.get_text() for t in ax.texts if t.get_position()[0] == pytest.approx(2.62)]
    above = [t.get_text() for t in ax.texts if t.get_position()[1] == pytest.approx(-0.62)]
    assert right == ["75", "100", "75"]         # recall: 3/4, 4/4, 6/8
    assert above == ["60", "80", "100"]         # precision: 3/5, 4/5, 6/6
    assert any(t.startswith("16 examples: accuracy 81.25%") for t in texts(figure))
    assert overflow(figure) <= 0.01


def test_mistakes_are_red_and_right_answers_blue():
    image = np.asarray(plot.confusion(MATRIX).axes[0].get_images()[0].get_array())
    red, _, blue, _ = np.moveaxis(image, -1, 0)
    assert (blue > red)[np.diag_indices(3)].all()
    assert (red > blue)[MATRIX * (1 - np.eye(3, dtype=int)) > 0].all()
    assert (image[MATRIX == 0] == 1).all()
    assert blue[2, 0] < blue[0, 1] + 1 and red[0, 1] - blue[0, 1] == pytest.approx(red[2, 0] - blue[2, 0])  # a quarter each


def test_of_targets_and_predictions():
    targets, predictions = np.repeat([0, 0, 1, 2, 2], MATRIX[MATRIX > 0]), np.repeat([0, 1, 1, 0, 2], MATRIX[MATRIX > 0])
    np.testing.assert_array_equal(cells(plot.confusion((targets, predictions))), MATRIX)
    np.testing.assert_array_equal(cells(plot.confusion((targets, np.eye(3)[predictions]))), MATRIX)
    assert len(plot.confusion((targets, predictions), labels="abcd").axes[0].get_xticks()) == 4


@pytest.mark.parametrize("classes", [1, 2, 31, 100, 1000])
def test_any_number_of_classes(classes):
    figure = plot.confusion(np.eye(classes, dtype=int) * 12345, labels=[f"class number {i}" for i in range(classes)])
    assert max(figure.get_size_inches()) < 16
    assert overflow(figure) <= 0.01
    assert len(figure.axes[0].get_yticks()) <= 60


@pytest.mark.parametrize(("matrix", "labels", "words"), [
    (np.ones((2, 3)), None, r"`matrix` must have shape \(classes, classes\)"),
    (np.ones((0, 0)), None, r"`matrix` must have shape \(classes, classes\)"),
    (np.array([[1, -1], [0, 1]]), None, "`matrix` must hold counts, 0 or more"),
    (np.array([[1, np.nan], [0, 1]]), None, "`matrix` must hold counts, 0 or more"),
    (np.ones((2, 2)), ["one"], "`labels` must be 2 names, one for each class"),
    (([1], [1], [1]), None, r"`matrix` must be a matrix or a pair \(targets, predictions\)"),
])
def test_what_is_no_matrix(matrix, labels, words):
    with pytest.raises(ValueError, match=f"plot.confusion: {words}"):
        plot.confusion(matrix, labels)


def test_labels_beyond_the_names():
    with pytest.raises(ValueError, match=r"`targets` must be labels in \[0, 2\). Received targets=2"):
        plot.confusion((np.array([0, 2]), np.array([0, 1])), labels=["a", "b"])
