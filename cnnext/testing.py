"""For tests of layers, ours and plugin authors': run a layer forward and backward between guard zones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnnext.errors import KernelError
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import FLOAT32, Graph, Value, ancestors
from cnnext.graph.memory import GUARD, GUARD_BYTES, aligned_bytes, harmed
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers.layer import Layer


@dataclass
class LayerRun:
    """Results of ``run_layer``: outputs, and the gradients where ``diff_dst`` was given."""

    outputs: list[np.ndarray]
    diff_inputs: list[np.ndarray | None]
    diff_weights: dict[str, np.ndarray]


def run_layer(layer: Layer, inputs: Sequence[np.ndarray], diff_dst: Sequence[np.ndarray] | None = None, *,
              level: str | None = None, n_threads: int = 1, training: bool = False) -> LayerRun:
    """Apply a layer to arrays, forward and (with ``diff_dst``) backward, with guard zones around every buffer.

    Parameters
    ----------
    layer : Layer
        Built on first use; its weights may be set before by building it with ``layer.build(*shapes)``.
    inputs : list of ndarray
    diff_dst : list of ndarray, optional
        Gradients of the outputs.
    level : str, optional
        Instruction-set level; the machine's best by default.
    n_threads : int
    training : bool
        Use the layer's training form.

    Raises
    ------
    KernelError
        If a kernel wrote outside its results or its scratch, or reported an error.
    """
    values = [Value(x.shape, x.dtype if x.dtype != np.float64 else FLOAT32, f"x{i}") for i, x in enumerate(inputs)]
    made = layer(values)
    outputs = [made] if isinstance(made, Value) else list(made)
    graph = Graph(values, outputs, ancestors(outputs))
    graph = prepare(graph, [v.shape for v in values], training)
    feeds = [guarded_copy(x) for x in inputs]
    n_outputs, weight_names = len(graph.outputs), []
    present: list[bool] = []
    if graph.seed is not None:
        feeds.append(guarded_copy(np.zeros(1, np.int64)))
    if diff_dst is not None:
        diff_values = [Value(v.shape, FLOAT32, f"diff_{v.name}") for v in graph.outputs]
        weights = {v.parameter: v for node in graph.nodes for v in node.weights.values() if v.parameter is not None}
        wrt = [*graph.inputs[: len(values)], *weights.values()]
        diffs = add_gradients(graph, graph.outputs, wrt, diff_values)
        names = {parameter: key for key, parameter in layer.weights.items()}
        present = [v in diffs for v in graph.inputs[: len(values)]]
        graph.outputs += [diffs[v] for v in graph.inputs[: len(values)] if v in diffs]
        for parameter, value in weights.items():
            if value in diffs and parameter.trainable:
                weight_names.append(names[parameter])
                graph.outputs.append(diffs[value])
        graph.inputs += diff_values
        feeds += [guarded_copy(d) for d in diff_dst]
        graph.order()
    results = run_graph(optimize(graph), feeds, level=level, n_threads=n_threads)
    rest = iter(results[n_outputs:])
    diff_inputs = [next(rest) if there else None for there in present]
    return LayerRun(results[:n_outputs], diff_inputs, dict(zip(weight_names, rest, strict=True)))


def run_graph(graph: Graph, feeds: Sequence[np.ndarray], *, level: str | None = None,
              n_threads: int = 1) -> list[np.ndarray]:
    """Run a graph of concrete shapes once, with guard zones around every buffer, its outputs included."""
    plan = Plan(graph, level or default_level(), guard=True)
    plan.parallel = n_threads > 1
    outputs = [guarded_empty(v.shape, v.storage.dtype) for v in plan.outputs]
    plan.run(feeds, n_threads, outputs)
    for value, array in zip(graph.outputs, outputs, strict=True):
        memory = array.base
        assert memory is not None
        inside = array.ctypes.data - memory.ctypes.data
        if harmed(memory[inside - GUARD_BYTES : inside + array.nbytes + GUARD_BYTES],
                  [(GUARD_BYTES, GUARD_BYTES + array.nbytes)]):
            raise KernelError(f"a kernel wrote outside the output {value.name}.")
    return outputs


def guarded_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array of NaN bytes with guard zones of NaN bytes before and after it."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = aligned_bytes(n_bytes + 2 * GUARD_BYTES)
    memory[...] = GUARD
    return memory[GUARD_BYTES : GUARD_BYTES + n_bytes].view(dtype).reshape(tuple(shape))


def guarded_copy(array: np.ndarray) -> np.ndarray:
    """A copy as float32 (or int64) with guard zones of NaN around it: reading beyond its end shows."""
    dtype = np.dtype(np.int64) if array.dtype.kind in "iu" else FLOAT32
    copy = guarded_empty(array.shape, dtype)
    copy[...] = array
    return copy
