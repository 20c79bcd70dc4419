"""Operators that move elements: Reshape to Split, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

import cnnext as cx
from tests.helpers import images
from tests.onnx.imported import check, is_native, one_node

X = images(2, 3, 4, 5)
TYPES = [np.float32, np.float64, np.float16, np.int64, np.int8, np.bool_]


@pytest.mark.parametrize("target", [[2, 60], [0, -1], [-1], [0, 0, 20], [6, 2, 10], [2, 3, 4, 5, 1], [120, 1]], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_reshape(target, dtype):
    proto, feed = one_node("Reshape", [X.astype(dtype)], {1: np.array(target)})
    assert is_native(check(proto, feed))


def test_reshape_that_allows_zero():
    proto, feed = one_node("Reshape", [np.zeros((0, 3), np.float32)], {1: np.array([3, 0])}, opset=14, allowzero=1)
    check(proto, feed)


@pytest.mark.parametrize(("target", "text"), [
    ([7, -1], r"`shape` must hold the 120 elements of the source. Received shape=\[7, -1\]"),
    ([-1, -1], "at most one -1"), ([2, 61], "must hold the 120 elements"), ([-2, 60], "extents of at least 0"),
])
def test_reshapes_that_cannot_be(target, text):
    proto, feed = one_node("Reshape", [X, np.array(target)])
    with pytest.raises(ValueError, match=text):
        cx.InferenceSession(proto).run(None, feed)


@pytest.mark.parametrize("axis", [0, 1, 2, 4, -1, -3])
def test_flatten(axis):
    proto, feed = one_node("Flatten", [X], axis=axis)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("dtype", TYPES)
def test_squeeze_and_unsqueeze(dtype):
    thin = np.ones((1, 3, 1, 5), dtype)
    for constants in ({}, {1: np.array([2])}, {1: np.array([-4, 2])}):
        proto, feed = one_node("Squeeze", [thin], constants, opset=13)
        assert is_native(check(proto, feed))
    proto, feed = one_node("Unsqueeze", [X.astype(dtype)], {1: np.array([0, -1, 3])}, opset=13)
    assert is_native(check(proto, feed))


def test_axes_as_attribute():
    proto, feed = one_node("Squeeze", [np.ones((1, 3, 1), np.float32)], opset=11, axes=[-1, 0])
    assert is_native(check(proto, feed))
    proto, feed = one_node("Unsqueeze", [X], opset=11, axes=[1, 4])
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("perm", [None, (0, 2, 3, 1), (3, 2, 1, 0), (0, 1, 3, 2), (1, 0, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_transpose(perm, dtype):
    proto, feed = one_node("Transpose", [X.astype(dtype)], **({} if perm is None else {"perm": perm}))
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", TYPES)
def test_concat(axis, dtype):
    parts = [np.ones([2 + (i if a == axis % 3 else 0) for a in range(3)], dtype) for i in range(3)]
    proto, feed = one_node("Concat", parts, axis=axis)
    assert is_native(check(proto, feed))


def test_concat_with_nothing():
    proto, feed = one_node("Concat", [np.zeros((2, 0), np.float32), images(2, 3), images(2, 1)], axis=1)
    check(proto, feed)
    proto, feed = one_node("Concat", [np.zeros((2, 0), np.float32), np.zeros((2, 0), np.float32)], axis=1)
    check(proto, feed)


@pytest.mark.parametrize("target", [[2, 3, 4, 5], [6, 2, 3, 4, 5], [1], [2, 1, 4, 5]], ids=str)
def test_expand(target):
    proto, feed = one_node("Expand", [images(2, 3, 4, 1)], {1: np.array(target)})
    assert is_native(check(proto, feed))


def test_expand_of_other_types_is_numpys():
    proto, feed = one_node("Expand", [np.arange(3)], {1: np.array([2, 3])})
    assert check(proto, feed) == ["numpy Expand"]


def test_identity_dropout_and_casts():
    for op_type, options in (("Identity", {}), ("Dropout", {}), ("Cast", {"to": 1})):
        proto, feed = one_node(op_type, [X], **options)
        assert is_native(check(proto, feed))
    proto, feed = one_node("Dropout", [X], opset=13, outputs=2)
    check(proto, feed)
    proto, feed = one_node("Cast", [X], to=7)
    assert check(proto, feed) == ["numpy Cast"]


def test_shape_and_size_are_known():
    proto, feed = one_node("Shape", [X], opset=15, start=1, end=-1)
    check(proto, feed)
    proto, feed = one_node("Size", [X])
    check(proto, feed)


# cnnext-slice-split


@pytest.mark.parametrize(("starts", "ends", "axes", "steps", "native"), [
    ([1], [3], [2], None, True), ([0, 1], [2, -1], [1, 3], None, True), ([-2], [9999], [-1], [1], True),
    ([1], [2], [0], None, True), ([0], [4], [2], [2], False), ([-1], [-9999], [3], [-1], False),
], ids=str)
def test_slice(starts, ends, axes, steps, native):
    pytest.importorskip("cnnext_slice_split")
    operands = [starts, ends, axes] + ([steps] if steps else [])
    proto, feed = one_node("Slice", [X], {1 + i: np.array(given) for i, given in enumerate(operands)}, opset=13)
    assert is_native(check(proto, feed)) == native


def test_slice_without_axes_and_by_attributes():
    pytest.importorskip("cnnext_slice_split")
    proto, feed = one_node("Slice", [X], {1: np.array([0, 1]), 2: np.array([2, 3])}, opset=13)
    assert is_native(check(proto, feed))
    proto, feed = one_node("Slice", [X], opset=9, starts=[1, 0], ends=[3, 2], axes=[1, 3])
    assert is_native(check(proto, feed))
    proto, feed = one_node("Slice", [X], {1: np.array([3]), 2: np.array([1]), 3: np.array([2])}, opset=13)
    check(proto, feed)      # nothing is left
    proto, feed = one_node("Slice", [X, np.array([1]), np.array([3])], opset=13)
    check(proto, feed, {**feed, "x1": np.array([0]), "x2": np.array([1])})


@pytest.mark.parametrize(("axis", "sections", "native"), [(1, [1, 2], True), (-1, [2, 3], True), (2, None, True),
                                                          (0, [1, 1], False)], ids=str)
def test_split(axis, sections, native):
    pytest.importorskip("cnnext_slice_split")
    constants = {} if sections is None else {1: np.array(sections)}
    proto, feed = one_node("Split", [X], constants, opset=13, outputs=2, axis=axis)
    assert is_native(check(proto, feed)) == native
    options = {} if sections is None else {"split": sections}
    proto, feed = one_node("Split", [X], opset=11, outputs=2, axis=axis, **options)
    assert is_native(check(proto, feed)) == native


def test_split_by_number():
    pytest.importorskip("cnnext_slice_split")
    proto, feed = one_node("Split", [X], opset=18, outputs=3, axis=3, num_outputs=3)
    assert is_native(check(proto, feed))


def test_split_of_other_types_is_numpys():
    pytest.importorskip("cnnext_slice_split")
    proto, feed = one_node("Split", [np.arange(12).reshape(2, 6)], opset=13, outputs=3, axis=1)
    assert check(proto, feed) == ["numpy Split"]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode):
    pytest.importorskip("cnnext_slice_split")
    proto, feed = one_node("DepthToSpace", [images(2, 8, 3, 4)], blocksize=2, mode=mode)
    assert is_native(check(proto, feed))
    proto, feed = one_node("SpaceToDepth", [images(2, 3, 4, 6)], blocksize=2)
    assert is_native(check(proto, feed))
