"""Lowering of reductions over any axes (``src/kernels/reduce.pyx``)."""

from __future__ import annotations

from math import ceil, prod

from cnnext._native.executor import BINARY, UNARY
from cnnext.graph.memory import View, dense_strides
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import TILE_ELEMENTS, coalesce, row_step

CHUNK = 4096            # elements of a row at a time: two of them stay in L1
TILES_WANTED = 8
LANES = 128             # as in the kernel


def lower_reduction(b: PlanBuilder, src: View, dst: View, op: str = "add", *, before: str = "identity",
                    after: str = "identity", scale: float = 1.0) -> None:
    """Append a reduction of ``src`` to ``dst``, of the same rank, along the axes where ``dst`` has an extent of 1.

    ``op`` joins the elements; sums are ``after(scale * sum of before(src))``.
    """
    target = dst if dst.is_dense else b.temp(dst.shape)
    flat = View(target.storage, target.offset, dst.shape, dense_strides(dst.shape))
    source, result = coalesce([src, flat.expanded(src.shape)])
    if source.strides[-1] != 1:
        dense = b.temp(src.shape)
        row_step(b, "copy", [src], [dense], why="made contiguous", strided=True)
        source, result = coalesce([dense, flat.expanded(src.shape)])
    *axes, last = range(len(source.shape))
    reduced = [a for a in axes if result.strides[a] == 0]
    kept = [a for a in axes if a not in reduced]
    whole = result.strides[last] == 0 and source.shape[last] != 1
    rows, per_row, width = prod(source.shape[a] for a in kept), prod(source.shape[a] for a in reduced), source.shape[last]
    chunk = min(width, CHUNK)
    while not whole and chunk > 64 and rows * ceil(width / chunk) < TILES_WANTED and per_row * width > TILE_ELEMENTS:
        chunk = ceil(chunk / 2)
    rows_per_tile = max(1, TILE_ELEMENTS // max(per_row * (width if whole else chunk), 1))
    columns = 1 if whole else width
    table = View(target.storage, target.offset, (rows, columns), (columns, 1))
    params = {"kept": rows, "reduced": per_row, "rows": rows_per_tile, "chunk": max(chunk, 1), "whole": whole,
              "op": BINARY[op], "before": UNARY[before], "after": UNARY[after], "scale": scale}
    b.step("sum_axes" if op == "add" else "fold_axes", [source.permuted((*kept, *reduced, last))], [table], params,
           tiles=ceil(rows / rows_per_tile) * ceil(columns / max(chunk, 1)), scratch_bytes=4 * (max(chunk, LANES) + chunk),
           why=f"{per_row * (width if whole else 1)} each")
    if target is not dst:
        row_step(b, "copy", [flat], [dst], why="reduced", strided=True)
