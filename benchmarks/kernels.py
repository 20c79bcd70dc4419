"""Kernels beside what the core can do: convolutions, depthwise ones, and passes over memory.

GFLOP/s of exact convolutions on every layer of ResNet-50 and some of others, and of the depthwise one on those of the
mobile networks, beside the peak of the core; GB/s of all layers and of passes, read and written, beside those of a copy. The
peak is measured in turn with each layer, so that both see the same machine (``cnnext.machine``); each row is the best of its
repetitions, one image, the kernel alone: no bias, weights already packed. ``CNNEXT_ISA=avx2`` measures that level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import cnnext as cx
from benchmarks.timing import in_turn
from cnnext._native import executor
from cnnext.isa import default_level
from cnnext.machine import FMA_TURNS, copy_bandwidth

# name, rows = columns, channels in, channels out, kernel, stride; of ResNet-50 each that there is
SHAPES = [
    ("lenet5 conv1", 28, 1, 6, 5, 1),
    ("resnet50 conv1", 224, 3, 64, 7, 2),
    ("resnet50 res2 1x1", 56, 64, 64, 1, 1),
    ("resnet50 res2 3x3", 56, 64, 64, 3, 1),
    ("resnet50 res2 1x1", 56, 64, 256, 1, 1),
    ("resnet50 res2 1x1", 56, 256, 64, 1, 1),
    ("resnet50 res3 1x1", 56, 256, 128, 1, 1),
    ("resnet50 res3 3x3", 56, 128, 128, 3, 2),
    ("resnet50 res3 1x1", 56, 256, 512, 1, 2),
    ("resnet50 res3 1x1", 28, 128, 512, 1, 1),
    ("resnet50 res3 1x1", 28, 512, 128, 1, 1),
    ("resnet50 res3 3x3", 28, 128, 128, 3, 1),
    ("resnet50 res4 1x1", 28, 512, 256, 1, 1),
    ("resnet50 res4 3x3", 28, 256, 256, 3, 2),
    ("resnet50 res4 1x1", 28, 512, 1024, 1, 2),
    ("resnet50 res4 1x1", 14, 256, 1024, 1, 1),
    ("resnet50 res4 1x1", 14, 1024, 256, 1, 1),
    ("resnet50 res4 3x3", 14, 256, 256, 3, 1),
    ("resnet50 res5 1x1", 14, 1024, 512, 1, 1),
    ("resnet50 res5 3x3", 14, 512, 512, 3, 2),
    ("resnet50 res5 1x1", 14, 1024, 2048, 1, 2),
    ("resnet50 res5 1x1", 7, 512, 2048, 1, 1),
    ("resnet50 res5 1x1", 7, 2048, 512, 1, 1),
    ("resnet50 res5 3x3", 7, 512, 512, 3, 1),
    ("vgg16 conv1_1", 224, 3, 64, 3, 1),
    ("vgg16 conv2_2", 112, 128, 128, 3, 1),
    ("vgg16 conv4_2", 28, 512, 512, 3, 1),
    ("to an image", 112, 64, 3, 3, 1),
]
LARGE_MAP = 28      # rows and columns of a result from which on a layer of ResNet-50 counts in the summary
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


Images = list[np.ndarray]


@dataclass(frozen=True)
class _Row:
    """What was measured of a layer; seconds with one worker and with two, and the core's peak in the same turns."""

    name: str
    flops: float
    moved_bytes: int
    one: float
    two: float
    peak: float

    @property
    def share(self) -> float:
        """Of the peak, with one worker."""
        return self.flops / self.one / self.peak


def main(quick: bool) -> None:
    seconds = 0.1 if quick else 0.5
    print(f"{default_level()}; copy {copy_bandwidth(runs=3 if quick else 10):.1f} GB/s; under `peak`, GFLOP/s of a core at "
          "most, measured beside each layer\n")
    print(f"{'layer':36} {'MFLOP':>7} {'ms':>8} {'GFLOP/s':>8} {'peak':>6} {'of peak':>8} {'GB/s':>6} {'2 threads ms':>14}")
    convolutions = [(_label(*shape), *_convolution(*shape[1:])) for shape in SHAPES]
    depthwise = [(f"{name} {shape[0]}, {shape[1]}", *_depthwise(*shape)) for name, *shape in DEPTHWISE]
    passes = [(f"{name} {shapes[0]}", *_pass(make, shapes)) for name, make, shapes in PASSES]
    rows = [_measured(*layer, seconds) for layer in (*convolutions, *depthwise, *passes)]
    large = [row for row, (name, size, *_, stride) in zip(rows, SHAPES)
             if name.startswith("resnet50") and size // stride >= LARGE_MAP]
    if large:
        least = min(large, key=lambda row: row.share)
        print(f"\nResNet-50, results of {LARGE_MAP}x{LARGE_MAP} and more: {len(large)} layers at {100 * least.share:.0f} % "
              f"of the peak and more; the least is {least.name}.")


def _label(name: str, size: int, channels: int, filters: int, kernel: int, stride: int) -> str:
    return f"{name} {size}, {channels} -> {filters}{f' /{stride}' if stride > 1 else ''}"


def _convolution(size: int, channels: int, filters: int, kernel: int, stride: int) -> tuple[cx.Model, Images]:
    layer = cx.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)
    return _pass(lambda: layer, [(size, size, channels)])


def _depthwise(size: int, channels: int, kernel: int, stride: int, activation: str | None) -> tuple[cx.Model, Images]:
    layer = cx.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, activation=activation)
    return _pass(lambda: layer, [(size, size, channels)])


def _pass(make: Callable[[], cx.Layer], shapes: list[tuple[int, ...]]) -> tuple[cx.Model, Images]:
    """A network of one layer, and one image for each of its inputs."""
    inputs = [cx.Input(shape) for shape in shapes]
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, *shape), np.float32) for shape in shapes]
    return cx.Model(inputs, make()(inputs if len(inputs) > 1 else inputs[0]), exact=True), images


def _measured(name: str, net: cx.Model, images: Images, seconds: float) -> _Row:
    """Time a network of one layer in turn with the core's peak, and print the row."""
    plan, level = net.plan(1), default_level()
    dst = [np.empty(v.shape, np.float32) for v in plan.outputs]
    peaks: list[float] = []
    runs: dict[str, Callable[[], object]] = {
        "peak": lambda: peaks.append(executor.fma_loop(level, FMA_TURNS)),
        "one": lambda: plan.run(images, 1, dst),
        "two": lambda: plan.run(images, 2, dst),
    }
    times = in_turn(runs, seconds, burst=3)
    row = _Row(name, 2.0 * sum(step.macs for step in plan.steps), sum(step.moved_bytes for step in plan.steps),
               float(times["one"].min()), float(times["two"].min()), max(peaks))
    rate, share = (f"{1e-9 * row.flops / row.one:.1f}", f"{100 * row.share:.1f} %") if row.flops else ("-", "-")
    print(f"{name:36} {row.flops / 1e6:7.1f} {1e3 * row.one:8.3f} {rate:>8} {1e-9 * row.peak:6.1f} {share:>8} "
          f"{1e-9 * row.moved_bytes / row.one:6.1f}   {1e3 * row.two:12.3f}", flush=True)
    return row
