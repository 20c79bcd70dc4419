"""Gradients of every layer beside PyTorch's: the networks of benchmarks/training.py.

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

from benchmarks.torch_twin import TorchTwin, gradients  # noqa: E402
from benchmarks.training import CLASSES, NETWORKS, network  # noqa: E402


def without_dropout(model):
    """Both would draw other numbers."""
    for layer in model.layers:
        if isinstance(layer, cx.Dropout):
            layer.rate = 0.0
    return model


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


def cnnext_gradients(model, x, y, exact=False):
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
    outputs = Plan(optimize(g), default_level(), exact=exact).run(feeds, 2)
    return float(outputs[0][0]), dict(zip(wrt, outputs[1:], strict=True))


def first(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def smooth(model):
    """SiLU for ReLU: a value that rounding moves across 0 would change its gradient from 0 to 1, in PyTorch as well, whose
    own float32 lies up to 6e-2 from float64 with ReLU and 1.4e-5 with SiLU."""
    for node in model.graph.nodes:
        if isinstance(node.layer, (cx.ReLU, cx.ReLU6)):
            node.layer = cx.SiLU(name=node.layer.name)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_every_layer(name):
    """Within 1e-4 of a layer's largest gradient in float64, or of a hundredth of the network's where that is more."""
    model = smooth(without_dropout(network(name)))
    x, y = data(model, 32)
    # the pools of VGG have corners too: two pixels that nearly agree may change places with Winograd's rounding
    loss, found = cnnext_gradients(model, x, y, exact="VGG" in name)
    twin = TorchTwin(model).double().train()
    total = torch.nn.functional.cross_entropy(twin(first(x).double()), torch.from_numpy(y))
    total.backward()
    expected = gradients(model, twin)
    assert loss == pytest.approx(total.item(), rel=1e-5)
    assert found.keys() == expected.keys()
    scale = max(np.abs(d).max() for d in expected.values())
    for key, diff in expected.items():
        # biases before a normalization have no gradient but rounding
        error = np.abs(found[key] - diff).max() / max(np.abs(diff).max(), 1e-2 * scale)
        assert error <= 1e-4, f"{key}: {error:.1e}"
