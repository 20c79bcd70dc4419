"""``tune=True``: algorithms are timed on this machine instead of being judged by a model, and their times remembered.

A file for each CPU model, instruction-set level and version of cnnext, in the user's cache folder (``CNNEXT_CACHE`` names
another folder; ``CNNEXT_CACHE=none`` neither reads nor writes), holds the seconds of each algorithm for each shape. A choice
follows from the file alone: once a shape is in it, results have the same bits in every process, on any number of threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnext._files import atomic_write
from cnnext.errors import message

if TYPE_CHECKING:
    from cnnext.graph.plan import Plan

# Of one algorithm; rounds take turns, so that each finds in the caches what another has left there.
SECONDS, FEWEST_ROUNDS, MOST_ROUNDS = 0.02, 4, 40
MOST_SHAPES, MOST_BYTES = 4096, 4 << 20     # of a file; a network has some tens of shapes, at 200 bytes each

Times = dict[str, float]


class Tuner:
    """Seconds of algorithms by shape: from the file, or measured and then written there.

    Parameters
    ----------
    level : str
        Instruction-set level.
    n_threads : int
        Workers with which new shapes are timed. What is known is used whatever number it was measured with: results may
        not depend on it.
    """

    def __init__(self, level: str, n_threads: int):
        self.level = level
        self.n_threads = n_threads
        self.path = times_path(level)
        self._known: dict[str, Times] = self._read()
        self._new: dict[str, Times] = {}

    def times(self, shape: str, make_plans: Callable[[], Mapping[str, Plan]], names: list[str]) -> Times:
        """Seconds of the named algorithms on one shape.

        Parameters
        ----------
        shape : str
            All that the times depend on.
        make_plans : function
            Plans of one algorithm each, by name; called where the file does not know them all.
        names : list of str
        """
        found = self._known.get(shape, {})
        if not all(name in found for name in names):
            found = {**measure(make_plans(), self.n_threads), **found}
            self._known[shape] = self._new[shape] = found
        return {name: found[name] for name in names}

    def save(self) -> None:
        """Add what was measured to the file; what other processes have put there meanwhile stays."""
        if not self._new or self.path is None:
            return
        known = self._read()
        for shape, times in self._new.items():
            known[shape] = {**times, **known.get(shape, {})}
        newest = dict(list(known.items())[-MOST_SHAPES:])
        text = json.dumps({"cpu": cpu_model(), "level": self.level, "seconds": newest}, indent=0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as file:
                file.write(text.encode())
        except OSError as error:
            warnings.warn(f"{self.path}: measured times are not remembered ({error}). CNNEXT_CACHE names another folder.",
                          RuntimeWarning, stacklevel=2)
        self._new = {}

    def _read(self) -> dict[str, Times]:
        if self.path is None:
            return {}
        try:
            if self.path.stat().st_size > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES} bytes")
            return _checked(json.loads(self.path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, RecursionError) as error:
            warnings.warn(f"{self.path}: not used, and written anew: {error}.", RuntimeWarning, stacklevel=2)
            return {}


def _checked(document: Any) -> dict[str, Times]:
    """The times of a file's document.

    Raises
    ------
    ValueError
        If it is anything but seconds by algorithm by shape.
    """
    shapes = document.get("seconds") if isinstance(document, dict) else None
    if not isinstance(shapes, dict):
        raise ValueError(message("file", "seconds", "be an object", type(shapes).__name__))
    for shape, times in shapes.items():
        if not isinstance(times, dict) or not all(type(t) is float and 0 < t < math.inf for t in times.values()):
            raise ValueError(message("file", shape, "be seconds by algorithm", times))
    return shapes


def measure(plans: Mapping[str, Plan], n_threads: int) -> Times:
    """Seconds of each plan's fastest run; they take turns."""
    from cnnext.graph.profile import random_inputs

    inputs = {name: random_inputs(plan) for name, plan in plans.items()}
    best = dict.fromkeys(plans, math.inf)
    end = time.perf_counter() + SECONDS * len(plans)
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for name, plan in plans.items():
            seconds = plan.timed(inputs[name], n_threads if plan.parallel else 1, runs=2)
            best[name] = min(best[name], float(seconds.sum()))
    return {name: max(round(seconds, 9), 1e-9) for name, seconds in best.items()}


def times_path(level: str) -> Path | None:
    """The file of this machine and a level, there or not; None where nothing is remembered."""
    folder = cache_folder()
    return folder / file_name(cpu_model(), level) if folder is not None else None


def cache_folder() -> Path | None:
    """Where times are remembered: ``CNNEXT_CACHE``, by default ``cnnext`` in the user's cache folder; None for nowhere."""
    given = os.environ.get("CNNEXT_CACHE", "")
    if given:
        return None if given == "none" else Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):     # the specification has relative ones ignored
        return Path(base, "cnnext")
    try:
        return Path.home() / ".cache" / "cnnext"
    except RuntimeError:        # the user has no home
        return None


def file_name(cpu: str, level: str) -> str:
    """Name of the file for a CPU, a level and this version of cnnext."""
    from cnnext import __version__

    readable = re.sub(r"[^A-Za-z0-9]+", "-", cpu).strip("-")[:60]
    return f"tuned-{readable}-{_digest(cpu)}-{level}-{__version__}.json"


def cpu_model() -> str:
    """What the system calls the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def shape_key(readable: str, details: object) -> str:
    """A short text for a shape: some of it to read, and a digest of all that the times depend on."""
    return f"{readable} {_digest(repr(details))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
