"""Inference engines side by side: each in a process of its own, on one ONNX model, taking turns.

An engine waits without using a core while another is timed, so a busy spell of the machine falls on all of them. Their
outputs are compared before anything is timed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from cnnext._pnnx import open_ncnn, open_torch
from cnnext.errors import CnnextError, message, unknown

__all__ = ["ENGINES", "Timing", "compare", "compare_runs"]

Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], Sequence[np.ndarray]]
Make = Callable[[], Callable[[], Sequence[np.ndarray]]]

PAUSE_SECONDS = 0.05    # before a turn: some engines' workers spin for a while after a run


def _cnnext(model: bytes, feed: Feed, threads: int, **options: bool) -> Run:
    import cnnext as cx

    session = cx.InferenceSession(model, num_threads=threads, **options)
    return lambda feed: session.run(None, feed)


def _onnxruntime(model: bytes, feed: Feed, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, dict(feed))


def _openvino(model: bytes, feed: Feed, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model=model), "CPU", settings)
    return lambda feed: list(compiled(dict(feed)).values())


ENGINES: dict[str, Callable[[bytes, Feed, int], Run]] = {
    "cnnext": _cnnext,
    "cnnext-exact": partial(_cnnext, exact=True),
    "cnnext-tuned": partial(_cnnext, tune=True),
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": open_torch,
    "ncnn": open_ncnn,
}
"""Engines by name: ``make(model, feed, threads)`` returns what runs a feed of those shapes.

