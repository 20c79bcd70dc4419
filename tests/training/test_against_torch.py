"""Gradients of every layer, and loss curves, beside PyTorch's: the networks of benchmarks/training.py.

Slow; needs torch.
"""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from benchmarks.loss_curves import cnnext_curve, distance, torch_curve, windows  # noqa: E402
from benchmarks.torch_twin import TorchTwin, gradients, smooth, without_dropout  # noqa: E402
from benchmarks.training import CLASSES, NETWORKS, network  # noqa: E402


def loss_of(model):
    softmax = type(model.graph.nodes[-1].layer).__name__ == "Softmax"
    return cx.SparseCategoricalCrossentropy(from_logits=not softmax)


def data(model, n, seed=0):
    """Images whose brightness and colour tell the class, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    shape = [k or 0 for k in model.input_shape[1:]]
    y = rng.integers(0, CLASSES, n)
    patterns = np.random.default_rng(99).standard_normal((CLASSES, *shape))
    return (rng.standard_normal((n, *shape)) + patterns[y]).astype(np.float32), y


def cnnext_gradients(model, x, y):
    g = prepare(model.graph, [x.shape], True)
    loss = loss_of(model)
    target = Value(loss.target_shape(g.outputs[0].shape), loss.target_dtype, "target")
    feeds = [x, *([np.array([1], np.int64)] if g.seed is not None else []), y.astype(loss.target_dtype)]
    g.inputs.append(target)
    total = loss.append(g, g.outputs[0], target)
    wrt = {v.parameter.name: v for node in g.nodes for v in node.reads if v.parameter is not None and v.parameter.trainable}
    diffs = add_gradients(g, [total], wrt.values())
    g.outputs = [total, *(diffs[v] for v in wrt.values())]
    g.order()
    outputs = Plan(optimize(g), default_level()).run(feeds, 2)
    return float(outputs[0][0]), dict(zip(wrt, outputs[1:], strict=True))


def torch_gradients(model, x, y, dtype):
    twin = TorchTwin(model).to(dtype).train()
    total = torch.nn.functional.cross_entropy(twin(first(x).to(dtype)), torch.from_numpy(y))
    total.backward()
    return total.item(), gradients(model, twin)


def first(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_every_layer(name):
    """Within 1e-4 of a layer's largest gradient in float64, or of a hundredth of the network's where that is more. Biases
    before a normalization have no gradient but rounding: no more of it than in PyTorch's float32."""
    model = smooth(without_dropout(network(name)))
    x, y = data(model, 32)
    loss, found = cnnext_gradients(model, x, y)
    total, expected = torch_gradients(model, x, y, torch.float64)
    _, rounded = torch_gradients(model, x, y, torch.float32)
    assert loss == pytest.approx(total, rel=1e-5)
    assert found.keys() == expected.keys()
    scale = max(np.abs(d).max() for d in expected.values())
    for key, diff in expected.items():
        unit = max(np.abs(diff).max(), 1e-2 * scale)
        error, limit = np.abs(found[key] - diff).max() / unit, 1e-4
        if np.abs(diff).max() < 1e-12 * scale:
            limit = max(limit, np.abs(rounded[key]).max() / unit)
        assert error <= limit, f"{key}: {error:.1e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_curves(name):
    """200 steps of training without corners, in means of ten: within 1 %."""
    curve, expected = cnnext_curve(name, is_smooth=True), torch_curve(name, is_smooth=True)
    assert len(expected) == 200
    assert windows(expected)[-1] < 0.8 * windows(expected)[0]     # it learns
    assert distance(curve[:50], expected[:50]) <= 1e-3
    assert distance(windows(curve), windows(expected)) <= 0.01
