"""Resize, Upsample, Pad: which forms kernels compute, and their numbers, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

import cnnext as cx
from tests.helpers import images
from tests.onnx.imported import check, is_native, one_node

X = images(2, 3, 6, 8)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 1.5, 0.5]], ids=str)
def test_resize_by_scales(mode, coordinates, scales):
    proto, feed = one_node("Resize", [X], {1: None, 2: np.array(scales, np.float32)}, opset=13, mode=mode,
                           coordinate_transformation_mode=coordinates)
    assert is_native(check(proto, feed, tolerance=2e-5))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_by_sizes(mode):
    proto, feed = one_node("Resize", [X], {1: None, 2: None, 3: np.array([2, 3, 9, 4])}, opset=13, mode=mode)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_rounds(rounding):
    proto, feed = one_node("Resize", [X], {1: None, 2: np.array([1, 1, 1.5, 2.5], np.float32)}, opset=13,
                           nearest_mode=rounding)
    assert is_native(check(proto, feed))


def test_resize_of_named_axes_and_of_the_run():
    proto, feed = one_node("Resize", [X], {1: None, 2: np.array([2, 3], np.float32)}, opset=18, axes=[2, 3], mode="linear")
    assert is_native(check(proto, feed))
    proto, feed = one_node("Resize", [X, np.array([2, 3, 8, 9])], {1: None, 2: None}, opset=13, mode="linear")
    check(proto, feed, {**feed, "x3": np.array([2, 3, 12, 14])})


def test_resize_of_sequences():
    proto, feed = one_node("Resize", [images(2, 3, 9)], {1: None, 2: np.array([1, 1, 2], np.float32)}, opset=13)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_what_numpy_resizes(mode):
    channels, feed = one_node("Resize", [X], {1: None, 2: np.array([1, 2, 1, 1], np.float32)}, opset=13, mode=mode)
    assert check(channels, feed) == ["numpy Resize"]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [[1, 1, 2, 3], [1, 1, 1.5, 2.5]], ids=str)
def test_old_forms_know_one_rule_for_coordinates(mode, scales):
    numbers = np.array(scales, np.float32)
    resized, feed = one_node("Resize", [X], {1: numbers}, opset=10, mode=mode)
    assert is_native(check(resized, feed))
    upsampled, feed = one_node("Upsample", [X], {1: numbers}, opset=9, mode=mode)
    assert is_native(check(upsampled, feed))
    upsampled, feed = one_node("Upsample", [X], opset=7, mode=mode, scales=numbers.tolist())
    check(upsampled, feed)


@pytest.mark.parametrize(("pads", "mode", "native"), [
    ([0, 0, 1, 2, 0, 0, 3, 0], "constant", True), ([0, 0, 1, 2, 0, 0, 3, 0], "edge", True),
    ([0, 0, 1, 2, 0, 0, 3, 0], "reflect", True), ([0, 0, 0, 0, 0, 0, 0, 0], "constant", True),
    ([0, 1, 1, 0, 0, 2, 0, 0], "constant", False), ([1, 0, 0, 0, 0, 0, 0, 0], "edge", False),
    ([0, 0, -1, 2, 0, 0, 0, -2], "constant", False),
], ids=str)
def test_pad(pads, mode, native):
    proto, feed = one_node("Pad", [X], {1: np.array(pads)}, opset=13, mode=mode)
    assert is_native(check(proto, feed)) == native


def test_pad_values():
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    proto, feed = one_node("Pad", [X], {1: pads, 2: np.float32(2.5)}, opset=13)
    assert is_native(check(proto, feed))
    proto, feed = one_node("Pad", [X], opset=2, pads=list(map(int, pads)), value=-1.0)
    assert is_native(check(proto, feed))
    proto, feed = one_node("Pad", [X], {1: np.array([1, 2, 2, 1]), 2: np.float32(1), 3: np.array([-1, 2])}, opset=18)
    assert is_native(check(proto, feed))
    proto, feed = one_node("Pad", [X, pads, np.array(3, np.float32)], opset=13)
    check(proto, feed, {**feed, "x1": pads[::-1].copy(), "x2": np.array(1, np.float32)})


def test_errors():
    proto, feed = one_node("Pad", [X], {1: np.array([1, 1])}, opset=13)
    proto.graph.output[0].type.ClearField("tensor_type")
    with pytest.raises(ValueError, match=r"Pad 'it': `pads` must be 8 whole numbers. Received pads=\[1, 1\]"):
        cx.InferenceSession(proto).run(None, feed)
