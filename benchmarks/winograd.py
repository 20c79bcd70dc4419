"""Convolutions of 3x3 taps on the layers of networks, beside the peak of the core: the direct sum, and what is chosen.

The peak is that of a loop of multiply-adds that stays in registers (``cnnext.machine``), measured in this very run;
each row is the best of its repetitions, which take turns: the kernel alone, no bias, no activation, weights already
packed. GFLOP/s count the operations of the direct sum for both, so Winograd's can lie above the peak. Beside the measured
ratio stands that of the cost model, whose constants (cnnext/layers/_winograd.py, _algorithms.py) are judged by this table.
"""

from __future__ import annotations

import re

import numpy as np

import cnnext as cx
from benchmarks.timing import in_turn
from cnnext.isa import default_level
from cnnext.machine import copy_bandwidth, peak_gflops

# name, rows = columns, channels in, channels out, kernel, stride: 3 x 3 at stride 1, with one image and with sixteen
SHAPES = [
    ("resnet res2 3x3", 56, 64, 64, 3, 1),
    ("resnet res3 3x3", 28, 128, 128, 3, 1),
    ("resnet res4 3x3", 14, 256, 256, 3, 1),
    ("resnet res5 3x3", 7, 512, 512, 3, 1),
    ("64 channels 112x112", 112, 64, 64, 3, 1),
    ("vgg16 conv2_2", 112, 128, 128, 3, 1),
    ("vgg16 conv4_2", 28, 512, 512, 3, 1),
    ("unet 256x256", 256, 32, 32, 3, 1),
    ("det head 160x160", 160, 96, 24, 3, 1),
]
BATCHES = (1, 16)


def main(quick: bool) -> None:
    level, runs, seconds = default_level(), 3 if quick else 10, 0.05 if quick else 0.5
    before = peak_gflops(level, runs=runs)
    rows = [_measure(batch, *shape, seconds) for batch in BATCHES[: 1 if quick else None] for shape in SHAPES]
    peak = max(before, peak_gflops(level, runs=runs))
    print(f"{level}; peak of one core: {peak:.0f} GFLOP/s; copy {copy_bandwidth(runs=runs):.1f} GB/s\n")
    print(f"{'':30} {'direct':54} chosen")
    head = f"{'1 thread ms':>11} {'GFLOP/s':>8} {'of peak':>8}  {'2 threads ms':>12} {'GFLOP/s':>8}"
    print(f"{'layer':22} {'batch':>7} {head}   {'':8}{head}   faster: 1 thread, 2, model")
    for name, batch, flops, why, direct, chosen in rows:
        algorithm, model = _read(why)
        ratios = f"{direct[0] / chosen[0]:.2f} {direct[1] / chosen[1]:.2f} {model}" if model else ""
        print(f"{name:22} {batch:7} {_rates(flops, direct, peak)}   {algorithm:8}{_rates(flops, chosen, peak)}   {ratios}")


Times = tuple[float, float]


def _rates(flops: float, times: Times, peak: float) -> str:
    one, two = (flops / t / 1e9 for t in times)
    return f"{1e3 * times[0]:11.3f} {one:8.1f} {f'{100 * one / peak:.0f} %':>8}  {1e3 * times[1]:12.3f} {two:8.1f}"


def _measure(batch: int, name: str, size: int, channels: int, filters: int, kernel: int, stride: int,
             seconds: float) -> tuple[str, int, float, str, Times, Times]:
    """Floating-point operations, what is chosen and why, and the best seconds with one worker and with two of both."""
    src = cx.Input((size, size, channels))
    layer = cx.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)
    net = cx.Model(src, layer(src), exact=True)
    direct = net.plan(batch)
    net.exact = False
    chosen = net.plan(batch)
    x = np.random.default_rng(0).standard_normal((batch, size, size, channels), np.float32)
    dst = [np.empty(v.shape, np.float32) for v in direct.outputs]
    plans = {"direct": direct, "chosen": chosen}
    runs = {(which, n): lambda plan=plan, n=n: plan.run([x], n, dst) for which, plan in plans.items() for n in (1, 2)}
    times = in_turn(runs, seconds, 3)
    best = {key: float(values.min()) for key, values in times.items()}
    return (name, batch, 2.0 * sum(step.macs for step in direct.steps), chosen.steps[-1].why,
            (best["direct", 1], best["direct", 2]), (best["chosen", 1], best["chosen", 2]))


def _read(why: str) -> tuple[str, str]:
    """``F(2x2)`` or ``F(4x4)`` with the cost of the direct sum as the model has it; ``direct`` and nothing."""
    algorithm, model = re.match(r"winograd (F\(\dx\d)", why), re.search(r"direct ([\d.]+)x", why)
    return (f"{algorithm[1]})", model[1]) if algorithm and model else ("direct", "")
