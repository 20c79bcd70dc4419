"""How many workers a run gets, and what happens to them around a fork."""

from __future__ import annotations

import os
import threading
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any

from cnnext._native import executor
from cnnext.errors import message

_MAX_AT_IMPORT = executor.max_threads()

_lock_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock(owner: Any) -> threading.Lock:
    """A lock for ``owner._lock``; a forked child gets a new one, because the thread that held it does not exist there."""
    _lock_owners.add(owner)
    return threading.Lock()


def _after_fork_in_child() -> None:
    executor.after_fork()
    for owner in list(_lock_owners):
        owner._lock = threading.Lock()


os.register_at_fork(
    before=executor.before_fork, after_in_parent=executor.after_fork, after_in_child=_after_fork_in_child
)


@lru_cache(maxsize=1)
def available_threads() -> int:
    """min(CPUs this process may use, its cgroup's quota, ``OMP_NUM_THREADS``)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, _MAX_AT_IMPORT]
    quota = _cgroup_quota()
    if quota is not None:
        limits.append(max(1, round(quota)))
    return max(1, min(limits)) if executor.OPENMP else 1


def resolve_threads(num_threads: int | None) -> int:
    """The number that a user asked for, or what is available for None."""
    if num_threads is None:
        return available_threads()
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(message("session", "num_threads", "be a whole number of at least 1, or None", num_threads))
    return num_threads


def limited(num_threads: int) -> int:
    """``num_threads``, or less while ``threadpoolctl`` (or OpenMP itself) holds this process to less."""
    now = executor.max_threads()
    return min(num_threads, now) if now < _MAX_AT_IMPORT else num_threads


def _cgroup_quota() -> float | None:
    """CPUs that the container may use: cgroup v2 ``cpu.max``, or v1 quota / period; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        return quota_us / int((folder / "cpu.cfs_period_us").read_text()) if quota_us > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
