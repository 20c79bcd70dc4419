"""Activations that are computed twice: the same bits, in less memory."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.passes.recompute import _best_cuts, kept_bytes
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers.layer import Layer

SIZE, BATCH = 12, 4


def norm():
    return cx.layer("normalization/BatchNorm")(momentum=0.9)


class Halves(Layer):
    """A layer in NumPy that keeps its source for the backward pass, and counts."""

    forwards = 0

    def output_shape(self, *shapes):
        return shapes[0]

    def forward(self, ctx, x):
        ctx.positive = x > 0
        type(self).forwards += 1
        return np.where(ctx.positive, x, x / 2)

    def backward(self, ctx, dy):
        return np.where(ctx.positive, dy, dy / 2)


def chain(y, between=()):
    for _ in range(4):
        y = cx.Conv2D(8, 3, padding="same", activation="relu")(y)
        for make in between:
            y = make()(y)
    return y


def residual(y):
    y = cx.Conv2D(8, 3, padding="same")(y)
    for _ in range(4):
        branch = cx.ReLU()(norm()(cx.Conv2D(8, 3, padding="same", use_bias=False)(y)))
        y = cx.ReLU()(cx.Add()([norm()(cx.Conv2D(8, 3, padding="same")(branch)), y]))
    return y


def dense_block(y):
    for _ in range(5):
        y = cx.Concat()([y, cx.Conv2D(6, 3, padding="same", activation="silu")(norm()(y))])
    return y


def u_shaped(y):
    skipped = []
    for _ in range(2):
        skipped.append(chain(y))
        y = cx.MaxPool2D(2)(skipped[-1])
    for skip in reversed(skipped):
        y = chain(cx.Concat()([cx.UpSample2D(2)(y), skip]))
    return y


def branches(y):
    a, b = (cx.Conv2D(8, 1)(y) for _ in range(2))
    return cx.Multiply()([chain(a), cx.Sigmoid()(chain(b))])


BODIES = {
    "chain": chain,
    "batch norm, dropout": lambda y: chain(y, [norm, lambda: cx.Dropout(0.3)]),
    "pools": lambda y: cx.MaxPool2D(2)(chain(cx.AvgPool2D(2)(chain(y)))),
    "residual": residual,
    "dense block": dense_block,
    "u-shaped": u_shaped,
    "branches": branches,
    "numpy": lambda y: chain(y, [Halves, norm]),
    "functions": lambda y: chain(y, [cx.SiLU, cx.GELU]),
}


def network(body):
    cx.set_random_seed(1)
    x = cx.Input((SIZE, SIZE, 3))
    y = cx.GlobalAvgPool2D()(BODIES[body](x))
    return cx.Model(x, cx.Dense(5)(y), num_threads=2)


def data():
    rng = np.random.default_rng(2)
    return rng.standard_normal((3, BATCH, SIZE, SIZE, 3), np.float32), rng.integers(0, 5, (3, BATCH))


def trained(body, checkpoint_activations, **options):
    """Losses, weights, running statistics, the optimizer's state, and the plan after three steps."""
    net = network(body)
    net.compile(cx.Adam(0.01, **options), cx.SparseCategoricalCrossentropy(from_logits=True),
                checkpoint_activations=checkpoint_activations)
    losses = [net.train_on_batch(x, y)["loss"] for x, y in zip(*data(), strict=True)]
    (built,) = net._trainer._plans.values()
    state = [s.data for p in net.parameters if p.trainable for s in net.optimizer.states(p)]
    return [np.array(losses), *net.get_weights(), *state], built.plan


@pytest.mark.parametrize("options", [{}, {"global_clipnorm": 0.1}], ids=["", "clipped"])
@pytest.mark.parametrize("body", BODIES)
def test_same_bits_in_less_memory(body, options):
    (plain, plan), (twice, smaller) = (trained(body, c, **options) for c in (False, True))
    for a, b in zip(plain, twice, strict=True):
        assert np.array_equal(a, b)
    repeated = [node.name for node in smaller.graph.nodes if node.is_repeated]
    assert repeated and all(name.endswith("/again") for name in repeated)
    assert kept_bytes(smaller.graph) < 0.8 * kept_bytes(plan.graph)
    assert smaller.arena_bytes < 0.9 * plan.arena_bytes


def test_numpy_layers_are_called_once():
    Halves.forwards = 0
    trained("numpy", True)
    assert Halves.forwards == 3 * 4


def test_nodes_run_again_just_before_they_are_read():
    _, plan = trained("batch norm, dropout", True)
    nodes = plan.graph.nodes
    read_at = {v: i for i, node in reversed(list(enumerate(nodes))) for v in node.reads}
    runs = [i for i, node in enumerate(nodes) if node.is_repeated]
    first = next(i for i, node in enumerate(nodes) if "diff_src" in node.name)
    assert all(any(v in read_at for v in nodes[i].outputs) for i in runs)
    assert runs[0] > first
    assert len([i for i in runs if i - 1 not in runs]) > 1      # segment by segment
    assert not any("moving" in nodes[i].name for i in runs)


def test_kernels_stay_within_their_memory():
    net = network("residual")
    net.compile("sgd", cx.SparseCategoricalCrossentropy(from_logits=True))
    built = net._trainer.build([(BATCH, SIZE, SIZE, 3)], True, True)
    x, y = (a[0] for a in data())
    feeds = {"target": y.astype(np.int64), "hyper": net._trainer.optimizer.hyper()}
    before, after = net.get_weights(), []
    for plan in (built.plan, Plan(built.plan.graph, default_level(), guard=True)):
        net.set_weights(before)
        plan.run([x, *(feeds[name] for name in built.extra)], 2)
        after.append(net.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*after, strict=True))
    assert not np.array_equal(before[0], after[0][0])


def test_a_chain_of_equal_layers_takes_segments_of_its_root():
    """n layers that keep a value each, in k segments: k values are kept and n / k computed again."""
    n = 64
    peaks = {}
    for bound in range(1, n + 1):
        cuts = _best_cuts([1] * n, [0] + [1] * (n - 1), bound)
        longest = max(b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True))
        assert longest <= bound
        peaks[bound] = len(cuts) + longest
    assert min(peaks.values()) <= 2 * sqrt(n)
    assert peaks[n] == n


def test_cuts_are_where_little_crosses():
    assert _best_cuts([4, 4, 1, 4, 4, 4], [0, 4, 4, 1, 4, 4], 12) == [3]
    assert _best_cuts([9, 1], [0, 9], 1) == [1]     # a node that is larger than the bound is a segment of its own
    assert _best_cuts([1, 1, 1], [0, 1, 1], 3) == []


def test_inference_is_left_alone():
    net = network("chain")
    graph = prepare(net.graph, [(BATCH, SIZE, SIZE, 3)], training=False)
    assert not any(node.is_repeated for node in optimize(graph, checkpoint_activations=True).nodes)
