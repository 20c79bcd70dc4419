"""What the machine can do at most, measured beside every comparison: fused multiply-adds of a core, and memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

# Bytes of a vector and compiler flags of each level, as setup.py builds them.
LEVELS = {"baseline": (16, []), "avx2": (32, ["-mavx2", "-mfma"]), "avx512": (64, ["-mavx512f", "-mfma"])}

# Twelve accumulators hide the latency of the multiply-adds and leave registers for the two constants. They are variables,
# not an array, so that they stay in registers; without -ffast-math no compiler may shorten the chain of roundings.
PEAK_SOURCE = r"""
#include <stdio.h>
#include <time.h>
#define EACH(OP) OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7) OP(8) OP(9) OP(10) OP(11)
#define DECLARE(i) vec a##i = shift * i;
#define STEP(i) a##i = a##i * scale + shift;
#define SUM(i) +a##i[0]
#define STEPS 2000000L
typedef float vec __attribute__((vector_size(BYTES)));

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(void)
{
    vec scale = (vec){0} + 0.999f, shift = (vec){0} + 0.001f;
    double best = 1e9, total = 0;
    for (int run = 0; run < RUNS; run++) {
        EACH(DECLARE)
        double start = now();
        for (long k = 0; k < STEPS; k++) { EACH(STEP) }
        total += EACH(SUM);
        double seconds = now() - start;
        if (seconds < best) best = seconds;
    }
    printf("%g %g\n", STEPS * 12.0 * (BYTES / 4) * 2 / best / 1e9, total);
    return 0;
}
"""


def peak_gflops(level: str, runs: int) -> float | None:
    """GFLOP/s of one core in a loop of multiply-adds that stays in registers; None without a C compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    vector_bytes, flags = LEVELS[level]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "peak.c"), Path(folder, "peak")
        source.write_text(PEAK_SOURCE)
        subprocess.run([compiler, "-O3", "-ffp-contract=fast", *flags, f"-DBYTES={vector_bytes}", f"-DRUNS={runs}",
                        str(source), "-o", str(program)], check=True)
        return float(subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split()[0])


def copy_bandwidth(runs: int) -> float:
    """GB/s that NumPy's copy of 128 MiB reads and writes, on one core."""
    source = np.ones(2**25, np.float32)
    target = np.zeros_like(source)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times) / 1e9
