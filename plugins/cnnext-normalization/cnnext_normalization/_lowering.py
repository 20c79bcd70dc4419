"""What the lowering rules of all normalization layers share: views as rows, kernels, epilogues, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

from cnnext.graph.graph import Node, Shape
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.layer import Images, Layer, ParameterSpec
from cnnext_normalization import _native  # type: ignore[attr-defined]

TILE_FLOATS = 32768     # 128 KB: enough to make taking a tile cheap
SHARDS = 32             # sums over many rows, at most: enough for as many workers
LEAST_SHARDS = 16
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


@dataclass(frozen=True)
class Shards:
    """How the rows of a value are cut into shards, whose sums are joined in order; from shapes alone.

    Attributes
    ----------
    samples, rows, channels : int
        Rows of a sample, which is all there is where the samples are not apart.
    shard_rows : int
        Of each shard of a sample but the last.
    image_rows : int
        Of an image, where shards consist of whole images; 0 otherwise.
    """

    samples: int
    rows: int
    channels: int
    shard_rows: int
    image_rows: int = 0

    @staticmethod
    def of(shape: Shape, per_sample: bool) -> Shards:
        """Shards of a value (N, ..., C): whole images where these are enough, and as large as ``SHARD_FLOATS``."""
        extents = [n or 0 for n in shape]
        samples, channels = extents[0] if per_sample else 1, extents[-1]
        rows = prod(extents[int(per_sample) : -1])
        if not per_sample and len(extents) == 4 and extents[0] >= LEAST_SHARDS:
            image = prod(extents[1:3])
            together = min(extents[0], 1 << (max(1, ceil(SHARD_FLOATS / max(image * channels, 1))) - 1).bit_length())
            return Shards(samples, rows, channels, max(together * image, 1), image)
        return Shards(samples, rows, channels, max(1, ceil(rows / shard_count(samples, rows, channels))))

    def at_hand(self, src: View) -> Shards:
        """The shards of all rows, or of those of some images: a view (S, rows on one axis or more, C)."""
        return replace(self, samples=src.shape[0], rows=prod(src.shape[1:-1]))

    @property
    def params(self) -> dict[str, int]:
        """As the kernels want them."""
        return {"shards": max(1, ceil(self.rows / self.shard_rows)), "shard_rows": self.shard_rows}

    @property
    def table(self) -> tuple[int, int, int]:
        """Shape of the sums: two for each shard of each sample and each channel."""
        return self.samples * self.params["shards"], 2, self.channels

    @property
    def why(self) -> str:
        """One line for ``plan.explain()``."""
        return f"{self.table[0]} shards of {self.shard_rows} rows"

    def images(self, *cut: bool) -> Images | None:
        """What ``Layer.images`` says of a node that sums by these shards."""
        return Images(cut, self.shard_rows // self.image_rows) if self.image_rows else None


def native_step(b: PlanBuilder, name: str, src: Sequence[View], dst: Sequence[View], params: dict[str, Any],
                **options: Any) -> None:
    """Append a call of one of this plugin's kernels."""
    b.step(f"normalization/{name}", src, dst, params, entry=(_native.KERNELS[name], _native.PARAMS[name]), **options)


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
