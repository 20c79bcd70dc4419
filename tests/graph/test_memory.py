"""Views, layouts, lifetimes, the arena, results in the memory of sources."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.graph.graph import Graph, Value, constant
from cnnext.graph.memory import (
    ALIGN_BYTES,
    GUARD,
    GUARD_BYTES,
    Layout,
    Storage,
    View,
    aligned_bytes,
    dense_strides,
    harmed,
    lifetimes,
    padded_channels,
    plan_arena,
    plan_guarded_arena,
    reuse_in_place,
)
from cnnext.graph.plan import Plan
from cnnext.layers._rows import coalesce
from cnnext.layers.concat import Concat
from cnnext.layers.elementwise import Add, Copy
from cnnext.layers.flatten import Flatten

EXTENTS = st.lists(st.integers(1, 4), min_size=1, max_size=4)
CHECK = settings(max_examples=100, deadline=None)


def positions(view):
    """Where each element of a view lies."""
    index = np.arange(view.storage.size)[view.offset :]
    return np.lib.stride_tricks.as_strided(index, view.shape, [s * 8 for s in view.strides])


@st.composite
def views(draw):
    """A view into a larger storage: a slice of every axis of a dense one."""
    shape = draw(EXTENTS)
    starts = [draw(st.integers(0, 2)) for _ in shape]
    wide = tuple(n + start + draw(st.integers(0, 2)) for n, start in zip(shape, starts, strict=True))
    view = View.dense(Storage("arena", prod(wide)), wide)
    for axis, (start, n) in enumerate(zip(starts, shape, strict=True)):
        view = view.sliced(axis, start, start + n)
    return view


@CHECK
@given(view=views())
def test_slices(view):
    all_positions = positions(view)
    assert all_positions.shape == view.shape and view.size == all_positions.size
    dense = bool((np.diff(all_positions.ravel()) == 1).all())
    assert view.is_dense == dense
    rows = all_positions[..., 0].ravel()
    uniform = len(set(np.diff(rows))) <= 1
    assert view.rows_are_uniform == uniform
    if uniform and len(rows) > 1:
        assert view.row_stride == rows[1] - rows[0]


def test_slice_with_a_step():
    view = View.dense(Storage("arena", 24), (4, 6)).sliced(1, 1, 6, 2)
    np.testing.assert_array_equal(positions(view), np.arange(24).reshape(4, 6)[:, 1:6:2])


@CHECK
@given(view=views(), data=st.data())
def test_reshaped_keeps_the_order_of_the_elements(view, data):
    shape = data.draw(st.sampled_from(shapes_of(view.size)))
    other = view.reshaped(shape)
    if other is None:
        assert not view.is_dense
    else:
        assert other.shape == shape
        np.testing.assert_array_equal(positions(other).ravel(), positions(view).ravel())


def shapes_of(size):
    """Some shapes of so many elements."""
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    return [(size,), *((d, size // d) for d in divisors), *((d, 1, size // d) for d in divisors)]


def test_pixels_of_a_padded_value_reshape():
    view = View(Storage("arena", 2 * 3 * 4 * 8), 0, (2, 3, 4, 5), (96, 32, 8, 1))
    assert view.reshaped((2, 12, 5)) == View(view.storage, 0, (2, 12, 5), (96, 8, 1))
    assert view.reshaped((2, 60)) is None


@CHECK
@given(view=views(), order=st.randoms(use_true_random=False))
def test_permuted(view, order):
    axes = list(range(len(view.shape)))
    order.shuffle(axes)
    np.testing.assert_array_equal(positions(view.permuted(tuple(axes))), positions(view).transpose(axes))


@CHECK
@given(view=views(), lead=EXTENTS, data=st.data())
def test_expanded(view, lead, data):
    shape = (*lead, *(n if n > 1 else data.draw(st.integers(1, 3)) for n in view.shape))
    np.testing.assert_array_equal(positions(view.expanded(shape)), np.broadcast_to(positions(view), shape))


@CHECK
@given(view=views(), order=st.randoms(use_true_random=False))
def test_coalesced_views_walk_the_same_elements(view, order):
    axes = list(range(len(view.shape)))
    order.shuffle(axes)
    other = View.dense(Storage("arena", view.size), view.shape).permuted(tuple(axes))
    source, target = coalesce([view.permuted(tuple(axes)), other])
    assert source.shape == target.shape and len(source.shape) <= len(view.shape)
    np.testing.assert_array_equal(positions(source).ravel(), positions(view).transpose(axes).ravel())
    np.testing.assert_array_equal(positions(target).ravel(), positions(other).ravel())


def test_dense_strides():
    assert dense_strides((2, 3, 4)) == (12, 4, 1)
    assert dense_strides(()) == ()


@pytest.mark.parametrize(("shape", "distance"), [
    ((1, 7, 7, 256), 272), ((1, 7, 7, 512), 528), ((1, 7, 7, 255), 255), ((1, 7, 7, 64), 64),
    ((1, 1, 1, 256), 256), ((9, 256), 256), ((256,), 256),
])
def test_pixels_avoid_powers_of_two(shape, distance):
    assert padded_channels(shape) == distance


def copies(*shapes):
    """Temporary values of these shapes in a new graph."""
    graph = Graph([Value(shape) for shape in shapes], [])
    return graph, [graph.apply1(Copy(), x) for x in graph.inputs]


def test_layout_kinds_of_storage():
    graph, (a, b) = copies((2, 3), (2, 3))
    fixed = constant(np.ones((2, 3), np.float32))
    graph.outputs = [graph.apply1(Add(), graph.apply1(Add(), a, fixed), b)]
    layout = Layout(graph)
    kinds = [layout.view(v).storage.kind for v in (graph.inputs[0], a, fixed, graph.outputs[0])]
    assert kinds == ["input", "arena", "fixed", "output"]
    assert layout.view(a) is layout.view(a)
    assert layout.view(fixed).storage.array is fixed.data


def test_layout_pads_pixels_unless_they_are_flattened():
    graph, (a, b) = copies((2, 3, 3, 256), (2, 3, 3, 256))
    flat = graph.apply1(Flatten(), b)
    graph.outputs = [graph.apply1(Add(), a, a), graph.apply1(Add(), flat, flat)]
    layout = Layout(graph)
    assert layout.view(a).strides == (9 * 272, 3 * 272, 272, 1)
    assert layout.view(a).storage.size == 2 * 9 * 272
    assert layout.view(b).is_dense
    assert layout.view(flat) == View(layout.view(b).storage, 0, (2, 9 * 256), (9 * 256, 1))


def test_layout_places_inputs_inside_a_concat():
    graph, (a, b, c) = copies((2, 4, 3), (2, 4, 5), (2, 4, 2))
    inner = graph.apply1(Concat(), a, b)
    outer = graph.apply1(Concat(), inner, c)
    graph.outputs = [graph.apply1(Add(), outer, outer)]
    layout = Layout(graph)
    whole = layout.view(outer)
    # in whatever order they are asked for
    assert layout.view(b) == whole.sliced(2, 3, 8)
    assert layout.view(inner) == whole.sliced(2, 0, 8)
    assert layout.view(a) == whole.sliced(2, 0, 3)
    assert layout.view(c) == whole.sliced(2, 8, 10)
    assert whole.storage.shared


def test_layout_refuses_unknown_and_absurd_shapes():
    with pytest.raises(ValueError, match="x: `shape` must be known when the plan is made"):
        Layout(Graph([], [])).view(Value((None, 3), name="x"))
    with pytest.raises(ValueError, match="x: `shape` must have at most"):
        Layout(Graph([], [])).view(Value((2**30, 2**30), name="x"))


@CHECK
@given(data=st.data())
def test_arena_keeps_living_values_apart(data):
    spans = {}
    for _ in range(data.draw(st.integers(1, 12))):
        first = data.draw(st.integers(0, 10))
        spans[Storage("arena", data.draw(st.integers(0, 200)))] = (first, first + data.draw(st.integers(0, 5)))
    total = plan_arena(spans)
    assert total <= sum(-(-max(s.n_bytes, 1) // ALIGN_BYTES) * ALIGN_BYTES for s in spans)
    for i, (a, (first, last)) in enumerate(spans.items()):
        assert a.offset_bytes % ALIGN_BYTES == 0 and a.offset_bytes + a.n_bytes <= total
        for b, (other_first, other_last) in list(spans.items())[:i]:
            if first <= other_last and other_first <= last and a.size and b.size:
                assert a.offset_bytes + a.n_bytes <= b.offset_bytes or b.offset_bytes + b.n_bytes <= a.offset_bytes


def test_arena_of_a_chain_holds_two_values():
    # in a chain only neighbours live at once
    chain = [Storage("arena", 1600) for _ in range(10)]
    assert plan_arena({s: (i, i + 1) for i, s in enumerate(chain)}) == 2 * 6400
    assert plan_arena({}) == 0


def test_guarded_arena():
    storages = [Storage("arena", n) for n in (1, 16, 17)]
    total = plan_guarded_arena(storages)
    memory = aligned_bytes(total)
    assert memory.ctypes.data % ALIGN_BYTES == 0 and memory.size == total
    memory[...] = GUARD
    for storage, following in zip(storages, [*(s.offset_bytes for s in storages[1:]), total], strict=True):
        assert storage.offset_bytes >= GUARD_BYTES and storage.offset_bytes + storage.n_bytes + GUARD_BYTES <= following
        memory[storage.offset_bytes : storage.offset_bytes + storage.n_bytes] = 0
    spans = [(s.offset_bytes, s.offset_bytes + s.n_bytes) for s in storages]
    assert not harmed(memory, spans)
    memory[storages[1].offset_bytes - 1] = 0
    assert harmed(memory, spans)


def flat(kind, size):
    return View.dense(Storage(kind, size), (size,))


def test_lifetimes_span_first_write_to_last_read():
    a, b, x = flat("arena", 4), flat("arena", 4), flat("input", 4)
    part = a.sliced(0, 1, 3)
    assert lifetimes([([x], [a]), ([a], [b]), ([b, part], [b]), ([b], [x])]) == {a.storage: (0, 2), b.storage: (1, 3)}


def hosts_of(steps, spans):
    return reuse_in_place([[(src, dst[0])] if elementwise else [] for elementwise, src, dst in steps], spans)


def reused(steps):
    """Whether the result of the last step takes the memory of its first source."""
    hosts = hosts_of(steps, lifetimes([(src, dst) for _, src, dst in steps]))
    return hosts.get(steps[-1][2][0].storage) is steps[-1][1][0].storage


def test_results_take_memory_that_dies():
    x, a, b, c = flat("input", 4), flat("arena", 4), flat("arena", 4), flat("arena", 4)
    assert reused([(False, [x], [a]), (True, [a], [b])])
    assert not reused([(False, [x], [a]), (False, [a], [b])]), "the step may read what it has overwritten"
    assert not reused([(True, [x], [a])]), "the caller's memory"
    later = [(False, [x], [a]), (True, [a], [b]), (False, [a, b], [c])]
    assert hosts_of(later, lifetimes([(src, dst) for _, src, dst in later])) == {}, "read again later"
    wide = flat("arena", 5)
    assert not reused([(False, [x], [wide]), (True, [wide.sliced(0, 0, 4)], [b])]), "another size"
    row = View(a.storage, 0, (2, 4), (0, 1))
    both = View.dense(Storage("arena", 4), (2, 2))
    assert not reused([(False, [x], [a]), (True, [row], [both])]), "walked differently"
    shared = flat("arena", 4)
    shared.storage.shared = True
    assert not reused([(False, [x], [shared]), (True, [shared], [b])]), "parts have other readers"
    assert not reused([(False, [x], [a]), (True, [a], [shared])]), "parts have other writers"


def test_chains_take_one_memory():
    x, a, b, c = flat("input", 4), flat("arena", 4), flat("arena", 4), flat("arena", 4)
    steps = [(False, [x], [a]), (True, [a], [b]), (True, [b], [c]), (False, [c], [x])]
    spans = lifetimes([(src, dst) for _, src, dst in steps])
    assert hosts_of(steps, spans) == {b.storage: a.storage, c.storage: a.storage}
    assert spans == {a.storage: (0, 3)}


def test_what_a_run_writes_is_not_computed_once():
    # the first two terms are constant, the third is not, and all are summed in one place: a second run starts afresh
    src = Value((1, 3))
    fixed = constant(np.ones((1, 3), np.float32))
    graph = Graph([src], [])
    total = graph.apply1(Add(), fixed, fixed, src)
    graph.outputs = graph.apply(Add(), total, src)
    plan = Plan(graph, "baseline")
    x = np.array([[1, 2, 3]], np.float32)
    for _ in range(2):
        assert plan.run([x])[0].tolist() == [[4, 6, 8]]


def test_what_is_constant_is_computed_once():
    src = Value((1, 3))
    fixed = constant(np.ones((1, 3), np.float32))
    graph = Graph([src], [])
    graph.outputs = graph.apply(Add(), graph.apply1(Add(), fixed, fixed, fixed), src)
    plan = Plan(graph, "baseline")
    assert len(plan.steps) == 1
    assert plan.run([np.zeros((1, 3), np.float32)])[0].tolist() == [[3, 3, 3]]
