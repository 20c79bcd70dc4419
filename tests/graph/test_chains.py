"""Chains: bands of rows give the bits of whole images, on all levels and numbers of threads, between guard zones."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.errors import KernelError, PluginError
from cnnext.graph.chains import Run, choose_runs, in_order, possible_runs
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.memory import View
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan, PlanBuilder
from cnnext.isa import default_level
from cnnext.layers.layer import Band, Layer
from tests.layers.agreement import LEVELS

LEVEL = default_level()


def graph_of(inputs, outputs, training=False):
    """An optimized graph of values that layers made."""
    graph = prepare(Graph(inputs, outputs, ancestors(outputs)), [v.shape for v in inputs], training)
    return optimize(graph)


def apart(b, graph):
    """Each node by itself."""
    return [Run([node]) for node in graph.nodes]


def banded(rows):
    """The longest runs as chains, whatever they cost."""
    return lambda b, graph: in_order(graph, [Run(nodes, rows) for nodes in possible_runs(graph)])


def chains_of(plan):
    return [step for step in plan.steps if step.bands is not None]


def drawn(graph, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs]


def check_bands(graph, rows, level=LEVEL, n_threads=2, seed=0):
    """All runs of a graph by bands: the bits of the plan without; returns the plan."""
    feeds = drawn(graph, seed)
    whole = Plan(graph, level, chooser=apart).run(feeds)
    guarded, plan = (Plan(graph, level, guard, chooser=banded(rows)) for guard in (True, False))
    for chained in (guarded, plan):
        chained.parallel = True
        for threads in (1, n_threads):
            for one, other in zip(whole, chained.run(feeds, threads), strict=True):
                np.testing.assert_array_equal(one, other)
    return plan


# Any chain of layers


@dataclass(frozen=True)
class Case:
    """Sizes and layers of a chain."""

    batch: int
    size: tuple[int, int]
    channels: int
    layers: list
    rows: int
    seed: int


PAIR = st.tuples(st.integers(0, 2), st.integers(0, 2))


@st.composite
def window_layer(draw, kind):
    """A convolution or pool of any window that does not look beyond what there is."""
    kernel = draw(st.sampled_from([1, 2, 3, 5, 7] if kind != "conv" else [1, 1, 2, 3, 5]))
    strides, dilation = draw(st.sampled_from([1, 1, 2, (2, 1), 3])), draw(st.sampled_from([1, 1, 2]))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), st.tuples(PAIR, PAIR)))
    if kind == "conv":
        groups = draw(st.sampled_from([1, 1, 2]))
        return lambda c: cx.Conv2D(groups * draw(st.sampled_from([1, 4, 13, 20])), kernel, strides, padding, dilation,
                                   groups if c % groups == 0 else 1, activation=draw(ACTIVATIONS))
    if kind == "depthwise":
        multiplier = draw(st.sampled_from([1, 1, 1, 2]))
        return lambda c: cx.DepthwiseConv2D(kernel, strides, padding, dilation, multiplier, activation=draw(ACTIVATIONS))
    ceil_mode, counted = draw(st.booleans()), draw(st.booleans())
    pool = draw(st.sampled_from([cx.MaxPool2D, cx.AvgPool2D, cx.LpPool2D]))
    options = {"count_include_pad": counted} if pool is cx.AvgPool2D else {}
    return lambda c: pool(kernel, strides, padding, dilation, ceil_mode, **options)


ACTIVATIONS = st.sampled_from([None, "relu", "hard_swish"])
KINDS = st.one_of(st.sampled_from(["gate", "scale", "residual", "softplus"]),
                  *(window_layer(kind) for kind in ("conv", "conv", "depthwise", "depthwise", "pool")))


@st.composite
def cases(draw):
    return Case(draw(st.integers(1, 3)), (draw(st.integers(2, 19)), draw(st.integers(1, 12))),
                draw(st.sampled_from([1, 3, 8, 17, 32])), draw(st.lists(KINDS, min_size=2, max_size=4)),
                draw(st.integers(1, 6)), draw(st.integers(0, 2**31)))


def built(case):
    """The case's layers one after the other; what they need beside is further inputs."""
    x = Value((case.batch, *case.size, case.channels), name="x")
    inputs, y = [x], x
    for i, layer in enumerate(case.layers):
        n, _, _, c = y.shape
        if layer == "softplus":
            y = cx.Softplus()(y)
            continue
        if isinstance(layer, str):
            shape = {"gate": (n, 1, 1, c), "scale": (1, 1, 1, c), "residual": y.shape}[layer]
            inputs.append(Value(shape, name=f"{layer}{i}"))
            y = (cx.Add() if layer == "residual" else cx.Multiply())([y, inputs[-1]])
            continue
        try:
            y = layer(c)(y)
        except ValueError:      # a window larger than what is left
            assume(False)
    return graph_of(inputs, [y])


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=80, deadline=None)
@given(case=cases(), n_threads=st.integers(2, 4))
def test_any_chain(level, case, n_threads):
    graph = built(case)
    assume(possible_runs(graph))
    assert chains_of(check_bands(graph, case.rows, level, n_threads, case.seed))


