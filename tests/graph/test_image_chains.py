"""Chains of a training step: some images at a time give the bits of the whole batch, between guard zones."""

from __future__ import annotations

from math import lcm

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.errors import PluginError
from cnnext.graph.chains import Run
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.image_chains import images_of, in_order, possible_chains
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers.layer import Images, Layer
from tests.layers.agreement import LEVELS

BATCH_NORM = pytest.importorskip("cnnext_normalization").BatchNorm
LEVEL = default_level()


def apart(b, graph):
    """Each node by itself."""
    return [Run([node]) for node in graph.nodes]


def chained(images):
    """The longest chains, whatever they cost, by bands of at least so many images."""
    def choose(b, graph):
        return in_order(graph, [
            Run(chain, images=images * lcm(*(images_of(node).unit for node in chain))) if len(chain) > 1 else Run(chain)
            for chain in possible_chains(graph)])

    return choose


def chains_of(plan):
    return [step for step in plan.steps if step.bands is not None]


def built(net, batch):
    """The step of a compiled model: its plan and drawn inputs."""
    trainer = net._trainer
    step = trainer.build([(batch, *net.input_shape[1:])], training=True)
    rng = np.random.default_rng(batch)
    y = rng.integers(0, net.output_shape[-1], batch).astype(trainer.loss.target_dtype)
    feeds = {"target": y, "hyper": trainer.optimizer.hyper(), "seed": np.array([7], np.int64)}
    x = rng.standard_normal((batch, *net.input_shape[1:])).astype(np.float32)
    return step, [x, *(feeds[name] for name in step.extra)]


def after(plan, parameters, inputs, n_threads=1):
    """Loss, predictions and all that a step changed; the parameters are put back."""
    before = [p.data.copy() for p in parameters]
    plan.parallel = True
    results = [a.copy() for a in plan.run(inputs, n_threads)] + [p.data.copy() for p in parameters]
    for parameter, data in zip(parameters, before, strict=True):
        parameter.assign(data)
    return results


def check_step(net, batch, images, level=LEVEL):
    """A step by chains gives the bits of one without; returns the plan with chains."""
    step, inputs = built(net, batch)
    graph, changed = step.plan.graph, step.plan.graph.parameters()
    whole = after(Plan(graph, level, chooser=apart), changed, inputs)
    guarded, plan = (Plan(graph, level, guard, chooser=chained(images)) for guard in (True, False))
    for one, n_threads in ((guarded, 2), (plan, 1), (plan, 3)):
        for a, b in zip(whole, after(one, changed, inputs, n_threads), strict=True):
            np.testing.assert_array_equal(a, b)
    return plan


def compiled(net):
    net.compile(cx.SGD(0.05, momentum=0.9), cx.SparseCategoricalCrossentropy(from_logits=True))
    return net


# Any network


LAYERS = {
    "pointwise": lambda c: cx.Conv2D(c + 3, 1),
    "wide": lambda c: cx.Conv2D(256, 1),    # whose pixels lie apart, against aliasing
    "strided": lambda c: cx.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
    "winograd": lambda c: cx.Conv2D(16, 3, padding="same"),
    "depthwise": lambda c: cx.DepthwiseConv2D(3, padding="same"),
    "depthwise_strided": lambda c: cx.DepthwiseConv2D(3, strides=2, padding="same"),
    "norm": lambda c: BATCH_NORM(),
    "relu": lambda c: cx.ReLU(),
    "silu": lambda c: cx.SiLU(),
    "max_pool": lambda c: cx.MaxPool2D(2, padding="same"),
    "avg_pool": lambda c: cx.AvgPool2D(3, 1, padding="same"),
    "dropout": lambda c: cx.Dropout(0.3),
}


@st.composite
def networks(draw):
    """Layers one after the other, some of them around a branch that is added again."""
    cx.set_random_seed(draw(st.integers(0, 99)))
    x = y = cx.Input((draw(st.integers(3, 9)), draw(st.integers(3, 9)), draw(st.sampled_from([3, 16, 20]))))
    for kind in draw(st.lists(st.sampled_from([*LAYERS, "residual", "norm", "pointwise"]), min_size=2, max_size=8)):
        if kind == "residual":
            y = cx.Add()([BATCH_NORM()(cx.Conv2D(y.shape[-1], 1)(y)), y])
        else:
            y = LAYERS[kind](y.shape[-1])(y)
    return compiled(cx.Model(x, cx.Dense(3)(cx.GlobalAvgPool2D()(y))))


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=25, deadline=None)
@given(net=networks(), batch=st.integers(2, 21), images=st.integers(1, 4))
def test_any_network(level, net, batch, images):
    check_step(net, batch, images, level)


