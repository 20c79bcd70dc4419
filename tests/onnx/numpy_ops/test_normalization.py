"""Normalization, softmax and losses against ONNX Runtime, closed forms and the forms of older versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnxruntime

SEED = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    """Normally distributed float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 30])
def test_lrn(size):
    x = normal(0, 2, 7, 3, 4)
    op = Operator("LRN", version=13, attributes={"size": size, "alpha": 0.3, "beta": 0.6, "bias": 1.5})
    square = np.stack([np.square(x[:, max(0, c - (size - 1) // 2):c + size // 2 + 1]).sum(1) for c in range(7)], 1)
    check(op, [x], [x / (1.5 + 0.3 / size * square) ** np.float32(0.6)])


@pytest.mark.parametrize("version", [1, 6, 7, 9, 14, 15])
def test_batch_normalization_of_every_version(version):
    parameters = [normal(1, 3), normal(2, 3), normal(3, 3), np.abs(normal(4, 3)) + 0.1]
    op = Operator("BatchNormalization", version=version, attributes={"epsilon": 0.01})
    x = normal(0, 2, 3, 4, 5)
    modern = Operator("BatchNormalization", version=15, attributes={"epsilon": 0.01})
    check(op, [x, *parameters], onnxruntime(modern, [x, *parameters]))


def test_batch_normalization_of_every_element():
    """Opset 8 and below: with `spatial` 0, each element of a sample has its own statistics."""
    shape = (3, 4, 5)
    x, var = normal(0, 2, *shape), np.abs(normal(4, *shape)) + 0.1
    scale, bias, mean = (normal(i, *shape) for i in (1, 2, 3))
    op = Operator("BatchNormalization", version=7, attributes={"spatial": 0})
    check(op, [x, scale, bias, mean, var], [scale * (x - mean) / np.sqrt(var + np.float32(1e-5)) + bias])


@pytest.mark.parametrize("version, outputs", [(15, 3), (9, 5)])
def test_batch_normalization_in_training(version, outputs):
    x, scale, bias, mean, var = normal(0, 4, 3, 5), normal(1, 3), normal(2, 3), normal(3, 3), np.abs(normal(4, 3)) + 0.1
    attributes = {"momentum": 0.8, **({"training_mode": 1} if version > 9 else {})}
    op = Operator("BatchNormalization", version=version, attributes=attributes, wanted=(True,) * outputs)
    batch_mean, batch_var = x.mean((0, 2)), x.var((0, 2))
    y = scale[:, None] * (x - batch_mean[:, None]) / np.sqrt(batch_var[:, None] + np.float32(1e-5)) + bias[:, None]
    expected = [y, 0.8 * mean + 0.2 * batch_mean, 0.8 * var + 0.2 * batch_var, batch_mean, batch_var]
    check(op, [x, scale, bias, mean, var], [v.astype(np.float32) for v in expected[:outputs]])


@pytest.mark.parametrize("version", [18, 21])
def test_group_normalization(version):
    x, groups = normal(0, 2, 6, 4, 3), 3
    scale, bias = (normal(i, groups if version < 21 else 6) for i in (1, 2))
    grouped = x.reshape(2, groups, -1)
    y = ((grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)).reshape(x.shape)
    spread = [np.repeat(v, 6 // v.size).reshape(-1, 1, 1) for v in (scale, bias)]
    op = Operator("GroupNormalization", version=version, attributes={"num_groups": groups})
    check(op, [x, scale, bias], [(y * spread[0] + spread[1]).astype(np.float32)])


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_layer_normalization(axis):
    x = normal(0, 2, 3, 4)
    inputs = [x, normal(1, *x.shape[axis:]), normal(2, *x.shape[axis:])]
    op = Operator("LayerNormalization", version=17, attributes={"axis": axis}, wanted=(True, True, True))
    check(op, inputs, onnxruntime(op, inputs))


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(p):
    x = normal(0, 3, 4)
    op = Operator("LpNormalization", version=1, attributes={"p": p, "axis": 0})
    check(op, [x], [x / (np.abs(x) ** p).sum(0, keepdims=True) ** np.float32(1 / p)])


@settings(max_examples=40)
@given(seed=SEED, op_type=st.sampled_from(["Softmax", "LogSoftmax", "Hardmax"]),
       axis=st.sampled_from([None, 0, 1, 2, -1, -2]),
       version=st.sampled_from([1, 11, 13]))
def test_softmax_of_every_version(seed, op_type, axis, version):
    x = normal(seed, 3, 4, 5)
    op = Operator(op_type, version=version, attributes={} if axis is None else {"axis": axis})
    peer = Operator(op_type, version=max(version, 7), attributes=op.attributes)
    check(op, [x], onnxruntime(peer, [x]))


@pytest.mark.parametrize("x", [[1e30, -1e30, 0], [-np.inf, 0, 0], [3e38, 3e38, 3e38]])
def test_softmax_does_not_overflow(x):
    x = np.array([x], np.float32)
    (y,) = evaluate(Operator("Softmax", version=13), [x])
    np.testing.assert_allclose(y.sum(), 1, rtol=1e-6)
    (z,) = evaluate(Operator("LogSoftmax", version=13), [x])
    np.testing.assert_allclose(np.exp(z), y, atol=1e-6)


@settings(max_examples=40)
@given(seed=SEED, reduction=st.sampled_from(["none", "sum", "mean"]), weighted=st.booleans(),
       ignored=st.sampled_from([None, 0, -100]), rank=st.integers(0, 2), from_scores=st.booleans())
def test_losses(seed, reduction, weighted, ignored, rank, from_scores):
    rng = np.random.default_rng(seed)
    extents = rng.integers(1, 4, rank)
    x, labels = normal(seed, 3, 5, *extents), rng.integers(0, 5, (3, *extents))
    labels.flat[0] = 2  # an average needs at least one
    if ignored is not None:
        labels.flat[1:] = np.where(rng.random(labels.size - 1) < 0.3, ignored, labels.ravel()[1:])
    attributes = {"reduction": reduction, **({} if ignored is None else {"ignore_index": ignored})}
    inputs = [x, labels, rng.uniform(0.5, 2, 5).astype(np.float32) if weighted else None]
    op_type = "SoftmaxCrossEntropyLoss" if from_scores else "NegativeLogLikelihoodLoss"
    op = Operator(op_type, version=13, attributes=attributes, wanted=(True, True) if from_scores else (True,))
    check(op, inputs, onnxruntime(op, inputs))


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"NegativeLogLikelihoodLoss: `target` must hold classes in \[0, 2\]"):
        evaluate(Operator("NegativeLogLikelihoodLoss", version=13), [normal(0, 2, 3), np.array([0, -1])])
