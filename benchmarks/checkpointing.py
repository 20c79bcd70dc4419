"""A training step with ``checkpoint_activations`` beside one without: memory and time, batch 64, two threads.

Expected is a third more time at most: a step is one forward pass and a backward pass of twice the work, and the forward pass
is made once more but for its last segment (Chen et al. 2016). "MACs" is how much work a step has by count.
"""

from __future__ import annotations

from functools import partial

import cnnext as cx
from benchmarks.training import BATCH, MOMENTUM, NETWORKS, RATE, cnnext_step, network
from cnnext.engines import compare_runs


def main(quick: bool) -> None:
    rounds, seconds = (2, 0.1) if quick else (4, 1.0)
    print(f"{'network':22} {'arena MB':>16} {'peak MB':>14} {'ms':>18}   time  MACs")
    for name in list(NETWORKS)[1:]:     # LeNet-5 has nothing to save
        makes = {"plain": partial(cnnext_step, name), "twice": partial(cnnext_step, name, True)}
        times = compare_runs(makes, rounds=rounds, seconds=seconds, tolerance=1e-6)
        arenas, macs = zip(*(_planned(name, checkpoint) for checkpoint in (False, True)), strict=True)
        print(f"{name:22} {arenas[0] / 1e6:7.1f} -> {arenas[1] / 1e6:5.1f} "
              + " -> ".join(f"{t.peak_bytes / 1e6:5.0f}" for t in times) + "  "
              + " -> ".join(f"{1e3 * t.best:7.1f}" for t in times)
              + f"   {times[1].best / times[0].best:.2f}  {macs[1] / macs[0]:.2f}", flush=True)


def _planned(name: str, checkpoint_activations: bool) -> tuple[int, int]:
    """Bytes of the arena, and MACs of a step."""
    model = network(name)
    model.compile(cx.SGD(RATE, momentum=MOMENTUM), cx.SparseCategoricalCrossentropy(from_logits=True))
    trainer = model._compiled()
    plan = trainer.build([v.with_batch(BATCH) for v in model.graph.inputs], True, checkpoint_activations).plan
    return plan.arena_bytes, sum(step.macs for step in plan.steps)


if __name__ == "__main__":
    main(quick=False)
