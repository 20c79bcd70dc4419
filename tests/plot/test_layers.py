"""Filters and feature maps: what is drawn is what the layer holds and makes."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext import plot
from tests.plot.shown import overflow, pictures, texts

pytest.importorskip("matplotlib")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("channels", "filters", "drawn"), [(1, 6, 6), (3, 5, 5), (4, 5, 20), (20, 2, 32), (2, 40, 64)])
def test_filters(channels, filters, drawn):
    layer = cx.Conv2D(filters, 3)
    layer.build((None, 8, 8, channels))
    figure = plot.filters(layer, title="filters")
    shown = pictures(figure)
    assert overflow(figure) <= 0.01
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


def test_filters_say_what_is_left_out_and_what_colours_stand_for():
    layer = cx.Conv2D(40, 3)
    layer.build((None, 8, 8, 20))
    layer.weights["weights"].assign(np.full((3, 3, 20, 40), -0.25))
    (note,) = texts(plot.filters(layer))
    assert note == "blue -0.25, red +0.25; a line for each input channel (16 of 20), a column for each filter (32 of 40)"


def test_feature_maps_are_numbered_with_their_range(rng):
    net = cx.Sequential([cx.ReLU()], input_shape=(4, 4, 3))
    image = rng.random((4, 4, 3), np.float32)
    image[..., 1] = 0.5
    assert texts(plot.feature_maps(net, image))[1] == "1:  0.5 to 0.5"
