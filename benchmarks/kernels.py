"""GFLOP/s of the direct convolution on the layers of ResNet-50 and VGG-16, beside the peak of the core.

The peak is that of a loop of multiply-adds that stays in registers (benchmarks/machine.py), measured in this very run;
each row is the best of its repetitions, one image, the kernel alone: no bias, no activation, weights already packed.
"""

from __future__ import annotations

import time

import numpy as np

import cnnext as cx
from benchmarks.machine import copy_bandwidth, peak_gflops
from cnnext.isa import default_level

# name, rows = columns, channels in, channels out, kernel, stride
SHAPES = [
    ("resnet50 conv1", 224, 3, 64, 7, 2),
    ("resnet50 res2 1x1", 56, 64, 256, 1, 1),
    ("resnet50 res2 3x3", 56, 64, 64, 3, 1),
    ("resnet50 res3 1x1 /2", 56, 256, 512, 1, 2),
    ("resnet50 res3 3x3", 28, 128, 128, 3, 1),
    ("resnet50 res4 1x1", 14, 1024, 256, 1, 1),
    ("resnet50 res4 3x3", 14, 256, 256, 3, 1),
    ("resnet50 res5 3x3", 7, 512, 512, 3, 1),
    ("vgg16 conv1_1", 224, 3, 64, 3, 1),
    ("vgg16 conv2_2", 112, 128, 128, 3, 1),
    ("vgg16 conv4_2", 28, 512, 512, 3, 1),
]


def main(quick: bool) -> None:
    level, runs = default_level(), 3 if quick else 10
    before = peak_gflops(level, runs)
    rows = [(name, *_measure(shape, 0.1 if quick else 0.5)) for name, *shape in SHAPES]
    after = peak_gflops(level, runs)
    peak = max(before, after) if before and after else None
    print(f"{level}; peak of one core: {f'{peak:.0f} GFLOP/s' if peak else 'not measured, no C compiler'}; copy "
          f"{copy_bandwidth(runs):.1f} GB/s\n")
    print(f"{'layer':22} {'MFLOP':>7} {'ms':>8} {'GFLOP/s':>8} {'of peak':>8}   {'2 threads ms':>12}")
    for name, flops, one, two in rows:
        rate = flops / one / 1e9
        share = f"{100 * rate / peak:.0f} %" if peak else "-"
        print(f"{name:22} {flops / 1e6:7.0f} {1e3 * one:8.3f} {rate:8.1f} {share:>8}   {1e3 * two:12.3f}")


def _measure(shape: list[int], seconds: float) -> tuple[float, float, float]:
    """Floating-point operations, and the best seconds of a run with one worker and with two."""
    size, channels, filters, kernel, stride = shape
    src = cx.Input((size, size, channels))
    net = cx.Model(src, cx.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)(src))
    x = np.random.default_rng(0).standard_normal((1, size, size, channels), np.float32)
    plan = net.plan(1)
    dst = [np.empty(v.shape, np.float32) for v in plan.outputs]
    flops = 2.0 * sum(step.macs for step in plan.steps)
    one, two = (_best(lambda n=n: plan.run([x], n, dst), seconds) for n in (1, 2))
    return flops, one, two


def _best(run, seconds: float) -> float:
    """Best time of the runs that fit into so many seconds, three at least."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
