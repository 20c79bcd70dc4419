"""Conv and ConvTranspose: which forms kernels compute, and their numbers, against ONNX Runtime."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

import cnnext as cx
from tests.helpers import images
from tests.onnx.imported import check, is_native, one_node

PADS = [
    {}, {"auto_pad": "VALID"}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"pads": [1, 1, 1, 1]},
    {"pads": [0, 2, 1, 0]},
]


@pytest.mark.parametrize("strides", [[1, 1], [2, 2], [2, 3]])
@pytest.mark.parametrize("padding", PADS, ids=str)
def test_padding(padding, strides):
    for extents in ((7, 9), (8, 6)):
        proto, feed = one_node("Conv", [images(2, 3, *extents)], {1: images(4, 3, 3, 2), 2: images(4)}, strides=strides,
                               **padding)
        assert is_native(check(proto, feed))


@pytest.mark.parametrize("dilations", [[2, 1], [2, 3]])
@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID"])
def test_dilations(auto_pad, dilations):
    proto, feed = one_node("Conv", [images(2, 3, 11, 9)], {1: images(4, 3, 3, 2)}, dilations=dilations, auto_pad=auto_pad)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize(("channels", "filters", "groups", "kernel"), [
    (6, 4, 2, "conv"), (6, 9, 3, "conv"), (5, 5, 5, "depthwise"), (5, 10, 5, "conv"), (1, 3, 1, "conv"),
])
def test_groups(channels, filters, groups, kernel):
    proto, feed = one_node("Conv", [images(2, channels, 6, 7)], {1: images(filters, channels // groups, 3, 3)},
                           group=groups, pads=[1, 1, 1, 1])
    names = check(proto, feed)
    assert is_native(names) and any(kernel in name for name in names)


@pytest.mark.parametrize("options", [{}, {"pads": [2, 1]}, {"strides": [2], "auto_pad": "SAME_UPPER"}, {"dilations": [3]}],
                         ids=str)
def test_sequences_are_images_of_one_row(options):
    proto, feed = one_node("Conv", [images(2, 3, 17)], {1: images(4, 3, 5), 2: images(4)}, **options)
    assert is_native(check(proto, feed))


def test_what_numpy_computes():
    volume, feed = one_node("Conv", [images(1, 2, 4, 5, 6)], {1: images(3, 2, 3, 3, 3), 2: images(3)}, pads=[1] * 6)
    assert check(volume, feed) == ["numpy Conv"]


def test_weights_may_come_with_the_data():
    proto, feed = one_node("Conv", [images(2, 4, 6, 7), images(4, 2, 3, 3), images(4)], group=2)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("options", [
    {}, {"strides": [2, 2]}, {"strides": [2, 3], "pads": [1, 1, 1, 1]}, {"strides": [2, 2], "output_padding": [1, 1]},
    {"strides": [2, 2], "pads": [0, 1, 1, 0]}, {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "auto_pad": "SAME_LOWER"}, {"strides": [3, 3], "output_shape": [14, 15]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER", "output_shape": [9, 11]}, {"auto_pad": "VALID"},
    {"dilations": [2, 2], "strides": [2, 1]},
], ids=str)
def test_transposed(options):
    proto, feed = one_node("ConvTranspose", [images(2, 4, 5, 5)], {1: images(4, 3, 3, 3), 2: images(3)}, **options)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize(("groups", "per_group"), [(2, 3), (4, 1), (4, 2)])
def test_transposed_groups(groups, per_group):
    proto, feed = one_node("ConvTranspose", [images(2, 4, 4, 5)], {1: images(4, per_group, 2, 2)}, group=groups,
                           strides=[2, 2])
    assert is_native(check(proto, feed))


def test_transposed_sequences_and_volumes():
    proto, feed = one_node("ConvTranspose", [images(2, 3, 9)], {1: images(3, 2, 4)}, strides=[2], pads=[1, 1])
    assert is_native(check(proto, feed))
    volume, feed = one_node("ConvTranspose", [images(1, 2, 3, 3, 3)], {1: images(2, 2, 2, 2, 2)}, strides=[2, 2, 2])
    assert check(volume, feed) == ["numpy ConvTranspose"]


@pytest.mark.parametrize(("op_type", "weights", "options", "text"), [
    ("Conv", (4, 2, 3, 3), {}, r"Conv 'it': `W` must have 3 / group channels.*\(4, 2, 3, 3\)"),
    ("Conv", (4, 1, 3, 3), {"group": 3}, "filters that group=3 divides"),
    ("ConvTranspose", (4, 2, 3, 3), {}, "`W` must have 3 channels, which group=1 divides"),
    ("Conv", (4, 3, 3, 3), {"strides": [0, 1]}, "`strides` must be 2 whole numbers of at least 1"),
    ("Conv", (4, 3, 3, 3), {"auto_pad": "MAYBE"}, "`auto_pad` must be NOTSET, VALID, SAME_UPPER or SAME_LOWER"),
])
def test_errors(op_type, weights, options, text):
    proto, feed = one_node(op_type, [images(1, 3, 5, 5)], {1: images(*weights)}, **options)
    with pytest.raises(ValueError, match=text):
        cx.InferenceSession(proto).run(None, feed)
