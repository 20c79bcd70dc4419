"""Models and layers exported to ONNX give in ONNX Runtime what they give here."""

from __future__ import annotations

import inspect
from collections import Counter

import numpy as np
import pytest

import cnnext as cx
from cnnext.errors import PluginError
from cnnext.layers import LAYERS
from cnnext.layers.attributes import number
from cnnext.layers.elementwise import scaled
from cnnext.layers.layer import Layer, ParameterSpec
from tests.helpers import branched_net, close, images, two_ended_net
from tests.onnx.exported import check_export, made_of, randomize, session

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from cnnext.onnx.exporter import export  # noqa: E402  (needs onnx)

OPSETS = (13, 17, 18, 20, 21, 23, 28)
NEWEST = onnx.defs.onnx_opset_version()
IMAGE = [(7, 9, 4)]
ANY_RANK = [[(5,)], [(6, 3)], IMAGE, [(2, 3, 4, 2)]]

# Layer -> examples: its arguments, and the shapes of its sources without the batch.
EXAMPLES: dict[str, list[tuple[dict, list[tuple[int, ...]]]]] = {
    **{name: [({}, IMAGE)] for name in ("CELU", "Abs", "Ceil", "Erf", "Exp", "Floor", "Log", "Negate", "Reciprocal", "Round",
                                        "Sign", "Sqrt", "Square", "ThresholdedReLU", "Shrink")},
    **{name: [({}, shapes) for shapes in ANY_RANK]
       for name in ("ReLU", "ReLU6", "ELU", "SELU", "Sigmoid", "HardSigmoid", "Tanh", "SiLU", "HardSwish", "Mish",
                    "Softplus", "Softsign", "Flatten")},
    "LeakyReLU": [({"negative_slope": 0.2}, IMAGE), ({"negative_slope": 0}, IMAGE)],
    "Power": [({"exponent": exponent}, IMAGE) for exponent in (2, -0.5, 1.5)] + [({}, IMAGE * 2)],
    "GELU": [({}, IMAGE), ({"approximate": True}, IMAGE)],
    "Clip": [({"minimum": -0.5, "maximum": 0.25}, IMAGE), ({"minimum": 0.1}, IMAGE), ({"maximum": 0.1}, IMAGE), ({}, IMAGE)],
    "PReLU": [({}, shapes) for shapes in ANY_RANK] + [({"data_format": "channels_first"}, IMAGE)],
    "Softmax": [({"axis": axis}, IMAGE) for axis in (-1, 1, 2)] + [({}, [(5,)])],
    "LogSoftmax": [({"axis": axis}, IMAGE) for axis in (-1, 1, 2)] + [({}, [(5,)])],
    "Concat": [({}, [(7, 9, 4), (7, 9, 2), (7, 9, 1)]), ({"axis": 1}, [(7, 9, 4), (3, 9, 4)]), ({}, [(3,), (4,)])],
    "Add": [({}, IMAGE * 2), ({}, IMAGE * 4), ({}, [(7, 9, 4), (1, 1, 4)]), ({}, [(5,), (1,)])],
    "Subtract": [({}, IMAGE * 2), ({}, [(7, 9, 4), (1, 9, 1)])],
    "Multiply": [({}, IMAGE * 2), ({}, IMAGE * 3), ({}, [(7, 9, 4), (7, 9, 1)])],
    "Maximum": [({}, IMAGE * 2), ({}, IMAGE * 3)],
    "Divide": [({}, IMAGE * 2), ({}, [(7, 9, 4), (1, 9, 4)])],
    "Minimum": [({}, IMAGE * 2), ({}, IMAGE * 3)],
    "Average": [({}, IMAGE * 2), ({}, IMAGE * 3)],
    "Dense": [({"units": 6, "use_bias": bias, "activation": a}, shapes)
              for bias, a, shapes in ((True, None, [(5,)]), (False, "relu", [(5,)]), (True, "tanh", IMAGE),
                                      (False, None, [(7, 3)]), (True, "softmax", [(7, 3)]))],
    "MatMul": [({}, [(7, 9, 4), (7, 4, 3)]), ({"transpose_a": True, "transpose_b": True}, [(4, 9), (3, 4)]),
               ({"transpose_b": True}, [(9, 4), (1, 4)])],
    **{f"Reduce{name}": [({"axes": axes, "keepdims": keep}, IMAGE)
                         for axes, keep in (((1, 2), True), ((-1,), False), ((1, -1), False), ((), True), ((2,), False))]
       for name in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
    "Resize": [({"mode": mode, **more}, IMAGE)
               for mode in ("nearest", "linear", "cubic")
               for more in ({"sizes": (5, 13)}, {"scales": (1.7, 0.6)}, {"sizes": 4, "scales": (0.6, 0.5)},
                            {"sizes": (4, 20), "coordinates": "align_corners"},
                            {"sizes": (9, 5), "coordinates": "half_pixel_symmetric", "rounding": "ceil"},
                            {"sizes": (9, 1), "coordinates": "pytorch_half_pixel"},
                            {"scales": 2.5, "coordinates": "asymmetric"},
                            {"sizes": (5, 20), "coordinates": "tf_crop_and_resize", "extrapolation_value": 1.5,
                             "region": (0.2, 0.1, 1.3, 0.8)}, {"sizes": 4, "antialias": mode != "nearest"},
                            {"sizes": 12, "exclude_outside": mode != "nearest", "data_format": "channels_first"})],
    "Conv1D": [({"filters": 4, "kernel_size": 3, **more}, [(11, 6)])
               for more in ({}, {"padding": "same", "strides": 2}, {"padding": (2, 1), "dilation": 2, "groups": 2},
                            {"flip_kernel": True, "use_bias": False, "activation": "elu"},
                            {"padding": "same", "data_format": "channels_first"})],
    "Conv2D": [({"filters": 6, "kernel_size": (3, 2), **more}, IMAGE)
               for more in ({}, {"padding": "same"}, {"padding": "same", "strides": (2, 3)}, {"flip_kernel": True},
                            {"padding": ((0, 2), (1, 3)), "dilation": (2, 3)}, {"groups": 2, "use_bias": False},
                            {"padding": "same", "dilation": 2, "strict": True}, {"strides": (2, 1), "strict": True},
                            {"activation": cx.LeakyReLU(0.3)}, {"activation": "hard_swish", "groups": 2},
                            {"data_format": "channels_first", "padding": 1, "activation": "relu"})],
    "Conv2DTranspose": [({"filters": 6, "kernel_size": (3, 2), **more}, IMAGE)
                        for more in ({}, {"strides": 2}, {"strides": (2, 3), "padding": "same"}, {"groups": 2},
                                     {"strides": 3, "padding": "same", "output_padding": (1, 2)},
                                     {"strides": (4, 5), "padding": "same", "output_padding": (3, 4)},
                                     {"strides": 2, "padding": ((1, 0), (0, 2)), "output_padding": 1, "dilation": 2},
                                     {"dilation": 3, "padding": 1, "use_bias": False, "activation": "relu"},
                                     {"dilation": 3, "padding": ((0, 1), (2, 2)), "output_padding": 2},
                                     {"data_format": "channels_first", "strides": 2})],
    "DepthwiseConv2D": [({"kernel_size": (3, 2), **more}, IMAGE)
                        for more in ({}, {"depth_multiplier": 3}, {"padding": "same", "strides": 2, "activation": "relu6"},
                                     {"padding": ((2, 0), (0, 1)), "dilation": 2, "use_bias": False},
                                     {"depth_multiplier": 2, "data_format": "channels_first"})],
    "SeparableConv2D": [({"filters": 5, "kernel_size": 3, **more}, IMAGE)
                        for more in ({}, {"padding": "same", "depth_multiplier": 2, "activation": "silu"},
                                     {"strides": 2, "use_bias": False, "data_format": "channels_first"})],
    "LocallyConnected2D": [({"filters": 5, "kernel_size": (3, 2), **more}, [(5, 6, 2)])
                           for more in ({}, {"padding": "same", "strides": 2}, {"data_format": "channels_first"},
                                        {"padding": ((1, 0), (0, 2)), "use_bias": False, "activation": "relu"})],
    **{name: [({**window, **more}, IMAGE)
              for window in ({}, {"pool_size": 3, "strides": 2}, {"pool_size": 2, "dilation": 3, "strides": 1},
                             {"pool_size": (2, 3), "strides": (3, 2), "ceil_mode": True},
                             {"pool_size": 3, "strides": 2, "padding": "same"},
                             {"pool_size": 3, "padding": ((1, 0), (2, 1)), "ceil_mode": True},
                             {"pool_size": 2, "dilation": (2, 3), "strides": 1, "padding": "same"},
                             {"pool_size": 2, "dilation": 3, "strides": 2, "padding": ((3, 2), (2, 1))},
                             {"pool_size": 2, "data_format": "channels_first"})
              for more in variants]
       for name, variants in {"MaxPool2D": [{}], "AvgPool2D": [{}, {"count_include_pad": True}],
                              "LpPool2D": [{}, {"power": 1}, {"power": 2.5}]}.items()},
    **{name: [({}, IMAGE), ({"keepdims": True}, IMAGE), ({"data_format": "channels_first"}, IMAGE),
              ({"keepdims": True, "data_format": "channels_first"}, IMAGE)]
       for name in ("GlobalAvgPool2D", "GlobalMaxPool2D")},
    "Transpose": [({"axes": (0, 3, 1, 2)}, IMAGE), ({"axes": (2, 0, 3, 1)}, IMAGE)],
    "Permute": [({"axes": (0, 3, 1, 2)}, IMAGE), ({"axes": (0, 2, 1, 3)}, IMAGE), ({"axes": (0, 1)}, [(5,)])],
    "Reshape": [({"target_shape": (-1,)}, IMAGE), ({"target_shape": (9, -1)}, IMAGE), ({"target_shape": (2, 3, 1)}, [(6,)])],
    "ZeroPad2D": [({"padding": ((1, 2), (0, 3)), **more}, IMAGE)
                  for more in ({}, {"mode": "reflect"}, {"mode": "edge"}, {"value": -1.5},
                               {"data_format": "channels_first", "mode": "edge"})],
    "Pad": [({"pads": pads, "mode": mode, **more}, IMAGE)
            for pads in ((0, 1, 0, 2, 0, 3, 0, 1), (0, -2, 1, 0, 0, 3, -1, 0))
            for mode, more in (("constant", {}), ("constant", {"value": -2.5}), ("reflect", {}), ("edge", {}), ("wrap", {}))]
    + [({"pads": (2, 0, 0, 1)}, [(4,)])],
    "Crop2D": [({"cropping": ((1, 2), (0, 3))}, IMAGE), ({"cropping": 1, "data_format": "channels_first"}, IMAGE)],
    "UpSample2D": [({"size": (2, 3), "mode": mode}, IMAGE) for mode in ("nearest", "bilinear")]
    + [({"data_format": "channels_first"}, IMAGE)],
    "Dropout": [({"rate": 0.5}, IMAGE)],
    "SpatialDropout2D": [({"rate": 0.5}, IMAGE), ({"rate": 0.5, "data_format": "channels_first"}, IMAGE)],
}

PLUGIN_EXAMPLES: dict[str, list[tuple[dict, list[tuple[int, ...]]]]] = {
    "normalization/BatchNorm": [({}, IMAGE), ({"scale": False, "center": False, "epsilon": 1e-5}, IMAGE), ({}, [(5,)]),
                                ({"data_format": "channels_first"}, IMAGE), ({}, [(6, 3)])],
    "normalization/GroupNorm": [({"groups": 2}, IMAGE), ({"groups": 2, "center": False}, [(4,)]),
                                ({"groups": 1, "data_format": "channels_first"}, IMAGE), ({"groups": 3}, [(5, 6)])],
    "normalization/InstanceNorm": [({}, IMAGE), ({"scale": False}, [(5, 6)]), ({"data_format": "channels_first"}, IMAGE)],
    "normalization/LayerNorm": [({}, shapes) for shapes in ANY_RANK] + [({"scale": False, "center": False}, IMAGE)],
    "normalization/RMSNorm": [({}, IMAGE), ({"scale": False}, [(6,)]), ({"data_format": "channels_first"}, IMAGE)],
    "normalization/LocalResponseNorm": [({"size": size, "alpha": 0.5, "beta": 0.6, "bias": 1.5}, shapes)
                                        for size in (1, 2, 3, 5) for shapes in (IMAGE, [(6,)])]
    + [({"size": 3, "beta": 0}, IMAGE), ({"size": 3, "alpha": 0, "data_format": "channels_first"}, IMAGE)],
    "slice-split/ChannelShuffle": [({"groups": 2}, IMAGE), ({"groups": 3}, [(6,)]), ({"groups": 1}, IMAGE),
                                   ({"groups": 2, "data_format": "channels_first"}, [(4, 7, 9)])],
    **{f"slice-split/{name}": [({"block_size": 2, "mode": mode}, [(4, 6, 8)]) for mode in ("DCR", "CRD")]
       + [({"block_size": 2, "data_format": "channels_first"}, [(8, 4, 6)])] for name in ("SpaceToDepth", "DepthToSpace")},
    "slice-split/Slice": [({"begin": (1, 0, 2), "size": (3, -1, 1)}, IMAGE), ({"begin": (2,), "size": (-1,)}, [(5,)]),
                          ({"begin": (0, 0, 0), "size": (-1, 9, -1)}, IMAGE)],
    "slice-split/SliceSplit": [({"grid": (2, 3)}, IMAGE), ({"boxes": [(0, 1, 5, 9), (2, 0, 7, 3)]}, IMAGE),
                               ({"channels": [(0, 3), (1, 4)]}, IMAGE)],
    "slice-split/Split": [({"sections": 2}, IMAGE), ({"sections": (1, 4, 4), "axis": 2}, IMAGE), ({"sections": 5}, [(5,)])],
    "slice-split/GridJoin": [({"grid": (2, 1)}, [(2, 3, 4), (5, 3, 4)]), ({"grid": (1, 2)}, [(2, 3, 4), (2, 1, 4)]),
                             ({"grid": 2}, [(2, 3, 4), (2, 1, 4), (3, 3, 4), (3, 1, 4)])],
    "slice-split/RegionwiseConv2D": [({"filters": 3, "kernel_size": 3, "grid": (2, 3), **more}, IMAGE)
                                     for more in ({}, {"strides": 2, "padding": "valid", "grid": 2, "activation": "relu"},
                                                  {"padding": ((2, 1), (0, 2)), "use_bias": False, "dilation": 2, "grid": 2},
                                                  {"data_format": "channels_first", "grid": (3, 1)})],
    "fusion/Fusion": [({"mode": mode}, shapes)
                      for mode in ("sum", "mean", "max", "product", "concat", "weighted", "gated", "bilinear")
                      for shapes in (IMAGE * 2, [(5,)] * 3)]
    + [({"mode": "weighted", "per_channel": True, "data_format": "channels_first"}, IMAGE * 3)]
    + [({"mode": "sum", "resize": how}, [(7, 9, 4), (3, 4, 4), (6, 9, 4)]) for how in ("nearest", "bilinear", "pad")],
    "fusion/Resize": [({"size": size, "mode": mode}, IMAGE)
                      for size in ((14, 27), (3, 5), (10, 4), (7, 18)) for mode in ("nearest", "bilinear")]
    + [({"size": 5, "mode": mode, "data_format": "channels_first"}, IMAGE) for mode in ("nearest", "bilinear")],
    "fusion/SqueezeExcite": [({"ratio": 2}, IMAGE), ({"ratio": 16, "data_format": "channels_first"}, IMAGE)],
}

CASES = [pytest.param(name, i, id=f"{name}-{i}") for name, examples in {**EXAMPLES, **PLUGIN_EXAMPLES}.items()
         for i in range(len(examples))]


def layer_class(name: str) -> type[Layer]:
    if "/" in name:
        pytest.importorskip("cnnext_" + name.partition("/")[0].replace("-", "_"))
    return cx.layer(name)


def operators(proto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


# Layers


@pytest.mark.parametrize(("name", "i"), CASES)
def test_layer(name, i):
    arguments, shapes = {**EXAMPLES, **PLUGIN_EXAMPLES}[name][i]
    proto = check_export(made_of(layer_class(name)(**arguments), shapes))
    assert {node.domain for node in proto.graph.node} <= {""}, "a standard operator has a standard form"


@pytest.mark.parametrize("name", [*EXAMPLES, *PLUGIN_EXAMPLES])
@pytest.mark.parametrize("opset", [o for o in OPSETS if o != 17])
def test_layer_in_other_opsets(name, opset):
    if opset > NEWEST:
        pytest.skip("the package onnx does not know it")
    few = slice(None) if opset in (13, 21) else slice(2)
    for arguments, shapes in {**EXAMPLES, **PLUGIN_EXAMPLES}[name][few]:
        check_export(made_of(layer_class(name)(**arguments), shapes), opset)


def test_no_layer_is_forgotten():
    assert set(EXAMPLES) == set(LAYERS)
    vendors = {name.partition("/")[0] for name in PLUGIN_EXAMPLES}
    there = {p.family for p in cx.plugins.installed() if p.family.partition("/")[0] in vendors}
    assert there <= set(PLUGIN_EXAMPLES)


# Models


def residual_net(data_format: str = "channels_last") -> cx.Model:
    """A stem, a residual block that halves the image, squeeze by 1x1 convolutions, and a classifier."""
    first = {"data_format": data_format}
    x = cx.Input((16, 16, 3) if data_format == "channels_last" else (3, 16, 16), name="image")
    y = cx.MaxPool2D(2, **first)(cx.Conv2D(8, 3, padding="same", activation="relu", name="stem", **first)(x))
    z = cx.Conv2D(8, 3, padding="same", activation="silu", name="a", **first)(y)
    y = cx.ReLU()(cx.Add()([y, cx.Conv2D(8, 3, padding="same", name="b", **first)(z)]))
    gate = cx.GlobalAvgPool2D(keepdims=True, **first)(y)
    gate = cx.Conv2D(8, 1, activation="sigmoid", name="gate", **first)(gate)
    y = cx.Concat(axis=-1 if data_format == "channels_last" else 1)([cx.Multiply()([y, gate]), y])
    return randomize(cx.Model(x, cx.Dense(5, name="head")(cx.GlobalAvgPool2D(**first)(y))))


def small_arguments(function) -> dict:
    """An image just large enough for networks that halve it five times."""
    known = inspect.signature(function).parameters
    return {key: value for key, value in {"input_shape": (64, 64, 3), "classes": 7}.items() if key in known}


# The large members of families of which small ones are among the quick tests.
LARGE = {"vgg13", "vgg16", "vgg19", "resnet34", "resnet50"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
                                  for name in cx.models.__all__])
def test_models(name):
    function = getattr(cx.models, name)
    net = function(**small_arguments(function))
    proto = check_export(net)
    assert operators(proto)["Transpose"] == (2 if len(net.output_shape) == 4 else 1)


def test_lenet_has_one_transpose_and_the_names_of_its_layers():
    net = randomize(cx.models.lenet5())
    proto = check_export(net)
    assert operators(proto) == Counter(Conv=2, Relu=4, MaxPool=2, Flatten=1, Gemm=3, Softmax=1, Transpose=1)
    names = {node.name for node in proto.graph.node}
    assert names == {*(layer.name for layer in net.layers), f"{net.graph.inputs[0].name}/transpose"}
    assert {tensor.name for tensor in proto.graph.initializer} == {p.name for p in net.parameters}
    assert proto.graph.output[0].name == "probabilities"
    assert proto.graph.name == "lenet5"
    assert (proto.ir_version, proto.producer_name, proto.producer_version) == (8, "cnnext", cx.__version__)
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["N", 28, 28, 1]


@pytest.mark.parametrize("opset", OPSETS)
def test_residual_net(opset):
    if opset > NEWEST:
        pytest.skip("the package onnx does not know it")
    assert operators(check_export(residual_net(), opset))["Transpose"] == 1


def test_channels_first_needs_no_transpose():
    assert operators(check_export(residual_net("channels_first")))["Transpose"] == 0


def test_trained_lenet(tmp_path):
    cx.set_random_seed(1)
    net = cx.models.lenet5()
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(images(64, 28, 28, 1), np.arange(64) % 10, batch_size=16, epochs=2, verbose=0)
    net.export_onnx(tmp_path / "lenet.onnx")
    there = runtime.InferenceSession(tmp_path / "lenet.onnx", providers=["CPUExecutionProvider"])
    x = images(5, 28, 28, 1, seed=2)
    close(there.run(None, {there.get_inputs()[0].name: x})[0], net.predict(x))
    check_export(net)


def test_branches():
    check_export(randomize(branched_net()))


def test_a_layer_used_twice_has_its_weights_once():
    net = randomize(two_ended_net())
    proto = check_export(net)
    assert sorted(t.name for t in proto.graph.initializer) == ["shared/bias", "shared/weights"]
    assert [node.name for node in proto.graph.node if node.op_type == "Conv"] == ["shared", "shared_1"]
    assert [v.name for v in proto.graph.output] == ["difference", "product"]


def test_outputs_that_are_inputs_read_inside_or_given_twice():
    x = cx.Input((6, 6, 2), name="x")
    y = cx.Conv2D(3, 3, activation="relu", name="y")(x)
    z = cx.Dense(2, name="z")(cx.Flatten(name="flat")(y))
    shuffled = cx.Permute((0, 3, 1, 2), name="shuffled")(y)
    kept = cx.Dropout(0.5, name="kept")(y)
    proto = check_export(cx.Model(x, [z, y, x, kept, shuffled, y]))
    assert [v.name for v in proto.graph.output] == ["z", "y", "x_1", "kept", "shuffled", "y_1"]


def test_a_flattened_image_read_by_several_layers():
    x = cx.Input((6, 6, 2), name="x")
    flat = cx.Flatten(name="flat")(cx.Conv2D(3, 3, name="conv")(x))
    dense = [cx.Dense(4, name="a")(flat), cx.Dense(3, name="b")(cx.Dropout(0.2)(flat))]
    proto = check_export(randomize(cx.Model(x, dense)))
    assert operators(proto)["Transpose"] == operators(proto)["Flatten"] == 1
    check_export(randomize(cx.Model(x, [*dense, cx.Softmax(name="s")(flat), cx.Dense(2, name="c")(flat)])))


def test_open_rows_and_columns():
    x = cx.Input((None, None, 3), name="x")
    y = cx.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    y = cx.AvgPool2D(3, strides=2, padding="same")(cx.MaxPool2D(3, strides=1, ceil_mode=True)(y))
    y = cx.LpPool2D(2, strides=1)(cx.DepthwiseConv2D(3, padding="same")(cx.UpSample2D(2, mode="bilinear")(y)))
    y = cx.layer("slice-split/ChannelShuffle")(2)(cx.SeparableConv2D(6, 3, padding="same")(cx.ZeroPad2D(1)(y)))
    net = randomize(cx.Model(x, [y, cx.Dense(3)(cx.GlobalMaxPool2D()(y))]))
    proto = export(net)
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == ["N", "x_1", "x_2", 3]
    for shape in ((1, 17, 22, 3), (2, 24, 19, 3)):
        data = images(*shape)
        for got, wanted in zip(session(proto).run(None, {"x": data}), net.predict(data), strict=True):
            close(got, wanted)


@pytest.mark.parametrize("layer", [lambda: cx.AvgPool2D(2, dilation=2), lambda: cx.LpPool2D(2, power=1.5),
                                   lambda: cx.layer("fusion/SqueezeExcite")(2)])
def test_what_needs_known_rows_and_columns_says_so(layer):
    x = cx.Input((None, 8, 4))
    with pytest.raises(ValueError, match="must have a known shape but for the batch, to be exported"):
        export(cx.Model(x, layer()(x)))


# Models that were read from ONNX


@pytest.mark.parametrize("make", [residual_net, branched_net, two_ended_net, cx.models.lenet5])
def test_a_model_that_was_read_is_written_again(make):
    net = randomize(make())
    again = cx.load(export(net).SerializeToString())
    assert {p.name for p in again.parameters} <= {p.name for p in net.parameters}
    randomize(again, seed=8)
    proto = export(again)
    assert [v.name for v in proto.graph.input] == [v.name for v in net.graph.inputs]
    assert [v.name for v in proto.graph.output] == [v.name for v in net.graph.outputs]
    x = [images(3, *v.shape[1:], seed=i) for i, v in enumerate(again.graph.inputs)]
    feeds = {v.name: a for v, a in zip(again.graph.inputs, x, strict=True)}
    for got, wanted in zip(session(proto).run(None, feeds), cx.InferenceSession(again).run(None, feeds), strict=True):
        close(got, wanted)


def test_a_model_that_was_read_needs_an_opset_in_which_its_operators_are_the_same():
    again = cx.load(export(branched_net(), 18).SerializeToString())
    with pytest.raises(ValueError, match=r"must be 21, in which the operator was read: it changed\. Received opset=13"):
        export(again, 13)


def test_attributes_and_outputs_of_a_model_that_was_read():
    helper, kinds = onnx.helper, onnx.TensorProto
    ones, info = onnx.numpy_helper.from_array(np.ones(1, np.float32)), helper.make_tensor_value_info
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["x"], value=ones),
             helper.make_node("GRU", ["x", "w", "r"], ["", "last"], hidden_size=2),
             helper.make_node("Shape", ["last"], ["shape"])]
    weights = [onnx.numpy_helper.from_array(images(1, 6, n, seed=n), name) for name, n in (("w", 3), ("r", 2))]
    graph = helper.make_graph(nodes, "gru", [info("size", kinds.INT64, [3])],
                              [info("last", kinds.FLOAT, [1, "batch", 2]), info("shape", kinds.INT64, [3])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    proto = export(cx.load(model.SerializeToString()))
    assert list(proto.graph.node[1].output) == ["", "last"]
    feeds = {"size": np.array([4, 5, 3], np.int64)}
    for got, wanted in zip(session(proto).run(None, feeds), session(model).run(None, feeds), strict=True):
        assert np.array_equal(got, wanted)


# Plugins without a standard form


class Gain(Layer):
    """dst = factor * gain[c] * src."""

    type_name = "acme/Gain@2"
    factor: float = number(1.0)

    def parameters(self, *shapes):
        return {"gain": ParameterSpec((shapes[0][-1],), "ones")}

    def output_shape(self, *shapes):
        return shapes[0]


class ComposedGain(Gain):
    def compose(self, g, *x, weights):
        return scaled(g, g.apply1(cx.Multiply(), x[0], weights["gain"]), self.factor)


class NumpyGain(Gain):
    def forward(self, ctx, src):
        return self.factor * ctx.weights["gain"] * src


class Stack(Layer):
    """Convolutions of every kind with weights that are inputs of the function, and a composed layer inside."""

    type_name = "acme/Stack@1"
    data_format = "channels_first"
    activation = None

    def parameters(self, *shapes):
        channels = shapes[0][-1]
        wanted = {"conv": (3, 3, channels, 4), "bias": (4,), "depth": (2, 2, 4, 2), "up": (2, 2, 3, 8), "gain": (3,),
                  "dense": (63, 6), "slope": (3,)}
        return {key: ParameterSpec(shape) for key, shape in wanted.items()}

    def output_shape(self, *shapes):
        return (shapes[0][0], 6)

    def compose(self, g, *x, weights):
        y = g.apply1(cx.Conv2D(4, 3, flip_kernel=True, name=f"{self.name}/conv"), x[0],
                     weights={"weights": weights["conv"], "bias": weights["bias"]})
        y = g.apply1(cx.DepthwiseConv2D(2, depth_multiplier=2, use_bias=False), y, weights={"weights": weights["depth"]})
        y = g.apply1(cx.Conv2DTranspose(3, 2, strides=2, use_bias=False), y, weights={"weights": weights["up"]})
        y = g.apply1(cx.PReLU(), g.apply1(ComposedGain(0.5), y, weights={"gain": weights["gain"]}),
                     weights={"slope": weights["slope"]})
        y = g.apply1(cx.Flatten(), g.apply1(cx.Crop2D(((1, 2), (0, 1))), y))
        return g.apply1(cx.Dense(6, use_bias=False), y, weights={"weights": weights["dense"]})


@pytest.mark.parametrize("opset", OPSETS)
def test_a_composed_plugin_layer_is_a_function_of_its_vendor(opset):
    x = cx.Input((4, 5, 3))
    y = ComposedGain(2.0, name="one")(x)
    y = ComposedGain(2.0, name="same")(cx.ReLU(name="relu")(y))
    proto = check_export(randomize(cx.Model(x, ComposedGain(3.0, name="other")(y))), opset)
    assert [(n.domain, n.op_type) for n in proto.graph.node] == [("acme", "Gain"), ("", "Relu"), ("acme", "Gain"),
                                                                 ("acme", "Gain_body2")]
    assert [(f.domain, f.name) for f in proto.functions] == [("acme", "Gain"), ("acme", "Gain_body2")]
    assert {e.domain: e.version for e in proto.opset_import} == {"": opset, "acme": 2}
    assert [onnx.helper.get_attribute_value(n.attribute[0]) for n in proto.graph.node if n.domain] == [2, 2, 3]
    assert proto.ir_version >= 8


@pytest.mark.parametrize("opset", OPSETS)
def test_functions_take_weights_and_call_functions(opset):
    proto = check_export(made_of(Stack(name="stack"), [(2, 6, 7)]), opset)
    assert {(f.domain, f.name) for f in proto.functions} == {("acme", "Stack"), ("acme", "Gain")}
    assert [v.name for v in proto.graph.initializer] == [
        f"stack/{key}" for key in ("conv", "bias", "depth", "up", "gain", "dense", "slope")]


def test_a_numpy_layer_is_an_operator_of_its_vendor():
    net = made_of(NumpyGain(2.5, name="mine"), [(4, 5, 3)])
    with pytest.warns(UserWarning, match=r"mine'.*acme::Gain.*other runtimes"):
        proto = export(net)
    [node] = proto.graph.node
    assert (node.domain, node.op_type, node.name, list(node.input)) == ("acme", "Gain", "mine", ["x0", "mine/gain"])
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {"factor": 2.5}
    assert "acme/Gain@2" in node.doc_string
    assert not proto.functions
    with pytest.raises(Exception, match="Gain"):
        session(proto)


def test_a_layer_without_a_name_or_a_form():
    class Nameless(NumpyGain):
        type_name = ""

    with pytest.raises(ValueError, match=r"nameless 'n': `type_name` must be set \(vendor/Layer@version\), or the layer"):
        export(made_of(Nameless(name="n"), [(3,)]))


def test_a_layer_with_a_form_of_its_own():
    class Halved(NumpyGain):
        def to_onnx(self, b, node):
            order = b.layout(node.inputs[0])
            x = b.op("Mul", b.get(node.inputs[0], order), b.operand(node.weights["gain"], order))
            b.result(node.output, "Mul", [x, b.scalar(self.factor)], order)

    x = cx.Input((6, 6, 2))
    y = cx.Conv2D(3, 3)(Halved(0.5)(cx.Conv2D(3, 2)(x)))
    assert operators(check_export(randomize(cx.Model(x, y))))["Transpose"] == 2


def test_a_fault_of_a_plugin_is_its_own():
    class Faulty(NumpyGain):
        def to_onnx(self, b, node):
            raise ValueError(f"{self.where}: `factor` must be 1 in ONNX.")

    with pytest.raises(ValueError, match="must be 1 in ONNX"):
        export(made_of(Faulty(), [(3,)]))


def test_a_layer_whose_plugin_is_missing(tmp_path, monkeypatch):
    net = made_of(layer_class("slice-split/Split")(2), [(4,)])
    net.save(tmp_path / "net.safetensors")
    monkeypatch.setenv("CNNEXT_PLUGINS", "none")
    again = cx.load(tmp_path / "net.safetensors")
    with pytest.raises(PluginError, match="pip install cnnext-slice-split"):
        export(again)


# Files and arguments


@pytest.mark.parametrize("opset", [12, 29, -1])
def test_opsets_that_are_refused(opset):
    with pytest.raises(ValueError, match=f"`opset` must be from 13 to {min(NEWEST, 28)}. Received opset={opset}"):
        export(branched_net(), opset)


def test_without_the_package_onnx(monkeypatch):
    import sys

    for name in [n for n in sys.modules if n == "onnx" or n.startswith(("onnx.", "cnnext.onnx."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'cnnext\[onnx\]'"):
        branched_net().export_onnx("never-written.onnx")


def test_a_failed_export_leaves_the_previous_file(tmp_path):
    path = tmp_path / "net.onnx"
    net = branched_net()
    net.export_onnx(str(path), opset=18)
    before = path.read_bytes()
    assert onnx.load(path).opset_import[0].version == 18
    with pytest.raises(ValueError, match="opset"):
        net.export_onnx(path, opset=5)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_model_too_large_for_a_file(monkeypatch):
    from cnnext.onnx import exporter

    monkeypatch.setattr(exporter, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="must be less than 2 GiB"):
        export(branched_net())


def test_export_changes_nothing():
    net = randomize(residual_net())
    x, weights = images(2, 16, 16, 3), net.get_weights()
    before = net.predict(x)
    assert export(net).SerializeToString(deterministic=True) == export(net).SerializeToString(deterministic=True)
    assert all(np.array_equal(a, b) for a, b in zip(weights, net.get_weights(), strict=True))
    assert np.array_equal(net.predict(x), before)
