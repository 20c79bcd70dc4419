"""What it costs to have cnnext: import time beside NumPy's, size of the wheel and of the installation."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

BUDGET_MS = 15
WHEEL_BUDGET_MB = 3

PROGRAMS = {
    "import numpy": "import numpy",
    "import cnnext": "import cnnext",
    "... and a session's class": "import cnnext; cnnext.InferenceSession",
    "... and a layer": "import cnnext; cnnext.Conv2D(1, 1)",
}


def main(quick: bool) -> None:
    _import_time(7 if quick else 25)
    _wheel_size()


def _import_time(runs: int) -> None:
    """Whole processes, the programs in turn, so that a busy spell of the machine falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for i in range(runs + 1):
        for name, program in PROGRAMS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            if i:  # the first round reads the files from the disk
                seconds[name].append(time.perf_counter() - start)
    reference = seconds["import numpy"]
    print(f"{'a fresh Python process runs':28} {'best ms':>8} {'median ms':>10}   over NumPy: best, median")
    for name, times in seconds.items():
        over_best = 1e3 * (min(times) - min(reference))
        over_median = 1e3 * statistics.median(t - r for t, r in zip(times, reference))
        print(f"{name:28} {1e3 * min(times):8.1f} {1e3 * statistics.median(times):10.1f}   "
              f"{over_best:+6.1f} {over_median:+6.1f}")
    print(f"Budget: `import cnnext` at most {BUDGET_MS} ms over NumPy. It imports neither NumPy nor the native modules; "
          f"the first use of a\nname does, so the lines below it say what a program that uses them pays. {runs} runs each.")


def _wheel_size() -> None:
    # The folder build/ of this tree is a package of that name as well, but has no __main__.
    if find_spec("build.__main__") is None:
        print("\nThe wheel's size needs the package `build`: pip install build")
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
        result = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
        [wheel] = Path(folder).glob("*.whl")
        megabytes = wheel.stat().st_size / 1e6
        with zipfile.ZipFile(wheel) as archive:
            installed = sum(item.file_size for item in archive.infolist()) / 1e6
            native = sum(item.file_size for item in archive.infolist() if item.filename.endswith(".so")) / 1e6
    print(f"\n{wheel.name}: {megabytes:.2f} MB (budget {WHEEL_BUDGET_MB} MB); installed {installed:.2f} MB, of which "
          f"native modules {native:.2f} MB")
