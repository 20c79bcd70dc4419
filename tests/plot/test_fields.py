"""Receptive fields: frames where the geometry puts them, gradients where a change of the input changes the unit."""

from __future__ import annotations

import re

import numpy as np
import pytest

import cnnext as cx
from cnnext import plot
from cnnext.plot import fields
from tests.plot.shown import overflow, pictures, texts

pytest.importorskip("matplotlib")


def net_of(data_format="channels_last", size=20):
    shape = (2, size, size) if data_format == "channels_first" else (size, size, 2)
    layers = [cx.Conv2D(3, 3, padding="same", activation="tanh", name="one", data_format=data_format),
              cx.AvgPool2D(2, name="pool", data_format=data_format),
              cx.Conv2D(2, 3, activation="sigmoid", name="two", data_format=data_format)]
    cx.set_random_seed(0)
    return cx.Sequential(layers, input_shape=shape)


def frames(ax):
    """By label: (left, top, width, height)."""
    return {p.get_label(): (p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches if p.get_label()}


def test_frames():
    figure = plot.receptive_field(net_of(), "two", at=(1, 4), title="unit")
    drawn = frames(figure.axes[0])
    # "two": 3 taps of pool, 2 pixels apart, 4 wide: 8 pixels, from 2 * at - 1
    assert drawn["two: 8 x 8"] == (2 * 4 - 1 - 0.5, 2 * 1 - 1 - 0.5, 8, 8)
    assert set(drawn) == {"one: 3 x 3", "pool: 4 x 4", "two: 8 x 8"}
    for left, top, width, height in drawn.values():     # the others about the same place
        assert abs(left + width / 2 - 10.5) <= 1 and abs(top + height / 2 - 4.5) <= 1
    assert "unit (1, 4) of 'two': theoretical" in texts(figure)
    assert overflow(figure) <= 0.01
    assert len(figure.axes) == 1


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_effective_field_is_where_a_change_changes_the_unit(data_format):
    net, at = net_of(data_format), (3, 5)
    shape = net.input_shape[1:]
    image = np.random.default_rng(1).random(shape, np.float32)
    figure = plot.receptive_field(net, net.layers[-1], at, image)
    own = next(iter(value for name, value in frames(figure.axes[1]).items() if name.startswith("two")))
    reach = np.asarray(figure.axes[1].get_images()[1].get_array())
    assert reach.shape == (20, 20) and reach.max() == 1
    left, top = round(own[0] + 0.5), round(own[1] + 0.5)
    assert (np.argwhere(reach)[:, 0] >= top).all() and (np.argwhere(reach)[:, 0] < top + 8).all()
    assert (np.argwhere(reach)[:, 1] >= left).all() and (np.argwhere(reach)[:, 1] < left + 8).all()

    def unit(x):
        y = net.predict(x[np.newaxis])[0]
        return float((y[:, at[0], at[1]] if data_format == "channels_first" else y[at[0], at[1]]).sum())

    def slope(row, column):
        parts = []
        for channel in range(2):
            index = (channel, row, column) if data_format == "channels_first" else (row, column, channel)
            more, less = image.copy(), image.copy()
            more[index] += 0.05
            less[index] -= 0.05
            parts.append((unit(more) - unit(less)) / 0.1)
        return np.hypot(*parts)

    strongest = np.unravel_index(reach.argmax(), reach.shape)
    for place in [(top, left), (top + 3, left + 4), (top + 7, left + 2)]:
        assert slope(*place) / slope(*strongest) == pytest.approx(reach[place], abs=0.01)
    assert overflow(figure) <= 0.01


def test_through_normalization_and_branches():
    net = cx.models.resnet18(classes=3, input_shape=(40, 40, 3))
    image = np.random.default_rng(0).random((40, 40, 3), np.float32)
    figure = plot.receptive_field(net, "layer2.0.relu", image=image)
    assert len(frames(figure.axes[0])) == fields.MOST_FRAMES
    reach = np.asarray(figure.axes[1].get_images()[1].get_array())
    assert (reach[10:30, 10:30] > 0).mean() > 0.9
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()     # the field reaches over the image; both show that


def test_a_layer_that_sees_everything():
    net = cx.Sequential([cx.Conv2D(2, 3), cx.GlobalAvgPool2D(keepdims=True, name="pool")], input_shape=(9, 7, 1))
    drawn = frames(plot.receptive_field(net, "pool").axes[0])
    assert drawn["pool: 9 x 7"] == (-0.5, -0.5, 7, 9)


def test_open_extents():
    net = cx.Sequential([cx.Conv2D(2, 3, name="c")], input_shape=(None, None, 1))
    with pytest.raises(ValueError, match="`image` must be given where the input's extents are open"):
        plot.receptive_field(net, "c")
    figure = plot.receptive_field(net, "c", image=np.ones((6, 8, 1), np.float32))
    assert pictures(figure)[0].shape == (6, 8, 3)
    assert "unit (2, 3) of 'c': theoretical" in texts(figure)


@pytest.mark.parametrize(("layer", "at", "image", "words"), [
    ("ones", None, None, "unknown layer 'ones'. Did you mean 'one'?"),
    ("two", (8, 0), None, "`at` must lie in the 8 x 8 pixels of 'two'. Received at=(8, 0)"),
    ("two", (0, -1), None, "`at` must lie in"),
    ("two", None, np.ones((20, 20, 3)), "`image` must have shape (20, 20, 2)"),
    ("two", None, np.ones((20, 20)), "`image` must have shape (20, 20, 2)"),
])
def test_what_cannot_be_drawn(layer, at, image, words):
    with pytest.raises(ValueError, match="plot.receptive_field: " + re.escape(words)):
        plot.receptive_field(net_of(), layer, at, image)


def test_units_without_a_place():
    net = cx.Sequential([cx.Flatten(), cx.Dense(3, name="head")], input_shape=(4, 4, 1))
    with pytest.raises(ValueError, match="`layer` must make images"):
        plot.receptive_field(net, "head")
    with pytest.raises(ValueError, match="`net` must have one input, of images"):
        plot.receptive_field(cx.Sequential([cx.Dense(3, name="head")], input_shape=(4,)), "head")
