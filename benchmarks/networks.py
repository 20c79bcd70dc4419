"""One image through each network of ``cnnext.models``; two threads beside one; what batch normalization costs ResNet-18.

Two threads where nothing else is said. In inference a normalization is folded into the convolution before it, so ResNet-18
should cost the same with and without; the ratio is of runs that take turns. All but LeNet-5, VGG and SqueezeNet need the
plugin cnnext-normalization.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import cnnext as cx
from benchmarks.timing import in_turn

NETWORKS = ("lenet5", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
            "resnet18", "resnet50", "densenet121", "unet", "vgg16")
SCALED = ("resnet50", "vgg16")      # with two threads and with one
BURST = 5
Run = Callable[[], object]


def main(quick: bool) -> None:
    seconds = 0.1 if quick else 3.0
    _each_network(seconds)
    _two_threads(seconds * (1 if quick else 5))
    _normalization(seconds * (1 if quick else 20))


def _each_network(seconds: float) -> None:
    runs: dict[str, Run] = {}
    macs: dict[str, int] = {}
    for name in NETWORKS:
        cx.set_random_seed(0)
        try:
            net = getattr(cx.models, name)()
        except cx.PluginError as error:
            print(f"{name}: not measured. {error}")
            continue
        runs[name], macs[name] = _run(net)
    print(f"{'network':20} {'MMAC':>8} {'best ms':>9} {'median ms':>10} {'GFLOP/s':>9}")
    for name, times in in_turn(runs, seconds, burst=BURST).items():
        best, median = times.min(), float(np.median(times))
        print(f"{name:20} {macs[name] / 1e6:8,.1f} {1e3 * best:9.3f} {1e3 * median:10.3f} "
              f"{2 * macs[name] / median / 1e9:9.1f}", flush=True)


def _two_threads(seconds: float) -> None:
    print("\ntwo threads beside one: times as fast")
    for name in SCALED:
        cx.set_random_seed(0)
        try:
            net = getattr(cx.models, name)()
        except cx.PluginError as error:
            print(f"{name}: not measured. {error}")
            continue
        times = in_turn({threads: _run(net, threads)[0] for threads in (1, 2)}, seconds, burst=2)
        one, two = (np.sort(times[threads]) for threads in (1, 2))
        print(f"{name:20} best {one[0] / two[0]:.2f}, median {np.median(one) / np.median(two):.2f} "
              f"({1e3 * one[0]:.1f} ms, {1e3 * two[0]:.1f} ms)", flush=True)


def _normalization(seconds: float) -> None:
    try:
        nets = {"with": cx.models.resnet18(), "without": cx.models.resnet18(batch_norm=False)}
    except cx.PluginError as error:
        print(f"ResNet-18 with batch normalization: not measured. {error}")
        return
    times = in_turn({name: _run(net)[0] for name, net in nets.items()}, seconds, burst=BURST)
    print("\nResNet-18, batch normalization: " + ", ".join(
        f"{name} best {1e3 * t.min():.3f} ms, median {1e3 * float(np.median(t)):.3f} ms" for name, t in times.items()))
    best = times["with"].min() / times["without"].min()
    median = float(np.median(times["with"]) / np.median(times["without"]))
    # Neighbours in time see the same machine: the best of each turn by the best of the turn that follows.
    turns = {name: t.reshape(-1, BURST).min(axis=1) for name, t in times.items()}
    paired = float(np.median(turns["with"] / turns["without"]))
    print(f"with / without, {len(turns['with'])} turns of {BURST} runs: best {best:.3f}, median {median:.3f}, median of the "
          f"turns' ratios {paired:.3f}")


def _run(net: cx.Model, threads: int = 2) -> tuple[Run, int]:
    """A call that runs one image through the network's plan, and its MACs."""
    session = cx.InferenceSession(net, num_threads=threads)
    source = session.get_inputs()[0].name
    x = np.random.default_rng(1).random((1, *net.input_shape[1:]), np.float32)
    return lambda: session.run(None, {source: x}), sum(step.macs for step in net.plan(1).steps)

