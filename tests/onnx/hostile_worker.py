"""``python -m tests.onnx.hostile_worker MODEL FIRST COUNT``: damaged models, loaded and run, one line of JSON for each.

A case that takes too long ends the process by a signal, a crash does as well: the line "begin" of its seed is then the last.
The memory of a case is how far the resident set rises above what it was.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
from math import prod

import numpy as np

import cnnext as cx
from tests.onnx.mutations import mutate
from tests.onnx.small_models import MODELS

SECONDS = 5                     # of the CPU for one case
WAITING_SECONDS = 120           # by the clock: what waits does not use the CPU
RUN_BYTES = 32 << 20            # what a plan may ask for; NumPy's temporaries come on top
MEMORY_BYTES = 64 << 20         # beyond what the process holds before

OPEN_EXTENT = 4


def resident_bytes(peak: bool = False) -> int:
    """The resident set now, or the largest since ``forget_peak``."""
    with open("/proc/self/status") as file:
        return int(re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+)", file.read())[1]) << 10


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def inputs_of(model: cx.Model) -> list[np.ndarray] | None:
    """Small inputs; None where the model wants large ones."""
    shapes = [tuple(OPEN_EXTENT if n is None else n for n in v.shape) for v in model.graph.inputs]
    if any(prod(shape) > 1 << 18 for shape in shapes):
        return None
    return [(np.arange(prod(s)) % 7).reshape(s).astype(v.dtype) for v, s in zip(model.graph.inputs, shapes, strict=True)]


def outcome(data: bytes) -> tuple[str, str]:
    """What came of a model, and the message of the error; anything but the errors that are allowed passes through."""
    try:
        model = cx.load(data, num_threads=1)
    except cx.ModelFileError as error:
        return "refused", str(error)
    inputs = inputs_of(model)
    if inputs is None:
        return "loaded", "wants large inputs"
    try:
        model._runner.run(inputs)
    except (ValueError, TypeError, cx.CnnextError) as error:
        return "loaded, not run", str(error)
    return "loaded and run", ""


def case(model: bytes, seed: int) -> dict[str, object]:
    kind, data = mutate(model, seed)
    before, began = resident_bytes(), time.process_time()
    forget_peak()
    try:
        result, text = outcome(data)
    except BaseException as error:
        result, text = "failed", f"{type(error).__name__}: {error}"
    seconds, risen = time.process_time() - began, resident_bytes(peak=True) - before
    if risen > max(MEMORY_BYTES, 8 * len(data)):
        result, text = "failed", f"took {risen >> 20} MB: {text}"
    return {"seed": seed, "kind": kind, "result": result, "text": text[:300], "seconds": seconds, "bytes": risen}


def main(name: str, first: int, count: int) -> None:
    os.environ["CNNEXT_MEMORY_LIMIT"] = str(RUN_BYTES)
    model = MODELS[name]()
    outcome(model)      # imports what is imported late
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # to spare the machine
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for seed in range(first, first + count):
        print(json.dumps({"begin": seed}), flush=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING_SECONDS)
        print(json.dumps(case(model, seed)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
