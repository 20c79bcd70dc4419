"""LeNet-5 through InferenceSession: one image and 64, one worker and two; ONNX Runtime and torch beside it.

The others run the same weights and their results are compared before anything is timed. All calls include what a user's
call includes: the checks of the input and a new array for the output. The engines take turns, so that a busy spell of the
machine falls on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

import cnnext as cx
from benchmarks.timing import in_turn

Run = Callable[[], np.ndarray]


def main(quick: bool) -> None:
    cx.set_random_seed(0)
    net = cx.models.lenet5()
    seconds = 0.2 if quick else 1.0
    print(f"{'engine':14} {'batch':>5} {'threads':>7} {'best us':>9} {'median us':>10} {'images/s':>10}")
    for batch in (1, 64):
        x = np.random.default_rng(1).random((batch, 28, 28, 1), np.float32)
        for threads in (1, 2):
            engines = {name: make(net, x, threads) for name, make in ENGINES.items() if all(map(find_spec, NEEDS[name]))}
            expected = engines["cnnext"]()
            for name, run in engines.items():
                np.testing.assert_allclose(run(), expected, rtol=1e-4, atol=1e-5, err_msg=name)
            for name, times in in_turn(engines, seconds, burst=20).items():
                best, median = times.min(), float(np.median(times))
                print(f"{name:14} {batch:5} {threads:7} {1e6 * best:9.1f} {1e6 * median:10.1f} {batch / median:10,.0f}")
    missing = [name for name in ENGINES if not all(map(find_spec, NEEDS[name]))]
    if missing:
        print(f"Not installed, not measured: {', '.join(missing)}.")


def _cnnext(net: cx.Model, x: np.ndarray, threads: int) -> Run:
    session = cx.InferenceSession(net, num_threads=threads)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0]


def _onnxruntime(net: cx.Model, x: np.ndarray, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(_onnx_model(net), options, providers=["CPUExecutionProvider"])
    x_first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return lambda: session.run(None, {"src": x_first})[0]


def _torch(net: cx.Model, x: np.ndarray, threads: int) -> Run:
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10), nn.Softmax(1),
    ).eval()
    with torch.no_grad():
        for parameter, array in zip(model.parameters(), _channels_first(net), strict=True):
            parameter.copy_(torch.from_numpy(array))
    x_first = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model(x_first).numpy()

    return run


def _channels_first(net: cx.Model) -> list[np.ndarray]:
    """The weights as torch and ONNX keep them: convolutions (OC, IC, KH, KW), dense (OUT, IN)."""
    arrays = []
    for i, array in enumerate(net.get_weights()):
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:
            # The first dense layer reads 5 x 5 pixels of 16 channels, flattened there with the channels in front.
            first = array.reshape(5, 5, 16, -1).transpose(2, 0, 1, 3).reshape(array.shape) if i == 4 else array
            array = first.T
        arrays.append(np.ascontiguousarray(array))
    return arrays


def _onnx_model(net: cx.Model) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weights = {f"w{i}": array for i, array in enumerate(_channels_first(net))}
    chain = [
        ("Conv", ["w0", "w1"], {"pads": [2, 2, 2, 2]}), ("Relu", [], {}),
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", ["w2", "w3"], {}), ("Relu", [], {}), ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Flatten", [], {}), ("Gemm", ["w4", "w5"], {"transB": 1}), ("Relu", [], {}),
        ("Gemm", ["w6", "w7"], {"transB": 1}), ("Relu", [], {}), ("Gemm", ["w8", "w9"], {"transB": 1}), ("Softmax", [], {}),
    ]
    names = ["src", *(f"v{i}" for i in range(len(chain) - 1)), "dst"]
    nodes = [helper.make_node(op, [names[i], *inputs], [names[i + 1]], **attributes)
             for i, (op, inputs, attributes) in enumerate(chain)]
    graph = helper.make_graph(
        nodes, "lenet5", [helper.make_tensor_value_info("src", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("dst", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


ENGINES: dict[str, Callable[[cx.Model, np.ndarray, int], Run]] = {
    "cnnext": _cnnext, "onnxruntime": _onnxruntime, "torch": _torch,
}
NEEDS = {"cnnext": ["cnnext"], "onnxruntime": ["onnxruntime", "onnx"], "torch": ["torch"]}
