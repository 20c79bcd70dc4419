"""Resize, Upsample, Pad: images of another size."""

from __future__ import annotations

from typing import Any

from cnnext.graph.graph import Value
from cnnext.layers.resize import Resize
from cnnext.layers.zero_pad2d import ZeroPad2D
from cnnext.onnx.rules.convolution import as_image, as_sequence
from cnnext.onnx.site import Site
from cnnext.onnx.support import Rule


def resize(s: Site) -> Value | None:
    """Resize of rows and columns; other axes must keep their extents."""
    shape = s.shape(0)
    rank = len(shape)
    if rank not in (3, 4) or s.op.version < 11 or s.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    axes = s.axes(4, rank, range(rank))     # there is no input 4: the attribute alone
    assert axes is not None
    sizes, scales = (_along(s, i, axes, rank) for i in (3, 2))
    if (sizes is None) == (scales is None):
        raise s.error("scales", "be given, or `sizes`", scales)
    kept = all(sizes[i] == shape[i] for i in (0, 1)) if sizes is not None else scales is not None and scales[:2] == [1, 1]
    coordinates = str(s.attribute("coordinate_transformation_mode", "half_pixel"))
    if not kept or coordinates == "tf_crop_and_resize":
        return None
    first = 4 - rank    # a sequence is an image of one row
    options: dict[str, Any] = dict(
        mode=str(s.attribute("mode", "nearest")), coordinates=coordinates,
        rounding=str(s.attribute("nearest_mode", "round_prefer_floor")),
        cubic_coeff=float(s.attribute("cubic_coeff_a", -0.75)),
        exclude_outside=bool(s.attribute("exclude_outside", 0)), antialias=bool(s.attribute("antialias", 0)),
        data_format="channels_first", name=s.name)
    if sizes is not None:
        layer = Resize(sizes=[1] * first + [int(n) for n in sizes[2:]], **options)
    else:
        assert scales is not None
        layer = Resize(scales=[1.0] * first + scales[2:], **options)
    return as_sequence(s, s.apply(layer, as_image(s, s.value(0))), rank)


def _along(s: Site, i: int, axes: tuple[int, ...], rank: int) -> list[float] | None:
    """Numbers for the axes given, for all axes; None where the input is left out or empty."""
    if not s.has(i) or s.value(i).shape == (0,):
        return None
    numbers = [float(n) for n in s.contents(i).reshape(-1)]
    if len(numbers) != len(axes):
        raise s.error("scales" if i == 2 else "sizes", f"be {len(axes)} numbers, one for each axis", numbers)
    full = [1.0] * rank if i == 2 else [float(n) for n in s.shape(0)]
    for axis, number in zip(axes, numbers, strict=True):
        full[axis] = number
    return full


def pad(s: Site) -> Value | None:
    """Pad of rows and columns; nothing where all pads are 0."""
    shape = s.shape(0)
    rank = len(shape)
    given = [int(n) for n in (s.contents(1).reshape(-1) if s.has(1) else s.attribute("pads", ()))]
    axes = s.axes(3, rank, range(rank))
    assert axes is not None
    if len(given) != 2 * len(axes):
        raise s.error("pads", f"be {2 * len(axes)} whole numbers", given)
    pads = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        pads[axis] = (given[i], given[len(axes) + i])
    if not any(p for both in pads for p in both):
        return s.value(0)
    mode = str(s.attribute("mode", "constant"))
    if rank != 4 or pads[0] != (0, 0) or pads[1] != (0, 0) or min(min(both) for both in pads) < 0 or mode == "wrap":
        return None
    if mode == "reflect" and any(max(both) >= n for both, n in zip(pads[2:], shape[2:], strict=True)):
        return None
    value = float(s.contents(2).reshape(-1)[0]) if s.has(2) else float(s.attribute("value", 0.0))
    layer = ZeroPad2D((pads[2], pads[3]), mode, value, data_format="channels_first", name=s.name)
    return s.apply(layer, s.value(0))


RULES: dict[str, Rule] = {"Resize": resize, "Pad": pad}
