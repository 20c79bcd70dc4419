"""``plan.explain()``: what a plan will do, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnext.graph.plan import Plan, Step, View


def explain(plan: Plan) -> str:
    """The steps in order: node, kernel, MACs, tiles, bytes moved, where the result lies, and why this kernel."""
    rows: list[tuple[str, ...]] = [("", "step", "kernel", "MACs", "tiles", "KiB", "result at", "why")]
    rows += [_row("once", s) for s in plan._prologue]
    rows += [_row(str(i), s) for i, s in enumerate(plan.steps)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)) + "  " + row[-1] for row in rows]
    lines.insert(1, "-" * max(len(line) for line in lines))
    macs = sum(s.macs for s in plan.steps)
    threads = "all workers" if plan.parallel else "one worker (too little work for more)"
    lines.append(
        f"{plan.level}, {len(plan.steps)} steps on {threads}, {macs:,} MACs, arena {plan.arena_bytes / 1024:,.0f} KiB, "
        f"packed weights {plan.prologue_bytes / 1024:,.0f} KiB ({_transformed_bytes(plan) / 1024:,.0f} KiB Winograd's, "
        f"{plan.temporary_bytes / 1024:,.0f} KiB more while they are packed), "
        f"scratch {plan.scratch_bytes / 1024:,.0f} KiB a worker"
    )
    return "\n".join(lines)


def _transformed_bytes(plan: Plan) -> int:
    transforms = [step for step in plan._prologue if step.kernel == "conv_winograd_weights"]
    return sum(view.storage.n_bytes for step in transforms for view in step.dst)


def _row(label: str, step: Step) -> tuple[str, ...]:
    return (label, step.name, step.kernel, f"{step.macs:,}", str(step.tiles), f"{step.moved_bytes / 1024:,.1f}",
            _place(step.dst[0]) if step.dst else "", step.why)


def _place(view: View) -> str:
    storage = view.storage
    if storage.kind != "arena":
        return storage.kind
    inside = f" + {view.offset}" if view.offset else ""
    return f"arena {storage.offset_bytes}{inside}"
