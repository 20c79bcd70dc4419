"""From a model file to the first result, and the memory that takes, beside ONNX Runtime and OpenVINO.

Each measurement is a fresh process with two threads; the engines take turns. The files are what ``cnnext.models`` export:
ONNX for all engines, and for cnnext its own format too. They are in the page cache.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import cnnext as cx
from benchmarks.peers import channels_first_model

NETWORKS = ("resnet50", "mobilenet_v2", "vgg16")
THREADS = 2

# Imports, then a session, then a run. Memory: resident after the imports, the peak, and resident at the end.
PROGRAM = """
import json, sys, time
def megabytes(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024
path, threads, shape = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
start = time.perf_counter()
import numpy as np
{imports}
imported, libraries = time.perf_counter(), megabytes("VmRSS")
x = np.full(shape, 0.5, np.float32)
{session}
made = time.perf_counter()
{run}
done = time.perf_counter()
print(json.dumps([done - start, done - imported, made - imported,
                  megabytes("VmHWM"), megabytes("VmHWM") - libraries, megabytes("VmRSS") - libraries]))
"""
COLUMNS = ("total ms", "first result", "session", "peak MB", "over imports", "held")
CNNEXT = dict(
    imports="import cnnext\ncnnext.InferenceSession\nif path.endswith('.onnx'): import onnx",
    session="session = cnnext.InferenceSession(path, num_threads=threads)",
    run="session.run(None, {session.get_inputs()[0].name: x})")
# Engine -> the suffix of its file, its program.
ENGINES = {
    "cnnext": (".onnx", CNNEXT),
    "cnnext, own file": (".safetensors", CNNEXT),
    "onnxruntime": (".onnx", dict(
        imports="import onnxruntime",
        session="options = onnxruntime.SessionOptions()\noptions.intra_op_num_threads = threads\n"
                "session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])",
        run="session.run(None, {session.get_inputs()[0].name: x})")),
    "openvino": (".onnx", dict(
        imports="import openvino",
        session="settings = {'INFERENCE_NUM_THREADS': threads, 'PERFORMANCE_HINT': 'LATENCY',\n"
                "            'INFERENCE_PRECISION_HINT': 'f32'}\n"
                "core = openvino.Core()\nsession = core.compile_model(core.read_model(path), 'CPU', settings)",
        run="session({0: x})")),
}
REFERENCE = "onnxruntime"


def main(quick: bool) -> None:
    if not sys.platform.startswith("linux") or find_spec("onnx") is None or find_spec(REFERENCE) is None:
        print(f"Not measured: it needs Linux's /proc, onnx and {REFERENCE}.")
        return
    engines = [name for name in ENGINES if name != "openvino" or find_spec(name) is not None]
    print(f"{'network':14} {'engine':17} " + " ".join(f"{name:>12}" for name in COLUMNS)
          + f"   {REFERENCE} / engine of each")
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            shapes = _write(network, Path(folder))
            found = _measure(Path(folder), engines, shapes, 3 if quick else 9)
        for name, numbers in found.items():
            ratios = " ".join(f"{r / n:5.2f}" for r, n in zip(found[REFERENCE], numbers))
            row = " ".join(f"{n:12.1f}" for n in numbers)
            print(f"{network:14} {name:17} {row}   {ratios if name != REFERENCE else ''}".rstrip(), flush=True)


def _write(network: str, folder: Path) -> dict[str, tuple[int, ...]]:
    """The network in both formats; returns the shape of its input in each: channels first in ONNX, as exports have it."""
    model, (channels, rows, cols) = channels_first_model(network)
    (folder / "model.onnx").write_bytes(model)
    getattr(cx.models, network)().save(folder / "model.safetensors")
    return {".onnx": (1, channels, rows, cols), ".safetensors": (1, rows, cols, channels)}


def _measure(folder: Path, engines: list[str], shapes: Mapping[str, tuple[int, ...]],
             rounds: int) -> dict[str, list[float]]:
    """Milliseconds (the best) and megabytes (the median) of each engine, in the order of ``COLUMNS``."""
    found: dict[str, list[list[float]]] = {name: [] for name in engines}
    # Installed packages are compiled; so is the tree that this runs in, after the first round.
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for i in range(rounds + 1):
        for name in engines:
            suffix, parts = ENGINES[name]
            command = [sys.executable, "-c", PROGRAM.format(**parts), str(folder / f"model{suffix}"), str(THREADS),
                       json.dumps(shapes[suffix])]
            result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if result.returncode:
                raise SystemExit(f"{name} failed:\n{result.stderr}")
            if i:  # the first round reads the files from the disk
                found[name].append(json.loads(result.stdout))
    return {name: [1e3 * min(column) if j < 3 else statistics.median(column) for j, column in enumerate(zip(*rows))]
            for name, rows in found.items()}
