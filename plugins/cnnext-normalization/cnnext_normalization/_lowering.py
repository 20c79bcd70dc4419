"""What the lowering rules of all normalization layers share: views as rows, kernels, epilogues, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnext.graph.graph import Epilogue, Node, Shape
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.layer import Layer, ParameterSpec
from cnnext_normalization import _native  # type: ignore[attr-defined]

TILE_FLOATS = 32768     # 128 KB: enough to make taking a tile cheap
SHARDS = 32             # sums over many rows, at most: enough for as many workers
SHARD_FLOATS = 16384


def sample_rows(views: Sequence[View], per_sample: bool) -> list[View]:
    """Views of one shape (N, ..., C) as (N, rows, C), or as (1, rows, C): rows on as few axes as all strides allow."""
    first = 1 if per_sample else 0
    merged: list[tuple[int, list[int]]] = []
    for axis in range(first, len(views[0].shape) - 1):
        extent, strides = views[0].shape[axis], [v.strides[axis] for v in views]
        if extent == 1:
            continue
        if merged and all(outer == inner * extent for outer, inner in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = (merged[-1][0] * extent, strides)
        else:
            merged.append((extent, strides))
    merged = merged or [(1, [0] * len(views))]
    return [
        View(v.storage, v.offset, (v.shape[0] if per_sample else 1, *(n for n, _ in merged), v.shape[-1]),
             (v.strides[0] if per_sample else 0, *(s[i] for _, s in merged), v.strides[-1]))
        for i, v in enumerate(views)
    ]


def tile_rows(channels: int) -> int:
    """Rows of a tile."""
    return max(8, TILE_FLOATS // channels)


def shard_count(samples: int, rows: int, channels: int) -> int:
    """Into how many shards the sums over the rows of a sample are cut; from shapes alone."""
    return max(1, min(-(-SHARDS // samples), rows, rows * channels // SHARD_FLOATS))


def native_step(b: PlanBuilder, name: str, src: Sequence[View], dst: Sequence[View], params: dict[str, Any],
                **options: Any) -> None:
    """Append a call of one of this plugin's kernels."""
    b.step(f"normalization/{name}", src, dst, params, entry=(_native.KERNELS[name], _native.PARAMS[name]), **options)


def epilogue_params(epilogue: Epilogue) -> dict[str, Any]:
    """The fields of a kernel's parameters that say what happens to its result."""
    post, constants = epilogue.post if epilogue.post is not None else (None, ())
    first, second = (*constants, 0.0, 0.0)[:2]
    return {"has_add": epilogue.add is not None, "low": epilogue.low, "high": epilogue.high,
            "post_op": _native.UNARY[post] if post is not None else -1, "post_0": first, "post_1": second}


def like_src(b: PlanBuilder, node: Node) -> list[View]:
    """Source and result of a node, and what its epilogue adds, if there is anything."""
    add = node.epilogue.add if node.epilogue is not None else None
    return [b.view(v) for v in (node.inputs[0], node.output, add) if v is not None]


def known_channels(layer: Layer, shape: Shape, rank: int) -> int:
    """Channels of the source, its rank checked."""
    if len(shape) < rank:
        raise layer.error("src", f"have rank {rank} at least, (N, ..., C)", shape)
    if not shape[-1]:
        raise layer.error("src", "have a known number of channels", shape)
    return shape[-1]


def scale_and_center(layer: Any, channels: int) -> dict[str, ParameterSpec]:
    """gamma and beta, as far as the layer learns them; by default ones and zeros at first."""
    specs = {}
    if layer.scale:
        specs["gamma"] = ParameterSpec((channels,), layer.gamma_initializer, regularizer=layer.gamma_regularizer)
    if layer.center:
        specs["beta"] = ParameterSpec((channels,), layer.beta_initializer, regularizer=layer.beta_regularizer)
    return specs
