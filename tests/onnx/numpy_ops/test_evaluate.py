"""The door: what is supported, what is refused and how, views, limits; and what hostile operators must not do."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cnnext.onnx import numpy_ops
from cnnext.onnx.numpy_ops import reference
from cnnext.onnx.numpy_ops.families import OPERATORS, RULES
from cnnext.onnx.operator import Operator


def test_own_and_borrowed_operators_are_supported():
    assert numpy_ops.is_supported(Operator("Conv", version=11))
    assert numpy_ops.is_supported(Operator("Trilu", version=14))  # onnx.reference has it
    assert numpy_ops.is_supported(Operator("QLinearAdd", "com.microsoft", 1))
    assert not numpy_ops.is_supported(Operator("QLinearAdd", version=17))
    assert not numpy_ops.is_supported(Operator("Conv", "vendor", 1))
    assert not numpy_ops.is_supported(Operator("NoSuchOperator", version=17))


def test_control_flow_is_not_supported():
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "branch", [], [y])
    assert not numpy_ops.is_supported(Operator("If", version=16, attributes={"then_branch": branch, "else_branch": branch}))
    assert not numpy_ops.is_supported(Operator("If", version=16))


def test_the_default_of_an_older_version_is_that_versions():
    """`axis` of Hardmax was 1 before it was -1."""
    old, new = (reference.evaluator(Operator("Hardmax", version=v), (True,)) for v in (11, 13))
    assert (old.axis, new.axis) == (1, -1)


def test_what_is_cached_dies_with_its_operator():
    op = Operator("Trilu", version=14)
    numpy_ops.evaluate(op, [np.eye(3, dtype=np.float32)])
    dead = weakref.ref(op)
    del op
    gc.collect()
    assert dead() is None


def test_inputs_left_out_at_the_end_are_not_inputs():
    x = np.ones((2, 3), np.float32)
    (y,) = numpy_ops.evaluate(Operator("Clip", version=13), [x, None, None])
    np.testing.assert_array_equal(y, x)
    assert numpy_ops.infer(Operator("Clip", version=13), [(x.dtype, x.shape), None, None],
                           [None] * 3) == [(x.dtype, x.shape)]


def test_an_output_that_the_operator_does_not_have():
    with pytest.raises(ValueError, match="Relu: `outputs` must be ones that the operator has"):
        numpy_ops.evaluate(Operator("Relu", version=14, wanted=(True, True)), [np.ones(2, np.float32)])


@pytest.mark.parametrize("op_type, inputs", [
    ("Expand", [np.ones(1, np.float32), np.array([2**20, 2**20])]), ("Tile", [np.ones(4, np.float32), np.array([2**38])]),
    ("ConstantOfShape", [np.array([2**13, 2**13, 2**13])]), ("Range", [np.array(0), np.array(2**40), np.array(1)]),
    ("Pad", [np.ones(4, np.float32), np.array([2**40, 0])]),
    ("Resize", [np.ones(4, np.float32), None, None, np.array([2**40])]),
    ("OneHot", [np.zeros(4, np.int64), np.array(2**40), np.zeros(2, np.float32)]),
    ("Add", [np.broadcast_to(np.float32(1), (2**20, 1)), np.broadcast_to(np.float32(1), (1, 2**20))]),
    ("CenterCropPad", [np.ones(4, np.float32), np.array([2**40])]), ("HannWindow", [np.array(2**40)]),
])
def test_absurd_sizes_are_refused_before_they_are_made(op_type, inputs):
    op = Operator(op_type, version=19)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{op_type}: `output` must have at most {2**38} elements"):
        numpy_ops.evaluate(op, inputs)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    types = [None if x is None else (x.dtype, x.shape) for x in inputs]
    with pytest.raises(ValueError, match=f"{op_type}: `output` must have at most"):
        numpy_ops.infer(op, types, inputs)


def test_the_limit_is_the_callers():
    op, inputs = Operator("Expand", version=13), [np.ones(1, np.float32), np.array([1000])]
    assert numpy_ops.evaluate(op, inputs, max_elements=1000)[0].shape == (1000,)
    with pytest.raises(ValueError, match="`output` must have at most 999 elements"):
        numpy_ops.evaluate(op, inputs, max_elements=999)


def test_errors_name_the_operator():
    with pytest.raises(ValueError, match=r"com.microsoft::QGemm: `inputs` must be"):
        numpy_ops.evaluate(Operator("QGemm", "com.microsoft", 1), [np.zeros((2, 3), np.uint8)] * 6)
    with pytest.raises((TypeError, ValueError), match=r"vendor::Odd: `inputs` must be what the operator takes"):
        numpy_ops.evaluate(Operator("Odd", "vendor", 1), [np.zeros(2)])
    with pytest.raises(ValueError, match="Relu: `inputs` must be what the operator takes.*input 0 is missing"):
        numpy_ops.evaluate(Operator("Relu", version=14), [])
    with pytest.raises(TypeError, match="Cos: `inputs` must be what the operator takes.*gives float64"):
        numpy_ops.evaluate(Operator("Cos", version=7), [np.zeros(2, np.int64)])


def test_infer_by_the_package_and_what_contents_decide():
    f4 = np.dtype(np.float32)
    einsum = Operator("Einsum", version=12, attributes={"equation": "ij,jk->ik"})
    assert numpy_ops.infer(einsum, [(f4, (2, 3)), (f4, (3, 4))], []) == [(f4, (2, 4))]
    stateful = Operator("CausalConvWithState", version=onnx.defs.onnx_opset_version(), wanted=(False, True))
    assert numpy_ops.infer(stateful, [(f4, (2, 4, 8)), (f4, (4, 1, 3))], []) == [(f4, (2, 4, 8)), (f4, (2, 4, 2))]
    for op_type in ("NonZero", "Unique"):
        assert numpy_ops.infer(Operator(op_type, version=13), [(f4, (2, 3))], []) is None
    boxes = [(f4, (1, 4, 4)), (f4, (1, 2, 4))]
    assert numpy_ops.infer(Operator("NonMaxSuppression", version=11), boxes, []) is None
    assert numpy_ops.infer(Operator("NoSuchOperator", version=17), [(f4, (1,))], []) is None


# Whatever an operator says of itself, the answer is a result or one of two errors, soon and in little memory.

ATTRIBUTES = """axis axes perm kernel_shape strides pads dilations group to keepdims size mode blocksize starts ends split
    num_groups block_size hidden_size output_shape k shape output_height sampling_ratio pooled_shape num_outputs value
    direction epsilon batch_dims auto_pad activations offset_group equation reduction p scales output_padding""".split()
VALUE = st.one_of(st.integers(-3, 3), st.sampled_from([2**31, -2**63, 2**63 - 1, 2**40]), st.floats(allow_nan=True),
                  st.text(max_size=5), st.lists(st.integers(-2, 3), max_size=4),
                  st.lists(st.just(2**40), min_size=1, max_size=4))
DTYPES = ["float32", "int64", "bool", "uint8", "float16", "int32"]
ARRAY = st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(DTYPES), st.sampled_from([0, 1, -1, 3, 2**40]))


def _array(shape: list[int], dtype: str, value: int) -> np.ndarray:
    return np.full(shape, value if dtype in ("int64", "float32") else min(value, 100) % 100, dtype)


@pytest.mark.parametrize("op_type", sorted(OPERATORS))
@settings(max_examples=12)
@given(attributes=st.dictionaries(st.sampled_from(ATTRIBUTES), VALUE, max_size=4),
       arrays=st.lists(st.none() | ARRAY, max_size=5),
       version=st.sampled_from([1, 6, 9, 11, 13, 18, 21]))
def test_hostile_operators(op_type, attributes, arrays, version):
    domain, _, name = op_type.rpartition("::")
    op = Operator(name, domain, version, attributes)
    inputs = [None if a is None else _array(*a) for a in arrays]
    types = [None if x is None else (x.dtype, x.shape) for x in inputs]
    outputs = found = None
    try:
        outputs = numpy_ops.evaluate(op, inputs, max_elements=1 << 20)
    except (ValueError, TypeError) as e:
        assert str(e).startswith(op.title + ": `")
    try:
        found = numpy_ops.infer(op, types, inputs)
    except (ValueError, TypeError) as e:
        assert str(e).startswith(op.title + ": `")
    if outputs is not None and found is not None:
        assert [(y.dtype, y.shape) for y in outputs] == found[:1]


def test_every_own_function_has_a_rule():
    assert set(OPERATORS) <= set(RULES)
