"""Pictures: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext import plot

pytest.importorskip("matplotlib")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def pictures(figure):
    """The arrays that a figure shows, in the order of its axes."""
    return [np.asarray(ax.get_images()[0].get_array()) for ax in figure.axes if ax.get_images()]


def test_predictions(rng, tmp_path):
    images = rng.random((7, 6, 5, 1))
    probabilities = np.eye(4)[[0, 1, 2, 3, 0, 1, 2]] * 0.9 + 0.025
    labels = np.array([0, 1, 2, 3, 0, 1, 3])
    figure = plot.predictions(images, probabilities, labels, columns=3, title="seven")
    for shown, image in zip(pictures(figure), images, strict=True):
        np.testing.assert_array_equal(shown, image[..., 0])
    titles = [ax.title for ax in figure.axes[:7]]
    assert titles[1].get_text().split() == ["1", "92", "%"]
    assert [t.get_color() for t in titles] == [plot.RIGHT] * 6 + [plot.WRONG]
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


@pytest.mark.parametrize(("channels", "filters", "drawn"), [(1, 6, 6), (3, 5, 5), (4, 5, 20), (20, 2, 32)])
def test_filters(channels, filters, drawn):
    layer = cx.Conv2D(filters, 3)
    layer.build((None, 8, 8, channels))
    shown = pictures(plot.filters(layer, title="filters"))
    assert len(shown) == drawn
    weights = layer.weights["weights"].data
    if channels == 3:
        limit = np.abs(weights).max()
        np.testing.assert_allclose(shown[2], (weights[..., 2] / limit + 1) / 2, rtol=1e-5)
    else:
        np.testing.assert_array_equal(shown[1], weights[:, :, 0, 1])


def test_filters_of_a_layer_without_any():
    dense = cx.Dense(3)
    with pytest.raises(ValueError, match=r"plot.filters: `layer` must have weights of shape \(KH, KW, channels, filters\)"):
        plot.filters(dense)
    dense.build((None, 4))
    with pytest.raises(ValueError, match="plot.filters"):
        plot.filters(dense)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_feature_maps(data_format, rng):
    shape = (2, 8, 9) if data_format == "channels_first" else (8, 9, 2)
    net = cx.Sequential([cx.Conv2D(10, 3, name="stem", data_format=data_format), cx.ReLU(name="relu"), cx.Flatten(),
                         cx.Dense(3, name="head")], input_shape=shape)
    image = rng.random(shape, np.float32)
    x = cx.Model(net.graph.inputs, net.graph.nodes[0].outputs[0]).predict(image[np.newaxis])[0]
    if data_format == "channels_first":
        x = x.transpose(1, 2, 0)
    for layer in (None, "stem", net.layers[0]):
        shown = pictures(plot.feature_maps(net, image, layer))
        np.testing.assert_array_equal(np.stack(shown, axis=-1), x)
    with pytest.raises(ValueError, match="`layer` must make images"):
        plot.feature_maps(net, image, "head")
    with pytest.raises(ValueError, match="unknown layer 'stern'. Did you mean 'stem'"):
        plot.feature_maps(net, image, "stern")


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
