"""What is computed once: any number of threads and any cut into rounds give the same bits, in little memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph import prologue
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from tests.helpers import images

SHAPE = (1, 28, 28, 32)


def net_of(depth: int = 3) -> cx.Model:
    """Convolutions by Winograd and not, a depthwise one, a dense layer; one layer is used twice."""
    cx.set_random_seed(0)
    x = y = cx.Input(SHAPE[1:])
    twice = cx.Conv2D(32, 3, padding="same", name="twice")
    for i in range(depth):
        y = cx.Conv2D(32, 3, padding="same", activation="relu", name=f"winograd_{i}")(y)
        y = cx.DepthwiseConv2D(3, padding="same")(cx.Conv2D(32, 1)(y))
    y = cx.Dense(40)(cx.Flatten()(twice(twice(y))))
    return cx.Model(x, y)


def plan_of(net: cx.Model) -> Plan:
    """A plan with zeros in the memory of what it keeps, some of which no kernel writes."""
    plan = Plan(optimize(prepare(net.graph, [SHAPE], training=False)), default_level())
    for storage in plan._kept:
        storage.array = np.zeros(storage.n_bytes, np.uint8)
    return plan


def kept(plan: Plan) -> list[bytes]:
    return [s.array.tobytes() for s in plan._kept]


@pytest.mark.parametrize("round_bytes, large_bytes", [(8 << 20, 64 << 20), (0, 64 << 20), (0, 0), (1 << 40, 1 << 40)])
@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
def test_threads_and_rounds_change_no_bit(monkeypatch, round_bytes, large_bytes, n_threads):
    net = net_of()
    first = plan_of(net)
    first.prepare(1)
    monkeypatch.setattr(prologue, "ROUND_BYTES", round_bytes)
    monkeypatch.setattr(prologue, "LARGE_BYTES", large_bytes)
    monkeypatch.setattr(prologue, "PARALLEL_BYTES", 0)
    plan = plan_of(net)
    plan.prepare(n_threads)
    assert any(map(any, kept(plan))) and kept(plan) == kept(first)
    (a,), (b,) = plan.run([images(*SHAPE)], n_threads), first.run([images(*SHAPE)])
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("large_bytes", [64 << 20, 0])
def test_it_runs_again_after_a_change(monkeypatch, large_bytes):
    monkeypatch.setattr(prologue, "LARGE_BYTES", large_bytes)
    net = net_of(1)
    plan = plan_of(net)
    plan.prepare(2)
    arrays = [s.array for s in plan._kept]
    before = kept(plan)
    net.set_weights([2 * w for w in net.get_weights()])
    plan.prepare(2)
    assert all(s.array is a for s, a in zip(plan._kept, arrays, strict=True)) and kept(plan) != before
    fresh = plan_of(net)
    fresh.prepare()
    assert kept(plan) == kept(fresh)


def test_memory_is_taken_when_it_is_prepared():
    plan = Plan(optimize(prepare(net_of(1).graph, [SHAPE], training=False)), default_level())
    assert all(s.array is None for s in plan._storages if s.kind == "prologue")
    plan.prepare()
    arrays = [s.array for s in plan._kept]
    assert [a.nbytes for a in arrays] == [s.n_bytes for s in plan._kept] and all(a.ctypes.data % 64 == 0 for a in arrays)
    ends = sorted((a.ctypes.data, a.nbytes) for a in arrays)
    assert all(at + size <= following for (at, size), (following, _) in itertools.pairwise(ends))


def test_every_step_runs_once_after_what_it_reads():
    plan = plan_of(net_of())
    steps = [step for r in plan._rounds for step in r.steps]
    assert sorted(map(id, steps)) == sorted(map(id, plan._prologue))
    written: set = set()
    for step in steps:
        assert all(v.storage in written for v in step.src if v.storage.kind == "prologue")
        written.update(v.storage for v in step.dst)


def test_temporary_memory_is_that_of_a_layer_not_of_the_network(monkeypatch):
    monkeypatch.setattr(prologue, "ROUND_BYTES", 0)
    few, many = plan_of(net_of(1)), plan_of(net_of(6))
    assert few.temporary_bytes == many.temporary_bytes > 0
    monkeypatch.setattr(prologue, "LARGE_BYTES", 0)
    one_by_one = plan_of(net_of(6))
    # of the dense layer, only the weights themselves are beside their packed form
    assert one_by_one.temporary_bytes < few.temporary_bytes + 1 and not any(r.places for r in one_by_one._rounds)


def test_temporary_memory_counts_for_the_limit(monkeypatch):
    plan = plan_of(net_of(1))
    needed = plan.arena_bytes + plan.prologue_bytes + plan.scratch_bytes + plan.temporary_bytes + 4 * 40
    monkeypatch.setenv("CNNEXT_MEMORY_LIMIT", str(needed))
    plan_of(net_of(1))
    monkeypatch.setenv("CNNEXT_MEMORY_LIMIT", str(needed - 1))
    with pytest.raises(ValueError, match=f"Received memory={needed}"):
        plan_of(net_of(1))


def test_the_largest_come_first():
    plan = plan_of(net_of())
    largest = max(plan.graph.parameters(), key=lambda p: p.size)
    assert any(v.storage.parameter is largest for step in plan._rounds[0].steps for v in step.src)


def test_explain_says_what_memory_weights_take():
    plan = plan_of(net_of())
    last = plan.explain().splitlines()[-1]
    winograd = sum(v.storage.n_bytes for s in plan._prologue if s.kernel == "conv_winograd_weights" for v in s.dst)
    assert (f"packed weights {plan.prologue_bytes / 1024:,.0f} KiB ({winograd / 1024:,.0f} KiB Winograd's, "
            f"{plan.temporary_bytes / 1024:,.0f} KiB more while they are packed)") in last
    assert 0 < winograd < plan.prologue_bytes
