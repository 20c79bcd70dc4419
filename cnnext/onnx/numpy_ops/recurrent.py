"""RNN, GRU and LSTM, forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnext.onnx.numpy_ops.common import Array, Contents, Function, Rule, TensorType, Types, refuse, typed, wide_dtype
from cnnext.onnx.numpy_ops.elementwise import sigmoid, softplus
from cnnext.onnx.operator import Operator

Activation = Callable[[Array], Array]
Shape = tuple[int, ...]

# The function of (x, alpha, beta), and the defaults of the constants that it takes.
_ACTIVATIONS: dict[str, tuple[Any, tuple[float, ...]]] = {
    "relu": (lambda x: np.maximum(x, 0), ()),
    "tanh": (np.tanh, ()),
    "sigmoid": (sigmoid, ()),
    "affine": (lambda x, a, b: a * x + b, (1.0, 0.0)),
    "leakyrelu": (lambda x, a: np.where(x >= 0, x, a * x), (0.01,)),
    "thresholdedrelu": (lambda x, a: np.where(x >= a, x, 0), (1.0,)),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), (1.0, 1.0)),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), (0.2, 0.5)),
    "elu": (lambda x, a: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), (1.0,)),
    "softsign": (lambda x: x / (1 + np.abs(x)), ()),
    "softplus": (softplus, ()),
}


@dataclass(frozen=True)
class _Cell:
    """One direction: projected inputs (T, N, gates * H), recurrent weights, biases, states, and the functions to apply."""

    inputs: Array
    recurrent: Array
    recurrent_bias: Array
    hidden: Array
    cell: Array
    peepholes: Array
    functions: list[Activation]
    clip: float | None

    def squash(self, which: int, x: Array) -> Array:
        if self.clip is not None:
            x = np.clip(x, -self.clip, self.clip)
        return self.functions[which](x)


def _bound(function: Any, constants: Sequence[float]) -> Activation:
    return lambda x: function(x, *constants)


def _activations(op: Operator, defaults: Sequence[str], directions: int) -> list[list[Activation]]:
    names = op.attributes.get("activations") or list(defaults) * directions
    if len(names) != len(defaults) * directions or not all(isinstance(n, str) and n.lower() in _ACTIVATIONS for n in names):
        raise refuse(op, "activations", f"be {len(defaults) * directions} of {sorted(_ACTIVATIONS)}", names)
    alphas, betas = iter(op.attributes.get("activation_alpha") or ()), iter(op.attributes.get("activation_beta") or ())
    made: list[Activation] = []
    for name in names:
        function, constants = _ACTIVATIONS[name.lower()]
        # The lists hold the constants of those functions alone that take them.
        values = [next(given, default) for given, default in zip((alphas, betas), constants)]
        made.append(_bound(function, values))
    return [made[i:i + len(defaults)] for i in range(0, len(made), len(defaults))]


def _rnn_step(op: Operator, c: _Cell, x: Array, h: Array, s: Array) -> tuple[Array, Array]:
    return c.squash(0, x + h @ c.recurrent.T + c.recurrent_bias), s


def _gru_step(op: Operator, c: _Cell, x: Array, h: Array, s: Array) -> tuple[Array, Array]:
    n = h.shape[-1]
    gates = x[:, :2 * n] + h @ c.recurrent[:2 * n].T + c.recurrent_bias[:2 * n]
    z, r = c.squash(0, gates[:, :n]), c.squash(0, gates[:, n:])
    weights, bias = c.recurrent[2 * n:].T, c.recurrent_bias[2 * n:]
    if op.attributes.get("linear_before_reset", 0):
        new = c.squash(1, x[:, 2 * n:] + r * (h @ weights + bias))
    else:
        new = c.squash(1, x[:, 2 * n:] + (r * h) @ weights + bias)
    return (1 - z) * new + z * h, s


def _lstm_step(op: Operator, c: _Cell, x: Array, h: Array, s: Array) -> tuple[Array, Array]:
    i, o, f, g = np.split(x + h @ c.recurrent.T + c.recurrent_bias, 4, axis=-1)
    pi, po, pf = np.split(c.peepholes, 3)
    i = c.squash(0, i + pi * s)
    f = 1 - i if op.attributes.get("input_forget", 0) else c.squash(0, f + pf * s)
    s = f * s + i * c.squash(1, g)
    return c.squash(0, o + po * s) * c.functions[2](s), s


def _scan(op: Operator, step: Any, c: _Cell, lengths: Array, backwards: bool) -> tuple[Array, Array, Array]:
    """Walk the time axis; a sequence that has ended keeps its state and gives zeros."""
    steps = c.inputs.shape[0]
    h, s = c.hidden, c.cell
    y = np.zeros((steps, *h.shape), h.dtype)
    for t in range(steps - 1, -1, -1) if backwards else range(steps):
        new_h, new_s = step(op, c, c.inputs[t], h, s)
        alive = (t < lengths)[:, None]
        h, s = np.where(alive, new_h, h), np.where(alive, new_s, s)
        y[t] = np.where(alive, new_h, 0)
    return y, h, s


def _directions(op: Operator) -> list[bool]:
    direction = op.attributes.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise refuse(op, "direction", "be 'forward', 'reverse' or 'bidirectional'", direction)
    return [False, True] if direction == "bidirectional" else [direction == "reverse"]


def _shapes(op: Operator, x: Shape, w: Shape, r: Shape, gates: int) -> tuple[int, int, int, int]:
    """Steps, batch, directions, hidden size; with the weights checked against them."""
    directions = len(_directions(op))
    if len(x) != 3 or len(w) != 3 or len(r) != 3:
        raise refuse(op, "X", "have 3 axes, as W and R", x, f"shapes {w}, {r}")
    hidden = r[2]
    if w != (directions, gates * hidden, x[2]) or r != (directions, gates * hidden, hidden):
        raise refuse(op, "W", f"have the shape {(directions, gates * hidden, x[2])}", w, f"R shape {r}")
    if op.attributes.get("hidden_size", hidden) != hidden:
        raise refuse(op, "hidden_size", "be that of the weights", op.attributes["hidden_size"], f"R shape {r}")
    steps, batch = (x[1], x[0]) if op.attributes.get("layout", 0) else (x[0], x[1])
    return steps, batch, directions, hidden


def _recurrent(step: Any, gates: int, defaults: Sequence[str]) -> Function:
    def compute(op: Operator, x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
                initial_h: Array | None = None, initial_c: Array | None = None, p: Array | None = None) -> tuple[Array, ...]:
        steps, batch, directions, hidden = _shapes(op, x.shape, w.shape, r.shape, gates)
        wide, batch_first = wide_dtype(x.dtype), bool(op.attributes.get("layout", 0))
        functions = _activations(op, defaults, directions)

        def parameter(value: Array | None, shape: tuple[int, ...], by_batch: bool = False) -> Array:
            if value is None:
                return np.zeros(shape, wide)
            value = value.swapaxes(0, 1) if by_batch and batch_first else value
            if value.shape != shape:
                raise refuse(op, "inputs", f"have the shape {shape}", value.shape)
            return value.astype(wide, copy=False)

        source = (x.swapaxes(0, 1) if batch_first else x).astype(wide, copy=False)
        bias = parameter(b, (directions, 2 * gates * hidden))
        hs, cs = (parameter(v, (directions, batch, hidden), True) for v in (initial_h, initial_c))
        peepholes = parameter(p, (directions, 3 * hidden))
        ends = np.full(batch, steps) if lengths is None else lengths
        results = []
        for d, backwards in enumerate(_directions(op)):
            input_bias, recurrent_bias = np.split(bias[d], 2)
            inputs = source @ w[d].astype(wide, copy=False).T + input_bias
            cell = _Cell(inputs, r[d].astype(wide, copy=False), recurrent_bias, hs[d], cs[d], peepholes[d], functions[d],
                         op.attributes.get("clip"))
            results.append(_scan(op, step, cell, ends, backwards))
        y, y_h, y_c = (np.stack(v, axis) for v, axis in zip(zip(*results, strict=True), (1, 0, 0), strict=True))
        if batch_first:
            y, y_h, y_c = y.transpose(2, 0, 1, 3), y_h.swapaxes(0, 1), y_c.swapaxes(0, 1)
        outputs = (y, y_h, y_c) if step is _lstm_step else (y, y_h)
        return tuple(v.astype(x.dtype, copy=False) for v in outputs)
    return compute


def _rule(gates: int) -> Rule:
    def rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
        (dtype, x), (_, w), (_, r) = typed(types, 0), typed(types, 1), typed(types, 2)
        steps, batch, directions, hidden = _shapes(op, x, w, r, gates)
        if op.attributes.get("layout", 0):
            y, state = (batch, steps, directions, hidden), (batch, directions, hidden)
        else:
            y, state = (steps, directions, batch, hidden), (directions, batch, hidden)
        return [(dtype, y), (dtype, state), (dtype, state)][:len(op.wanted)]
    return rule


OPERATORS: dict[str, Function] = {
    "RNN": _recurrent(_rnn_step, 1, ("Tanh",)), "GRU": _recurrent(_gru_step, 3, ("Sigmoid", "Tanh")),
    "LSTM": _recurrent(_lstm_step, 4, ("Sigmoid", "Tanh", "Tanh")),
}
RULES: dict[str, Rule] = {"RNN": _rule(1), "GRU": _rule(3), "LSTM": _rule(4)}
