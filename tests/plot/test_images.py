"""Predictions: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext import plot
from cnnext.plot.style import RIGHT, WRONG
from tests.plot.shown import pictures

pytest.importorskip("matplotlib")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_predictions(rng, tmp_path):
    images = rng.random((7, 6, 5, 1))
    probabilities = np.eye(4)[[0, 1, 2, 3, 0, 1, 2]] * 0.9 + 0.025
    labels = np.array([0, 1, 2, 3, 0, 1, 3])
    figure = plot.predictions(images, probabilities, labels, columns=3, title="seven")
    for shown, image in zip(pictures(figure), images, strict=True):
        np.testing.assert_array_equal(shown, image[..., 0])
    titles = [ax.title for ax in figure.axes[:7]]
    assert titles[1].get_text().split() == ["1", "92", "%"]
    assert [t.get_color() for t in titles] == [RIGHT] * 6 + [WRONG]
    assert titles[6].get_text().endswith("is 3")
    assert figure.get_suptitle() == "seven" if hasattr(figure, "get_suptitle") else True
    figure.savefig(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_predictions_with_names_in_colour(rng):
    figure = plot.predictions(rng.random((2, 6, 5, 3)), np.array([[0.2, 0.8], [0.9, 0.1]]), names=["cat", "dog"])
    assert [ax.title.get_text() for ax in figure.axes[:2]] == ["dog  80 %", "cat  90 %"]
    assert pictures(figure)[0].shape == (6, 5, 3)


@pytest.mark.parametrize(("images", "probabilities", "labels", "words"), [
    ((7, 6, 5), (7, 4), None, "images"),
    ((7, 6, 5, 2), (7, 4), None, "images"),
    ((0, 6, 5, 1), (0, 4), None, "images"),
    ((7, 6, 5, 1), (6, 4), None, "probabilities"),
    ((7, 6, 5, 1), (7, 4), (6,), "labels"),
])
def test_predictions_of_wrong_shape(images, probabilities, labels, words):
    with pytest.raises(ValueError, match=f"plot.predictions: `{words}` must"):
        plot.predictions(np.zeros(images), np.zeros(probabilities), None if labels is None else np.zeros(labels, int))


def test_drawing_into_a_given_figure(rng):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    left, right = figure.subfigures(1, 2)
    assert plot.predictions(rng.random((2, 6, 5, 1)), np.eye(2), columns=2, figure=left) is left
    layer = cx.Conv2D(4, 3)
    layer.build((None, 8, 8, 1))
    assert plot.filters(layer, figure=right) is right
    assert len(pictures(figure)) == 6


def test_no_global_state():
    import sys

    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
