"""``cnnext bench MODEL.onnx --vs onnxruntime,openvino``: how fast a model runs here, and in other engines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from cnnext.cli.arguments import positive
from cnnext.errors import message


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model file: .onnx, or .safetensors, which is exported for the others")
    parser.add_argument("--vs", default="", metavar="ENGINES",
                        help="onnxruntime, openvino, torch, ncnn, cnnext-exact, cnnext-tuned: one or more, with commas")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="where the model leaves it open")
    parser.add_argument("--size", metavar="ROWSxCOLUMNS", help="other extents that the model leaves open; 224x224")
    parser.add_argument("--threads", type=positive, default=None, metavar="N", help="of each engine")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each engine")
    parser.add_argument("--profile", action="store_true", help="show what each step of cnnext's plan takes")
    parser.add_argument("--trace", metavar="FILE", help="write the steps as a Chrome trace, for ui.perfetto.dev")
    parser.add_argument("--roofline", metavar="FILE", help="draw the steps below what cores and memory allow; .png, .svg")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import cnnext as cx
    from cnnext.engines import compare
    from cnnext.threads import resolve_threads

    net = cx.load(arguments.model)
    session = cx.InferenceSession(net, num_threads=arguments.threads)
    threads = resolve_threads(arguments.threads)
    feed = _feed(session.get_inputs(), arguments)
    if arguments.profile or arguments.trace or arguments.roofline:
        profile = session.plan(*(x.shape for x in feed.values())).profile(list(feed.values()), threads)
        if arguments.trace:
            profile.save_trace(arguments.trace)
        if arguments.roofline:
            profile.plot_roofline(arguments.roofline, Path(arguments.model).stem)
        if arguments.profile:
            print(profile)
            print()
    others = [name for name in arguments.vs.split(",") if name]
    data = _as_onnx(net, arguments.model)
    rounds = 8
    timings = compare(data, feed, ["cnnext", *others], threads=threads, rounds=rounds, seconds=arguments.seconds / rounds)
    if arguments.json:
        print(json.dumps([{"engine": t.engine, "threads": threads, "best_ms": 1e3 * t.best, "median_ms": 1e3 * t.median,
                           "runs": len(t.seconds), "error": t.error} for t in timings], indent=1))
        return
    shapes = ", ".join(f"{name} {x.shape}" for name, x in feed.items())
    print(f"{arguments.model}: {shapes}, {threads} thread(s)")
    print(f"{'engine':12} {'ms: best':>9} {'median':>9}   {'/ cnnext: best':>14} {'median':>7}   {'runs':>6}  difference")
    for t in timings:
        print(f"{t.engine:12} {1e3 * t.best:9.3f} {1e3 * t.median:9.3f}   {t.best / timings[0].best:14.2f} "
              f"{t.median / timings[0].median:7.2f}   {len(t.seconds):6}  {t.error:.1e}")


def _as_onnx(net: Any, path: str) -> bytes:
    from cnnext.serialization import is_onnx

    if is_onnx(path):
        return Path(path).read_bytes()
    from cnnext.onnx.exporter import export

    return export(net).SerializeToString()


def _feed(inputs: list[Any], arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Random numbers for each input, of the extents that the model or the user gives."""
    rng = np.random.default_rng(0)
    given = iter(_extents(arguments.size))
    feed = {}
    for value in inputs:
        shape = []
        for axis, n in enumerate(value.shape):
            extent = n if n is not None else arguments.batch_size if axis == 0 else next(given, None)
            if extent is None:
                raise ValueError(message("bench", "--size", f"give the open extents of input {value.name!r}", value.shape))
            shape.append(extent)
        if value.type not in ("tensor(float)", "tensor(int64)"):
            raise ValueError(message("bench", "input", "hold float32 or int64 numbers", value.type))
        drawn = rng.standard_normal(shape).astype(np.float32)
        feed[value.name] = drawn if value.type == "tensor(float)" else np.zeros(shape, np.int64)
    return feed


def _extents(text: str | None) -> list[int]:
    try:
        extents = [int(n) for n in (text or "").split("x") if n]
    except ValueError:
        extents = [0]
    if any(n < 1 for n in extents):
        raise ValueError(message("bench", "--size", "read ROWSxCOLUMNS", text))
    return extents
