"""Five small models of different kinds, as bytes: what the mutations start from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8
value = helper.make_tensor_value_info
node = helper.make_node


def _tensors(**arrays: object) -> list[TensorProto]:
    return [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _model(name: str, nodes: list, inputs: list, outputs: list, tensors: list[TensorProto], opset: int,
           functions: tuple = (), domains: tuple[str, ...] = ()) -> bytes:
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model: ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)
    return model.SerializeToString()


def convolutional() -> bytes:
    """A classifier: convolutions, normalization, pooling, a dense layer; old enough to be converted."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "stem", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"], "norm", epsilon=1e-5),
        node("Relu", ["n1"], ["r1"], "relu"),
        node("MaxPool", ["r1"], ["p1"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2"], ["c2"], "depthwise", group=4, pads=[1, 1, 1, 1]),
        node("Clip", ["c2", "low", "high"], ["r2"], "relu6"),
        node("Conv", ["r2", "w3"], ["c3"], "pointwise"),
        node("ConvTranspose", ["c3", "w4"], ["c4"], "up", strides=[2, 2]),
        node("AveragePool", ["c4"], ["p4"], "average", kernel_shape=[2, 2]),
        node("GlobalAveragePool", ["p4"], ["g"], "global"),
        node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "w5", "b5"], ["logits"], "dense", transB=1),
        node("Softmax", ["logits"], ["y"], "softmax"),
    ]
    tensors = _tensors(w1=_weights(4, 3, 3, 3), b1=_weights(4), scale=np.ones(4, np.float32), shift=_weights(4),
                       mean=_weights(4), var=np.ones(4, np.float32), w2=_weights(4, 1, 3, 3), low=np.float32(0),
                       high=np.float32(6), w3=_weights(6, 4, 1, 1), w4=_weights(6, 2, 2, 2), w5=_weights(5, 2),
                       b5=_weights(5))
    return _model("convolutional", nodes, [value("x", FLOAT, ["N", 3, 16, 16])], [value("y", FLOAT, ["N", 5])], tensors, 13)


def shapes() -> bytes:
    """Arithmetic on shapes, and what depends on them: reshapes, a resize, slices, pads."""
    nodes = [
        node("Shape", ["x"], ["shape"], "shape"),
        node("Gather", ["shape", "zero"], ["n"], "batch", axis=0),
        node("Unsqueeze", ["n", "axis0"], ["n1"], "unsqueeze"),
        node("Concat", ["n1", "rest"], ["target"], "target", axis=0),
        node("Reshape", ["x", "target"], ["r"], "reshape"),
        node("Slice", ["shape", "two", "four"], ["hw"], "hw"),
        node("Mul", ["hw", "twice"], ["hw2"], "double"),
        node("Slice", ["shape", "axis0", "two"], ["nc"], "nc"),
        node("Concat", ["nc", "hw2"], ["sizes"], "sizes", axis=0),
        node("Resize", ["x", "", "", "sizes"], ["big"], "resize", mode="linear"),
        node("Pad", ["big", "pads"], ["padded"], "pad"),
        node("Transpose", ["padded"], ["t"], "transpose", perm=[0, 2, 3, 1]),
        node("ReduceMean", ["t"], ["m"], "mean", axes=[1, 2], keepdims=0),
        node("ConstantOfShape", ["nc"], ["ones"], "ones", value=helper.make_tensor("v", FLOAT, [1], [1.0])),
        node("Add", ["m", "ones"], ["a"], "add"),
        node("Expand", ["a", "wide"], ["e"], "expand"),
        node("Tile", ["e", "repeats"], ["tiled"], "tile"),
        node("Range", ["from", "n", "one"], ["range"], "range"),
        node("Cast", ["range"], ["rangef"], "cast", to=FLOAT),
        node("Split", ["r"], ["s1", "s2"], "split", axis=1),
        node("ReduceSum", ["s1"], ["sum"], "sum", keepdims=0),
        node("Mul", ["tiled", "sum"], ["y"], "mul"),
    ]
    whole = dict(zero=0, axis0=[0], rest=[-1, 4], two=[2], four=[4], twice=[2, 2], pads=[0, 0, 1, 1, 0, 0, 1, 1],
                 wide=[2, 1, 1], repeats=[1, 2, 1], one=1)
    tensors = _tensors(**{name: np.array(a, np.int64) for name, a in whole.items()}, **{"from": np.int64(0)})
    return _model("shapes", nodes, [value("x", FLOAT, ["N", 2, "H", "W"])],
                  [value("y", FLOAT, ["P", "Q", "R"]), value("rangef", FLOAT, ["N"]), value("s2", FLOAT, ["N", "R", 4])],
                  tensors, 17)


