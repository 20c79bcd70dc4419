"""Lowering of kernels that walk several tensors row by row (``src/kernels/rows.pxi``)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder

TILE_ELEMENTS = 16384   # 64 KB: enough to make taking a tile cheap, few enough to spread a small map over the workers


IN_PLACE = {"binary", "unary", "unary_backward", "prelu", "dropout"}    # kernels whose result may overwrite a source


def coalesce(views: Sequence[View]) -> list[View]:
    """The same elements with as few axes as the strides of all views allow; all views have one shape.

    Axes of extent 1 vanish; two neighbouring axes become one where every view walks them at one distance.
    """
    shape = views[0].shape
    axes = [i for i, n in enumerate(shape) if n != 1] or [len(shape) - 1] if shape else []
    merged: list[tuple[int, list[int]]] = []
    for axis in axes:
        strides = [v.strides[axis] for v in views]
        if merged and all(outer == inner * shape[axis] for outer, inner in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = (merged[-1][0] * shape[axis], strides)
        else:
            merged.append((shape[axis], strides))
    if not merged:
        merged = [(1, [1] * len(views))]
    extents = tuple(n for n, _ in merged)
    return [View(v.storage, v.offset, extents, tuple(s[i] for _, s in merged)) for i, v in enumerate(views)]


def row_step(b: PlanBuilder, kernel: str, src: Sequence[View], dst: Sequence[View], params: dict[str, Any] | None = None,
             *, why: str = "", macs: int = 0, whole_rows: bool = False, strided: bool = False) -> None:
    """Append a row kernel over views of one common shape, merged and cut into tiles.

    With ``whole_rows`` the last axis is kept as it is and never cut (softmax); ``strided`` says that the kernel walks
    rows of any stride.
    """
    views = [*src, *dst]
    merged = _coalesce_leading(views) if whole_rows else coalesce(views)
    if not strided and any(v.strides[-1] not in (0, 1) for v in merged):
        # one channel of several: neighbours do not touch, so every element is a row of its own
        merged = [View(v.storage, v.offset, (*v.shape, 1), (*v.strides, 1)) for v in merged]
    shape = merged[0].shape
    rows_total, width = prod(shape[:-1]), shape[-1]
    chunk = width if whole_rows or width <= TILE_ELEMENTS or rows_total > 64 else TILE_ELEMENTS
    rows = max(1, TILE_ELEMENTS // max(chunk, 1))
    tiles = ceil(rows_total / rows) * ceil(width / max(chunk, 1))
    b.step(kernel, merged[: len(src)], merged[len(src) :], {"rows": rows, "chunk": max(chunk, 1), **(params or {})},
           tiles=tiles, macs=macs, why=why or f"{rows_total} rows of {width}", elementwise=kernel in IN_PLACE)


def _coalesce_leading(views: Sequence[View]) -> list[View]:
    heads = [View(v.storage, v.offset, v.shape[:-1], v.strides[:-1]) for v in views]
    if not heads[0].shape:
        heads = [View(v.storage, v.offset, (1,), (0,)) for v in views]
    return [
        View(h.storage, h.offset, (*h.shape, v.shape[-1]), (*h.strides, v.strides[-1]))
        for h, v in zip(coalesce(heads), views, strict=True)
    ]
