"""The ONNX importer: names, types, weights, training, files; numbers against ONNX Runtime."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import cnnext as cx
from cnnext.onnx.importer import load
from tests.helpers import close, images
from tests.onnx.exported import session
from tests.onnx.imported import check, equal, is_native, kernels, newest, onnx_model

make = helper.make_node
RNG = np.random.default_rng(4)


def weights(*shape, seed=2):
    return images(*shape, seed=seed) * np.float32(0.4)


def small_net(opset=17, bias=True, extents=("N", 3, 8, 8), **options):
    """Convolution, batch normalization, ReLU, pooling, dense: what every opset can say."""
    tensors = {
        "w": weights(4, 3, 3, 3), "b": weights(4, seed=3), "scale": np.abs(weights(4)) + 1, "shift": weights(4, seed=5),
        "mean": weights(4, seed=6), "var": np.abs(weights(4, seed=7)) + 0.5, "fc": weights(10, 4, seed=8),
        "fcb": weights(10, seed=9),
    }
    nodes = [
        make("Conv", ["x", "w", *(["b"] if bias else [])], ["c"], name="conv", pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], name="norm"),
        make("Relu", ["n"], ["r"], name="relu"), make("GlobalAveragePool", ["r"], ["p"], name="pool"),
        make("Flatten", ["p"], ["f"], name="flat"), make("Gemm", ["f", "fc", "fcb"], ["y"], name="head", transB=1),
    ]
    if not bias:
        del tensors["b"]
    return onnx_model(nodes, {"x": extents}, ["y"], tensors, opset, types={"y": (np.float32, ["N", 10])}, **options)


# Names


def test_names_are_kept():
    net = cx.load(small_net())
    assert [v.name for v in net.graph.inputs] == ["x"] and [v.name for v in net.graph.outputs] == ["y"]
    assert [layer.name for layer in net.layers] == ["conv", "norm", "relu", "pool", "flat", "head"]
    assert [p.name for p in net.parameters] == ["w", "b", "scale", "shift", "mean", "var", "fc", "fcb"]
    assert [node.outputs[0].name for node in net.graph.nodes] == ["c", "n", "r", "p", "f", "y"]
    assert net.graph.inputs[0].shape == (None, 3, 8, 8) and net.name == "net"


def test_nodes_without_names_and_with_the_same():
    nodes = [make("Relu", ["x"], ["a"], name="act"), make("Neg", ["a"], ["b"], name="act"), make("Abs", ["b"], ["c"]),
             make("Exp", ["c"], ["y"], name="act")]
    net = cx.load(onnx_model(nodes, {"x": (2, 3)}, ["y"]))
    assert [layer.name for layer in net.layers] == ["act", "act_1", "c", "act_2"]


def test_names_with_slashes_and_dots():
    nodes = [make("Conv", ["/in/x:0", "/model/w"], ["/model/conv/y"], name="/model/conv/Conv"),
             make("Add", ["/model/conv/y", "model.w"], ["*"], name="*")]
    proto = onnx_model(nodes, {"/in/x:0": ("N", 3, 6, 6)}, ["*"],
                       {"/model/w": weights(4, 3, 3, 3), "model.w": weights(4, 1, 1)})
    feed = {"/in/x:0": images(2, 3, 6, 6)}
    assert is_native(check(proto, feed))
    again = pickle.loads(pickle.dumps(cx.load(proto)))
    close(again.predict(feed["/in/x:0"]), session(proto).run(None, feed)[0])


# Operator sets, forms of files


@pytest.mark.parametrize("opset", range(7, newest() + 1))
def test_operator_sets_agree(opset):
    x = images(3, 3, 8, 8)
    got = cx.load(small_net(opset)).predict(x)
    close(got, session(small_net(17)).run(None, {"x": x})[0])


def test_bytes_paths_and_protos(tmp_path):
    proto, x = small_net(), images(2, 3, 8, 8)
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    before = proto.SerializeToString()
    results = [cx.load(source).predict(x) for source in (proto, before, str(path), path)]
    assert len({r.tobytes() for r in results}) == 1
    assert proto.SerializeToString() == before      # a model that is given is not changed
    np.testing.assert_array_equal(cx.InferenceSession(str(path)).run(["y"], {"x": x})[0], results[0])


def test_initializers_that_are_also_inputs():
    proto = small_net(opset=8, ir=3)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    x = images(2, 3, 8, 8)
    ours = cx.InferenceSession(proto)
    assert [v.name for v in ours.get_inputs()] == ["x"]
    close(ours.run(None, {"x": x})[0], session(small_net()).run(None, {"x": x})[0])


def test_outputs_without_a_type():
    proto = onnx_model([make("Relu", ["x"], ["h"]), make("Shape", ["h"], ["y"])], {"x": ("N", 3)}, ["y", "h"])
    assert not proto.graph.output[0].HasField("type")
    assert [(v.type, v.shape) for v in cx.InferenceSession(proto).get_outputs()] == [
        ("tensor(int64)", (2,)), ("tensor(float)", (None, 3))]
    check(proto, {"x": images(2, 3)})


def test_metadata():
    proto = small_net()
    helper.set_model_props(proto, {"labels": "cat,dog", "author": "somebody"})
    assert cx.load(proto).metadata == {"labels": "cat,dog", "author": "somebody"}


def test_external_data(tmp_path):
    path, x = tmp_path / "net.onnx", images(2, 3, 8, 8)
    onnx.save(small_net(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    with pytest.raises(cx.ModelFileError, match=r"net\.onnx.*lies in another file, 'net.data'.*external_data=True"):
        cx.load(path)
    got = cx.load(path, external_data=True).predict(x)
    close(got, session(small_net()).run(None, {"x": x})[0])
    np.testing.assert_array_equal(cx.InferenceSession(path, external_data=True).run(None, {"x": x})[0], got)
    with pytest.raises(cx.ModelFileError, match="lies in another file"):
        cx.load(path.read_bytes(), external_data=True)


def test_local_functions_are_written_out():
    body = helper.make_function("local", "Twice", ["a"], ["b"], [make("Add", ["a", "a"], ["b"])],
                                [helper.make_opsetid("", 17)])
    proto = onnx_model([make("Twice", ["x"], ["t"], domain="local", name="one"),
                        make("Twice", ["t"], ["y"], domain="local", name="two")], {"x": ("N", 3)}, ["y"],
                       domains={"local": 1}, functions=[body], types={"y": (np.float32, ("N", 3))})
    x = images(2, 3)
    np.testing.assert_array_equal(cx.load(proto).predict(x), 4 * x)


# Where weights come from


def test_weights_out_of_constants_and_chains():
    nodes = [
        make("Constant", [], ["w0"], value=numpy_helper.from_array(weights(4, 3, 3, 3))),
        make("Identity", ["w0"], ["w1"]), make("Identity", ["w1"], ["w"]),
        make("Constant", [], ["n"], value_ints=[4]),
        make("ConstantOfShape", ["n"], ["b"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])),
        make("Mul", ["w", "two"], ["scaled"]), make("Conv", ["x", "scaled", "b"], ["y"]),
    ]
    proto = onnx_model(nodes, {"x": ("N", 3, 6, 6)}, ["y"], {"two": np.float32(2)})
    feed = {"x": images(2, 3, 6, 6)}
    names = check(proto, feed)
    assert is_native(names) and sum("conv" in name for name in names) == 1
    assert not any(name in ("mul", "multiply", "affine", "copy") for name in names)


def test_what_is_trained_and_what_is_state():
    net = cx.load(small_net())
    assert {p.name: p.trainable for p in net.parameters} == {
        "w": True, "b": True, "scale": True, "shift": True, "mean": False, "var": False, "fc": True, "fcb": True}
    assert [w.shape for w in net.get_weights()][:2] == [(4, 3, 3, 3), (4,)]     # as the file has them


def test_a_weight_that_two_nodes_share_is_one_parameter():
    nodes = [make("Conv", ["x", "w"], ["a"]), make("Conv", ["a", "w"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, 6, 6)}, ["y"], {"w": weights(3, 3, 1, 1)})
    net, x = cx.load(proto), images(2, 3, 6, 6)
    assert [p.name for p in net.parameters] == ["w"]
    close(net.predict(x), session(proto).run(None, {"x": x})[0])
    changed = weights(3, 3, 1, 1, seed=9)
    net.parameters[0].assign(changed)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(changed, "w"))
    close(net.predict(x), session(proto).run(None, {"x": x})[0])


def test_one_initializer_may_be_weight_and_constant():
    nodes = [make("PRelu", ["x", "s"], ["a"]), make("Add", ["a", "s"], ["b"]), make("Shape", ["s"], ["n"]),
             make("Cast", ["n"], ["m"], to=TensorProto.FLOAT), make("ReduceSum", ["m"], ["k"], keepdims=0),
             make("Mul", ["b", "k"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, 4, 4)}, ["y"], {"s": np.abs(weights(3, 1, 1))})
    check(proto, {"x": images(2, 3, 4, 4)})


# Shapes and types


def test_dynamic_extents():
    nodes = [make("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]), make("Relu", ["a"], ["b"]),
             make("Shape", ["b"], ["s"]), make("Resize", ["b", "", "two"], ["c"], mode="linear"),
             make("GlobalMaxPool", ["c"], ["g"]), make("Sub", ["c", "g"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, "H", "W")}, ["y", "s"],
                       {"w": weights(4, 3, 3, 3), "two": np.array([1, 1, 2, 2], np.float32)})
    feeds = [{"x": images(*shape)} for shape in [(1, 3, 8, 8), (3, 3, 9, 6), (2, 3, 5, 12)]]
    assert is_native(check(proto, *feeds))


def test_a_static_batch():
    proto = small_net(extents=(2, 3, 8, 8))
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    ours = cx.InferenceSession(proto)
    assert ours.get_inputs()[0].shape == (2, 3, 8, 8) and ours.get_outputs()[0].shape == (2, 10)
    x = images(2, 3, 8, 8)
    close(ours.run(None, {"x": x})[0], session(proto).run(None, {"x": x})[0])
    with pytest.raises(ValueError, match=re.escape("input 'x': `shape` must be (2, 3, 8, 8).")):
        ours.run(None, {"x": images(3, 3, 8, 8)})


def test_inputs_need_not_share_a_batch():
    proto = onnx_model([make("MatMul", ["a", "b"], ["y"])], {"a": ("N", 4), "b": ("K", "M")}, ["y"])
    check(proto, {"a": images(3, 4), "b": images(4, 2)}, {"a": images(1, 4), "b": images(4, 5)})


def test_scalars_and_nothing():
    nodes = [make("Add", ["x", "s"], ["y"]), make("Mul", ["s", "s"], ["q"]), make("ReduceSum", ["x"], ["t"], keepdims=0)]
    proto = onnx_model(nodes, {"x": ("N", 3), "s": ()}, ["y", "q", "t"])
    check(proto, {"x": images(2, 3), "s": np.array(2, np.float32)}, {"x": images(0, 3), "s": np.array(3, np.float32)})


def test_several_outputs_some_of_them_left_out():
    nodes = [make("TopK", ["x", "k"], ["top", "places"]), make("Split", ["x", "parts"], ["a", "", "b"], axis=1),
             make("MaxPool", ["i"], ["m", ""], kernel_shape=[2, 2])]
    proto = onnx_model(nodes, {"x": ("N", 6), "i": ("N", 2, 4, 4)}, ["b", "places", "a", "m"],
                       {"k": np.array([2]), "parts": np.array([1, 2, 3])})
    x, image = images(3, 6), images(2, 2, 4, 4)
    b, places, a, m = cx.InferenceSession(proto).run(None, {"x": x, "i": image})
    np.testing.assert_array_equal(b, x[:, 3:])
    np.testing.assert_array_equal(a, x[:, :1])
    np.testing.assert_array_equal(places, np.argsort(-x)[:, :2])
    np.testing.assert_array_equal(m, sliding_window_view(image, (2, 2), (2, 3)).max((-2, -1)))


def test_outputs_that_no_node_makes():
    proto = onnx_model([make("Relu", ["x"], ["y"]), make("Identity", ["x"], ["same"]), make("Identity", ["c"], ["copy"])],
                       {"x": ("N", 3)}, ["same", "y", "c", "copy", "x"], {"c": weights(2, 2)},
                       types={"x": (np.float32, ("N", 3)), "c": (np.float32, (2, 2))})
    x = images(2, 3)
    got = cx.InferenceSession(proto).run(None, {"x": x})
    for array, wanted in zip(got, [x, np.maximum(x, 0), weights(2, 2), weights(2, 2), x], strict=True):
        np.testing.assert_array_equal(array, wanted)
    got[0][...] = 0     # results are the caller's own
    assert x.any() and not np.shares_memory(got[4], x)


def test_an_output_that_others_read():
    nodes = [make("Conv", ["x", "w"], ["a"]), make("Relu", ["a"], ["b"]), make("Conv", ["b", "v"], ["c"]),
             make("Add", ["c", "a"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, 5, 5)}, ["b", "y", "a"], {"w": weights(4, 3, 1, 1), "v": weights(4, 4, 1, 1)})
    check(proto, {"x": images(2, 3, 5, 5)})


def test_models_without_inputs():
    nodes = [make("ConstantOfShape", ["n"], ["a"]), make("Conv", ["i", "w"], ["y"])]
    proto = onnx_model(nodes, {}, ["a", "y"], {"n": np.array([2, 3]), "i": images(1, 3, 5, 5), "w": weights(2, 3, 3, 3)})
    ours = cx.InferenceSession(proto)
    for got, wanted in zip(ours.run(None, {}), session(proto).run(None, {}), strict=True):
        equal(got, wanted)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.int32, np.uint8, np.int8, np.bool_])
def test_element_types(dtype):
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    nodes = [make("Transpose", ["x"], ["t"], perm=[0, 2, 1]), make("Concat", ["t", "t"], ["y"], axis=2),
             make("Cast", ["y"], ["f"], to=TensorProto.FLOAT), make("Relu", ["f"], ["z"])]
    check(onnx_model(nodes, {"x": (dtype, ("N", 3, 4))}, ["y", "z"]), {"x": x})


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_floats_through_a_convolution(dtype):
    proto = onnx_model([make("Conv", ["x", "w"], ["y"]), make("Relu", ["y"], ["z"])], {"x": (dtype, ("N", 3, 6, 6))}, ["z"],
                       {"w": weights(4, 3, 3, 3).astype(dtype)})
    feed = {"x": images(2, 3, 6, 6).astype(dtype)}
    ours = cx.InferenceSession(proto)
    (wanted,) = ReferenceEvaluator(proto).run(None, feed)
    equal(ours.run(None, feed)[0], wanted, 2e-3 if dtype is np.float16 else 1e-12)
    assert kernels(ours, feed) == ["numpy Conv", "numpy Relu"]


def test_wrong_feeds_are_refused():
    ours = cx.InferenceSession(small_net())
    for feed, error, text in [
        ({"x": images(2, 3, 8, 9)}, ValueError, r"input 'x': `shape` must be \('N', 3, 8, 8\)"),
        ({"x": images(3, 8, 8)}, ValueError, "have rank 4"),
        ({"x": images(2, 3, 8, 8).astype(np.float64)}, TypeError, "`dtype` must be float32"),
        ({"z": images(2, 3, 8, 8)}, ValueError, "'z'"), ({}, ValueError, "contain 'x'"),
    ]:
        with pytest.raises(error, match=text):
            ours.run(None, feed)


# Training


def test_an_imported_net_learns():
    proto = small_net(bias=False)
    net, x = cx.load(proto), images(32, 3, 8, 8)
    y = np.arange(32) % 10
    before = net.predict(x)
    close(before, session(proto).run(None, {"x": x})[0])
    state = {p.name: p.data.copy() for p in net.parameters}
    net.compile(optimizer=cx.Adam(0.01), loss=cx.SparseCategoricalCrossentropy(from_logits=True))
    first = net.evaluate(x, y, verbose=0)
    net.fit(x, y, batch_size=16, epochs=8, verbose=0)
    last = net.evaluate(x, y, verbose=0)
    first, last = (r["loss"] if isinstance(r, dict) else r for r in (first, last))
    assert last < 0.8 * first
    after = net.predict(x)
    assert np.abs(after - before).max() > 0.1
    assert all((p.data != state[p.name]).any() for p in net.parameters)
    # The trained weights, put back into the file, give in ONNX Runtime what they give here.
    for tensor in proto.graph.initializer:
        (parameter,) = [p for p in net.parameters if p.name == tensor.name]
        tensor.CopyFrom(numpy_helper.from_array(parameter.data, tensor.name))
    close(after, session(proto).run(None, {"x": x})[0])


# Files of our own


def model_of_many_kinds():
    """Weights, constants folded and not, other types, several outputs."""
    nodes = [make("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), make("Relu", ["c"], ["r"]),
             make("ConstantOfShape", ["n"], ["z"], value=helper.make_tensor("v", TensorProto.INT64, [1], [3])),
             make("Gather", ["r", "z"], ["g"], axis=1), make("Cast", ["g"], ["d"], to=TensorProto.DOUBLE)]
    tensors = {"w": weights(4, 3, 3, 3), "b": weights(4), "n": np.array([2])}
    return onnx_model(nodes, {"x": ("N", 3, "H", "W")}, ["d", "r"], tensors)


def test_saved_and_pickled_models_give_the_same_bits(tmp_path):
    proto, x = model_of_many_kinds(), images(2, 3, 6, 5)
    helper.set_model_props(proto, {"labels": "cat,dog"})
    net = cx.load(proto)
    wanted = net.predict(x)
    net.save(tmp_path / "net.safetensors")
    loaded = cx.load(tmp_path / "net.safetensors")
    for again in (loaded, pickle.loads(pickle.dumps(net))):
        assert [v.name for v in again.graph.inputs] == ["x"] and again.metadata == {"labels": "cat,dog"}
        assert [v.name for v in again.graph.outputs] == ["d", "r"]
        for got, array in zip(again.predict(x), wanted, strict=True):
            assert got.dtype == array.dtype and got.tobytes() == array.tobytes()
        assert [p.name.rpartition("/")[2] for p in again.parameters] == ["w", "b"]
    ours = pickle.loads(pickle.dumps(cx.InferenceSession(net)))
    for got, array in zip(ours.run(["d", "r"], {"x": x}), wanted, strict=True):
        assert got.tobytes() == array.tobytes()


def test_a_saved_model_is_trained_further(tmp_path):
    cx.load(small_net()).save(tmp_path / "net.safetensors")
    net, x = cx.load(tmp_path / "net.safetensors"), images(16, 3, 8, 8)
    assert [p.trainable for p in net.parameters] == [True] * 4 + [False] * 2 + [True] * 2
    net.compile(optimizer=cx.SGD(0.1), loss=cx.SparseCategoricalCrossentropy(from_logits=True))
    before = net.predict(x)
    net.fit(x, np.arange(16) % 10, epochs=1, verbose=0)
    assert np.abs(net.predict(x) - before).max() > 1e-3


# Errors


def test_all_unknown_operators_are_named_at_once():
    nodes = [make("Magic", ["x"], ["a"], domain="acme", name="m1"), make("Magic", ["a"], ["b"], domain="acme", name="m2"),
             make("Warp", ["b"], ["y"], domain="com.microsoft", name="w")]
    proto = onnx_model(nodes, {"x": ("N", 3)}, ["y"], domains={"acme": 1, "com.microsoft": 1},
                       types={"y": (np.float32, ("N", 3))})
    with pytest.raises(cx.ModelFileError) as error:
        cx.load(proto)
    text = str(error.value)
    assert "operators that nothing installed computes: " in text
    assert "acme::Magic (nodes 'm1', 'm2')" in text and "com.microsoft::Warp (node 'w')" in text


@pytest.mark.parametrize(("make_proto", "text"), [
    (lambda: onnx_model([make("Relu", ["nowhere"], ["y"])], {"x": (1,)}, ["y"]), "nowhere"),
    (lambda: onnx_model([make("Relu", ["x"], ["y"])], {"x": (1,)}, ["z"]), "z"),
    (lambda: onnx_model([make("Relu", ["x"], ["y"]), make("Abs", ["x"], ["y"])], {"x": (1,)}, ["y"]), "y"),
    (lambda: onnx_model([make("Relu", ["b"], ["a"]), make("Relu", ["a"], ["b"])], {"x": (1,)}, ["b"]), "b"),
    (lambda: b"no model at all", "not an ONNX model"),
], ids=["unmade", "no such output", "made twice", "cycle", "garbage"])
def test_broken_models(make_proto, text):
    with pytest.raises(cx.ModelFileError, match=text):
        load(make_proto())


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        cx.load(tmp_path / "none.onnx")


def test_errors_name_the_file_and_the_node(tmp_path):
    path = tmp_path / "bad.onnx"
    onnx.save(onnx_model([make("Magic", ["x"], ["y"], domain="acme", name="m")], {"x": (1,)}, ["y"], domains={"acme": 1},
                         types={"y": (1,)}), path)
    with pytest.raises(cx.ModelFileError, match=r"ONNX file '.*bad\.onnx': operators .*acme::Magic \(node 'm'\)"):
        cx.load(path)


# The backend API


def test_the_backend():
    backend, x = cx.onnx.backend, images(2, 3, 8, 8)
    wanted = session(small_net()).run(None, {"x": x})[0]
    for inputs in ([x], {"x": x}, x):
        results = backend.prepare(small_net()).run(inputs)
        close(results[0], wanted)
        assert results.y is results[0]
    close(backend.run_model(small_net(), [x])[0], wanted)
    for inputs in ([x + 1, x], {"a": x, "b": x + 1}):
        (difference,) = backend.run_node(make("Sub", ["b", "a"], ["c"]), inputs)
        np.testing.assert_array_equal(difference, (x + 1) - x)
    np.testing.assert_array_equal(backend.run_node(make("Add", ["a", "a"], ["b"]), [x, x])[0], 2 * x)
    assert backend.is_compatible(small_net()) and backend.supports_device("CPU") and not backend.supports_device("CUDA")
    assert not backend.is_compatible(onnx_model([make("Magic", ["x"], ["y"], domain="acme")], {"x": (1,)}, ["y"],
                                                domains={"acme": 1}, types={"y": (1,)}))
    with pytest.raises(ValueError, match="`device` must be 'CPU'"):
        backend.prepare(small_net(), "CUDA")
    with pytest.raises(ValueError, match="takes 1 inputs"):
        backend.prepare(small_net()).run([x, x])
