"""RNN, GRU and LSTM against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnxruntime

SEED = st.integers(0, 2**32 - 1)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def inputs_of(rng, op_type, directions, steps, batch, size, hidden, lengths, states, peepholes):
    """Random inputs, optional ones where asked for."""
    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    gates = GATES[op_type]
    inputs = [draw(steps, batch, size), draw(directions, gates * hidden, size), draw(directions, gates * hidden, hidden),
              draw(directions, 2 * gates * hidden), rng.integers(1, steps + 1, batch).astype(np.int32) if lengths else None,
              draw(directions, batch, hidden) if states else None]
    if op_type == "LSTM":
        inputs += [draw(directions, batch, hidden) if states else None, draw(directions, 3 * hidden) if peepholes else None]
    return inputs


@settings(max_examples=80)
@given(seed=SEED, op_type=st.sampled_from(list(GATES)), direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
       steps=st.integers(1, 5), batch=st.integers(1, 3), lengths=st.booleans(), states=st.booleans(), flag=st.integers(0, 1),
       peepholes=st.booleans(), clip=st.sampled_from([None, 0.5]))
def test_against_onnxruntime(seed, op_type, direction, steps, batch, lengths, states, flag, peepholes, clip):
    directions = 2 if direction == "bidirectional" else 1
    inputs = inputs_of(np.random.default_rng(seed), op_type, directions, steps, batch, 3, 4, lengths, states, peepholes)
    attributes = {"hidden_size": 4, "direction": direction}
    if op_type == "GRU":
        attributes["linear_before_reset"] = flag
    if clip and op_type != "RNN":
        attributes["clip"] = clip
    wanted = (True,) * (3 if op_type == "LSTM" else 2)
    op = Operator(op_type, version=14, attributes=attributes, wanted=wanted)
    check(op, inputs, onnxruntime(op, inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activations", [["Sigmoid", "Tanh", "Relu"], ["HardSigmoid", "ScaledTanh", "Softsign"],
                                         ["Affine", "LeakyRelu", "Elu"], ["ThresholdedRelu", "Softplus", "Tanh"]])
def test_activations(activations):
    inputs = inputs_of(np.random.default_rng(1), "LSTM", 2, 3, 2, 3, 4, False, True, False)
    op = Operator("LSTM", version=14, wanted=(True, True, True), attributes={
        "hidden_size": 4, "direction": "bidirectional", "activations": activations * 2,
        "activation_alpha": [0.3, 0.7, 0.2, 0.4, 0.6, 0.25], "activation_beta": [0.1, 0.9, 0.2, 0.8]})
    if "Softplus" in activations:
        op.attributes.update(activation_alpha=[0.3, 0.4], activation_beta=[])
    if "Affine" in activations:
        op.attributes.update(activation_beta=[0.1, 0.2])
    if "Relu" in activations:
        op.attributes.update(activation_alpha=[], activation_beta=[])
    check(op, inputs, onnxruntime(op, inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("op_type", list(GATES))
def test_batch_first_is_a_transposition(op_type):
    inputs = inputs_of(np.random.default_rng(2), op_type, 2, 3, 2, 3, 4, False, True, False)
    wanted = (True,) * (3 if op_type == "LSTM" else 2)
    attributes = {"hidden_size": 4, "direction": "bidirectional"}
    y, *states = evaluate(Operator(op_type, version=14, attributes=attributes, wanted=wanted), inputs)
    swapped = [x.swapaxes(0, 1) if i in (0, 5, 6) and x is not None else x for i, x in enumerate(inputs)]
    z, *swapped_states = evaluate(Operator(op_type, version=14, attributes={**attributes, "layout": 1}, wanted=wanted),
                                  swapped)
    np.testing.assert_allclose(y.transpose(2, 0, 1, 3), z, rtol=1e-6)
    for a, b in zip(states, swapped_states, strict=True):
        np.testing.assert_allclose(a.swapaxes(0, 1), b, rtol=1e-6)


def test_weights_of_another_size():
    x, w, r = np.zeros((2, 1, 3), np.float32), np.zeros((1, 16, 3), np.float32), np.zeros((1, 16, 5), np.float32)
    with pytest.raises(ValueError, match=r"LSTM: `W` must have the shape \(1, 20, 3\)"):
        evaluate(Operator("LSTM", version=14), [x, w, r])
