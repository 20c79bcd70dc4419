"""Training-mode BatchNorm + ReLU, forward and backward, on (64, 32, 32, 64); beside PyTorch where it can be imported.

Run as a script: ``python benchmarks/batch_norm_relu.py [threads]``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from math import prod

import numpy as np
from cnnext_normalization import BatchNorm

import cnnext as cx
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level

SHAPE = (64, 32, 32, 64)
REPEATS = 30


def training_plan(shape: tuple[int, ...]) -> Plan:
    """A plan of inputs x and diff_dst, outputs y, diff_src, diff_gamma, diff_beta."""
    x = Value(shape)
    out = cx.ReLU()(BatchNorm()(x))
    graph = prepare(Graph([x], [out], ancestors([out])), [shape], training=True)
    (weights,) = [node.weights for node in graph.nodes if "gamma" in node.weights]
    wanted, diff = [graph.inputs[0], weights["gamma"], weights["beta"]], Value(shape)
    diffs = add_gradients(graph, graph.outputs, wanted, [diff])
    graph.outputs += [diffs[v] for v in wanted]
    graph.inputs.append(diff)
    graph.order()
    return Plan(optimize(graph), default_level())


def median_ms(*runs: Callable[[], object]) -> list[float]:
    """Median time of a call of each, called in turn: a busy spell of the machine falls on all."""
    times: list[list[float]] = [[] for _ in runs]
    for i in range(3 + REPEATS):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if i >= 3:
                found.append(time.perf_counter() - start)
    return [1e3 * float(np.median(found)) for found in times]


def torch_run(threads: int, src: np.ndarray, diff_dst: np.ndarray) -> Callable[[], object] | None:
    """The same in PyTorch, on channels-last memory, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    x, dy = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (src, diff_dst))
    x.requires_grad_()
    norm = torch.nn.BatchNorm2d(SHAPE[-1])

    def run() -> object:
        x.grad = None
        norm.zero_grad()
        torch.relu(norm(x)).backward(dy)
        return x.grad

    return run


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    rng = np.random.default_rng(0)
    src, diff_dst = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    plan = training_plan(SHAPE)
    outputs = plan.run([src, diff_dst], threads)
    other = torch_run(threads, src, diff_dst)
    ms, *beside = median_ms(lambda: plan.run([src, diff_dst], threads, outputs), *([other] if other is not None else []))
    # read: x for the statistics; x, write y; read x, dy; read x, dy, write dx
    moved = 8 * 4 * prod(SHAPE)
    print(f"cnnext: {ms:.2f} ms, {moved / ms / 1e6:.1f} GB/s, {threads} thread(s)")
    print(f"torch: {beside[0]:.2f} ms, {beside[0] / ms:.1f} times as much" if beside else "torch: not installed")


if __name__ == "__main__":
    main()