def control_flow() -> bytes:
    """If, Loop, and a local function."""
    body = helper.make_graph(
        [node("Add", ["state", "step"], ["next"], "grow"),
         node("ReduceSum", ["next"], ["total"], "total", keepdims=0),
         node("Less", ["total", "limit"], ["going"], "ask"),
         node("Identity", ["next"], ["row"], "row")],
        "body", [value("i", INT64, []), value("c", BOOL, []), value("state", FLOAT, ["N", 3])],
        [value("going", BOOL, []), value("next", FLOAT, ["N", 3]), value("row", FLOAT, ["N", 3])],
        _tensors(limit=np.float32(1000)))
    smaller = helper.make_graph([node("Relu", ["last"], ["then"], "positive")], "then", [], [value("then", FLOAT, ["N", 3])])
    larger = helper.make_graph([node("If", ["always"], ["else"], "inner", then_branch=helper.make_graph(
        [node("Neg", ["last"], ["negative"], "neg")], "inner_then", [], [value("negative", FLOAT, ["N", 3])]),
        else_branch=helper.make_graph([node("Abs", ["last"], ["absolute"], "abs")], "inner_else", [],
                                      [value("absolute", FLOAT, ["N", 3])]))], "else", [], [value("else", FLOAT, ["N", 3])])
    nodes = [
        node("MatMul", ["x", "w"], ["m"], "matmul"),
        node("scaled", ["m"], ["s"], "function", domain="local"),
        node("Loop", ["trips", "always", "s"], ["last", "rows"], "loop", body=body),
        node("ReduceMax", ["last"], ["max"], "max", keepdims=0),
        node("Greater", ["max", "half"], ["large"], "compare"),
        node("If", ["large"], ["y"], "if", then_branch=smaller, else_branch=larger),
        node("NonZero", ["rows"], ["where"], "nonzero"),
    ]
    function = helper.make_function("local", "scaled", ["a"], ["b"], [
        node("Constant", [], ["factor"], "factor", value_float=0.5), node("Mul", ["a", "factor"], ["b"], "multiply")],
        [helper.make_opsetid("", 21)])
    tensors = _tensors(w=_weights(3, 3), trips=np.int64(4), always=np.array(True), step=np.float32(1), half=np.float32(0.5))
    return _model("control_flow", nodes, [value("x", FLOAT, ["N", 3])],
                  [value("y", FLOAT, ["N", 3]), value("where", INT64, [3, "K"])], tensors, 21, (function,), ("local",))


