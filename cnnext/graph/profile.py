"""``plan.profile()``: what each step takes, as a table and as a Chrome trace."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext._files import atomic_write

if TYPE_CHECKING:
    from cnnext.graph.plan import Plan, Step
    from cnnext.machine import Ceilings


@dataclass(frozen=True)
class StepTime:
    """A step of a plan and the seconds of its fastest run."""

    name: str
    kernel: str
    seconds: float
    macs: int
    moved_bytes: int
    why: str

    @property
    def gflops(self) -> float:
        """2 * MACs per second, in units of 1e9."""
        return 2e-9 * self.macs / self.seconds if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        """Bytes read and written per second, each element once, in units of 1e9."""
        return 1e-9 * self.moved_bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, repr=False)
class Profile:
    """Times of a plan's steps; prints as a table, the costliest kernels first, then the steps in order.

    Attributes
    ----------
    steps : list of StepTime
    n_threads : int
    level : str
        Instruction-set level.
    """

    steps: list[StepTime]
    n_threads: int
    level: str

    @property
    def seconds(self) -> float:
        """Sum over all steps."""
        return sum(step.seconds for step in self.steps)

    def __repr__(self) -> str:
        kernels: dict[str, list[StepTime]] = {}
        for step in self.steps:
            kernels.setdefault(step.kernel, []).append(step)
        rows = [["kernel, step", "ms", "share", "GFLOP/s", "GB/s", "why"]]
        for kernel, steps in sorted(kernels.items(), key=lambda item: -sum(s.seconds for s in item[1])):
            rows.append(self._row(f"all {len(steps)} of {kernel}", steps, ""))
        rows += [self._row(f"{i} {s.name} ({s.kernel})", [s], s.why) for i, s in enumerate(self.steps)]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [f"{row[0]:{widths[0]}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(row[1:5], widths[1:], strict=True))
                 + f"  {row[5]}" for row in rows]
        lines = [line.rstrip() for line in lines]
        head = (f"{1e3 * self.seconds:.3f} ms in {len(self.steps)} steps on {self.n_threads} worker(s), each step's fastest "
                "run")
        return "\n".join([head, *lines[: len(kernels) + 1], "", *lines[len(kernels) + 1 :]])

    def _row(self, label: str, steps: Sequence[StepTime], why: str) -> list[str]:
        whole = StepTime("", "", sum(s.seconds for s in steps), sum(s.macs for s in steps),
                         sum(s.moved_bytes for s in steps), "")
        share = whole.seconds / self.seconds if self.seconds else 0.0
        return [label, f"{1e3 * whole.seconds:.3f}", f"{share:.1%}", f"{whole.gflops:.1f}" if whole.macs else "",
                f"{whole.gbytes:.1f}", why]

    def plot_roofline(self, path: str | os.PathLike[str] | None = None, title: str = "",
                      ceilings: Ceilings | None = None) -> Any:
        """Draw each step that has products: operations per byte against GFLOP/s, below what cores and memory allow.

        Parameters
        ----------
        path : path, optional
            A picture to write (.png, .svg, .pdf).
        title : str
            Name of the network.
        ceilings : Ceilings, optional
            Of ``cnnext.machine``; measured by default, now, with as many threads.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            Without matplotlib (``cnnext[plot]``).
        """
        from cnnext import machine
        from cnnext.graph.roofline import draw

        figure = draw(self, title, ceilings or machine.ceilings(self.level, self.n_threads))
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the steps, one after the other, in the Chrome trace format, which Perfetto and ``chrome://tracing`` open."""
        events, start = [], 0.0
        for step in self.steps:
            events.append({"name": step.name, "cat": step.kernel, "ph": "X", "pid": 0, "tid": 0, "ts": 1e6 * start,
                           "dur": 1e6 * step.seconds,
                           "args": {"kernel": step.kernel, "MACs": step.macs, "bytes": step.moved_bytes,
                                    "GFLOP/s": round(step.gflops, 1), "GB/s": round(step.gbytes, 1), "why": step.why}})
            start += step.seconds
        with atomic_write(path) as file:
            file.write(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}).encode())


def profile(plan: Plan, inputs: Sequence[np.ndarray] | None, n_threads: int, runs: int) -> Profile:
    """Run a plan several times and keep each step's fastest."""
    inputs = random_inputs(plan) if inputs is None else inputs
    n_threads = n_threads if plan.parallel else 1
    seconds = plan.timed(inputs, n_threads, runs)
    return Profile([_timed(step, float(s)) for step, s in zip(plan.steps, seconds, strict=True)], n_threads,
                   plan.level)


def random_inputs(plan: Plan) -> list[np.ndarray]:
    """Normal numbers for each float32 input, zeros for others."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(v.shape, np.float32) if v.storage.dtype == np.float32
            else np.zeros(v.shape, v.storage.dtype) for v in plan.inputs]


def _timed(step: Step, seconds: float) -> StepTime:
    return StepTime(step.name, step.kernel, seconds, step.macs, step.moved_bytes, step.why)
