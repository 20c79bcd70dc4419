"""Times of several programs that take turns, so that a busy spell of the machine falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)


def in_turn(runs: Mapping[Name, Callable[[], object]], seconds: float, burst: int) -> dict[Name, np.ndarray]:
    """Seconds of each program's runs: ``burst`` in a row after one that is not counted, then the next program's.

    Parameters
    ----------
    runs : dict of name to function
    seconds : float
        For each program, on average; every one has its turn at least once.
    burst : int
    """
    times: dict[Name, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds * len(runs)
    while True:
        for name, run in runs.items():
            run()
            for _ in range(burst):
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        if time.perf_counter() >= end:
            return {name: np.array(values) for name, values in times.items()}
