"""What it costs to be a plugin: a native layer beside the built-in one, and `import cnnext` with 50 plugins installed.

The native layer is the built-in activation, its very source built out of tree as an author would, and registered from there.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import cnnext as cx
from cnnext._native.executor import UNARY
from cnnext.graph.graph import Node
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import coalesce

ROOT = Path(cx.__file__).parents[1]
CALL_BUDGET_US = 3
IMPORT_BUDGET_MS = 5
N_PLUGINS = 50
CHAIN = 20

SETUP = """
from setuptools import setup
from cnnext.build import kernel_extension
extension, build_ext = kernel_extension("outside_activation", ["outside_activation.pyx"])
setup(name="outside", py_modules=[], ext_modules=[extension], cmdclass={"build_ext": build_ext})
"""


def main(quick: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _native_layer(Path(folder), 300 if quick else 3000)
    with tempfile.TemporaryDirectory() as folder:
        _import_time(Path(folder), 5 if quick else 25)


# A native layer


def _native_layer(folder: Path, runs: int) -> None:
    kernels = _built(folder)
    entry = (kernels.KERNELS["unary"], kernels.PARAMS["unary"])

    class OutsideReLU(cx.ReLU):
        type_name = "outside/ReLU@1"

        def lower(self, b: PlanBuilder, node: Node) -> None:
            src, dst = coalesce([b.view(node.inputs[0]), b.view(node.output)])
            (n,) = dst.shape
            params = {"rows": 1, "chunk": n, "op": UNARY["clip"], "first": 0.0, "second": float("inf")}
            b.step("unary", [src], [dst], params, elementwise=True, entry=entry)

    print(f"{'(1, 64), one worker, us a run':30} {'built in':>9} {'plugin':>9} {'difference':>11}  a step")
    for n_steps in (1, CHAIN):
        built_in, plugin = (_runner(layer, n_steps) for layer in (cx.ReLU, OutsideReLU))
        inside, outside, difference = _compared(built_in, plugin, runs)
        print(f"{f'{n_steps} step(s)':30} {inside:9.2f} {outside:9.2f} {difference:+11.2f}  {difference / n_steps:+.3f}")
    print(f"Budget: at most {CALL_BUDGET_US} us more for a call. Best of {runs} runs, in turn; the difference is their "
          "median.\n")


def _built(folder: Path) -> Any:
    """The kernels of ``src/kernels/activation.pyx``, built in a folder of their own."""
    shutil.copy(ROOT / "src/kernels/activation.pyx", folder / "outside_activation.pyx")
    shutil.copy(ROOT / "src/kernels/rows.pxi", folder)
    (folder / "setup.py").write_text(SETUP)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    result = subprocess.run(command, cwd=folder, env=_environment(ROOT), capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    sys.path.insert(0, str(folder))
    try:
        return import_module("outside_activation")
    finally:
        sys.path.remove(str(folder))


def _runner(layer: Callable[[], cx.Layer], n_steps: int) -> Callable[[], object]:
    net = cx.Sequential([layer() for _ in range(n_steps)], input_shape=(64,))
    plan, x = net.plan(1), [np.linspace(-1, 1, 64, dtype=np.float32)[None]]
    dst = [np.empty((1, 64), np.float32)]
    plan.run(x, 1, dst)
    if len(plan.steps) != n_steps or not np.array_equal(dst[0], np.maximum(x[0], 0)):
        raise SystemExit(f"not the plan that was to be measured:\n{plan.explain()}")
    return lambda: plan.run(x, 1, dst)


def _compared(first: Callable[[], object], second: Callable[[], object], runs: int) -> tuple[float, float, float]:
    """Best microseconds of each, and the median of the differences of neighbours."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for run, found in zip((first, second), times):
            start = time.perf_counter()
            run()
            found.append(1e6 * (time.perf_counter() - start))
    return min(times[0]), min(times[1]), statistics.median(b - a for a, b in zip(*times))


# Many plugins


def _import_time(folder: Path, runs: int) -> None:
    """Whole processes in turn, with few and with many plugins on the path."""
    none, one, many = (folder / name for name in ("none", "one", "many"))
    for path, numbers in ((none, []), (one, [7]), (many, range(N_PLUGINS))):
        path.mkdir()
        for i in numbers:
            _install(path, i)
    print(f"{'a fresh Python process runs':46} {'few ms':>7} {f'{N_PLUGINS} ms':>7} {'difference':>11}")
    rows = [("import cnnext: no plugin beside 50", "import cnnext", none),
            ("... and find a layer: one plugin beside 50", "import cnnext; cnnext.layer('vendor7/Layer7')", one)]
    for name, program, few in rows:
        times = _process_times(program, [_environment(path, ROOT) for path in (few, many)], runs)
        difference = statistics.median(b - a for a, b in zip(*times))
        print(f"{name:46} {min(times[0]):7.1f} {min(times[1]):7.1f} {difference:+11.2f}")
    print(f"Budget: `import cnnext` at most {IMPORT_BUDGET_MS} ms more. It looks for no plugin; the first name that is not "
          f"built in does. {runs} runs each,\nbest, and the median of the differences.")


def _process_times(program: str, environments: list[dict[str, str]], runs: int) -> list[list[float]]:
    """Milliseconds of whole processes, in turn."""
    times: list[list[float]] = [[] for _ in environments]
    for i in range(runs + 1):
        for environment, found in zip(environments, times):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, env=environment)
            if i:  # the first round reads the files from the disk
                found.append(1e3 * (time.perf_counter() - start))
    return times


def _install(folder: Path, i: int) -> None:
    """A distribution with one layer, as pip leaves it."""
    (folder / f"vendor{i}.py").write_text(
        f"from cnnext import Layer\n\nclass Layer{i}(Layer):\n    type_name = 'vendor{i}/Layer{i}@1'\n")
    info = folder / f"cnnext_vendor{i}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cnnext-vendor{i}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cnnext.layers]\nvendor{i}/Layer{i}@1 = vendor{i}:Layer{i}\n")


def _environment(*path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
