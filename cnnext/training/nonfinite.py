"""Where NaN or infinity first appears in a step of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.graph import FLOAT32, Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.threads import limited
from cnnext.training.initializers import generator

if TYPE_CHECKING:
    from cnnext.model import Model
    from cnnext.training.loop import Trainer


def first_nonfinite(trainer: Trainer, x: Sequence[np.ndarray], y: np.ndarray,
                    name: Callable[[int], str]) -> str:
    """A sentence that says where it comes from: the batch, a parameter, or the first layer of the forward pass.

    Parameters
    ----------
    trainer : Trainer
        In the state before the step, with the generator too. Running statistics are not moved.
    x, y : list of ndarray, ndarray
        The batch.
    name : callable
        ``name(i)`` is what an error calls example i of the batch.
    """
    for array in x:
        if (found := _first(array)) is not None:
            return f"It comes from the data: {name(found[0])} holds {array[found]}."
    if bad := bad_parameter(trainer.model):
        return f"Parameter {bad} before the step already."
    values, arrays = _forward(trainer, x, y)
    for value, array in zip(values, arrays, strict=True):
        if (found := _first(array)) is not None:
            assert value.node is not None
            return (f"It first appears in the result of layer {value.node.name!r}, of shape {array.shape}, as "
                    f"{array[found]}; what goes into it reaches {_reach(value, values, arrays, x):.3g}.")
    return "The forward pass by itself is finite: the weights were changed from outside during the step."


def bad_parameter(model: Model) -> str:
    """What parameter is not finite, and what it holds; "" if all are."""
    for p in model.parameters:
        if (found := _first(p.data)) is not None:
            return f"{p.name!r} held {p.data[found]}"
    return ""


def _forward(trainer: Trainer, x: Sequence[np.ndarray], y: np.ndarray) -> tuple[list[Value], list[np.ndarray]]:
    """The floating-point results of all nodes, in the order in which they run, the loss last."""
    g = prepare(trainer.model.graph, [a.shape for a in x], training=True)
    g.effects = []
    target = Value(y.shape, y.dtype, "target")
    loss = trainer.loss_of(g, g.outputs[0], target)
    g.outputs = [loss]
    g.inputs = [*g.inputs, target]
    g.order()
    values = [v for node in g.nodes for v in node.outputs if v.dtype == FLOAT32]
    g.outputs = values
    feeds = list(x)
    if g.seed is not None:
        feeds.append(generator().integers(0, 2**63 - 1, 1, np.int64))
    plan = Plan(optimize(g), default_level(), exact=trainer.model.exact)
    return values, plan.run([*feeds, y], limited(trainer.model.num_threads))


def _first(array: np.ndarray) -> tuple[int, ...] | None:
    """Index of the first element that is not finite."""
    finite = np.isfinite(array)
    return None if finite.all() else tuple(int(i) for i in np.unravel_index(np.argmin(finite), array.shape))


def _reach(value: Value, values: Sequence[Value], arrays: Sequence[np.ndarray], x: Sequence[np.ndarray]) -> float:
    """The largest magnitude among what a value is computed from."""
    known = dict(zip(values, arrays, strict=True))
    assert value.node is not None
    read = [v.parameter.data if v.parameter is not None else known[v] for v in value.node.reads
            if v.parameter is not None or v in known]
    return max((float(np.abs(a).max()) for a in (read or x) if a.size), default=0.0)
