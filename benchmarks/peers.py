"""The ten networks beside ONNX Runtime and OpenVINO: float32, two threads, batch 1 and 16, one interleaved run.

All engines get the same ONNX file with the interface that exports usually have, (N, C, H, W). A table, and a bar chart of
the best other engine's time over cnnext's in ``benchmarks/results/peers.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import cnnext as cx
from cnnext.engines import ENGINES, compare

NETWORKS = ("lenet5", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "resnet18", "resnet50",
            "densenet121", "unet", "vgg16")
THREADS = 2
PICTURE = Path(__file__).parent / "results" / "peers.png"


def main(quick: bool) -> None:
    if find_spec("onnx") is None:
        print("Not measured: the package onnx is not installed.")
        return
    engines = [name for name in ENGINES if find_spec(name) is not None]
    others = engines[1:]
    rounds, seconds = (2, 0.05) if quick else (6, 0.5)
    ratios: dict[int, dict[str, float]] = {1: {}} if quick else {1: {}, 16: {}}
    print(f"{'network':20} {'batch':>5}  " + "  ".join(f"{name + ' ms':>16}" for name in engines)
          + f"  {'best other / cnnext':>20}")
    for name in NETWORKS[:3] if quick else NETWORKS:
        model, shape = channels_first_model(name)
        for batch, of in ratios.items():
            x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
            times = compare(model, {"image": x}, engines, threads=THREADS, rounds=rounds, seconds=seconds)
            best = [t.best for t in times]
            of[name] = min(best[1:], default=np.nan) / best[0]
            shown = "  ".join(f"{1e3 * t:16.3f}" for t in best)
            print(f"{name:20} {batch:5}  {shown}  {of[name]:20.2f}", flush=True)
    for batch, of in ratios.items():
        mean = float(np.exp(np.mean(np.log(list(of.values())))))
        print(f"geometric mean, batch {batch}: {mean:.2f}, least {min(of.values()):.2f} "
              f"(best of {', '.join(others)} / cnnext)")
    if find_spec("matplotlib") is not None:
        _draw(ratios, others)


def channels_first_model(name: str) -> tuple[bytes, tuple[int, ...]]:
    """A network of ``cnnext.models`` as an ONNX model with (N, C, H, W) input, and the shape of one image."""
    from cnnext.onnx.exporter import export

    cx.set_random_seed(0)
    net = getattr(cx.models, name)()
    rows, cols, channels = (n or 0 for n in net.input_shape[1:])
    image = cx.Input((channels, rows, cols), name="image")
    made = {net.graph.inputs[0]: cx.Permute((0, 2, 3, 1))(image)}
    for node in net.graph.nodes:
        outputs = node.layer([made[v] for v in node.inputs])
        made.update(zip(node.outputs, outputs if isinstance(outputs, list) else [outputs], strict=True))
    model = cx.Model(image, [made[v] for v in net.graph.outputs], name=name)
    return export(model).SerializeToString(), (channels, rows, cols)


def _draw(ratios: dict[int, dict[str, float]], others: Sequence[str]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    names = list(next(iter(ratios.values())))
    width = 0.8 / len(ratios)
    for i, (batch, of) in enumerate(ratios.items()):
        bars = axes.bar(np.arange(len(names)) + (i - (len(ratios) - 1) / 2) * width, list(of.values()), width,
                        label=f"batch {batch}")
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylabel(f"time of the best of {', '.join(others)}\nover cnnext's, {THREADS} threads")
    axes.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"Chart: {PICTURE.relative_to(Path.cwd()) if PICTURE.is_relative_to(Path.cwd()) else PICTURE}")


if __name__ == "__main__":
    main(quick=False)