# What forms a chain


def inverted_residual():
    x = y = cx.Input((8, 8, 16))
    for layer in (cx.Conv2D(48, 1, use_bias=False), cx.DepthwiseConv2D(3, padding="same", use_bias=False),
                  cx.Conv2D(16, 1, use_bias=False)):
        y = cx.ReLU6()(BATCH_NORM()(layer(y)))
    return compiled(cx.Model(x, cx.Dense(3)(cx.GlobalAvgPool2D()(cx.Add()([x, y])))))


def test_inverted_residual():
    cx.set_random_seed(0)
    plan = check_step(inverted_residual(), 20, 1)
    kernels = [[part.kernel.split("/")[-1] for part in step.parts] for step in chains_of(plan)]
    assert ["normalize", "conv_depthwise", "moments"] in kernels
    assert ["normalize_backward", "conv_depthwise", "diff_sums"] in kernels
    assert not [k for names in kernels for k in names if "pack" in k], "weights are packed once, not for each band"


@pytest.mark.parametrize("channels", [20, 256])
@pytest.mark.parametrize("activation", [cx.ReLU6, cx.SiLU])
def test_sums_of_pixels_that_lie_apart(channels, activation):
    cx.set_random_seed(0)
    x = cx.Input((4, 4, 8))
    y = activation()(BATCH_NORM()(cx.Conv2D(channels, 1, use_bias=False)(x)))
    plan = check_step(compiled(cx.Model(x, cx.Dense(3)(cx.GlobalAvgPool2D()(y)))), 16, 1)
    assert any(step.parts[-1].kernel.endswith("moments") for step in chains_of(plan))


def test_results_take_memory_that_dies_within_a_chain():
    """Of 20 images in bands of 1: the gradient of a normalization's source overwrites that of its result."""
    step, _ = built(inverted_residual(), 20)
    plan = Plan(step.plan.graph, LEVEL, chooser=chained(1))
    pairs = [pair for chain in chains_of(plan) for pair in chain.overwrites]
    taken = [dst for src, dst in pairs for v in src if v.storage.offset_bytes == dst.storage.offset_bytes]
    assert taken


def test_chains_do_not_wait_for_each_other():
    """Two rows of layers whose ends each read the other's beginning: at most one of them is a chain as a whole."""
    a, b = cx.Input((4, 4, 3)), cx.Input((4, 4, 3))
    p, q = cx.ReLU()(a), cx.ReLU()(b)
    outputs = [cx.Add()([p, q]), cx.Multiply()([q, p])]
    graph = optimize(prepare(Graph([a, b], outputs, ancestors(outputs)), [(4, 4, 4, 3)] * 2, True))
    runs = chained(2)(None, graph)
    assert sorted(len(run.nodes) for run in runs) in ([1, 1, 2], [2, 2])
    feeds = [np.random.default_rng(i).standard_normal((4, 4, 4, 3)).astype(np.float32) for i in range(2)]
    for one, other in zip(Plan(graph, LEVEL, chooser=apart).run(feeds),
                          Plan(graph, LEVEL, chooser=lambda b, graph: runs).run(feeds), strict=True):
        np.testing.assert_array_equal(one, other)


def test_choice(monkeypatch):
    """Chosen where values come from memory, for many images; small values stay where they are."""
    net = compiled(cx.models.mobilenet_v2(10, (32, 32, 3), small_images=True))
    assert chains_of(built(net, 64)[0].plan)
    assert not chains_of(built(inverted_residual(), 20)[0].plan)
    monkeypatch.setenv("CNNEXT_CHAINS", "0")
    assert not chains_of(built(net, 64)[0].plan)


class Wrong(Layer):
    """Says something wrong of its images."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def output_shape(self, *shapes):
        return shapes[0]

    def lower(self, b, node):
        raise AssertionError("not reached")

    def images(self, node):
        return self.answer


@pytest.mark.parametrize("answer", [Images((True, True)), Images((True,), unit=2), Images((True,), unit=0)])
def test_faults_of_a_layer(answer):
    (y,) = Graph([], []).apply(Wrong(answer), Value((4, 3, 3, 2), name="x"))
    with pytest.raises(PluginError, match="images"):
        images_of(y.node)
