"""Regularizers: the penalty in the loss, its gradient, and where it counts."""

from __future__ import annotations

import re

import numpy as np
import pytest

import cnnext as cx
from cnnext.training.regularizers import L1L2, get_regularizer


def net_of(*, n_threads=1, **options):
    cx.set_random_seed(0)
    return cx.Sequential([cx.Conv2D(5, 3, name="conv", **options), cx.ReLU(), cx.Flatten(), cx.Dense(3, name="dense")],
                         input_shape=(6, 6, 2), num_threads=n_threads)


def data(n=16):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 6, 6, 2)).astype(np.float32), rng.integers(0, 3, n)


@pytest.mark.parametrize(("regularizer", "l1", "l2"), [
    (cx.L1(0.03), 0.03, 0), (cx.L2(0.05), 0, 0.05), (cx.L1L2(0.03, 0.05), 0.03, 0.05), ("l1", 0.01, 0), ("l2", 0, 0.01),
    ("l1_l2", 0.01, 0.01), ((0.25, 0.5), 0.25, 0.5),
])
def test_loss_and_gradient(regularizer, l1, l2):
    """One step of plain descent moves regularized weights by the gradient of the penalty more."""
    x, y = data()
    plain, net = net_of(), net_of(kernel_regularizer=regularizer, bias_regularizer=regularizer)
    start = [w.astype(np.float64) for w in plain.get_weights()]
    start[1][:] = [-2, -1, 0, 1, 2]
    losses = []
    for each in (plain, net):
        each.set_weights(start)
        each.compile(cx.SGD(0.5))
        losses.append((each.evaluate(x, y)["loss"], each.train_on_batch(x, y)["loss"]))
    penalty = sum(l1 * np.abs(w).sum() + l2 * (w * w).sum() for w in start[:2])
    for without, with_it in zip(*losses, strict=True):
        assert with_it - without == pytest.approx(penalty, rel=1e-5)
    for i, (one, other, w) in enumerate(zip(plain.get_weights(), net.get_weights(), start, strict=True)):
        more = 0.5 * (l1 * np.sign(w) + 2 * l2 * w) if i < 2 else 0.0
        np.testing.assert_allclose(one - other, np.broadcast_to(more, w.shape), rtol=0, atol=1e-6)


def test_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(8, 6)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
    net = cx.Sequential([cx.Dense(2, kernel_regularizer=cx.L1L2(0.02, 0.03))], input_shape=(6,))
    w, b = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in net.get_weights())
    net.compile(cx.SGD(0.1), "mse")
    optimizer = torch.optim.SGD([w, b], 0.1)
    for _ in range(20):
        loss = ((torch.tensor(x).double() @ w + b - torch.tensor(y)) ** 2).mean()
        loss = loss + 0.02 * w.abs().sum() + 0.03 * (w * w).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert net.train_on_batch(x, y)["loss"] == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(net.get_weights()[0], w.detach().numpy(), rtol=0, atol=1e-5)


def test_l2_is_the_weight_decay_of_sgd():
    x, y = data()
    one, other = net_of(kernel_regularizer=cx.L2(0.02)), net_of()
    one.compile(cx.SGD(0.1, momentum=0.9))
    other.compile(cx.SGD(0.1, momentum=0.9, groups=[cx.ParameterGroup("conv/weights", weight_decay=0.04)]))
    for net in (one, other):
        net.fit(x, y, batch_size=8, epochs=5, shuffle=False, verbose=0)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("layer", "shape"), [
    (lambda r: cx.Conv1D(3, 2, kernel_regularizer=r), (6, 4)), (lambda r: cx.Dense(3, kernel_regularizer=r), (6,)),
    (lambda r: cx.Conv2DTranspose(3, 2, kernel_regularizer=r), (6, 6, 4)),
    (lambda r: cx.LocallyConnected2D(3, 2, kernel_regularizer=r), (6, 6, 4)),
    (lambda r: cx.DepthwiseConv2D(2, depthwise_regularizer=r), (6, 6, 4)),
    (lambda r: cx.SeparableConv2D(3, 2, depthwise_regularizer=r, pointwise_regularizer=r), (6, 6, 4)),
])
def test_layers_take_them(layer, shape):
    net = cx.Sequential([layer(cx.L2(1.0))], input_shape=shape)
    net.compile(cx.SGD(0.1), "mse")
    x = np.zeros((2, *shape))
    penalty = sum((p.data.astype(np.float64) ** 2).sum() for p in net.parameters if not p.name.endswith("bias"))
    assert net.evaluate(x, net.predict(x))["loss"] == pytest.approx(penalty, rel=1e-5)


def test_once_for_a_shared_layer_and_not_for_a_frozen_one():
    x = cx.Input((4,))
    shared = cx.Dense(4, kernel_regularizer=cx.L2(1.0), use_bias=False)
    net = cx.Model(x, shared(shared(x)))
    net.compile(cx.SGD(0.1), "mse")
    zeros = np.zeros((3, 4))
    assert net.evaluate(zeros, zeros)["loss"] == pytest.approx((net.get_weights()[0] ** 2).sum(), rel=1e-5)
    shared.trainable = False
    assert net.evaluate(zeros, zeros)["loss"] == 0


def test_parameters_of_imported_networks_take_them():
    net = net_of()
    net.compile(cx.SGD(0.1))
    x, y = data()
    before = net.evaluate(x, y)["loss"]
    p = net.parameters[0]
    p.regularizer = cx.L2(0.5)
    assert net.evaluate(x, y)["loss"] == pytest.approx(before + 0.5 * (p.data**2).sum(), rel=1e-5)


def test_same_bits_for_any_number_of_threads():
    x, y = data(64)
    runs = []
    for n_threads in (1, 2, 4):
        net = net_of(n_threads=n_threads, kernel_regularizer="l1_l2")
        net.compile("adam")
        net.fit(x, y, epochs=2, verbose=0)
        runs.append(net.get_weights())
    for run in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_files_keep_them(tmp_path):
    net = net_of(kernel_regularizer=cx.L1L2(0.5, 0.25))
    net.save(tmp_path / "net.safetensors")
    again = cx.load(tmp_path / "net.safetensors")
    assert again.get_layer("conv").kernel_regularizer == cx.L1L2(0.5, 0.25)
    assert [p.regularizer for p in again.parameters] == [cx.L1L2(0.5, 0.25), None, None, None]
    assert "kernel_regularizer" not in again.get_layer("dense").config()


def test_a_penalty_that_overflows_is_named():
    net = net_of(kernel_regularizer="l2")
    net.set_weights([np.full(p.shape, 1e25 if i == 0 else 0.0) for i, p in enumerate(net.parameters)])
    net.compile(cx.SGD(0.1))
    x, y = data()
    with pytest.raises(FloatingPointError, match="first appears in the result of layer 'conv/weights/l2'"):
        net.fit(x * 0, y, verbose=0)


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda: cx.Dense(2, kernel_regularizer="l3", name="d"), ValueError,
     "dense 'd': unknown regularizer 'l3'. Known: l1, l1_l2, l2."),
    (lambda: cx.Dense(2, kernel_regularizer=0.1, name="d"), TypeError, "dense 'd': `kernel_regularizer` must be None, a"),
    (lambda: cx.L2(-1), ValueError, "L1L2: `l2` must be at least 0. Received l2=-1."),
    (lambda: cx.L1("big"), ValueError, "L1L2: `l1` must be a number"),
])
def test_what_is_wrong_is_said(make, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make()


def test_names():
    assert get_regularizer("here", "r", "l2") == L1L2(0.0, 0.01)
    assert get_regularizer("here", "r", None) is None