def quantized() -> bytes:
    """Operators on 8-bit integers."""
    zero, scale = np.uint8(128), np.float32(0.05)
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        node("QLinearConv", ["q", "scale", "zero", "wq", "wscale", "wzero", "scale", "zero", "bias"], ["c"], "conv",
             pads=[1, 1, 1, 1]),
        node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("DequantizeLinear", ["p", "scale", "zero"], ["d"], "dequantize"),
        node("DynamicQuantizeLinear", ["d"], ["dq", "ds", "dz"], "dynamic"),
        node("ConvInteger", ["dq", "wi", "dz"], ["ci"], "integer"),
        node("Cast", ["ci"], ["cf"], "cast", to=FLOAT),
        node("Mul", ["cf", "ds"], ["cs"], "rescale"),
        node("ReduceMean", ["cs"], ["m"], "mean", axes=[2, 3], keepdims=0),
        node("QuantizeLinear", ["m", "scale", "zero"], ["mq"], "requantize"),
        node("MatMulInteger", ["mq", "wm", "zero"], ["mi"], "matmul"),
        node("QLinearMatMul", ["mq", "scale", "zero", "wm", "scale", "zero", "scale", "zero"], ["y"], "qmatmul"),
    ]
    random = np.random.default_rng(5)
    tensors = _tensors(scale=scale, zero=zero, wscale=np.full(4, 0.02, np.float32), wzero=np.zeros(4, np.int8),
                       wq=random.integers(-99, 99, (4, 2, 3, 3), np.int8), bias=np.zeros(4, np.int32),
                       wi=random.integers(0, 255, (3, 4, 2, 2), np.uint8), wm=random.integers(0, 255, (3, 5), np.uint8))
    return _model("quantized", nodes, [value("x", FLOAT, [1, 2, 8, 8])],
                  [value("y", UINT8, [1, 5]), value("mi", TensorProto.INT32, [1, 5])], tensors, 13)


def sequences_and_boxes() -> bytes:
    """An LSTM whose outputs become boxes and scores, of which the best are kept."""
    nodes = [
        node("LSTM", ["x", "w", "r", "b"], ["h", "", "cell"], "lstm", hidden_size=4, direction="bidirectional"),
        node("Squeeze", ["cell_shape", "axis0"], ["unused"], "unused"),
        node("Transpose", ["h"], ["t"], "transpose", perm=[2, 0, 1, 3]),
        node("Reshape", ["t", "flat"], ["f"], "flatten"),
        node("GRU", ["x", "gw", "gr"], ["g"], "gru", hidden_size=1),
        node("Gemm", ["f", "dense"], ["all"], "dense"),
        node("Sigmoid", ["all"], ["s"], "sigmoid"),
        node("Split", ["s", "parts"], ["corners", "scores"], "split", axis=1),
        node("Unsqueeze", ["corners", "axis0"], ["boxes"], "boxes"),
        node("Transpose", ["scores"], ["st"], "scores_t"),
        node("Unsqueeze", ["st", "axis0"], ["classes"], "classes"),
        node("NonMaxSuppression", ["boxes", "classes", "most", "overlap", "least"], ["kept"], "nms"),
        node("Gather", ["kept", "third"], ["rows"], "third", axis=1),
        node("Squeeze", ["rows", "axis1"], ["index"], "index"),
        node("Gather", ["corners", "index"], ["y"], "gather"),
        node("TopK", ["scores", "k"], ["best", "places"], "topk", axis=0),
        node("ArgMax", ["g"], ["arg"], "argmax", axis=0, keepdims=0),
    ]
    tensors = _tensors(w=_weights(2, 16, 3), r=_weights(2, 16, 4), b=_weights(2, 32), gw=_weights(1, 3, 3),
                       gr=_weights(1, 3, 1), dense=_weights(8, 6), **{name: np.array(a, np.int64) for name, a in dict(
                           flat=[-1, 8], parts=[4, 2], axis0=[0], axis1=[1], third=[2], most=[3], k=[2],
                           cell_shape=[1]).items()},
                       overlap=np.array([0.5], np.float32), least=np.array([0.1], np.float32))
    return _model("sequences_and_boxes", nodes, [value("x", FLOAT, [5, "N", 3])],
                  [value("y", FLOAT, ["K", 4]), value("best", FLOAT, [2, 2]), value("places", INT64, [2, 2]),
                   value("arg", INT64, [1, "N", 1]), value("cell", FLOAT, [2, "N", 4])], tensors, 14)


MODELS: dict[str, Callable[[], bytes]] = {f.__name__: f for f in (convolutional, shapes, control_flow, quantized,
                                                                  sequences_and_boxes)}
