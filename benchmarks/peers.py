"""The ten networks beside ONNX Runtime and OpenVINO: float32, batch 1 and 16, two threads and one, one interleaved run.

All engines get the same ONNX file with the interface that exports usually have, (N, C, H, W). A table, and a bar chart of
the best other engine's time over cnnext's in ``benchmarks/results/peers.png``.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

import cnnext as cx
from benchmarks.chart import draw_ratios
from cnnext.engines import compare

NETWORKS = ("lenet5", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "resnet18", "resnet50",
            "densenet121", "unet", "vgg16")
OTHERS = ("onnxruntime", "openvino")
OURS = ("cnnext", "cnnext-exact")
CASES = ((2, 1), (2, 16), (1, 1))      # threads, batch

Ratios = dict[tuple[int, int], dict[str, tuple[float, float]]]


def main(quick: bool) -> None:
    others = [name for name in OTHERS if find_spec(name) is not None]
    if find_spec("onnx") is None or not others:
        print(f"Not measured: it needs onnx, and one of {', '.join(OTHERS)}.")
        return
    rounds, seconds = (2, 0.05) if quick else (4, 0.4)
    engines = [*OURS, *others]
    ratios: Ratios = {case: {} for case in CASES[: 1 if quick else None]}
    print(f"{'network':20} {'threads':>7} {'batch':>5}  " + "  ".join(f"{name + ' ms':>15}" for name in engines)
          + "   best other / cnnext, / exact")
    for name in NETWORKS:
        model, shape = channels_first_model(name)
        for (threads, batch), of in ratios.items():
            x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
            times = compare(model, {"image": x}, engines, threads=threads, rounds=rounds, seconds=seconds)
            best = [t.best for t in times]
            of[name] = (min(best[2:]) / best[0], min(best[2:]) / best[1])
            shown = "  ".join(f"{1e3 * t:15.3f}" for t in best)
            print(f"{name:20} {threads:7} {batch:5}  {shown}   {of[name][0]:19.2f}  {of[name][1]:7.2f}", flush=True)
    for (threads, batch), of in ratios.items():
        chosen, exact = np.exp(np.log(list(of.values())).mean(axis=0))
        print(f"geometric mean, {threads} thread(s), batch {batch}: {chosen:.2f}, exact {exact:.2f}; "
              f"least {min(pair[0] for pair in of.values()):.2f}")
    if find_spec("matplotlib") is not None:
        bars = {f"{threads} thread{'s' * (threads > 1)}, batch {batch}": [pair[0] for pair in of.values()]
                for (threads, batch), of in ratios.items()}
        draw_ratios("peers.png", NETWORKS, bars, f"time of the best of {', '.join(others)}\nover cnnext's", rotation=30)


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


if __name__ == "__main__":
    main(quick=False)
