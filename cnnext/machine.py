"""What this machine can do at most: multiply-adds of its cores, bytes of its memory. Kernels are measured against both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cnnext._native import executor
from cnnext.isa import default_level

__all__ = ["Ceilings", "ceilings", "copy_bandwidth", "peak_gflops"]

FMA_TURNS = 200_000         # under a millisecond: short, so that on a busy machine one of several is undisturbed
MEMORY_BYTES = 128 << 20    # beyond any last-level cache
PIECE = 1 << 19             # elements: some 0.2 ms
CACHE_BYTES = 192 << 10     # two of them stay in a second-level cache


@dataclass(frozen=True)
class Ceilings:
    """What bounds a step: GFLOP/s of the cores, GB/s of the memory and of their second-level caches."""

    gflops: float
    memory: float
    cache: float


def ceilings(level: str | None = None, n_threads: int = 1) -> Ceilings:
    """Measure what bounds the steps of a plan of this level on so many cores."""
    return Ceilings(peak_gflops(level, n_threads), copy_bandwidth(n_threads),
                    copy_bandwidth(n_threads, n_bytes=n_threads * CACHE_BYTES))


def peak_gflops(level: str | None = None, n_threads: int = 1, runs: int = 10) -> float:
    """GFLOP/s of a loop of multiply-adds that stays in registers, the best of the runs.

    Parameters
    ----------
    level : str, optional
        Instruction-set level; by default what plans are made for.
    n_threads : int
        Cores that run it at once; the sum counts.
    runs : int
    """
    name = level or default_level()
    loops = [lambda: executor.fma_loop(name, FMA_TURNS)] * n_threads
    return 1e-9 * max(sum(_at_once(loops)) for _ in range(runs))


def copy_bandwidth(n_threads: int = 1, runs: int = 10, n_bytes: int = MEMORY_BYTES) -> float:
    """GB/s that a copy reads and writes, the best of the runs.

    Parameters
    ----------
    n_threads : int
        Cores that copy at once, each its share.
    runs : int
    n_bytes : int
        What is copied: by default more than any cache holds; ``CACHE_BYTES`` stays in the second-level cache of a core.
    """
    count, repeat = max(n_bytes // (4 * n_threads), 1), max(1, MEMORY_BYTES // (16 * n_bytes))
    pairs = [(np.ones(count, np.float32), np.zeros(count, np.float32)) for _ in range(n_threads)]
    copies: list[Callable[[], float]] = [lambda s=s, d=d: _copy(s, d, repeat) for s, d in pairs]    # type: ignore[misc]
    return 1e-9 * max(sum(_at_once(copies)) for _ in range(runs))


def _copy(source: np.ndarray, target: np.ndarray, repeat: int) -> float:
    """Bytes a second; of the median piece, which on a busy machine few interruptions hit."""
    starts = range(0, max(source.size - PIECE + 1, 1), PIECE)
    times = []
    for _ in range(repeat):
        for i in starts:
            begin = time.perf_counter()
            np.copyto(target[i : i + PIECE], source[i : i + PIECE])
            times.append(time.perf_counter() - begin)
    return 2 * source[:PIECE].nbytes / float(np.median(times))


def _at_once(loops: Sequence[Callable[[], float]]) -> list[float]:
    """What each returns, run at the same time."""
    if len(loops) == 1:
        return [loops[0]()]
    with ThreadPoolExecutor(len(loops)) as pool:
        return [future.result() for future in [pool.submit(loop) for loop in loops]]
