"""What the reader of ONNX files refuses, each by a small model made for it, and that the error names the place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

import cnnext as cx
from cnnext.onnx.files import _TYPES_ONLY, _TYPES_ONLY_SINCE, TARGET_VERSION, OnnxLimits, _means_the_same, read
from cnnext.onnx.importer import load
from cnnext.onnx.wire import check_cost, without_weights
from cnnext.stored import StoredFile
from tests.onnx.small_models import MODELS

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SHAPE = [1, 2, 8, 8]
node, info = helper.make_node, helper.make_tensor_value_info


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CNNEXT_MEMORY_LIMIT", str(64 << 20))


def tensor(name: str, array: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def graph_of(nodes: list, tensors: list = (), inputs: list | None = None, outputs: list | None = None):
    inputs = [info("x", FLOAT, SHAPE)] if inputs is None else inputs
    outputs = [info("y", FLOAT, ["a", "b", "c", "d"])] if outputs is None else outputs
    return helper.make_graph(nodes, "g", inputs, outputs, list(tensors))


def model_of(nodes: list, tensors: list = (), opset: int = 21, functions: tuple = (), **graph: object) -> ModelProto:
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in ("d", "com.example"))]
    return helper.make_model(graph_of(nodes, tensors, **graph), opset_imports=imports, ir_version=10, functions=functions)


def operator(op_type: str, *operands: object, **attributes: object) -> ModelProto:
    """y = op(x, operands...), the node called "place"."""
    tensors = [tensor(f"operand{i}", a) for i, a in enumerate(operands)]
    return model_of([node(op_type, ["x", *(t.name for t in tensors)], ["y"], "place", **attributes)], tensors)


def relu(**changes: object) -> ModelProto:
    model = model_of([node("Relu", ["x"], ["y"], "place")])
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def with_tensor(change: Callable[[TensorProto], None]) -> ModelProto:
    """y = x + w, whose weight was changed."""
    model = model_of([node("Add", ["x", "w"], ["y"], "place")], [tensor("w", np.ones((1, 2, 8, 8), np.float32))])
    change(model.graph.initializer[0])
    return model


def refused(model: ModelProto | bytes, *parts: str, **options: object) -> str:
    """The model is refused when it is loaded, within a second or so, by an error with these parts."""
    began = time.process_time()
    with pytest.raises(cx.ModelFileError) as caught:
        cx.load(model if isinstance(model, bytes) else model.SerializeToString(), **options)
    text = str(caught.value)
    assert text.startswith("ONNX model: "), text
    assert all(part in text for part in parts), text
    assert time.process_time() - began < 5
    return text


def fails(model: ModelProto, *parts: str) -> None:
    """The model is refused for the shape of its output y where that can be told, and else fails when it is run."""
    try:
        cx.load(model.SerializeToString())
    except cx.ModelFileError as error:
        assert "'y': `shape` must have at most" in str(error)
        return
    fails_at_run(model, *parts)


def fails_at_run(model: ModelProto, *parts: str) -> str:
    """The model is loaded, and running it raises an error of the argument or the dtype with these parts."""
    net = cx.load(model.SerializeToString(), num_threads=1)
    with pytest.raises((ValueError, TypeError)) as caught:
        net._runner.run([np.ones([n or 1 for n in v.shape], v.dtype) for v in net.graph.inputs])
    text = str(caught.value)
    assert all(part in text for part in parts), text
    return text


# Files


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x0a" + b"\xff" * 50, b"\x3a\x05abcde", b"\x12\x03abc", b"\x3a\x7f"])
def test_bytes_that_are_no_model(data: bytes):
    refused(data, "not an ONNX model, or a damaged one")


def test_no_bytes_at_all():
    with pytest.raises(cx.ModelFileError):
        cx.load(b"")


def test_a_file_cut_at_every_byte(tmp_path: Path):
    model = relu()
    del model.opset_import[1:]
    whole = model.SerializeToString()
    path = tmp_path / "cut.onnx"
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(cx.ModelFileError, match=r"cut\.onnx"):
            cx.load(path)
    path.write_bytes(whole)
    cx.load(path)


def test_paths_that_are_no_files(tmp_path: Path):
    for name, make in (("folder.onnx", os.mkdir), ("pipe.onnx", os.mkfifo)):
        make(tmp_path / name)
        with pytest.raises(cx.ModelFileError, match="plain file"):
            cx.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        cx.load(tmp_path / "absent.onnx")


def test_a_file_beyond_the_limit(tmp_path: Path):
    path = tmp_path / "m.onnx"
    path.write_bytes(relu().SerializeToString())
    with pytest.raises(cx.ModelFileError, match="the limit is 10"):
        load(path, limits=OnnxLimits(max_bytes=10))
    with pytest.raises(cx.ModelFileError, match="the limit is 10"):
        load(path.read_bytes(), limits=OnnxLimits(max_bytes=10))


# Many small parts


def varint(n: int) -> bytes:
    return (bytes([n & 127 | 128]) + varint(n >> 7)) if n > 127 else bytes([n])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


MANY = 300_000
BOMBS = {
    "nodes": field(1, b"") * MANY,
    "initializers": field(5, b"") * MANY,
    "inputs": field(11, b"") * MANY,
    "attributes": field(1, field(5, b"") * MANY),
    "names": field(1, field(1, b"") * 3 * MANY),
    "dims": field(5, field(1, b"\x01" * 10 * MANY)),
    "int64_data": field(5, field(8, b"w") + b"\x10\x07" + field(7, b"\x01" * 10 * MANY)),
    "subgraphs": field(1, field(5, field(6, field(1, b"") * MANY))),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_small_files_that_would_take_much_memory(content: bytes):
    refused(b"\x08\x0a" + field(7, content), "`size` must let it be read in", "too many small parts")


def test_what_parsing_costs_is_told_from_whole_models():
    for make in MODELS.values():
        data = make()
        padded = data + field(6, b"x" * (200 << 10))     # a documentation string: beyond the size of what is not looked at
        check_cost(onnx, padded, 8 * len(padded) + (64 << 10))
        with pytest.raises(cx.ModelFileError, match="small parts"):
            check_cost(onnx, padded, 4 * len(padded) + 1000)


@pytest.mark.parametrize("tail", [b"\x3b", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a", b"\x3a" + b"\xff" * 11, b"\x39123"])
def test_wire_format_that_breaks_off(tail: bytes):
    with pytest.raises(cx.ModelFileError, match="damaged"):
        check_cost(onnx, field(6, b"x" * (200 << 10)) + tail, 1 << 30)


# The model


@pytest.mark.parametrize("changes", [{"ir_version": -5}, {"ir_version": 0}, {"ir_version": 2**40}])
def test_ir_version(changes: dict):
    refused(relu(**changes), "ir_version")


@pytest.mark.parametrize("versions, part", [
    ([("", -1)], "Relu"), ([("", 0)], "Relu"), ([("", 2**40)], "1099511627776"), ([], "opset"), ([("d", 1)], "No opset"),
    ([("", 21), ("", 13)], "opset_import"), ([("", 21), ("ai.onnx", 21)], "opset_import"),
])
def test_opset(versions: list, part: str):
    model = relu()
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*v) for v in versions)
    refused(model, part)


def test_no_graph():
    model = ModelProto(ir_version=10)
    refused(model, "no graph")


def test_no_outputs_are_refused():
    refused(model_of([node("Relu", ["x"], ["y"], "place")], outputs=[]))


@pytest.mark.parametrize("nodes, part", [
    ([node("Relu", ["b"], ["a"], "one"), node("Relu", ["a"], ["b"], "two"), node("Relu", ["b"], ["y"], "three")], "'b'"),
    ([node("Relu", ["y"], ["y"], "self")], "'y'"),
    ([node("Relu", ["nowhere"], ["y"], "place")], "'nowhere'"),
    ([node("Relu", ["x"], ["z"], "place")], "'y'"),
    ([node("Relu", ["x"], ["y"], "one"), node("Neg", ["x"], ["y"], "two")], "y"),
    ([node("Relu", ["x"], ["x"], "place")], "x"),
    ([node("Relu", [""], ["y"], "place")], "place"),
    ([node("Relu", ["x"], [""], "place"), node("Neg", ["x"], ["y"], "other")], "place"),
    ([node("Relu", [], ["y"], "place")], "place"),
    ([node("Relu", ["x", "x"], ["y"], "place")], "place"),
], ids=["cycle", "reads itself", "never made", "output not made", "made twice", "input made again", "input without name",
        "output without name", "no input", "too many inputs"])
def test_wiring(nodes: list, part: str):
    refused(model_of(nodes), part)


def test_names_of_inputs_and_outputs():
    double = [info("x", FLOAT, SHAPE), info("x", FLOAT, SHAPE)]
    refused(model_of([node("Relu", ["x"], ["y"])], inputs=double), "x")
    refused(model_of([node("Relu", ["x"], ["y"])], inputs=[info("", FLOAT, SHAPE), info("x", FLOAT, SHAPE)]))
    twice = model_of([node("Relu", ["x"], ["y"])], outputs=[info("y", FLOAT, SHAPE)] * 2)
    with pytest.raises(ValueError, match="different names"):
        cx.InferenceSession(twice.SerializeToString())


@pytest.mark.parametrize("extents, part", [
    ([2**62, 4], "'x'"), ([2**31, 2**31, 2**31], "'x'"), ([2**40], "'x'"), ([1] * 33, "32 axes"), ([1] * 1000, "32 axes"),
    (["N", 2**40], "'x'"),
])
def test_absurd_shapes_of_inputs(extents: list, part: str):
    model = model_of([node("Relu", ["x"], ["y"])], inputs=[info("x", FLOAT, extents)], outputs=[info("y", FLOAT, ["a"])])
    refused(model, part)


def test_types_of_inputs_that_are_no_tensors_of_numbers():
    y = [info("y", FLOAT, SHAPE)]
    texts = [info("x", TensorProto.STRING, SHAPE)]
    refused(model_of([node("Identity", ["x"], ["y"])], inputs=texts, outputs=y), "'x'", "texts")
    refused(model_of([node("Identity", ["x"], ["y"])], inputs=[info("x", 77, SHAPE)], outputs=y), "77")
    refused(model_of([node("Identity", ["x"], ["y"])], inputs=[info("x", FLOAT, None)]))
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, SHAPE)
    refused(model_of([node("SequenceLength", ["x"], ["y"])], inputs=[sequence], outputs=[info("y", INT64, [])]), "'x'")


# Tensors


def _twice(t: TensorProto) -> None:
    t.float_data.extend([0.0] * 128)


def _external_and_here(t: TensorProto) -> None:
    t.data_location = TensorProto.EXTERNAL
    t.external_data.add(key="location", value="w.bin")


def _of_texts(t: TensorProto) -> None:
    t.ClearField("raw_data")
    t.data_type = TensorProto.STRING
    t.string_data.extend([b"a"] * 128)


TENSORS: dict[str, tuple[Callable[[TensorProto], object], str]] = {
    "data twice": (_twice, "twice"),
    "data here and elsewhere": (_external_and_here, "another file"),
    "too short": (lambda t: setattr(t, "raw_data", t.raw_data[:-1]), "fit its 511 bytes"),
    "too long": (lambda t: setattr(t, "raw_data", t.raw_data + b"\0"), "fit its 513 bytes"),
    "no data": (lambda t: t.ClearField("raw_data"), "fit its 0 bytes"),
    "negative": (lambda t: t.dims.__setitem__(0, -1), "`dims`"),
    "overflow": (lambda t: (t.dims.__setitem__(0, 2**62), t.dims.__setitem__(1, 4)), "`dims`"),
    "overflow to nothing": (lambda t: t.dims.extend([2**32, 2**32]), "`dims`"),
    "rank": (lambda t: t.dims.extend([1] * 1000), "at most 32 extents"),
    "dtype": (lambda t: setattr(t, "data_type", 99), "'w'"),
    "no dtype": (lambda t: setattr(t, "data_type", 0), "'w'"),
    "texts": (_of_texts, "texts"),
    "segment": (lambda t: t.segment.SetInParent(), "segments"),
    "no name": (lambda t: t.ClearField("name"), "no name"),
    "sparse": (lambda t: None, "sparse"),
    "name twice": (lambda t: None, "two initializers are called 'w'"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_initializers(name: str):
    change, part = TENSORS[name]
    model = with_tensor(change)
    if name == "sparse":
        model.graph.sparse_initializer.add()
    if name == "name twice":
        model.graph.initializer.append(model.graph.initializer[0])
    refused(model, part)


@pytest.mark.parametrize("name", ["data twice", "too short", "negative", "overflow", "rank", "dtype", "texts"])
def test_tensors_of_attributes_and_subgraphs(name: str):
    change, _ = TENSORS[name]
    inner = tensor("w", np.ones((1, 2, 8, 8), np.float32))
    change(inner)
    fill = node("ConstantOfShape", ["s"], ["y"], "place")
    fill.attribute.append(helper.make_attribute("value", tensor("w", np.ones(1, np.float32))))
    fill.attribute[0].t.CopyFrom(inner)
    refused(model_of([fill], [tensor("s", SHAPE)]), "'w'")
    branch = graph_of([node("Add", ["x", "w"], ["y1"])], [inner], [], [info("y1", FLOAT, SHAPE)])
    choice = node("If", ["c"], ["y"], "place", then_branch=branch, else_branch=branch)
    refused(model_of([choice], [tensor("c", np.array(True))]), "'w'")


def test_constants():
    for attributes in ({}, {"value_string": "a"}, {"value_float": 1.0, "value_int": 1}):
        refused(model_of([node("Constant", [], ["c"], "place", **attributes), node("Add", ["x", "c"], ["y"])]), "Constant")


# Operators


def test_all_unknown_operators_are_named_at_once():
    model = model_of([node("Mystery", ["x"], ["a"], "first", domain="com.example"),
                      node("Riddle", ["a"], ["b"], "second", domain="com.example"),
                      node("Mystery", ["b"], ["c"], "third", domain="com.example"),
                      node("StringNormalizer", ["c"], ["y"], "fourth")])
    refused(model, "com.example::Mystery (nodes 'first', 'third')", "com.example::Riddle (node 'second')",
            "StringNormalizer (node 'fourth')")


def test_operators_of_plugins_that_are_switched_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CNNEXT_PLUGINS", "none")
    model = operator("LRN", size=3)
    refused(model, "LRN (node 'place')", "pip install cnnext-normalization")


def test_an_operator_that_onnx_does_not_know():
    refused(operator("Convolve"), "Convolve")


@pytest.mark.parametrize("name, kind, value", [
    ("strides", AttributeProto.STRING, "22"), ("strides", AttributeProto.INT, 2), ("group", AttributeProto.FLOAT, 1.0),
    ("pads", AttributeProto.TENSOR, numpy_helper.from_array(np.zeros(4, np.int64))), ("unknown", AttributeProto.INT, 2),
])
def test_attributes_of_a_wrong_type(name: str, kind: int, value: object):
    model = operator("Conv", np.zeros((4, 2, 3, 3), np.float32))
    model.graph.node[0].attribute.append(helper.make_attribute(name, value, attr_type=kind))
    refused(model, name)


KERNEL = np.zeros((4, 2, 3, 3), np.float32)
ABSURD = {
    "group 0": (operator("Conv", KERNEL, group=0), "group"),
    "group negative": (operator("Conv", KERNEL, group=-1), "group"),
    "pads": (operator("Conv", KERNEL, pads=[2**62, 0, 0, 0]), "padding"),
    "too few pads": (operator("Conv", KERNEL, pads=[1]), "pads"),
    "strides 0": (operator("Conv", KERNEL, strides=[0, 0]), "strides"),
    "dilations": (operator("Conv", KERNEL, dilations=[2**62, 1]), "dilation"),
    "kernel_shape": (operator("MaxPool", kernel_shape=[2**40, 2**40]), "kernel_shape"),
    "kernel_shape 0": (operator("MaxPool", kernel_shape=[0, 0]), "kernel_shape"),
    "kernel_shape negative": (operator("AveragePool", kernel_shape=[-2, 2]), "kernel_shape"),
    "strides of a transposed convolution": (operator("ConvTranspose", np.zeros((2, 2, 2, 2), np.float32),
                                                     strides=[2**20, 2**20]), "place"),
    "axis": (operator("Softmax", axis=2**62), "axis"),
    "perm": (operator("Transpose", perm=[0, 0, 0, 0]), "perm"),
    "blocks": (operator("DepthToSpace", blocksize=0), "block_size"),
    "negative blocks": (operator("SpaceToDepth", blocksize=-3), "block_size"),
    "groups": (operator("GroupNormalization", np.ones(2, np.float32), np.ones(2, np.float32), num_groups=0), "num_groups"),
    "texts": (operator("Cast", to=TensorProto.STRING), "numbers"),
    "type": (operator("Cast", to=77), "to"),
    "expand": (operator("Expand", np.array([2**40, 2, 8, 8])), "shape"),
    "expand, overflow": (operator("Expand", np.array([2**62, 2, 8, 8])), "shape"),
    "tile": (operator("Tile", np.array([2**40, 1, 1, 1])), "elements"),
    "tile, 64 GB": (operator("Tile", np.array([2**27, 1, 1, 1])), "CNNEXT_MEMORY_LIMIT"),
    "pad": (operator("Pad", np.array([0, 0, 2**40, 0, 0, 0, 0, 0])), "padding"),
    "reshape": (operator("Reshape", np.array([2**62, 4])), "shape"),
    "reshape, rank": (operator("Reshape", np.ones(100, np.int64)), "place"),
    "unsqueeze, rank": (operator("Unsqueeze", np.arange(100)), "place"),
    "gather": (operator("Gather", np.array([2**40])), "out of bounds"),
    "slice of nothing": (operator("TopK", np.array([2**40])), "k"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_operands_are_refused_when_the_plan_is_made(name: str):
    model, part = ABSURD[name]
    if name == "slice of nothing":
        model.graph.node[0].output.append("places")
    fails(model, "place", part)


@pytest.mark.parametrize("contents", [[2**20, 2**20, 1, 1], [2**62, 4, 1, 1], [-1, 1, 1, 1], [2**28, 1, 1, 1]])
def test_constants_of_absurd_shapes(contents: list):
    fails(model_of([node("ConstantOfShape", ["s"], ["y"], "place")], [tensor("s", np.array(contents))]), "'place'")


def test_a_range_without_end():
    count = [tensor("a", np.int64(0)), tensor("b", np.int64(2**40)), tensor("c", np.int64(1))]
    model = model_of([node("Range", ["a", "b", "c"], ["y"], "place")], count, outputs=[info("y", INT64, ["n"])])
    fails(model, "'place'")


def test_many_constants_together_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CNNEXT_MEMORY_LIMIT", str(16 << 20))
    nodes = [node("ConstantOfShape", ["s"], [f"c{i}"], f"n{i}") for i in range(8)]
    model = model_of([*nodes, node("Sum", [f"c{i}" for i in range(8)], ["y"], "sum")],
                     [tensor("s", np.array([1, 1, 1024, 1024]))])
    fails_at_run(model, "'n4', with the constants before it")


@pytest.mark.parametrize("limit", ["1e9", "-1", "much"])
def test_the_memory_limit_is_a_number(limit: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CNNEXT_MEMORY_LIMIT", limit)
    fails_at_run(relu(), "CNNEXT_MEMORY_LIMIT")


# What the package onnx would take memory or time for without end


def test_split_into_absurdly_many():
    refused(model_of([node("Split", ["x"], ["y"], "place", num_outputs=2**40)]), "'place'", "num_outputs")


@pytest.mark.parametrize("equation", ["..." * 1000, ".", "a..b", "ab->c->d", "ab;cd", "a" * 10_000, "a..." * 2])
def test_equations_without_sense(equation: str):
    refused(operator("Einsum", equation=equation), "'place'", "equation")


@pytest.mark.parametrize("equation", ["abcd->dcba", "...->...", " a b c d -> a", "ab..., ab... -> ab", "abcd,abcd"])
def test_equations_with_sense(equation: str):
    n_inputs = 1 + equation.count(",")
    model = model_of([node("Einsum", ["x"] * n_inputs, ["y"], equation=equation)])
    cx.load(model.SerializeToString())


def test_concatenations_that_double_forty_times():
    nodes = [node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(30)]
    model = model_of([*nodes, node("ConstantOfShape", ["c30"], ["y"], "place")], [tensor("c0", np.ones(8, np.int64))])
    net = cx.load(model.SerializeToString())
    with pytest.raises(ValueError):
        net._runner.run([np.ones(SHAPE, np.float32)])


def functions_of(n: int, width: int) -> tuple:
    """f0 is Relu; each other calls the one before it ``width`` times."""
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("d", 1)]
    made = [helper.make_function("d", "f0", ["a"], ["b"], [node("Relu", ["a"], ["b"])], imports)]
    for i in range(1, n):
        names = ["a", *(f"t{k}" for k in range(1, width)), "b"]
        calls = [node(f"f{i - 1}", [names[k]], [names[k + 1]], domain="d") for k in range(width)]
        made.append(helper.make_function("d", f"f{i}", ["a"], ["b"], calls, imports))
    return tuple(made)


def test_functions_that_multiply():
    refused(model_of([node("f9", ["x"], ["y"], domain="d")], functions=functions_of(10, 10)), "`nodes` must be at most")
    refused(model_of([node("f99", ["x"], ["y"], domain="d")], functions=functions_of(100, 1)), "nested")
    net = cx.load(model_of([node("f3", ["x"], ["y"], domain="d")], functions=functions_of(4, 5)).SerializeToString())
    assert len(net.graph.nodes) == 125


def test_functions_that_call_themselves():
    imports = [helper.make_opsetid("d", 1)]
    for calls in ({"f": "f"}, {"f": "g", "g": "f"}):
        made = [helper.make_function("d", name, ["a"], ["b"], [node(called, ["a"], ["b"], domain="d")], imports)
                for name, called in calls.items()]
        refused(model_of([node("f", ["x"], ["y"], domain="d")], functions=tuple(made)), "calls itself")


# Subgraphs


def branch_of(name: str, nodes: list, inputs: list = (), outputs: list | None = None):
    return helper.make_graph(nodes, name, list(inputs), outputs or [info(name, FLOAT, SHAPE)])


TRUE = tensor("true", np.array(True))


def test_branches_nested_deeply():
    inner = branch_of("o0", [node("Relu", ["x"], ["o0"])])
    for i in range(1, 25):
        other = branch_of("other", [node("Neg", ["x"], ["other"])])
        inner = branch_of(f"o{i}", [node("If", ["true"], [f"o{i}"], f"if{i}", then_branch=inner, else_branch=other)])
    model = model_of([node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)], [TRUE])
    x = np.float32([-1, 1] * 64).reshape(SHAPE)
    assert np.array_equal(cx.load(model.SerializeToString())._runner.run([x])[0], np.maximum(x, 0))


def test_branches_nested_deeper_than_protobuf_goes():
    content = b""
    for _ in range(2000):
        content = field(1, field(5, field(6, content)))
    refused(b"\x08\x0a" + field(7, content), "not an ONNX model, or a damaged one")


def test_subgraphs_that_do_not_fit_their_node():
    relu_branch = branch_of("o", [node("Relu", ["x"], ["o"])])
    with_input = branch_of("o", [node("Relu", ["x"], ["o"])], [info("i", FLOAT, SHAPE)])
    refused(model_of([node("If", ["true"], ["y", "z"], "place", then_branch=relu_branch, else_branch=relu_branch)], [TRUE]),
            "If 'place'", "then_branch")
    refused(model_of([node("If", ["true"], ["y"], "place", then_branch=relu_branch, else_branch=with_input)], [TRUE]),
            "'place'", "else_branch")
    refused(model_of([node("If", ["true"], ["y"], "place", then_branch=relu_branch)], [TRUE]), "else_branch")
    refused(model_of([node("Loop", ["", "true", "x"], ["y"], "place", body=relu_branch)], [TRUE]), "Loop 'place'", "body")
    lost = branch_of("o", [node("Relu", ["nowhere"], ["o"])])
    refused(model_of([node("If", ["true"], ["y"], "place", then_branch=lost, else_branch=lost)], [TRUE]), "nowhere")


def loop(depth: int, trips: int) -> ModelProto:
    """Loops inside of each other, each of ``trips`` iterations."""
    work = node("Relu", ["v0"], ["w0"])
    for i in range(depth):
        body = helper.make_graph(
            [work, node("Identity", [f"c{i}"], [f"d{i}"])], f"body{i}",
            [info(f"i{i}", INT64, []), info(f"c{i}", BOOL, []), info(f"v{i}", FLOAT, SHAPE)],
            [info(f"d{i}", BOOL, []), info(f"w{i}", FLOAT, SHAPE)])
        last = i == depth - 1
        work = node("Loop", ["trips", "", "x" if last else f"v{i + 1}"], ["y" if last else f"w{i + 1}"],
                    "place" if last else f"loop{i}", body=body)
    return model_of([work], [tensor("trips", np.int64(trips))])


def test_loops_end():
    fails_at_run(loop(1, 2**62), "Loop 'place'", "iterations")
    fails_at_run(loop(6, 1000), "Loop 'place'", "iterations")
    x = np.float32([-1, 1] * 64).reshape(SHAPE)
    assert np.array_equal(cx.load(loop(3, 4).SerializeToString())._runner.run([x])[0], np.maximum(x, 0))


def test_what_loops_collect_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CNNEXT_MEMORY_LIMIT", str(1 << 20))
    body = helper.make_graph([node("Identity", [a], [b]) for a, b in (("c", "d"), ("v", "w"), ("v", "row"))], "body",
                             [info("i", INT64, []), info("c", BOOL, []), info("v", FLOAT, SHAPE)],
                             [info("d", BOOL, []), info("w", FLOAT, SHAPE), info("row", FLOAT, SHAPE)])
    model = model_of([node("Loop", ["trips", "", "x"], ["last", "y"], "place", body=body)],
                     [tensor("trips", np.int64(40_000))], outputs=[info("y", FLOAT, ["n", *SHAPE])])
    fails_at_run(model, "Loop 'place'", "memory")


# Tensors in other files


WEIGHT = np.arange(128, dtype=np.float32).reshape(SHAPE)


def external(folder: Path, location: str = "w.bin", where: str = "initializer", **entries: str) -> Path:
    """A model in ``folder`` with its weight at ``location``."""
    proto = TensorProto(name="w", data_type=FLOAT, dims=SHAPE, data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, **entries}.items():
        proto.external_data.add(key=key, value=text)
    if where == "initializer":
        model = model_of([node("Add", ["x", "w"], ["y"], "place")], [proto])
    elif where == "constant":
        model = model_of([node("Constant", [], ["w"]), node("Add", ["x", "w"], ["y"], "place")])
        model.graph.node[0].attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=proto))
    else:
        branch = graph_of([node("Add", ["x", "w"], ["y1"])], [proto], [], [info("y1", FLOAT, SHAPE)])
        model = model_of([node("If", ["true"], ["y"], "place", then_branch=branch, else_branch=branch)], [TRUE])
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def external_refused(path: Path, *parts: str, allowed: bool = True) -> None:
    with pytest.raises(cx.ModelFileError) as caught:
        cx.load(path, external_data=allowed)
    assert all(part in str(caught.value) for part in ("tensor 'w'", *parts)), str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    (made / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    return made


@pytest.mark.parametrize("where", ["initializer", "constant", "subgraph"])
def test_external_data_are_off_unless_asked_for(folder: Path, where: str, monkeypatch: pytest.MonkeyPatch):
    path = external(folder, where=where)
    monkeypatch.chdir(folder)   # where a reader that takes the name as it stands would find the file
    external_refused(path, "another file", "external_data=True", allowed=False)
    with pytest.raises(cx.ModelFileError, match="another file"):
        cx.load(path.read_bytes(), external_data=True)  # bytes lie in no folder
    monkeypatch.chdir("/")
    net = cx.load(path, external_data=True)
    assert np.array_equal(net._runner.run([np.ones(SHAPE, np.float32)])[0], WEIGHT + 1)


def test_an_offset_into_a_larger_file(folder: Path):
    (folder / "w.bin").write_bytes(b"\0" * 100 + WEIGHT.tobytes() + b"\0" * 100)
    net = cx.load(external(folder, offset="100", length="512"), external_data=True)
    assert np.array_equal(net._runner.run([np.zeros(SHAPE, np.float32)])[0], WEIGHT)


@pytest.mark.parametrize("location", ["../secret.bin", "./w.bin", "sub/w.bin", "/etc/hostname", "..", ".", "", "a\\b",
                                      "w\0.bin"])
def test_other_folders(folder: Path, location: str):
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(WEIGHT.tobytes())
    external_refused(external(folder, location), "`location` must be the name of a file")


@pytest.mark.parametrize("where", ["initializer", "subgraph"])
def test_links(folder: Path, where: str):
    os.symlink("../secret.bin", folder / "symbolic.bin")
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    os.symlink("w.bin", folder / "inside.bin")
    external_refused(external(folder, "symbolic.bin", where), "symbolic.bin")
    external_refused(external(folder, "inside.bin", where), "inside.bin")
    external_refused(external(folder, "hard.bin", where), "plain file without other names")


def test_what_is_no_plain_file(folder: Path):
    os.mkfifo(folder / "pipe")
    (folder / "inner").mkdir()
    for name in ("pipe", "inner"):
        external_refused(external(folder, name), "plain file")
    external_refused(external(folder, "absent"), "cannot be opened")


@pytest.mark.parametrize("entries, part", [
    ({"offset": "1"}, "are wanted"), ({"offset": "512"}, "are wanted"), ({"offset": str(2**63 - 100)}, "offset"),
    ({"offset": str(10**17)}, "are wanted"), ({"offset": "-4"}, "offset"), ({"offset": "four"}, "offset"),
    ({"offset": "9" * 10_000}, "offset"), ({"offset": "٣"}, "offset"), ({"offset": ""}, "offset"),
    ({"length": "511"}, "length"),
    ({"length": "513"}, "length"), ({"length": "-1"}, "length"), ({"length": "0x200"}, "length"),
])
def test_offsets_and_lengths(folder: Path, entries: dict, part: str):
    external_refused(external(folder, **entries), part)


def test_a_file_that_is_too_short(folder: Path):
    (folder / "w.bin").write_bytes(WEIGHT.tobytes()[:-1])
    external_refused(external(folder), "511 bytes")


def test_absurd_shapes_of_external_tensors(folder: Path):
    path = external(folder)
    model = ModelProto.FromString(path.read_bytes())
    model.graph.initializer[0].dims[0] = 2**50
    path.write_bytes(model.SerializeToString())
    external_refused(path)
    with pytest.raises(cx.ModelFileError, match="beyond the limit"):
        load(external(folder), external_data=True, limits=OnnxLimits(max_external_bytes=100))


# Limits that a caller lifts


def chain(length: int) -> ModelProto:
    nodes = [node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}" if i + 1 < length else "y"]) for i in range(length)]
    return model_of(nodes)


@pytest.mark.parametrize("limit, enough", [("max_nodes", 300), ("max_bytes", 1 << 20), ("max_tensors", 1), ("max_rank", 4)])
def test_limits_reach_the_reader_from_load_and_sessions(limit: str, enough: int):
    model = chain(300)
    model.graph.initializer.append(tensor("w", np.ones((1, 1, 1, 2), np.float32)))
    data = model.SerializeToString()
    for make in (cx.load, cx.InferenceSession):
        make(data, limits=cx.onnx.OnnxLimits(**{limit: enough}))
        with pytest.raises(cx.ModelFileError):
            make(data, limits=cx.onnx.OnnxLimits(**{limit: min(enough - 1, 100)}))
        with pytest.raises(TypeError, match=r"`limits` must be cnnext\.onnx\.OnnxLimits for such a file"):
            make(data, limits=cx.modelfile.Limits())


def test_what_small_parts_may_take_can_be_lifted():
    data = chain(8000).SerializeToString()
    tight = OnnxLimits(max_memory=4 << 20)
    with pytest.raises(cx.ModelFileError, match=r"too many small parts \(limits\.max_memory\)"):
        cx.onnx.importer.describe(data, limits=tight)
    assert cx.onnx.importer.describe(data, limits=OnnxLimits(max_memory=64 << 20)).operators == {"Relu": 8000}


# Weights are left in the file


def weighted(array: np.ndarray) -> ModelProto:
    """y = x + w, with other tensors before and after w."""
    small = np.ones((1, 1, 1, 1), np.float32)
    return model_of([node("Add", ["x", "w"], ["y"], "place")], [tensor("a", small), tensor("w", array), tensor("b", small)],
                    inputs=[info("x", FLOAT, list(array.shape))], outputs=[info("y", FLOAT, list(array.shape))])


HEAVY = np.random.default_rng(0).standard_normal((1, 2, 100, 100)).astype(np.float32)


@pytest.mark.parametrize("in_bytes", [False, True])
def test_a_model_without_its_weights(tmp_path: Path, in_bytes: bool):
    data = weighted(HEAVY).SerializeToString()
    (tmp_path / "m").write_bytes(data)
    file = StoredFile(data if in_bytes else os.open(tmp_path / "m", os.O_RDONLY), "m")
    light, places = without_weights(onnx, file)
    [(index, (offset, n_bytes))] = places.items()
    assert index == 1 and data[offset : offset + n_bytes] == HEAVY.tobytes()
    assert len(light) < len(data) - n_bytes
    parsed, whole = ModelProto.FromString(light), ModelProto.FromString(data)
    assert not parsed.graph.initializer[1].HasField("raw_data")
    parsed.graph.initializer[1].raw_data = HEAVY.tobytes()
    assert parsed == whole


@pytest.mark.parametrize("stay", [False, True])
def test_weights_are_the_same_wherever_they_are(stay: bool):
    net = load(weighted(HEAVY).SerializeToString(), stay=stay)
    assert [p.stored is not None for p in net.parameters] == [stay]
    np.testing.assert_array_equal(net.get_weights()[0], HEAVY)
    net.parameters[0].assign(np.zeros_like(HEAVY))
    np.testing.assert_array_equal(net.get_weights()[0], 0 * HEAVY)


def test_what_cannot_be_cut_is_parsed_as_it_is():
    model = weighted(HEAVY)
    twice = model.SerializeToString() + field(7, field(5, tensor("c", HEAVY).SerializeToString()))   # protobuf merges them
    assert without_weights(onnx, StoredFile(twice, "m")) == (twice, {})
    w = tensor("w", HEAVY).SerializeToString()
    again = field(7, field(5, w + field(9, bytes(len(HEAVY.tobytes())))))   # protobuf takes the last of two
    assert without_weights(onnx, StoredFile(again, "m")) == (again, {})


def with_heavy(change: Callable[[TensorProto], None]) -> ModelProto:
    model = weighted(HEAVY)
    change(model.graph.initializer[1])
    return model


@pytest.mark.parametrize("change, part", [
    (lambda t: t.dims.append(2), "fit its 80000 bytes"), (lambda t: t.dims.__setitem__(0, -1), "`dims`"),
    (lambda t: t.dims.extend([1] * 40), "`dims` must be at most 32 extents"), (lambda t: t.float_data.append(1), "twice"),
    (lambda t: setattr(t, "data_type", TensorProto.DOUBLE), "fit its 80000 bytes"),
    (lambda t: setattr(t, "data_location", TensorProto.EXTERNAL), "another file"),
    (lambda t: t.segment.SetInParent(), "segments"), (lambda t: setattr(t, "name", ""), "no name"),
    (lambda t: setattr(t, "name", "a"), "two initializers"),
])
def test_weights_in_the_file_are_checked_as_others_are(change: Callable[[TensorProto], None], part: str):
    refused(with_heavy(change), part)


def test_heavy_weights_of_other_types():
    half = weighted(HEAVY.astype(np.float16))
    half.graph.input[0].type.tensor_type.elem_type = half.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    feed = {"x": np.ones(HEAVY.shape, np.float16)}
    (y,) = cx.InferenceSession(half.SerializeToString()).run(None, feed)
    np.testing.assert_array_equal(y, HEAVY.astype(np.float16) + feed["x"])
    packed = helper.make_tensor("w", TensorProto.INT4, [4000], np.tile([1, -2], 2000))
    model = model_of([node("Cast", ["w"], ["y"], "place", to=FLOAT)], [packed], inputs=[],
                     outputs=[info("y", FLOAT, [4000])])
    (y,) = cx.InferenceSession(model.SerializeToString()).run(None, {})
    np.testing.assert_array_equal(y, np.tile(np.float32([1, -2]), 2000))


# Operators whose meaning did not change need no conversion


OLD = {
    "Flatten": [node("Flatten", ["x"], ["y"], axis=2)], "Identity": [node("Identity", ["x"], ["y"])],
    "Reshape": [node("Reshape", ["x", "s"], ["y"])], "Shape": [node("Shape", ["x"], ["y"])],
    "Squeeze": [node("Squeeze", ["x", "a"], ["y"])], "Transpose": [node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])],
    "Unsqueeze": [node("Unsqueeze", ["x", "a"], ["y"])],
}


@pytest.mark.parametrize("opset", range(_TYPES_ONLY_SINCE, TARGET_VERSION))
@pytest.mark.parametrize("op_type", sorted(_TYPES_ONLY))
def test_the_converter_too_changes_nothing_but_the_version(op_type: str, opset: int):
    outputs = [helper.make_tensor_value_info("y", INT64 if op_type == "Shape" else FLOAT, None)]
    operands = [tensor("s", np.array([2, -1])), tensor("a", np.array([0]))]
    used = [t for t in operands if t.name in OLD[op_type][0].input]
    model = model_of(OLD[op_type], used, opset, inputs=[info("x", FLOAT, [1, 2, 8, 8])], outputs=outputs)
    converted = onnx.version_converter.convert_version(model, TARGET_VERSION)
    assert list(converted.graph.node) == list(model.graph.node)


def test_models_of_an_old_version_are_converted_where_an_operator_changed(monkeypatch: pytest.MonkeyPatch):
    called = []
    monkeypatch.setattr(onnx.version_converter, "convert_version", lambda model, _: called.append(1) or model)
    for op_type, nodes in (("Relu", 0), ("Flatten", 0), ("DequantizeLinear", 1), ("Unknown", 1)):
        model = model_of([node(op_type, ["x"], ["y"])], opset=14)
        assert _means_the_same(onnx, model) == (not nodes)
    assert not _means_the_same(onnx, model_of([node("Relu", ["x"], ["y"])], opset=12))
    assert read(model_of([node("Relu", ["x"], ["y"])], opset=14)).model.opset_import[0].version == 21
    assert not called
