"""ONNX models in PyTorch and in ncnn, which read none themselves: pnnx, ncnn's own converter, translates them for both.

For benchmarks. PyTorch's form is a Python module that pnnx writes and that is run here: not for files of strangers.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], Sequence[np.ndarray]]

_TYPES = {"float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8"}


def open_torch(model: bytes, feed: Feed, threads: int) -> Run:
    """The model as a module of PyTorch, run eagerly in inference mode."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        names = _convert(model, feed, Path(folder))
        spec = spec_from_file_location("cnnext_bench_model", Path(folder, "model_pnnx.py"))
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        before = os.getcwd()
        os.chdir(folder)    # where the module looks for its weights
        try:
            spec.loader.exec_module(module)
            network = module.Model().eval()
        finally:
            os.chdir(before)
    torch.set_num_threads(threads)

    def run(feed: Feed) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            results = network(*(torch.from_numpy(feed[name]) for name in names))
        return [r.numpy() for r in (results if isinstance(results, (tuple, list)) else [results])]

    return run


def open_ncnn(model: bytes, feed: Feed, threads: int) -> Run:
    """The model as a network of ncnn in float32. ncnn knows no batches: images run one after the other."""
    import ncnn

    batch = {len(x) for x in feed.values()}
    if len(batch) != 1:
        raise ValueError(f"ncnn takes a batch image by image, so all inputs need one batch; they have {sorted(batch)}")
    one = {name: x[:1] for name, x in feed.items()}
    network = ncnn.Net()
    network.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_int8_inference"):
        setattr(network.opt, option, False)
    with tempfile.TemporaryDirectory() as folder:
        names = _convert(model, one, Path(folder))
        files = [str(Path(folder, f"model.ncnn.{kind}")) for kind in ("param", "bin")]
        if network.load_param(files[0]) or network.load_model(files[1]):
            raise ValueError("ncnn does not load what pnnx has made of the model")
    outputs = [f"out{i}" for i in range(len(network.output_names()))]

    def run(feed: Feed) -> Sequence[np.ndarray]:
        images = [_run_image(network, outputs, [feed[name][i] for name in names]) for i in range(*batch)]
        return [np.stack(results) for results in zip(*images, strict=True)]

    return run


def _run_image(network: Any, outputs: Sequence[str], image: Sequence[np.ndarray]) -> list[np.ndarray]:
    import ncnn

    extractor = network.create_extractor()
    for i, x in enumerate(image):
        extractor.input(f"in{i}", ncnn.Mat(np.ascontiguousarray(x)))
    results = []
    for name in outputs:
        code, result = extractor.extract(name)
        if code:
            raise ValueError(f"ncnn cannot compute {name} (code {code})")
        results.append(np.array(result))
    return results


def _convert(model: bytes, feed: Feed, folder: Path) -> list[str]:
    """Write ``model_pnnx.py``, ``model.ncnn.param`` and so on for these shapes; returns the inputs' names in order."""
    import onnx
    import pnnx

    graph = onnx.load_model_from_string(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in constants]
    path = folder / "model.onnx"
    path.write_bytes(model)
    shapes = ",".join(f"[{','.join(map(str, feed[name].shape))}]{_TYPES[feed[name].dtype.name]}" for name in names)
    done = subprocess.run([pnnx.EXEC_PATH, str(path), f"inputshape={shapes}", "fp16=0"], cwd=folder, text=True,
                          capture_output=True)
    if done.returncode or not (folder / "model_pnnx.py").exists():
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = said[-1] if said else "no reason given"
        raise ValueError(f"pnnx does not convert the model (code {done.returncode}): {reason}")
    return names