``cnnext-exact`` is cnnext without Winograd, ``cnnext-tuned`` chooses by measured times; pnnx translates for torch, ncnn.
"""

_PACKAGES = {"cnnext-exact": "cnnext", "cnnext-tuned": "cnnext", "torch": "torch pnnx", "ncnn": "ncnn pnnx"}


@dataclass(frozen=True)
class Timing:
    """Seconds of one engine's runs.

    Attributes
    ----------
    engine : str
    seconds : ndarray
        Of each run, in order.
    error : float
        Largest difference of its outputs from those of the first engine, in units of the largest magnitude.
    peak_bytes : int
        The most memory that its process has had.
    """

    engine: str
    seconds: np.ndarray
    error: float
    peak_bytes: int

    @property
    def best(self) -> float:
        """Seconds of the fastest run."""
        return float(self.seconds.min())

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return float(np.median(self.seconds))


def compare(model: bytes, feed: Feed, engines: Sequence[str], *, threads: int = 1, rounds: int = 8, seconds: float = 0.4,
            tolerance: float = 5e-4) -> list[Timing]:
    """Time engines on one model.

    Parameters
    ----------
    model : bytes
        An ONNX model.
    feed : dict of str to ndarray
    engines : list of str
        Keys of ``ENGINES``; the first is what the others' outputs are compared with.
    threads : int
        Workers of each engine.
    rounds : int
        Turns of each engine.
    seconds : float
        Of a turn; three runs at least.
    tolerance : float
        How far outputs may lie apart, in units of the largest magnitude.

    Raises
    ------
    ValueError
        For an engine that is not known.
    CnnextError
        If an engine is not installed, cannot run the model, or computes something else.
    """
    for name in engines:
        if name not in ENGINES:
            raise ValueError("compare: " + unknown("engine", name, ENGINES))
    makes = {name: partial(_fed, name, model, dict(feed), threads) for name in engines}
    return compare_runs(makes, rounds=rounds, seconds=seconds, tolerance=tolerance)


def _fed(name: str, model: bytes, feed: Feed, threads: int) -> Callable[[], Sequence[np.ndarray]]:
    return partial(ENGINES[name](model, feed, threads), feed)


def compare_runs(makes: Mapping[str, Make], *, rounds: int = 8, seconds: float = 0.4,
                 tolerance: float = 5e-4) -> list[Timing]:
    """Time programs beside each other, each in a process of its own.

    Parameters
    ----------
    makes : dict of str to function
        ``make()``, called in the process, returns what runs once and gives arrays; to be found by its module and name, or a
        ``partial`` of such a one. The first is what the others' first outputs are compared with.
    rounds, seconds, tolerance
        As for ``compare``.

    Raises
    ------
    CnnextError
        If a program cannot be made, fails, or computes something else.
    """
    running: list[_Engine] = []
    try:
        running.extend(_Engine(name, make) for name, make in makes.items())
        errors = [_difference(engine.outputs, running[0].outputs) for engine in running]
        for engine, error in zip(running, errors, strict=True):
            if not error <= tolerance:
                rule = f"agree with those of {running[0].name} to {tolerance:g} of the largest magnitude"
                raise CnnextError(message(engine.name, "outputs", rule, error))
        times: list[list[float]] = [[] for _ in running]
        for _ in range(rounds):
            for engine, taken in zip(running, times, strict=True):
                time.sleep(PAUSE_SECONDS)
                taken += engine.run_for(seconds)
        return [Timing(e.name, np.array(t), error, e.peak_bytes())
                for e, t, error in zip(running, times, errors, strict=True)]
    finally:
        for engine in running:
            engine.close()


def _difference(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    worst = 0.0
    for found, wanted in zip(outputs, expected, strict=True):
        if found.shape != wanted.shape:
            return float("inf")
        scale = max(float(np.abs(wanted).max(initial=0)), 1e-30)
        worst = max(worst, float(np.abs(found.astype(np.float64) - wanted).max(initial=0)) / scale)
    return worst


# Not by multiprocessing, which imports the program's main file again: a program from standard input has none, and one that
# is not guarded by __name__ would start engines of its own.
_CHILD = ("import sys; from multiprocessing.connection import Connection; pipe = Connection(int(sys.argv[1])); "
          "sys.path[:] = pipe.recv(); from cnnext.engines import serve; serve(pipe)")


class _Engine:
    """An engine in a process of its own."""

    def __init__(self, name: str, make: Make):
        self.name = name
        self.pipe, end = Pipe()
        self.process = subprocess.Popen([sys.executable, "-c", _CHILD, str(end.fileno())], pass_fds=[end.fileno()],
                                        stdin=subprocess.DEVNULL)
        end.close()
        try:
            self.pipe.send([os.path.abspath(folder) for folder in sys.path])
            self.pipe.send((name, make))
            self.outputs: list[np.ndarray] = self._receive()
        except BaseException:
            self.close()
            raise

    def _receive(self) -> Any:
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise CnnextError(f"{self.name}: its process ended.") from None
        if isinstance(answer, str):
            raise CnnextError(f"{self.name}: {answer}")
        return answer

    def run_for(self, seconds: float) -> list[float]:
        """Seconds of each run of a turn."""
        self.pipe.send(seconds)
        return self._receive()

    def peak_bytes(self) -> int:
        """The most memory that the process has had; 0 where the system does not tell."""
        try:
            with open(f"/proc/{self.process.pid}/status") as file:
                return next((1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
        except OSError:
            return 0

    def close(self) -> None:
        """End the process, which does so when nobody listens any more."""
        self.pipe.close()
        self.process.wait()


def serve(pipe: Connection) -> None:
    """Be an engine: send the outputs; then, as often as asked, run for so many seconds, and send the times of the runs."""
    name, make = pipe.recv()
    try:
        run = make()
        outputs: Any = [np.asarray(a) for a in run()]
    except ImportError as error:
        outputs = f"not installed ({error}). Type: pip install {_PACKAGES.get(name, name)}"
    except Exception as error:
        outputs = f"{type(error).__name__}: {error}"
    try:
        pipe.send(outputs)
        while not isinstance(outputs, str):
            pipe.send(_times(run, pipe.recv()))
    except (EOFError, ConnectionError):
        return


def _times(run: Callable[[], object], seconds: float) -> list[float]:
    run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times
