"""Kernels beside what the core can do: convolutions, depthwise ones, and passes over memory.

GFLOP/s of convolutions on the layers of LeNet-5, ResNet-50 and VGG-16 and of the depthwise one on those of the mobile
networks, beside the peak of the core; GB/s of all layers and of passes, read and written, beside those of a copy. Peak and
copy are measured in this very run (benchmarks/machine.py); each row is the best of its repetitions, one image, the
kernel alone: no bias, weights already packed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import cnnext as cx
from benchmarks.machine import copy_bandwidth, peak_gflops
from cnnext.isa import default_level

# name, rows = columns, channels in, channels out, kernel, stride
SHAPES = [
    ("lenet5 conv1", 28, 1, 6, 5, 1),
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
    ("to an image", 112, 64, 3, 3, 1),
]
# name, rows = columns, channels, kernel, stride, activation
DEPTHWISE = [
    ("mobilenet_v2 dw", 112, 32, 3, 1, "relu6"),
    ("mobilenet_v2 dw /2", 112, 96, 3, 2, "relu6"),
    ("mobilenet_v2 dw", 28, 192, 3, 1, "relu6"),
    ("mobilenet_v2 dw", 14, 384, 3, 1, "relu6"),
    ("mobilenet_v3 dw", 28, 120, 5, 1, "relu"),
    ("mobilenet_v3 dw", 7, 960, 5, 1, "hard_swish"),
    ("efficientnet_b0 dw", 14, 672, 5, 1, "silu"),
    ("7x7 dw", 28, 24, 7, 1, None),
]
# name, layers of one or two values, their shapes
PASSES: list[tuple[str, Callable[[], cx.Layer], list[tuple[int, ...]]]] = [
    ("planes to pixels", lambda: cx.Permute((0, 2, 3, 1)), [(3, 224, 224)]),
    ("map * gate", lambda: cx.Multiply(), [(112, 112, 32), (1, 1, 32)]),
    ("map * gate", lambda: cx.Multiply(), [(14, 14, 672), (1, 1, 672)]),
    ("silu", lambda: cx.SiLU(), [(56, 56, 144)]),
    ("hard_swish", lambda: cx.HardSwish(), [(56, 56, 144)]),
    ("prelu", lambda: cx.PReLU(), [(118, 158, 10)]),
    ("softmax", lambda: cx.Softmax(), [(118, 158, 2)]),
]


def main(quick: bool) -> None:
    level, runs, seconds = default_level(), 3 if quick else 10, 0.1 if quick else 0.5
    before = peak_gflops(level, runs)
    rows = [(name, *_measure(*_convolution(*shape), seconds)) for name, *shape in SHAPES]
    rows += [(f"{name} {shape[0]}, {shape[1]}", *_measure(*_depthwise(*shape), seconds)) for name, *shape in DEPTHWISE]
    rows += [(f"{name} {shapes[0]}", *_measure(*_pass(make, shapes), seconds)) for name, make, shapes in PASSES]
    after = peak_gflops(level, runs)
    peak = max(before, after) if before and after else None
    print(f"{level}; peak of one core: {f'{peak:.0f} GFLOP/s' if peak else 'not measured, no C compiler'}; copy "
          f"{copy_bandwidth(runs):.1f} GB/s\n")
    print(f"{'layer':32} {'MFLOP':>7} {'ms':>8} {'GFLOP/s':>8} {'of peak':>8} {'GB/s':>6}   {'2 threads ms':>12}")
    for name, flops, moved, one, two in rows:
        rate = flops / one / 1e9
        share = f"{100 * rate / peak:.0f} %" if peak else "-"
        print(f"{name:32} {flops / 1e6:7.1f} {1e3 * one:8.3f} {rate:8.1f} {share:>8} {moved / one / 1e9:6.1f}   "
              f"{1e3 * two:12.3f}")


def _convolution(size: int, channels: int, filters: int, kernel: int, stride: int) -> tuple[cx.Model, list[np.ndarray]]:
    layer = cx.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)
    return _pass(lambda: layer, [(size, size, channels)])


def _depthwise(size: int, channels: int, kernel: int, stride: int,
               activation: str | None) -> tuple[cx.Model, list[np.ndarray]]:
    layer = cx.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, activation=activation)
    return _pass(lambda: layer, [(size, size, channels)])


def _pass(make: Callable[[], cx.Layer], shapes: list[tuple[int, ...]]) -> tuple[cx.Model, list[np.ndarray]]:
    """A network of one layer, and one image for each of its inputs."""
    inputs = [cx.Input(shape) for shape in shapes]
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, *shape), np.float32) for shape in shapes]
    return cx.Model(inputs, make()(inputs if len(inputs) > 1 else inputs[0])), images


def _measure(net: cx.Model, images: list[np.ndarray], seconds: float) -> tuple[float, int, float, float]:
    """Floating-point operations of the products, bytes moved, and the best seconds of a run with one worker and with two."""
    plan = net.plan(1)
    dst = [np.empty(v.shape, np.float32) for v in plan.outputs]
    flops = 2.0 * sum(step.macs for step in plan.steps)
    one, two = (_best(lambda n=n: plan.run(images, n, dst), seconds) for n in (1, 2))
    return flops, sum(step.moved_bytes for step in plan.steps), one, two


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
