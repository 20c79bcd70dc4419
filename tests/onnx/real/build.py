"""A small hand for writing ONNX graphs whose weights come from a dictionary of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper


class GraphWriter:
    """Appends nodes; each method gives the name of its result.

    Parameters
    ----------
    weights : dict of str to ndarray
        What ``conv`` and its like find under the names of their layers.
    """

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = weights
        self.nodes: list[Any] = []
        self.initializers: dict[str, np.ndarray] = {}

    def node(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Any operator with one result."""
        name = name or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        """An initializer."""
        self.initializers[name] = array
        return name

    def _weights(self, layer: str, *parts: str) -> list[str]:
        return [self.constant(f"{layer}.{part}", self.weights[f"{layer}.{part}"]) for part in parts
                if f"{layer}.{part}" in self.weights]

    def conv(self, x: str, layer: str, **attributes: Any) -> str:
        """Convolution with the layer's weight and, where it has one, its bias."""
        weights = self._weights(layer, "weight", "bias")
        kernel = self.weights[f"{layer}.weight"].shape[2:]
        return self.node("Conv", [x, *weights], layer, kernel_shape=kernel, **attributes)

    def batch_norm(self, x: str, layer: str, epsilon: float) -> str:
        """Inference form."""
        weights = self._weights(layer, "weight", "bias", "running_mean", "running_var")
        return self.node("BatchNormalization", [x, *weights], layer, epsilon=epsilon)

    def dense(self, x: str, layer: str) -> str:
        """``Gemm`` with torch's (OUT, IN) weight."""
        return self.node("Gemm", [x, *self._weights(layer, "weight", "bias")], layer, transB=1)

    def model(self, inputs: dict[str, Sequence[Any]], outputs: dict[str, Sequence[Any]], opset: int) -> ModelProto:
        """The checked model."""
        def values(shapes: dict[str, Sequence[Any]]) -> list[Any]:
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

        graph = helper.make_graph(self.nodes, "graph", values(inputs), values(outputs),
                                  [numpy_helper.from_array(a, name) for name, a in self.initializers.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        checker.check_model(model, full_check=True)
        return model