# An inverted residual


def inverted_residual(batch, height, channels, expanded, strides=1, width=None):
    """Expand, depthwise, project and add, between two convolutions that are no part of it."""
    x = Value((batch, height, width or height + 1, 3), name="x")
    y = start = cx.Conv2D(channels, 3, padding="same", name="before")(x)
    y = cx.Conv2D(expanded, 1, activation="relu6", name="expand")(y)
    y = cx.DepthwiseConv2D(3, strides, "same", activation="relu6", name="depthwise")(y)
    y = cx.Conv2D(channels, 1, name="project")(y)
    y = cx.Add(name="sum")([y, start]) if strides == 1 else y
    return graph_of([x], [cx.Conv2D(4, 3, name="after")(y)])


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 4, 20])
def test_inverted_residual(strides, rows):
    graph = inverted_residual(2, 13, 24, 40, strides)
    plan = check_bands(graph, rows)
    (step,) = chains_of(plan)
    assert step.name == "expand .. project" and step.kernel == "conv_direct + conv_depthwise + conv_direct"
    height = -(-13 // strides)
    assert step.tiles == 2 * -(-height // rows) and step.macs == sum(
        n.layer.macs(n) for n in graph.nodes if n.name in ("expand", "depthwise", "project"))
    assert [p.name for p in step.parts] == ["expand", "depthwise", "project"]
    # the first band, those in the middle, the last, and it alone; what they share is there once
    assert len(step.bands.variants) <= 4
    assert [s.kernel for s in plan._prologue].count("conv_pack_weights") == 4


def test_values_between_take_no_arena():
    graph = inverted_residual(2, 40, 8, 64)
    chained, whole = Plan(graph, LEVEL, chooser=banded(4)), Plan(graph, LEVEL, chooser=apart)
    assert whole.arena_bytes - chained.arena_bytes >= 4 * 2 * 40 * 41 * 64
    assert 4 * 6 * 41 * 64 <= chained.scratch_bytes < 4 * 24 * 41 * 64


def test_channels_that_alias():
    # pixels 256 floats apart are moved to 272: in scratch as in the arena
    plan = check_bands(inverted_residual(1, 9, 5, 256), 3)
    (step,) = chains_of(plan)
    assert step.parts[0].dst[0].row_stride == 272


def test_batch_of_any_size():
    x = cx.Input((24, 24, 8))
    y = cx.Conv2D(48, 1, activation="relu")(x)
    net = cx.Model(x, cx.Conv2D(8, 1)(cx.DepthwiseConv2D(3, padding="same")(y)))
    src = np.random.default_rng(1).standard_normal((7, 24, 24, 8)).astype(np.float32)
    many, single = net.predict(src), [net.predict(src[i : i + 1]) for i in range(7)]
    np.testing.assert_allclose(many, np.concatenate(single), atol=1e-6)


# Which are chosen


def chosen(graph):
    return [[n.name for n in run.nodes] for run in choose_runs(PlanBuilder(graph, LEVEL), graph) if run.rows]


def test_choice():
    assert chosen(inverted_residual(16, 56, 24, 144, 1, 56)) == [["expand", "depthwise", "project"]]
    assert chosen(inverted_residual(16, 112, 16, 96, 2, 112)) == [["expand", "depthwise", "project"]]
    assert chosen(inverted_residual(1, 14, 16, 96)) == []       # stays in the cache anyhow
    assert chosen(inverted_residual(1, 300, 1, 2)) == []


def test_variable_that_keeps_nodes_apart(monkeypatch):
    monkeypatch.setenv("CNNEXT_CHAINS", "0")
    assert chosen(inverted_residual(16, 56, 24, 144, 1, 56)) == []


def test_training_keeps_nodes_apart():
    x = Value((16, 56, 56, 24), name="x")
    y = cx.Conv2D(24, 1)(cx.DepthwiseConv2D(3, padding="same")(cx.Conv2D(144, 1)(x)))
    assert chosen(graph_of([x], [y])) and not chosen(graph_of([x], [y], training=True))


def test_values_that_others_read():
    x = Value((1, 8, 8, 4), name="x")
    a = cx.Conv2D(8, 1, name="a")(x)
    b = cx.DepthwiseConv2D(3, name="b")(a)
    c = cx.Conv2D(4, 1, name="c")(b)
    names = lambda *outputs: [[n.name for n in run] for run in possible_runs(graph_of([x], list(outputs)))]  # noqa: E731
    assert names(c) == [["a", "b", "c"]]
    assert names(c, b) == [["a", "b"]]      # an output ends a chain
    assert names(c, a) == [["b", "c"]]
    assert names(c, cx.DepthwiseConv2D(3, name="d")(b)) == [["a", "b"]]
    twice = cx.Multiply(name="square")([b, b])
    assert names(twice) == [["a", "b"]]


def test_values_that_meet():
    # a node has one chain to be in, whichever of its sources it continues
    x = Value((2, 9, 8, 4), name="x")
    left = cx.Conv2D(4, 1, name="left")(x)
    right = cx.DepthwiseConv2D(3, padding="same", name="right")(cx.Conv2D(4, 1, name="start")(x))
    graph = graph_of([x], [cx.Conv2D(3, 1, name="last")(cx.Multiply(name="product")([left, right]))])
    (run,) = possible_runs(graph)
    assert [n.name for n in run] == ["start", "right", "product", "last"]
    for rows in (1, 2, 5):
        assert chains_of(check_bands(graph, rows))


def test_whole_image_in_between():
    x = Value((2, 6, 6, 4), name="x")
    y = cx.Conv2D(4, 3, padding="same", name="winograd")(cx.Conv2D(4, 1, name="a")(x))
    assert possible_runs(graph_of([x], [cx.GlobalAvgPool2D()(cx.Conv2D(4, 1, name="b")(y))])) == []


# Faults


class Wide(Layer):
    """Writes a row more than there is."""

    def output_shape(self, *shapes):
        return shapes[0]

    def band(self, node, first, last):
        return Band(((first, last),))

    def lower(self, b, node):
        dst = b.view(node.output)
        longer = View(dst.storage, dst.offset, (1, dst.shape[1] + 1, *dst.shape[2:]), dst.strides)
        first_row = b.view(node.inputs[0]).sliced(1, 0, 1).expanded(longer.shape)
        b.step("copy", [first_row], [longer], {"rows": 1000, "chunk": dst.shape[-1]})


def chain_with(layer):
    x = Value((2, 9, 4, 8), name="x")
    y = layer(cx.Conv2D(8, 1, name="first")(x))
    return graph_of([x], [cx.Conv2D(8, 1, name="last")(y)])


def test_kernel_that_writes_beyond_its_rows():
    graph = chain_with(Wide(name="wide"))
    plan = Plan(graph, LEVEL, guard=True, chooser=banded(3))
    assert chains_of(plan)
    with pytest.raises(KernelError, match=r"wide \(copy\): the kernel wrote outside its result"):
        plan.run(drawn(graph))


class Failing(Wide):
    """Its kernel reports an error."""

    def lower(self, b, node):
        b.step("failing", [b.view(node.inputs[0])], [b.view(node.output)], entry=(FAILING, ()))


class CnxKernel(ctypes.Structure):
    _fields_ = [("abi", ctypes.c_uint32), ("size", ctypes.c_uint32), ("name", ctypes.c_char_p), ("run", ctypes.c_void_p)]


def capsule(function):
    """A kernel in Python; returns it with what has to stay alive."""
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(function)
    record = CnxKernel(1, ctypes.sizeof(CnxKernel), b"failing", ctypes.cast(callback, ctypes.c_void_p).value)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(ctypes.addressof(record), CAPSULE_NAME, None), (callback, record)


CAPSULE_NAME = b"cnnext.kernel.v1"
FAILING, KEPT = capsule(lambda args, worker: 2)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_kernel_that_fails(n_threads):
    graph = chain_with(Failing(name="broken"))
    plan = Plan(graph, LEVEL, chooser=banded(3))
    plan.parallel = True
    with pytest.raises(KernelError, match=r"broken \(failing\): the kernel failed"):
        plan.run(drawn(graph), n_threads)


class Odd(Wide):
    """What ``band`` must not give."""

    def __init__(self, answer, name):
        super().__init__(name=name)
        self.answer = answer

    def band(self, node, first, last):
        return self.answer(first, last)

    def lower(self, b, node):
        b.step("python", [b.view(node.inputs[0])], [b.view(node.output)], entry=lambda src, dst: None)


@pytest.mark.parametrize("answer, rule", [
    (lambda first, last: Band(()), r"odd: `band` must give rows of each input, or None. Received rows=\(\)"),
    (lambda first, last: Band(((first, last + 100),)), "must give rows of each input"),
    (lambda first, last: Band(((first, last),)) if first == 0 else None, "must be None for all rows or none"),
    (lambda first, last: Band(((first, last),)), "a layer with `band` must lower to native kernels"),
])
def test_faults_of_a_layer(answer, rule):
    with pytest.raises(PluginError, match=rule):
        Plan(chain_with(Odd(answer, "odd")), LEVEL, chooser=banded(3))


# What a plan says


def test_explain_and_profile():
    plan = Plan(inverted_residual(2, 13, 24, 40), LEVEL, chooser=banded(4))
    text = plan.explain()
    (line,) = [line for line in text.splitlines() if "expand .. project" in line]
    assert "4 bands of 4 rows" in line and "computed twice" in line
    for part in ("expand", "depthwise", "project"):
        assert any(row.split()[:2] == ["+", part] for row in text.splitlines()), text
    profile = plan.profile(runs=2)
    assert [s.name for s in profile.steps] == [s.name for s in plan.steps]
    assert "expand .. project (conv_direct + conv_depthwise + conv_direct)" in str(profile)


def test_moved_bytes():
    (step,) = chains_of(Plan(inverted_residual(2, 13, 6, 40), LEVEL, chooser=banded(4)))
    weights = sum(v.size for v in step.src if v.storage.kind in ("fixed", "prologue") and v.storage.dtype == np.float32)
    tables = sum(8 * v.size for v in step.src if v.storage.dtype == np.int64)
    image = 2 * 13 * 14 * 6
    assert step.moved_bytes == 4 * (3 * image + weights) + tables
