"""Pools: which forms kernels compute, and their numbers, against ONNX Runtime."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

from tests.helpers import images
from tests.onnx.imported import check, is_native, one_node

FORMS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 3], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_forms(op_type, options):
    for extents in ((8, 9), (7, 6)):
        proto, feed = one_node(op_type, [images(2, 3, *extents)], **options)
        assert is_native(check(proto, feed))


@pytest.mark.parametrize("options", FORMS[:5], ids=str)
def test_an_average_may_count_the_padding(options):
    proto, feed = one_node("AveragePool", [images(2, 3, 8, 9)], opset=19, count_include_pad=1, **options)
    assert is_native(check(proto, feed))


def test_dilated_maxima_and_lp():
    proto, feed = one_node("MaxPool", [images(2, 3, 9, 9)], kernel_shape=[3, 2], dilations=[2, 3])
    assert is_native(check(proto, feed))
    for p in (1, 2, 3):
        proto, feed = one_node("LpPool", [images(2, 3, 8, 9)], kernel_shape=[3, 2], strides=[2, 2], p=p)
        assert is_native(check(proto, feed))


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_sequences_and_volumes(op_type):
    proto, feed = one_node(op_type, [images(2, 3, 17)], kernel_shape=[3], strides=[2], pads=[1, 1])
    assert is_native(check(proto, feed))
    proto, feed = one_node(op_type, [images(1, 2, 4, 5, 6)], kernel_shape=[2, 2, 2])
    assert check(proto, feed) == [f"numpy {op_type}"]


def test_the_places_of_maxima_are_numpys():
    proto, feed = one_node("MaxPool", [images(2, 3, 6, 6)], kernel_shape=[2, 2], strides=[2, 2], outputs=2)
    assert check(proto, feed) == ["numpy MaxPool"]


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 7)])
def test_global(op_type, shape):
    proto, feed = one_node(op_type, [images(*shape)])
    assert is_native(check(proto, feed))
