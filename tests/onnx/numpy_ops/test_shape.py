"""Operators that move and make elements: every version's form, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx import numpy_ops
from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnxruntime

SEED = st.integers(0, 2**32 - 1)
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def ints(*values):
    """An operand."""
    return np.array(values, np.int64)


@pytest.mark.parametrize("start, end, expected", [(None, None, (2, 3, 4)), (1, None, (3, 4)), (-1, None, (4,)),
                                                  (0, -1, (2, 3)),
                                                  (-9, 9, (2, 3, 4)), (2, 1, ())])
def test_shape(start, end, expected):
    attributes = {name: v for name, v in (("start", start), ("end", end)) if v is not None}
    check(Operator("Shape", version=15, attributes=attributes), [X], [ints(*expected)])


@pytest.mark.parametrize("target, allow_zero, expected", [
    ((6, 4), 0, (6, 4)), ((-1, 4), 0, (6, 4)), ((0, -1), 0, (2, 12)), ((0, 0, 4), 0, (2, 3, 4)), ((24,), 0, (24,)),
])
def test_reshape(target, allow_zero, expected):
    op = Operator("Reshape", version=14, attributes={"allowzero": allow_zero})
    check(op, [X, ints(*target)], [X.reshape(expected)])
    check(Operator("Reshape", version=1, attributes={"shape": list(target)}), [X], [X.reshape(expected)])


def test_reshape_of_nothing():
    empty = np.zeros((0, 3), np.float32)
    check(Operator("Reshape", version=14), [empty, ints(0, 6)], [empty.reshape(0, 6)])
    check(Operator("Reshape", version=14, attributes={"allowzero": 1}), [empty, ints(3, 0)], [empty.reshape(3, 0)])


@pytest.mark.parametrize("target, rule", [
    ((5, -1), "divide the elements"), ((-1, -1), "have no negative extent but one -1"),
    ((-2, 12), "have no negative extent"),
    ((7,), "keep the number of elements"), ((1, 2, 3, 0), "copy extents that the data have"),
    ((2**62, 4), "keep the number"),
])
def test_reshape_refuses(target, rule):
    with pytest.raises(ValueError, match=f"Reshape: `shape` must {rule}"):
        evaluate(Operator("Reshape", version=14), [X, ints(*target)])


def test_one_extent_of_unknown_content_has_all_elements():
    assert numpy_ops.infer(Operator("Reshape", version=14), [(X.dtype, X.shape), (np.dtype(np.int64), (1,))],
                           []) == [(X.dtype, (24,))]
    assert numpy_ops.infer(Operator("Reshape", version=14), [(X.dtype, X.shape), (np.dtype(np.int64), (2,))], []) is None


@pytest.mark.parametrize("version", [1, 11, 13])
def test_squeeze_and_unsqueeze_of_every_version(version):
    y = X[:, None, :, :, None]
    for op_type, source, target in (("Squeeze", y, X), ("Unsqueeze", X, y)):
        axes = [1, 4] if version < 11 else [1, -1]
        if version < 13:
            check(Operator(op_type, version=version, attributes={"axes": axes}), [source], [target])
        else:
            check(Operator(op_type, version=version), [source, ints(*axes)], [target])
    check(Operator("Squeeze", version=version), [y], [X])


@pytest.mark.parametrize("op_type, axes", [("Squeeze", (0,)), ("Squeeze", (9,)), ("Unsqueeze", (1, 1)), ("Unsqueeze", (7,)),
                                           ("Unsqueeze", (0, -5))])
def test_bad_axes(op_type, axes):
    with pytest.raises(ValueError, match=f"{op_type}: `axes` must"):
        evaluate(Operator(op_type, version=13), [X, ints(*axes)])


@pytest.mark.parametrize("axis", [-3, -1, 0, 1, 2, 3])
def test_flatten(axis):
    op = Operator("Flatten", version=13, attributes={"axis": axis})
    check(op, [X], onnxruntime(op, [X]))


def test_transpose():
    check(Operator("Transpose", version=13), [X], [X.T])
    check(Operator("Transpose", version=13, attributes={"perm": [1, 2, 0]}), [X], [X.transpose(1, 2, 0)])
    for perm in ([0, 1], [0, 0, 1], [0, 1, 3]):
        with pytest.raises(ValueError, match="Transpose: `perm` must be a permutation of 3 axes"):
            evaluate(Operator("Transpose", version=13, attributes={"perm": perm}), [X])


def test_concat():
    check(Operator("Concat", version=13, attributes={"axis": -1}), [X, X[..., :1], X[..., :0]],
          [np.concatenate([X, X[..., :1]], -1)])
    check(Operator("Concat", version=1), [X, X], [np.concatenate([X, X], 1)])
    with pytest.raises(ValueError, match="Concat: `inputs` must have one shape except for axis 0"):
        evaluate(Operator("Concat", version=13, attributes={"axis": 0}), [X, X[:, :1]])
    with pytest.raises(TypeError, match="Concat: `inputs` must have one dtype"):
        evaluate(Operator("Concat", version=13, attributes={"axis": 0}), [X, X.astype(int)])
    with pytest.raises(ValueError, match="Concat: `axis` must be given"):
        evaluate(Operator("Concat", version=13), [X, X])


@pytest.mark.parametrize("version, attributes, operand, sizes", [
    (1, {"split": [1, 3]}, None, (1, 3)), (11, {"split": [1, 3]}, None, (1, 3)), (13, {}, (1, 3), (1, 3)),
    (13, {}, None, (2, 2)),
    (18, {"num_outputs": 2}, None, (2, 2)), (18, {"num_outputs": 3}, None, (2, 2, 0)), (2, {}, None, (2, 2)),
])
def test_split_of_every_version(version, attributes, operand, sizes):
    op = Operator("Split", version=version, attributes={"axis": 2, **attributes}, wanted=(True,) * len(sizes))
    inputs = [X] if operand is None else [X, ints(*operand)]
    check(op, inputs, np.split(X, np.cumsum(sizes)[:-1], 2))


@pytest.mark.parametrize("split", [(1, 2), (5, -1), (4,)])
def test_split_refuses(split):
    with pytest.raises(ValueError, match="Split: `split` must sum to the extent 4"):
        evaluate(Operator("Split", version=13, attributes={"axis": 2}, wanted=(True, True)), [X, ints(*split)])


def test_split_of_an_output_that_nobody_wants():
    y, _ = evaluate(Operator("Split", version=13, attributes={"axis": 2}, wanted=(True, False)), [X])
    np.testing.assert_array_equal(y, X[..., :2])


def test_expand_and_tile():
    check(Operator("Expand", version=13), [X, ints(2, 1, 1, 4)], [np.broadcast_to(X, (2, 2, 3, 4))])
    check(Operator("Expand", version=13), [X[:, :1], ints(3, 1)], [np.broadcast_to(X[:, :1], (2, 3, 4))])
    check(Operator("Tile", version=13), [X, ints(1, 2, 3)], [np.tile(X, (1, 2, 3))])
    check(Operator("Tile", version=1), [X, ints(3), ints(1)], [np.tile(X, (1, 3, 1))])
    with pytest.raises(ValueError, match="Tile: `repeats` must have 3 elements"):
        evaluate(Operator("Tile", version=13), [X, ints(2)])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64, np.int16])
@pytest.mark.parametrize("start, limit, delta", [(0, 5, 1), (5, 0, -2), (3, 3, 1), (0, 5, -1), (1, 10, 3)])
def test_range(dtype, start, limit, delta):
    inputs = [np.array(v, dtype) for v in (start, limit, delta)]
    op = Operator("Range", version=11)
    check(op, inputs, onnxruntime(op, inputs))


def test_range_refuses():
    with pytest.raises(ValueError, match="Range: `delta` must not be 0"):
        evaluate(Operator("Range", version=11), [ints(0)[0:1].reshape(()), ints(5).reshape(()), ints(0).reshape(())])
    with pytest.raises(ValueError, match="Range: `output` must have at most"):
        evaluate(Operator("Range", version=11), [ints(0).reshape(()), ints(2**62).reshape(()), ints(1).reshape(())])


@pytest.mark.parametrize("name, value, dtype", [("value_float", 1.5, np.float32), ("value_floats", [1.5, 2.0], np.float32),
                                                ("value_int", 3, np.int64), ("value_ints", [1, 2], np.int64),
                                                ("value", X, np.float32)])
def test_constant(name, value, dtype):
    check(Operator("Constant", version=13, attributes={name: value}), [], [np.asarray(value, dtype)])


def test_constant_of_shape():
    check(Operator("ConstantOfShape", version=9), [ints(2, 3)], [np.zeros((2, 3), np.float32)])
    op = Operator("ConstantOfShape", version=9, attributes={"value": np.array([7], np.int8)})
    check(op, [ints(2, 0)], [np.zeros((2, 0), np.int8)])
    check(op, [ints()], [np.array(7, np.int8)])


@settings(max_examples=80)
@given(seed=SEED, mode=st.sampled_from(["constant", "reflect", "edge", "wrap"]), crop=st.booleans(), some_axes=st.booleans())
def test_pad(seed, mode, crop, some_axes):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    pads = rng.integers(-1 if crop else 0, 2, 4 if some_axes else 6)
    inputs = [x, pads, np.array(2.5, np.float32) if mode == "constant" else None, ints(2, -3) if some_axes else None]
    op = Operator("Pad", version=19, attributes={"mode": mode})
    check(op, inputs, onnxruntime(op, inputs))


@pytest.mark.parametrize("version, name", [(1, "paddings"), (2, "pads")])
def test_old_pad(version, name):
    op = Operator("Pad", version=version, attributes={name: [0, 1, 0, 0, 0, 2], "value": 3.0})
    check(op, [X], [np.pad(X, ((0, 0), (1, 0), (0, 2)), constant_values=3)])


@pytest.mark.parametrize("pads, rule", [((0, 1), "`pads` must have 6 elements"),
                                        ((0, 0, -9, 0, 0, 0), "`pads` must leave no negative"),
                                        ((0, 0, 2**40, 0, 0, 0), "`output` must have at most")])
def test_pad_refuses(pads, rule):
    with pytest.raises(ValueError, match=f"Pad: {rule}"):
        evaluate(Operator("Pad", version=13), [X, ints(*pads)])


@pytest.mark.parametrize("op_type, shape", [("DepthToSpace", (1, 8, 2, 3)), ("SpaceToDepth", (1, 2, 4, 6))])
def test_depth_and_space(op_type, shape):
    x = np.arange(48, dtype=np.float32).reshape(shape)
    op = Operator(op_type, version=13, attributes={"blocksize": 2})
    check(op, [x], onnxruntime(op, [x]))
